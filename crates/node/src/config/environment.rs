//! The environment of a container, and the expansion of `$(VAR)`.
//!
//! Pure: the ConfigMaps and Secrets are handed in ([`Objects`]), and [`references`] says which are needed (POD-26).

use super::{Error, Fields, field, resource_field};
use crate::object::{ConfigMap, Container, EnvVar, EnvVarSource, KeySelector, OptionalReference, Secret};
use std::collections::{BTreeMap, BTreeSet};

/// ConfigMaps and Secrets of one namespace by name; an absent one does not exist.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Secret>,
}

/// The names of the ConfigMaps and of the Secrets that a container's environment refers to.
pub fn references(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in &container.env_from {
        config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().filter_map(|e| e.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    (config_maps, secrets)
}

/// Name and value pairs in order of first mention; later mentions replace the value.
pub(super) type Environment = Vec<(String, String)>;

/// The container's environment: `envFrom` first, then `env`, which replaces.
pub(super) fn environment(fields: Fields<'_>, container: &Container, objects: &Objects) -> Result<Environment, Error> {
    let mut env = api_server(fields);
    for from in &container.env_from {
        if let Some(reference) = &from.config_map_ref {
            let values = objects.config_maps.get(&reference.name).map(|m| m.data.clone());
            add_all(&mut env, &from.prefix, present(values, "configmap", reference)?);
        }
        if let Some(reference) = &from.secret_ref {
            let values = objects.secrets.get(&reference.name).map(secret_texts);
            add_all(&mut env, &from.prefix, present(values, "secret", reference)?);
        }
    }
    for variable in &container.env {
        if let Some(value) = value(fields, container, objects, (variable, &env))? {
            set(&mut env, variable.name.clone(), value);
        }
    }
    Ok(env)
}

/// Where a pod finds the API server, in the variables that clients know; nothing where the node cannot tell. The pod's
/// own variables replace them.
fn api_server(fields: Fields<'_>) -> Environment {
    let is_on_host = fields.pod.spec.host_network;
    let address = if is_on_host { fields.ctx.api_address_of_host } else { fields.ctx.api_address };
    let Some(address) = address else { return Environment::new() };
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let url = format!("tcp://{address}");
    let with_port = |end: &str| format!("KUBERNETES_PORT_{port}_TCP{end}");
    [
        ("KUBERNETES_SERVICE_HOST".to_owned(), host.clone()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), port.clone()),
        ("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), port.clone()),
        ("KUBERNETES_PORT".to_owned(), url.clone()),
        (with_port(""), url),
        (with_port("_PROTO"), "tcp".to_owned()),
        (with_port("_PORT"), port.clone()),
        (with_port("_ADDR"), host),
    ]
    .into()
}

fn secret_texts(secret: &Secret) -> BTreeMap<String, String> {
    secret.data.iter().map(|(k, v)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned())).collect()
}

fn present(
    values: Option<BTreeMap<String, String>>,
    kind: &'static str,
    reference: &OptionalReference,
) -> Result<BTreeMap<String, String>, Error> {
    match values {
        Some(values) => Ok(values),
        None if reference.optional => Ok(BTreeMap::new()),
        None => Err(Error::NotFound { kind, name: reference.name.clone() }),
    }
}

/// Adds every entry whose name can stand in an environment.
fn add_all(env: &mut Environment, prefix: &str, values: BTreeMap<String, String>) {
    for (key, value) in values {
        let name = format!("{prefix}{key}");
        if !name.is_empty() && !name.contains(['=', '\0']) {
            set(env, name, value);
        }
    }
}

fn set(env: &mut Environment, name: String, value: String) {
    match env.iter_mut().find(|(n, _)| *n == name) {
        Some((_, old)) => *old = value,
        None => env.push((name, value)),
    }
}

/// The value of one variable; None for an optional reference to nothing.
fn value(
    fields: Fields<'_>,
    container: &Container,
    objects: &Objects,
    (variable, env): (&EnvVar, &Environment),
) -> Result<Option<String>, Error> {
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let Some(source) = variable.value_from.as_ref().filter(|_| variable.value.is_empty()) else {
        return Ok(Some(expand(&variable.value, &lookup)));
    };
    match source {
        EnvVarSource { field_ref: Some(selector), .. } => field(fields, &selector.field_path).map(Some),
        EnvVarSource { resource_field_ref: Some(selector), .. } => {
            resource_field(fields, Some(container), selector).map(Some)
        }
        EnvVarSource { config_map_key_ref: Some(selector), .. } => {
            let values = objects.config_maps.get(&selector.name).map(|m| m.data.clone());
            keyed(fields, values, ["configmap", "ConfigMap"], selector)
        }
        EnvVarSource { secret_key_ref: Some(selector), .. } => {
            let values = objects.secrets.get(&selector.name).map(secret_texts);
            keyed(fields, values, ["secret", "Secret"], selector)
        }
        _ => Err(Error::Field(format!("environment variable {:?} has a source that is not supported", variable.name))),
    }
}

fn keyed(
    fields: Fields<'_>,
    values: Option<BTreeMap<String, String>>,
    [resource, kind]: [&'static str; 2],
    selector: &KeySelector,
) -> Result<Option<String>, Error> {
    let Some(mut values) = values else {
        let missing = Error::NotFound { kind: resource, name: selector.name.clone() };
        return if selector.optional { Ok(None) } else { Err(missing) };
    };
    match values.remove(&selector.key) {
        Some(value) => Ok(Some(value)),
        None if selector.optional => Ok(None),
        None => Err(Error::MissingKey {
            kind,
            namespace: fields.pod.namespace().to_owned(),
            name: selector.name.clone(),
            key: selector.key.clone(),
        }),
    }
}

/// Replaces `$(NAME)`; `$$` is a literal `$`, and a name that `lookup` does not know stays as it is written.
pub(super) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            out.push_str(&lookup(name).unwrap_or_else(|| format!("$({name})")));
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn expansion_keeps_what_it_does_not_know_and_unescapes_dollars() {
        let lookup = |name: &str| (name == "A").then(|| "x$(B)".to_owned());
        for (text, expect) in [
            ("$(A)", "x$(B)"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x$(B)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("a$(A)b$(A)", "ax$(B)bx$(B)"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &lookup), expect, "{text}");
        }
    }
}
