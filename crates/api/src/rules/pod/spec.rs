//! Validation of a pod spec, in a Pod or in a template. Start at [`validate_pod`].

use serde_json::Value;

use super::container;
use super::resources::{self, Scope};
use super::scheduling;
use super::security;
use super::volume;
use crate::field::{FieldError, Path};
use crate::look;
use crate::meta;
use crate::names;
use crate::pod::requests;
use crate::quantity::Quantity;

/// What the parts of a spec need to know about the whole.
#[derive(Debug, Default)]
pub(super) struct Frame<'a> {
    /// Volumes that are good, by name.
    pub volumes: Vec<(&'a str, &'a Value)>,
    /// Names of resource claims.
    pub claims: Vec<&'a str>,
    /// A Pod, not a template.
    pub is_pod: bool,
    /// The pod's own grace.
    pub grace_seconds: Option<i64>,
    /// Whether the pod shares the users of its node.
    pub host_users: bool,
    /// `spec.os.name`.
    pub os: Option<&'a str>,
}

impl<'a> Frame<'a> {
    fn new(spec: &'a Value, is_pod: bool) -> Frame<'a> {
        Frame {
            volumes: Vec::new(),
            claims: look::list(spec, "resourceClaims").iter().map(|claim| look::text(claim, "name")).collect(),
            is_pod,
            grace_seconds: look::integer(spec, "terminationGracePeriodSeconds"),
            host_users: look::get(spec, "hostUsers") != Some(&Value::Bool(false)),
            os: look::at(spec, &["os", "name"]).and_then(Value::as_str),
        }
    }

    /// A good volume by its name.
    pub fn volume(&self, name: &str) -> Option<&'a Value> {
        self.volumes.iter().find(|(other, _)| *other == name).map(|(_, volume)| *volume)
    }
}

/// Checks a new Pod, all but its ObjectMeta.
pub fn validate_pod(object: &Value) -> Vec<FieldError> {
    let mut errors = validate_pod_any(object);
    let path = Path::new("spec");
    if !look::list_at(object, &["spec", "ephemeralContainers"]).is_empty() {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    let gated = !look::list_at(object, &["spec", "schedulingGates"]).is_empty();
    if gated && !look::text_at(object, &["spec", "nodeName"]).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
    errors
}

/// Checks what must hold for a Pod at all times.
pub(super) fn validate_pod_any(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let empty = Value::Null;
    let spec = look::get(object, "spec").unwrap_or(&empty);
    pod_spec(spec, true, &path, &mut errors);
    for list in ["containers", "initContainers"] {
        for (index, item) in look::list(spec, list).iter().enumerate() {
            container::image_spaces(item, &path.child(list).index(index), &mut errors);
        }
    }
    tokens_without_account(spec, &path.child("volumes"), &mut errors);
    errors
}

/// Checks the template of a workload or a PodTemplate, metadata included.
pub fn validate_template(template: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let empty = Value::Null;
    if let Some(metadata) = look::get(template, "metadata") {
        meta::labels(metadata, "labels", &path.child("labels"), &mut errors);
        meta::annotations(metadata, &path.child("annotations"), &mut errors);
    }
    let spec = look::get(template, "spec").unwrap_or(&empty);
    pod_spec(spec, false, &path.child("spec"), &mut errors);
    if !look::list(spec, "ephemeralContainers").is_empty() {
        let path = path.child("spec").child("ephemeralContainers");
        errors.push(FieldError::forbidden(&path, "ephemeral containers not allowed in pod template"));
    }
    errors
}

fn pod_spec(spec: &Value, is_pod: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let mut frame = Frame::new(spec, is_pod);
    if frame.grace_seconds.is_none() {
        errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    frame.volumes = volume::volumes(look::list(spec, "volumes"), &frame, &path.child("volumes"), errors);
    all_containers(spec, &frame, path, errors);
    pod_resources(spec, path, errors);
    host_network_ports(spec, is_pod, path, errors);
    let text = |name: &str| look::text(spec, name);
    container::one_of(text("restartPolicy"), &["Always", "OnFailure", "Never"], &path.child("restartPolicy"), errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    container::one_of(text("dnsPolicy"), &policies, &path.child("dnsPolicy"), errors);
    meta::labels(spec, "nodeSelector", &path.child("nodeSelector"), errors);
    security::pod(spec, path, errors);
    dns_config(spec, &path.child("dnsConfig"), errors);
    placement(spec, path, errors);
    identity(spec, path, errors);
    numbers(spec, path, errors);
    let overhead_path = path.child("overhead").child("limits");
    resources::list(spec, "overhead", &overhead_path, Scope::Container, errors);
    system(spec, frame.os, path, errors);
}

fn all_containers(spec: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let names_of = |list: &str| -> Vec<&str> { look::list(spec, list).iter().map(|c| look::text(c, "name")).collect() };
    let mut others = names_of("containers");
    container::containers(look::list(spec, "containers"), frame, &path.child("containers"), errors);
    let inits = look::list(spec, "initContainers");
    container::init_containers(inits, &others, frame, &path.child("initContainers"), errors);
    others.extend(names_of("initContainers"));
    let ephemeral = look::list(spec, "ephemeralContainers");
    container::ephemeral_containers(ephemeral, &others, frame, &path.child("ephemeralContainers"), errors);
}

/// Requests and limits of the whole pod: no less than its containers ask for.
fn pod_resources(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(own) = look::get(spec, "resources") else { return };
    let path = path.child("resources");
    if look::get(own, "claims").is_some() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), detail));
    }
    resources::requirements(own, &path, Scope::Pod, errors);
    let quantity =
        |list: &str, name: &str| look::at(own, &[list, name]).and_then(|value| Quantity::from_value(value).ok());
    for (name, sum) in requests::of_containers(&requests::Shape::from_spec(spec)) {
        if let Some(request) = quantity("requests", &name).filter(|request| sum > *request) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(FieldError::invalid(&path.child("requests").key(&name), request.to_string(), detail));
        }
    }
    for (index, item) in look::list(spec, "containers").iter().enumerate() {
        let Some(limits) = look::at(item, &["resources"]) else { continue };
        for (name, value) in look::map(limits, "limits") {
            let (Ok(limit), Some(whole)) = (Quantity::from_value(value), quantity("limits", name)) else { continue };
            if limit > whole {
                let path = path.child("containers").index(index).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {whole}");
                errors.push(FieldError::invalid(&path, limit.to_string(), detail));
            }
        }
    }
}

fn host_network_ports(spec: &Value, is_pod: bool, path: &Path, errors: &mut Vec<FieldError>) {
    if !look::flag(spec, "hostNetwork") {
        return;
    }
    for (index, item) in look::list(spec, "containers").iter().enumerate() {
        for (port_index, port) in look::list(item, "ports").iter().enumerate() {
            let host = look::integer(port, "hostPort").unwrap_or(0);
            if (is_pod || host != 0) && host != look::integer(port, "containerPort").unwrap_or(0) {
                let path = path.child("containers").index(index).child("ports").index(port_index).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&path, host, detail));
            }
        }
    }
}

fn dns_config(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let config = look::get(spec, "dnsConfig");
    let servers = config.map_or(Vec::new(), |config| look::texts(config, "nameservers"));
    let searches = config.map_or(Vec::new(), |config| look::texts(config, "searches"));
    if look::text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        match config {
            None => errors.push(FieldError::required(path, "must provide `dnsConfig` when `dnsPolicy` is None")),
            Some(_) => {
                let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                errors.push(FieldError::required(&path.child("nameservers"), detail));
            }
        }
        return;
    }
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(&path.child("nameservers"), servers.clone(), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        ip(server, &path.child("nameservers").index(index), errors);
    }
    if searches.len() > 32 {
        let detail = "must not have more than 32 search paths";
        errors.push(FieldError::invalid(&path.child("searches"), searches.clone(), detail));
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(FieldError::invalid(&path.child("searches"), searches.clone(), detail));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        // An underscore is fine here, at the beginning of a label too.
        for complaint in names::subdomain(&name.replace('_', "a")) {
            errors.push(FieldError::invalid(&path.child("searches").index(index), name, complaint));
        }
    }
    for (index, option) in config.map_or(&[][..], |config| look::list(config, "options")).iter().enumerate() {
        if look::text(option, "name").is_empty() {
            errors.push(FieldError::required(&path.child("options").index(index), "must not be empty"));
        }
    }
}

pub(super) fn ip(text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if !names::is_ip(text) {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, text, detail));
    }
}

/// Affinity, tolerations, gates, spreading.
fn placement(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(affinity) = look::get(spec, "affinity") {
        scheduling::affinity(affinity, &path.child("affinity"), errors);
    }
    for (index, gate) in look::list(spec, "readinessGates").iter().enumerate() {
        let kind = look::text(gate, "conditionType");
        let path = path.child("readinessGates").index(index).child("conditionType");
        errors.extend(names::label_key(kind).into_iter().map(|text| FieldError::invalid(&path, kind, text)));
    }
    scheduling::gates(look::list(spec, "schedulingGates"), &path.child("schedulingGates"), errors);
    let spread = "topologySpreadConstraints";
    scheduling::spread(look::list(spec, spread), &path.child(spread), errors);
    scheduling::tolerations(look::list(spec, "tolerations"), &path.child("tolerations"), errors);
    let policy = look::text(spec, "preemptionPolicy");
    super::super::priority_class::preemption_policy(policy, &path.child("preemptionPolicy"), errors);
}

/// Names that the spec mentions, of the pod itself and of other objects.
fn identity(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    type Rule = fn(&str) -> Vec<String>;
    let rules: [(&str, Rule); 5] = [
        ("serviceAccountName", names::subdomain),
        ("nodeName", names::subdomain),
        ("hostname", names::label),
        ("subdomain", names::label),
        ("priorityClassName", names::subdomain),
    ];
    for (field, rule) in rules {
        let text = look::text(spec, field);
        if !text.is_empty() {
            errors.extend(rule(text).into_iter().map(|words| FieldError::invalid(&path.child(field), text, words)));
        }
    }
    // RTC-21 and RTC-29: an empty class name is no name.
    if let Some(class) = look::get(spec, "runtimeClassName").and_then(Value::as_str) {
        let path = path.child("runtimeClassName");
        errors.extend(names::subdomain(class).into_iter().map(|words| FieldError::invalid(&path, class, words)));
    }
    for (index, alias) in look::list(spec, "hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(index);
        ip(look::text(alias, "ip"), &path.child("ip"), errors);
        for (name_index, name) in look::texts(alias, "hostnames").into_iter().enumerate() {
            let path = path.child("hostnames").index(name_index);
            errors.extend(names::subdomain(name).into_iter().map(|words| FieldError::invalid(&path, name, words)));
        }
    }
}

fn numbers(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(seconds) = look::integer(spec, "activeDeadlineSeconds") {
        let path = path.child("activeDeadlineSeconds");
        let complaints = names::in_range(seconds, 1, i64::from(i32::MAX));
        errors.extend(complaints.into_iter().map(|words| FieldError::invalid(&path, seconds, words)));
    }
}

fn system(spec: &Value, os: Option<&str>, path: &Path, errors: &mut Vec<FieldError>) {
    let path_os = path.child("os");
    match os {
        None if look::get(spec, "os").is_some() => {
            errors.push(FieldError::required(&path_os.child("name"), "cannot be empty"));
        }
        Some("") => errors.push(FieldError::required(&path_os.child("name"), "cannot be empty")),
        None | Some("linux" | "windows") => {}
        Some(other) => errors.push(FieldError::not_supported(&path_os, other, &["linux", "windows"])),
    }
    if os != Some("linux") {
        return;
    }
    let forbidden = "windows options cannot be set for a linux pod";
    if look::at(spec, &["securityContext", "windowsOptions"]).is_some() {
        errors.push(FieldError::forbidden(&path.child("securityContext").child("windowsOptions"), forbidden));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, item) in look::list(spec, list).iter().enumerate() {
            if look::at(item, &["securityContext", "windowsOptions"]).is_some() {
                let path = path.child(list).index(index).child("securityContext").child("windowsOptions");
                errors.push(FieldError::forbidden(&path, forbidden));
            }
        }
    }
}

fn tokens_without_account(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if !look::text(spec, "serviceAccountName").is_empty() {
        return;
    }
    for (index, volume) in look::list(spec, "volumes").iter().enumerate() {
        for (part, source) in look::list_at(volume, &["projected", "sources"]).iter().enumerate() {
            if look::get(source, "serviceAccountToken").is_some() {
                let path = path.index(index).child("projected").child("sources").index(part);
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(&path.child("serviceAccountToken"), detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::Rules;
    use crate::rules::pod::Pods;

    /// The first words of each error of a pod with one good container `c` and these fields of its spec on top.
    fn check(more: Value, expected: &[&str]) {
        let mut object = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}});
        for (name, value) in more.as_object().unwrap() {
            object["spec"][name] = value.clone();
        }
        Pods.default(&mut object);
        let texts: Vec<String> = Pods.validate_create(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.starts_with(expected), "{text}\nwanted: {expected}");
        }
    }

    #[test]
    fn a_small_pod_is_good_and_an_empty_one_is_not() {
        check(json!({}), &[]);
        check(json!({"containers": []}), &["spec.containers: Required value"]);
        check(
            json!({"containers": [{}]}),
            &["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"],
        );
        check(
            json!({"containers": [{"name": "A", "image": "x"}, {"name": "b", "image": "x"}, {"name": "b", "image": "x"}]}),
            &[
                "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
                "spec.containers[2].name: Duplicate value: \"b\"",
            ],
        );
    }

    #[test]
    fn img_27_30_31_images_and_policies() {
        let one = |container: Value| json!({"containers": [container]});
        check(
            one(json!({"name": "c", "image": "x", "imagePullPolicy": "always"})),
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"always\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        );
        check(
            one(json!({"name": "c", "image": " x"})),
            &["spec.containers[0].image: Invalid value: \" x\": must not have leading or trailing whitespace"],
        );
        check(one(json!({"name": "c", "image": ""})), &["spec.containers[0].image: Required value"]);
        check(one(json!({"name": "c", "image": "A B"})), &[]);
    }

    #[test]
    fn mounts_find_their_volumes() {
        let with = |mounts: Value| json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "x", "volumeMounts": mounts}]});
        check(with(json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b", "subPath": "x"}])), &[]);
        check(
            with(json!([{"name": "w", "mountPath": "/a"}])),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"w\""],
        );
        check(
            with(json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}])),
            &["spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique"],
        );
        check(with(json!([{"name": "v"}])), &["spec.containers[0].volumeMounts[0].mountPath: Required value"]);
        check(
            with(json!([{"name": "v", "mountPath": "/a", "subPath": "../x"}])),
            &["spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'"],
        );
        check(
            with(json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}])),
            &["spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional"],
        );
    }

    #[test]
    fn ports_are_legal_and_do_not_collide() {
        let with = |ports: Value| json!({"containers": [{"name": "c", "image": "x", "ports": ports}]});
        check(with(json!([{"containerPort": 80, "name": "http"}])), &[]);
        check(with(json!([{}])), &["spec.containers[0].ports[0].containerPort: Required value"]);
        check(
            with(json!([{"containerPort": 65536}])),
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ],
        );
        check(
            with(json!([{"containerPort": 80, "protocol": "tcp"}])),
            &[
                "spec.containers[0].ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        );
        check(
            with(json!([{"containerPort": 80, "hostPort": 1}, {"containerPort": 81, "hostPort": 1}])),
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//1\""],
        );
        check(
            with(json!([{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}])),
            &["spec.containers[0].ports[1].name: Duplicate value: \"a\""],
        );
        let mut host = with(json!([{"containerPort": 80, "hostPort": 81}]));
        host["hostNetwork"] = json!(true);
        check(
            host,
            &[
                "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
            ],
        );
    }

    #[test]
    fn hook_6_init_containers_and_sidecars() {
        let with = |init: Value| json!({"initContainers": [init]});
        let hook = json!({"preStop": {"sleep": {"seconds": 1}}});
        check(with(json!({"name": "i", "image": "x"})), &[]);
        check(with(json!({"name": "c", "image": "x"})), &["spec.initContainers[0].name: Duplicate value: \"c\""]);
        check(
            with(json!({"name": "i", "image": "x", "lifecycle": hook})),
            &[
                "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        );
        check(with(json!({"name": "i", "image": "x", "restartPolicy": "Always", "lifecycle": hook})), &[]);
        check(
            with(json!({"name": "i", "image": "x", "restartPolicy": "Sometimes"})),
            &["spec.initContainers[0].restartPolicy: Unsupported value: \"Sometimes\""],
        );
    }

    #[test]
    fn single_values_of_the_spec() {
        check(
            json!({"restartPolicy": "x"}),
            &["spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"OnFailure\", \"Never\""],
        );
        check(json!({"dnsPolicy": "x"}), &["spec.dnsPolicy: Unsupported value: \"x\""]);
        check(
            json!({"dnsPolicy": "None"}),
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        );
        check(json!({"nodeSelector": {"a b": "c"}}), &["spec.nodeSelector: Invalid value: \"a b\""]);
        check(
            json!({"runtimeClassName": ""}),
            &["spec.runtimeClassName: Invalid value: \"\": a lowercase RFC 1123 subdomain"],
        );
        check(json!({"runtimeClassName": "A"}), &["spec.runtimeClassName: Invalid value: \"A\""]);
        check(
            json!({"activeDeadlineSeconds": 0}),
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        );
        check(json!({"preemptionPolicy": "x"}), &["spec.preemptionPolicy: Unsupported value"]);
        check(
            json!({"overhead": {"pods": "1"}}),
            &["spec.overhead.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers"],
        );
        check(
            json!({"schedulingGates": [{"name": "g"}], "nodeName": "n"}),
            &["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
        );
        check(
            json!({"ephemeralContainers": [{"name": "e", "image": "x"}]}),
            &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        );
        check(json!({"os": {"name": "plan9"}}), &["spec.os: Unsupported value: \"plan9\""]);
        check(
            json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
            &["spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address"],
        );
        check(json!({"hostname": "a.b"}), &["spec.hostname: Invalid value: \"a.b\": must not contain dots"]);
    }

    #[test]
    fn the_pod_asks_for_no_less_than_its_containers() {
        let with = |own: Value| json!({"resources": own, "containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]});
        check(with(json!({"requests": {"cpu": "1"}})), &[]);
        check(
            with(json!({"requests": {"cpu": "500m"}})),
            &[
                "spec.resources.requests[cpu]: Invalid value: \"500m\": must be greater than or equal to aggregate container requests of 1",
            ],
        );
        check(
            with(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}})),
            &[
                "spec.resources.containers[0][cpu].limits: Invalid value: \"2\": must be less than or equal to pod limits of 1",
            ],
        );
    }

    #[test]
    fn templates_are_laxer() {
        let mut template =
            json!({"spec": {"containers": [{"name": "c", "image": " "}], "volumes": [{"name": "v", "image": {}}]}});
        super::super::default::template(&mut template["spec"]);
        assert_eq!(validate_template(&template, &Path::new("template")), []);
        template["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}]);
        super::super::default::template(&mut template["spec"]);
        let errors = validate_template(&template, &Path::new("template"));
        assert_eq!(
            errors[0].to_string(),
            "template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template"
        );
    }
}
