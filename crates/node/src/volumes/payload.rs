//! The files of a ConfigMap, Secret, downward API or projected volume.
//!
//! Pure: objects in, paths with contents and modes out. Start at [`config_map`], [`secret`], [`downward`] and
//! [`projected`]. Texts of errors are Kubernetes' own.

use super::{
    sources::{Answers, Found},
    tokens::Wanted,
};
use crate::config::{Fields, field, resource_field};
use crate::object::{ConfigMap, DownwardApiVolume, KeyToPath, Pod, ProjectedVolume, Secret};
use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

/// The mode of files when neither item nor volume names one.
const MODE_DEFAULT: i32 = 0o644;

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Whose it is, if not root's.
    pub owner: Option<u32>,
}

/// Files by their path relative to the volume.
pub(super) type Payload = BTreeMap<String, File>;

/// What the four kinds of source have in common.
pub(super) struct Projection<'a> {
    pub name: &'a str,
    pub items: &'a [KeyToPath],
    pub default_mode: Option<i32>,
    pub is_optional: bool,
}

pub(super) fn config_map(found: &Found<ConfigMap>, want: &Projection<'_>) -> Result<Payload, String> {
    let data = object(found, "configmap", want)?.map(|map| {
        let texts = map.data.iter().map(|(k, v)| (k.as_str(), v.as_bytes()));
        texts.chain(map.binary_data.iter().map(|(k, v)| (k.as_str(), v.0.as_slice()))).collect()
    });
    select(data, want, "configmap references non-existent config key")
}

pub(super) fn secret(found: &Found<Secret>, want: &Projection<'_>) -> Result<Payload, String> {
    let data = object(found, "secret", want)?
        .map(|secret| secret.data.iter().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect());
    select(data, want, "references non-existent secret key")
}

/// The object, or None when it may be and is absent.
fn object<'a, K>(found: &'a Found<K>, kind: &str, want: &Projection<'_>) -> Result<Option<&'a K>, String> {
    match found.get(want.name) {
        Some(Ok(Some(object))) => Ok(Some(object)),
        Some(Err(error)) => Err(error.to_string()),
        _ if want.is_optional => Ok(None),
        _ => Err(format!("{kind} {:?} not found", want.name)),
    }
}

/// All keys, or the listed ones at their paths.
fn select(data: Option<BTreeMap<&str, &[u8]>>, want: &Projection<'_>, missing: &str) -> Result<Payload, String> {
    let Some(data) = data else { return Ok(Payload::new()) };
    let file = |data: &[u8], mode: Option<i32>| File {
        data: data.to_vec(),
        mode: mode_of(mode, want.default_mode),
        owner: None,
    };
    if want.items.is_empty() {
        return Ok(data.into_iter().map(|(key, data)| (key.to_owned(), file(data, None))).collect());
    }
    let mut out = Payload::new();
    for item in want.items {
        match data.get(item.key.as_str()) {
            Some(data) => out.insert(inside(&item.path)?, file(data, item.mode)),
            None if want.is_optional => continue,
            None => return Err(format!("{missing}: {}", item.key)),
        };
    }
    Ok(out)
}

fn mode_of(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(MODE_DEFAULT)).unwrap_or(0o644) & 0o777
}

/// A path that stays in the volume and does not shadow the writer's own names.
fn inside(path: &str) -> Result<String, String> {
    let is_inside = Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    let normal: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    match is_inside && !normal.is_empty() && !normal[0].starts_with("..") {
        true => Ok(normal.join("/")),
        false => Err(format!("invalid path {path:?}")),
    }
}

pub(super) fn downward(fields: Fields<'_>, volume: &DownwardApiVolume) -> Result<Payload, String> {
    let mut out = Payload::new();
    for item in &volume.items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => field(fields, &selector.field_path).map_err(|e| e.to_string())?,
            (_, Some(selector)) => resource_field(fields, None, selector).map_err(|e| e.to_string())?,
            _ => return Err(format!("downward API file {:?} has no source", item.path)),
        };
        let mode = mode_of(item.mode, volume.default_mode);
        out.insert(inside(&item.path)?, File { data: text.into_bytes(), mode, owner: None });
    }
    Ok(out)
}

pub(super) fn projected(fields: Fields<'_>, volume: &ProjectedVolume, answers: &Answers) -> Result<Payload, String> {
    let mut out = Payload::new();
    for source in &volume.sources {
        let want = |from: &'_ crate::object::SourceProjection| (from.name.clone(), from.items.clone(), from.optional);
        if let Some((name, items, is_optional)) = source.secret.as_ref().map(want) {
            let want = Projection { name: &name, items: &items, default_mode: volume.default_mode, is_optional };
            out.extend(secret(&answers.secrets, &want)?);
        }
        if let Some((name, items, is_optional)) = source.config_map.as_ref().map(want) {
            let want = Projection { name: &name, items: &items, default_mode: volume.default_mode, is_optional };
            out.extend(config_map(&answers.config_maps, &want)?);
        }
        if let Some(from) = &source.downward_api {
            let default_mode = from.default_mode.or(volume.default_mode);
            out.extend(downward(fields, &DownwardApiVolume { items: from.items.clone(), default_mode })?);
        }
        if let Some(from) = &source.service_account_token {
            let given = answers.tokens.get(&Wanted::of(from));
            let token =
                given.cloned().unwrap_or_else(|| Err("failed to fetch token: nobody asked for it".to_owned()))?;
            out.insert(inside(&from.path)?, token_file(fields.pod, volume.default_mode, token));
        }
        if source.cluster_trust_bundle.is_some() {
            return Err("this node does not project cluster trust bundles".to_owned());
        }
    }
    Ok(out)
}

/// A token is for the pod's one user or group alone where it has one; else all of its containers must be able to read it.
fn token_file(pod: &Pod, default_mode: Option<i32>, token: String) -> File {
    let owner = one_user(pod);
    let is_private = owner.is_some() || pod.spec.security_context.fs_group.is_some();
    let mode = if is_private { 0o600 } else { mode_of(None, default_mode) };
    File { data: token.into_bytes(), mode, owner }
}

/// The user that all containers run as, if the pod says so.
fn one_user(pod: &Pod) -> Option<u32> {
    let own = pod.spec.security_context.run_as_user;
    let mut users = pod.containers().map(|(_, container)| container.security_context.run_as_user.or(own));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn found() -> Found<Secret> {
        let data = [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), ByteString(v.into())));
        [("s".to_owned(), Ok(Some(Secret { data: data.into(), ..Default::default() }))), ("gone".to_owned(), Ok(None))]
            .into()
    }

    fn paths(name: &str, items: &[(&str, &str)], is_optional: bool) -> Result<Vec<String>, String> {
        let items: Vec<_> = items
            .iter()
            .map(|(key, path)| KeyToPath { key: (*key).into(), path: (*path).into(), mode: None })
            .collect();
        let want = Projection { name, items: &items, default_mode: Some(0o400), is_optional };
        secret(&found(), &want).map(|p| p.into_iter().map(|(path, f)| format!("{path} {:o}", f.mode)).collect())
    }

    #[test]
    fn keys_become_files_and_missing_ones_are_named_in_kubernetes_words() {
        assert_eq!(paths("s", &[], false).unwrap(), ["a 400", "b 400"]);
        assert_eq!(paths("s", &[("a", "x/y")], false).unwrap(), ["x/y 400"]);
        assert_eq!(paths("s", &[("c", "c")], false).unwrap_err(), "references non-existent secret key: c");
        assert_eq!(paths("s", &[("c", "c")], true).unwrap(), [""; 0]);
        assert_eq!(paths("gone", &[], false).unwrap_err(), "secret \"gone\" not found");
        assert_eq!(paths("gone", &[], true).unwrap(), [""; 0]);
    }

    #[test]
    fn no_path_leaves_the_volume() {
        for path in ["../x", "/etc/passwd", "a/../../b", "..data", "", "."] {
            assert!(paths("s", &[("a", path)], false).is_err(), "{path}");
        }
    }
}
