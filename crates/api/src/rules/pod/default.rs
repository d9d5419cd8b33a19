//! Defaults of pods and pod templates, as upstream sets them on every decoded object.
//!
//! Some defaults are for pods alone and never written into templates: [`pod`] against [`template`]. Start there.

use serde_json::{Value, json};

use super::resources;
use crate::look;
use crate::pod::requests;

/// Mode of files in volumes: 0644.
const FILE_MODE: i64 = 420;
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults a whole Pod.
pub fn pod(object: &mut Value) {
    let spec = look::child(object, "spec");
    template(spec);
    for list in ["containers", "initContainers"] {
        for container in look::list_mut(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_requests(spec);
    look::set_absent(spec, "enableServiceLinks", true);
    if look::flag(spec, "hostNetwork") {
        host_ports(spec);
    }
    look::child(object, "status");
}

/// Defaults a pod spec, in a Pod or in a template.
pub fn template(spec: &mut Value) {
    look::set_empty(spec, "dnsPolicy", "ClusterFirst");
    look::set_empty(spec, "restartPolicy", "Always");
    look::set_absent(spec, "securityContext", json!({}));
    look::set_absent(spec, "terminationGracePeriodSeconds", 30);
    look::set_empty(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    if look::get(spec, "overhead").is_some() {
        resources::round_list(spec, "overhead");
    }
    for source in look::list_mut(spec, "volumes") {
        volume(source);
    }
    for list in CONTAINER_LISTS {
        for item in look::list_mut(spec, list) {
            container(item);
        }
    }
    if let Some(resources) = look::get_mut(spec, "resources") {
        round_requirements(resources);
    }
}

/// The old name of the field is kept in step with the new one.
fn service_account(spec: &mut Value) {
    let new = look::text(spec, "serviceAccountName").to_owned();
    let old = look::text(spec, "serviceAccount").to_owned();
    match (new.is_empty(), old.is_empty()) {
        (true, false) => look::set(spec, "serviceAccountName", old),
        (false, _) => look::set(spec, "serviceAccount", new),
        (true, true) => {}
    }
}

/// The pull policy of an image without one (IMG-20 to IMG-22): `Always` when the parsed tag is `latest`, whether it is
/// written or implied, else `IfNotPresent`. A text that is no reference has no tag.
pub fn pull_policy(image: &str) -> &'static str {
    let latest = reference::Reference::parse(image).is_ok_and(|parsed| parsed.tag() == Some(reference::DEFAULT_TAG));
    if latest { "Always" } else { "IfNotPresent" }
}

/// Defaults one container of any list.
pub fn container(container: &mut Value) {
    let policy = pull_policy(look::text(container, "image"));
    look::set_empty(container, "imagePullPolicy", policy);
    look::set_empty(container, "terminationMessagePath", "/dev/termination-log");
    look::set_empty(container, "terminationMessagePolicy", "File");
    round_requirements(look::child(container, "resources"));
    for port in look::list_mut(container, "ports") {
        look::set_empty(port, "protocol", "TCP");
    }
    for variable in look::list_mut(container, "env") {
        if let Some(source) = look::get_mut(variable, "valueFrom") {
            field_reference(source);
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = look::get_mut(container, kind) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = look::get_mut(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = look::get_mut(lifecycle, hook) {
                http_get(handler);
            }
        }
    }
    if let Some(context) = look::get_mut(container, "securityContext")
        && look::text(context, "procMount").is_empty()
        && look::get(context, "procMount").is_some()
    {
        look::set(context, "procMount", "Default");
    }
}

fn round_requirements(requirements: &mut Value) {
    for list in ["limits", "requests"] {
        resources::round_list(requirements, list);
    }
}

/// What a container may use at most is what it asks for, where it asks for nothing.
fn requests_from_limits(container: &mut Value) {
    let requirements = look::child(container, "resources");
    let Some(limits) = look::get(requirements, "limits").and_then(Value::as_object).cloned() else { return };
    let requests = look::fields(look::child(requirements, "requests"));
    for (name, quantity) in limits {
        requests.entry(name).or_insert(quantity);
    }
}

/// A pod with limits as a whole asks, as a whole, for what its containers ask together, else for its limits.
fn pod_requests(spec: &mut Value) {
    let shape = requests::Shape::from_spec(spec);
    if shape.pod_limits.is_empty() {
        return;
    }
    let containers = requests::of_containers(&shape);
    let from_containers = containers.into_iter().filter(|(name, _)| resources::overcommits(name));
    let own = look::fields(look::child(look::child(spec, "resources"), "requests"));
    for (name, quantity) in from_containers.chain(shape.pod_limits) {
        if requests::is_pod_level(&name) {
            own.entry(name).or_insert_with(|| Value::from(quantity.to_string()));
        }
    }
}

fn host_ports(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in look::list_mut(spec, list) {
            for port in look::list_mut(container, "ports") {
                if let Some(number) = look::integer(port, "containerPort") {
                    look::set_zero(port, "hostPort", number);
                }
            }
        }
    }
}

/// POD-54.
fn default_probe(probe: &mut Value) {
    look::set_zero(probe, "timeoutSeconds", 1);
    look::set_zero(probe, "periodSeconds", 10);
    look::set_zero(probe, "successThreshold", 1);
    look::set_zero(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = look::get_mut(probe, "grpc") {
        look::set_absent(grpc, "service", "");
    }
}

/// HOOK-4.
fn http_get(handler: &mut Value) {
    if let Some(get) = look::get_mut(handler, "httpGet") {
        look::set_empty(get, "path", "/");
        look::set_empty(get, "scheme", "HTTP");
    }
}

fn field_reference(source: &mut Value) {
    if let Some(reference) = look::get_mut(source, "fieldRef") {
        look::set_empty(reference, "apiVersion", "v1");
    }
    if let Some(reference) = look::get_mut(source, "resourceFieldRef") {
        look::set_absent(reference, "divisor", "0");
    }
}

fn volume(volume: &mut Value) {
    let has_source =
        volume.as_object().is_some_and(|fields| fields.iter().any(|(name, value)| name != "name" && !value.is_null()));
    if !has_source {
        look::set(volume, "emptyDir", json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = look::get_mut(volume, kind) {
            look::set_absent(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = look::get_mut(volume, "hostPath") {
        look::set_absent(source, "type", "");
    }
    if let Some(source) = look::get_mut(volume, "image") {
        // IMG-301.
        let policy = pull_policy(look::text(source, "reference"));
        look::set_empty(source, "pullPolicy", policy);
    }
    if let Some(source) = look::get_mut(volume, "downwardAPI") {
        look::list_mut(source, "items").iter_mut().for_each(field_reference);
    }
    if let Some(projected) = look::get_mut(volume, "projected") {
        look::list_mut(projected, "sources").iter_mut().for_each(projection);
    }
    other_volume(volume);
}

fn projection(source: &mut Value) {
    if let Some(token) = look::get_mut(source, "serviceAccountToken") {
        look::set_absent(token, "expirationSeconds", 3600);
    }
    if let Some(downward) = look::get_mut(source, "downwardAPI") {
        look::list_mut(downward, "items").iter_mut().for_each(field_reference);
    }
}

/// Sources that this server stores but no node of ours mounts.
fn other_volume(volume: &mut Value) {
    if let Some(source) = look::get_mut(volume, "iscsi") {
        look::set_empty(source, "iscsiInterface", "default");
    }
    if let Some(source) = look::get_mut(volume, "rbd") {
        look::set_empty(source, "pool", "rbd");
        look::set_empty(source, "user", "admin");
        look::set_empty(source, "keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = look::get_mut(volume, "azureDisk") {
        look::set_empty(source, "cachingMode", "ReadWrite");
        look::set_empty(source, "kind", "Shared");
        look::set_empty(source, "fsType", "ext4");
        look::set_absent(source, "readOnly", false);
    }
    if let Some(source) = look::get_mut(volume, "scaleIO") {
        look::set_empty(source, "storageMode", "ThinProvisioned");
        look::set_empty(source, "fsType", "xfs");
    }
    if let Some(source) = look::get_mut(volume, "ephemeral")
        && let Some(template) = look::get_mut(source, "volumeClaimTemplate")
    {
        look::set_empty(look::child(template, "spec"), "volumeMode", "Filesystem");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaulted(spec: Value) -> Value {
        let mut object = json!({"spec": spec});
        pod(&mut object);
        object["spec"].take()
    }

    #[test]
    fn img_20_to_22_the_pull_policy_follows_the_tag() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let cases = [
            ("nginx".to_owned(), "Always"),
            ("nginx:latest".to_owned(), "Always"),
            ("reg.io:5000/a/nginx".to_owned(), "Always"),
            ("nginx:1.2".to_owned(), "IfNotPresent"),
            ("nginx:Latest".to_owned(), "IfNotPresent"),
            (format!("nginx@{digest}"), "IfNotPresent"),
            (format!("nginx:1@{digest}"), "IfNotPresent"),
            (format!("nginx:latest@{digest}"), "Always"),
            (String::new(), "IfNotPresent"),
            ("A B".to_owned(), "IfNotPresent"),
            ("Nginx".to_owned(), "IfNotPresent"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(&image), policy, "{image:?}");
        }
    }

    #[test]
    fn img_23_all_container_lists_and_image_volumes_get_a_policy() {
        let spec = defaulted(json!({
            "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x", "imagePullPolicy": "Never"}],
            "initContainers": [{"name": "i", "image": "x:1"}],
            "ephemeralContainers": [{"name": "e", "image": "x:latest"}],
            "volumes": [{"name": "v", "image": {"reference": "x"}}],
        }));
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(spec["containers"][1]["imagePullPolicy"], "Never");
        assert_eq!(spec["initContainers"][0]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(spec["ephemeralContainers"][0]["imagePullPolicy"], "Always");
        assert_eq!(spec["volumes"][0]["image"]["pullPolicy"], "Always");
    }

    #[test]
    fn img_25_26_a_set_policy_stays_and_an_absent_one_follows_the_image() {
        let mut spec = defaulted(json!({"containers": [{"image": "app:1"}]}));
        spec["containers"][0]["image"] = json!("app:latest");
        assert_eq!(defaulted(spec.clone())["containers"][0]["imagePullPolicy"], "IfNotPresent");
        spec["containers"][0]["imagePullPolicy"] = Value::Null;
        assert_eq!(defaulted(spec)["containers"][0]["imagePullPolicy"], "Always");
    }

    #[test]
    fn a_small_pod_becomes_what_upstream_makes_of_it() {
        let spec = defaulted(json!({"containers": [{"name": "a", "image": "x:1", "ports": [{"containerPort": 80}]}]}));
        assert_eq!(
            spec,
            json!({
                "containers": [{
                    "name": "a", "image": "x:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            })
        );
    }

    #[test]
    fn pod_54_probes_and_hook_4_handlers() {
        let spec = defaulted(json!({"containers": [{
            "image": "x", "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"exec": {"command": ["a"]}, "periodSeconds": 2},
            "lifecycle": {"preStop": {"httpGet": {"port": "http", "path": "/bye"}}},
        }]}));
        let container = &spec["containers"][0];
        assert_eq!(
            container["livenessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(container["readinessProbe"]["periodSeconds"], 2);
        assert_eq!(
            container["lifecycle"]["preStop"]["httpGet"],
            json!({"port": "http", "path": "/bye", "scheme": "HTTP"})
        );
    }

    #[test]
    fn requests_follow_limits_in_pods_but_not_in_templates() {
        let container = json!({"image": "x", "resources": {"limits": {"cpu": "0.5", "memory": "1Gi"}, "requests": {"memory": "1Mi"}}});
        let spec = defaulted(json!({"containers": [container.clone()]}));
        assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"cpu": "500m", "memory": "1Mi"}));
        let mut in_template = json!({"containers": [container]});
        template(&mut in_template);
        assert_eq!(in_template["containers"][0]["resources"]["requests"], json!({"memory": "1Mi"}));
        assert_eq!(in_template.get("enableServiceLinks"), None);
    }

    #[test]
    fn a_pod_with_limits_as_a_whole_asks_as_a_whole() {
        let container = json!({"image": "x", "resources": {"requests": {"cpu": "250m"}}});
        let spec = defaulted(json!({
            "containers": [container, container], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
        }));
        assert_eq!(spec["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
    }

    #[test]
    fn volumes_env_and_host_ports() {
        let spec = defaulted(json!({
            "hostNetwork": true,
            "volumes": [
                {"name": "a"}, {"name": "b", "secret": {"secretName": "s"}}, {"name": "c", "hostPath": {"path": "/x"}},
                {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items": [{"fieldRef": {"fieldPath": "x"}}]}}]}},
            ],
            "containers": [{"image": "x", "ports": [{"containerPort": 80}], "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}],
        }));
        assert_eq!(spec["volumes"][0], json!({"name": "a", "emptyDir": {}}));
        assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][2]["hostPath"]["type"], "");
        let projected = &spec["volumes"][3]["projected"];
        assert_eq!(projected["defaultMode"], 420);
        assert_eq!(projected["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3600);
        assert_eq!(projected["sources"][1]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(spec["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(spec["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    }

    #[test]
    fn defaulting_twice_is_defaulting_once() {
        let once = defaulted(json!({
            "serviceAccount": "s", "hostNetwork": true, "overhead": {"cpu": "0.1"},
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "x"}}],
            "containers": [{"image": "x", "resources": {"limits": {"cpu": "1.5"}}, "livenessProbe": {"grpc": {"port": 1}}}],
        }));
        assert_eq!(defaulted(once.clone()), once);
        assert_eq!(once["serviceAccountName"], "s");
        assert_eq!(once["overhead"]["cpu"], "100m");
    }
}
