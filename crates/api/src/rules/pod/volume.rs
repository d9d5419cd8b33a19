//! Volumes of a pod: exactly one source each, paths that stay inside.

use serde_json::Value;

use super::env::{self, Place};
use super::spec::Frame;
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;
use crate::quantity::Quantity;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Kinds of sources, in the order in which upstream looks at them.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks all volumes; returns those that are good, by name.
pub(super) fn volumes<'a>(
    all: &'a [Value],
    frame: &Frame<'_>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) -> Vec<(&'a str, &'a Value)> {
    let mut good: Vec<(&str, &Value)> = Vec::new();
    for (index, volume) in all.iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        source(volume, frame, &path, errors);
        let name = look::text(volume, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            errors.extend(
                names::label(name).into_iter().map(|text| FieldError::invalid(&path.child("name"), name, text)),
            );
        }
        if good.iter().any(|(other, _)| *other == name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        if errors.len() == before {
            good.push((name, volume));
        }
    }
    good
}

fn source(volume: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let mut count = 0;
    for kind in SOURCES {
        let Some(found) = look::get(volume, kind) else { continue };
        let path = path.child(kind);
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(&path, "may not specify more than 1 volume type"));
            continue;
        }
        one_source(kind, found, frame, &path, errors);
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn one_source(kind: &str, source: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    match kind {
        "emptyDir" => empty_dir(source, path, errors),
        "hostPath" => host_path(source, path, errors),
        "secret" => {
            required(source, "secretName", path, errors);
            files(source, path, errors);
        }
        "configMap" => {
            required(source, "name", path, errors);
            files(source, path, errors);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", path, errors);
            look::list(source, "items").iter().for_each(|item| downward_file(item, path, errors));
        }
        "projected" => projected(source, path, errors),
        "persistentVolumeClaim" => required(source, "claimName", path, errors),
        "nfs" => {
            required(source, "server", path, errors);
            required(source, "path", path, errors);
            let text = look::text(source, "path");
            if !text.is_empty() && !text.starts_with('/') {
                errors.push(FieldError::invalid(&path.child("path"), text, "must be an absolute path"));
            }
        }
        "image" => image(source, frame, path, errors),
        "csi" => required(source, "driver", path, errors),
        "ephemeral" if look::get(source, "volumeClaimTemplate").is_none() => {
            errors.push(FieldError::required(&path.child("volumeClaimTemplate"), ""));
        }
        // The other sources are never mounted by a node of ours; they are stored as they come.
        _ => {}
    }
}

fn required(source: &Value, name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if look::text(source, name).is_empty() {
        errors.push(FieldError::required(&path.child(name), ""));
    }
}

fn empty_dir(source: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let size = look::get(source, "sizeLimit").and_then(|value| Quantity::from_value(value).ok());
    if size.is_some_and(Quantity::is_negative) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&path.child("sizeLimit"), detail));
    }
}

fn host_path(source: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let text = look::text(source, "path");
    if text.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(text, &path.child("path"), errors);
    let kind = look::text(source, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, &HOST_PATH_TYPES));
    }
}

/// IMG-302: a template may leave the reference open.
fn image(source: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    if frame.is_pod {
        required(source, "reference", path, errors);
    }
    super::container::pull_policy(look::text(source, "pullPolicy"), &path.child("pullPolicy"), errors);
}

fn mode(source: &Value, name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(bits) = look::integer(source, name).filter(|bits| !(0..=0o777).contains(bits)) {
        errors.push(FieldError::invalid(&path.child(name), bits, MODE));
    }
}

/// Default mode and items of a Secret or a ConfigMap.
fn files(source: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    mode(source, "defaultMode", path, errors);
    for (index, item) in look::list(source, "items").iter().enumerate() {
        key_to_path(item, &path.child("items").index(index), errors);
    }
}

fn key_to_path(item: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    required(item, "key", path, errors);
    required(item, "path", path, errors);
    local_path(look::text(item, "path"), &path.child("path"), errors);
    mode(item, "mode", path, errors);
}

fn downward_file(item: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    required(item, "path", path, errors);
    local_path(look::text(item, "path"), &path.child("path"), errors);
    match (look::get(item, "fieldRef"), look::get(item, "resourceFieldRef")) {
        (Some(field), resource) => {
            env::field_reference(field, Place::Volume, &path.child("fieldRef"), errors);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => {
            env::resource_reference(resource, Place::Volume, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    mode(item, "mode", path, errors);
}

fn projected(source: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    mode(source, "defaultMode", path, errors);
    let mut taken: Vec<&str> = Vec::new();
    for (index, part) in look::list(source, "sources").iter().enumerate() {
        let part_path = path.child("sources").index(index);
        let count = ["secret", "configMap", "downwardAPI", "serviceAccountToken"]
            .into_iter()
            .filter_map(|kind| Some((kind, look::get(part, kind)?)))
            .map(|(kind, found)| projection(kind, found, path, &part_path.child(kind), errors))
            .count();
        let others = ["clusterTrustBundle", "podCertificate"].iter().filter(|kind| look::get(part, kind).is_some());
        if count + others.count() > 1 {
            errors.push(FieldError::forbidden(&part_path, "may not specify more than 1 volume type per source"));
        }
        for kind in ["secret", "configMap", "downwardAPI"] {
            let Some(found) = look::get(part, kind) else { continue };
            for file in look::list(found, "items").iter().map(|item| look::text(item, "path")) {
                if taken.contains(&file) && !file.is_empty() {
                    let shown = if kind == "downwardAPI" { file } else { look::text(found, "name") };
                    errors.push(FieldError::invalid(path, shown, "conflicting duplicate paths"));
                }
                taken.push(file);
            }
        }
    }
}

/// One part of a projected volume; `whole` is the path of the volume.
fn projection(kind: &str, part: &Value, whole: &Path, path: &Path, errors: &mut Vec<FieldError>) {
    match kind {
        "downwardAPI" => look::list(part, "items").iter().for_each(|item| downward_file(item, path, errors)),
        "serviceAccountToken" => token(part, whole, path, errors),
        _ => {
            required(part, "name", path, errors);
            for (index, item) in look::list(part, "items").iter().enumerate() {
                key_to_path(item, &path.child("items").index(index), errors);
            }
        }
    }
}

fn token(part: &Value, whole: &Path, path: &Path, errors: &mut Vec<FieldError>) {
    let seconds = look::integer(part, "expirationSeconds").unwrap_or(0);
    let path = path.child("expirationSeconds");
    if seconds < 600 {
        errors.push(FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        errors.push(FieldError::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let file = look::text(part, "path");
    match file.is_empty() {
        true => errors.push(FieldError::required(&whole.child("path"), "")),
        false => local_path(file, &whole.child("path"), errors),
    }
}

/// A path without `..` in it.
pub(super) fn no_backsteps(text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, text, "must not contain '..'"));
    }
}

/// A relative path without `..` in it.
pub(super) fn descending_path(text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if text.starts_with('/') {
        errors.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    no_backsteps(text, path, errors);
}

/// A relative path that does not begin with `..` either.
fn local_path(text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    descending_path(text, path, errors);
    if text.starts_with("..") && !text.starts_with("../") && text != ".." {
        errors.push(FieldError::invalid(path, text, "must not start with '..'"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(list: Value, expected: &[&str]) {
        let frame = Frame { is_pod: true, ..Frame::default() };
        let mut errors = Vec::new();
        volumes(list.as_array().unwrap(), &frame, &Path::new("v"), &mut errors);
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn each_volume_has_a_name_of_its_own_and_one_source() {
        check(json!([{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s"}}]), &[]);
        check(
            json!([{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]),
            &["v[1].name: Duplicate value: \"a\""],
        );
        check(json!([{"name": "a"}]), &["v[0]: Required value: must specify a volume type"]);
        check(json!([{"emptyDir": {}}]), &["v[0].name: Required value"]);
        check(
            json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}]),
            &["v[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        );
    }

    #[test]
    fn sources_are_complete_and_paths_stay_inside() {
        check(json!([{"name": "a", "secret": {}}]), &["v[0].secret.secretName: Required value"]);
        check(json!([{"name": "a", "configMap": {}}]), &["v[0].configMap.name: Required value"]);
        check(
            json!([{"name": "a", "hostPath": {"path": "/a/../b"}}]),
            &["v[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"],
        );
        check(
            json!([{"name": "a", "secret": {"secretName": "s", "defaultMode": 512, "items": [{"key": "k", "path": "/p"}, {"key": "k", "path": "..p"}, {"path": "../p", "mode": -1}]}}]),
            &[
                "v[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "v[0].secret.items[0].path: Invalid value: \"/p\": must be a relative path",
                "v[0].secret.items[1].path: Invalid value: \"..p\": must not start with '..'",
                "v[0].secret.items[2].key: Required value",
                "v[0].secret.items[2].path: Invalid value: \"../p\": must not contain '..'",
                "v[0].secret.items[2].mode: Invalid value: -1: must be a number between 0 and 0777 (octal), both inclusive",
            ],
        );
        check(
            json!([{"name": "a", "emptyDir": {"sizeLimit": "-1"}}]),
            &["v[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"],
        );
        check(json!([{"name": "a", "image": {"pullPolicy": "Always"}}]), &["v[0].image.reference: Required value"]);
    }

    #[test]
    fn projected_parts() {
        let field = json!({"path": "l", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}});
        check(
            json!([{"name": "a", "projected": {"sources": [{"downwardAPI": {"items": [field]}}, {"secret": {"name": "s"}}]}}]),
            &[],
        );
        check(
            json!([{"name": "a", "projected": {"sources": [{"secret": {"name": "s"}, "configMap": {"name": "c"}}, {"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}]}}]),
            &[
                "v[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
                "v[0].projected.sources[1].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
            ],
        );
        let item = json!({"key": "k", "path": "p"});
        check(
            json!([{"name": "a", "projected": {"sources": [{"secret": {"name": "s", "items": [item]}}, {"configMap": {"name": "c", "items": [item]}}]}}]),
            &["v[0].projected: Invalid value: \"c\": conflicting duplicate paths"],
        );
    }

    #[test]
    fn volumes_may_name_fewer_fields_than_variables() {
        check(
            json!([{"name": "a", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}]}}]),
            &[
                "v[0].downwardAPI.fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
            ],
        );
    }
}
