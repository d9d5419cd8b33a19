//! Pods and what is said of them.

use super::*;
use serde_json::json;

fn of(level: Level, version: Version, spec: Value) -> Vec<String> {
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    violations(Policy { level, version }, &pod).iter().map(Violation::to_string).collect()
}

fn baseline(spec: Value) -> Vec<String> {
    of(Level::Baseline, Version::Latest, spec)
}

fn hardened() -> Value {
    json!({"name": "a", "securityContext": {
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}}})
}

#[test]
fn labels_name_level_and_version() {
    let namespace = |labels: Value| json!({"metadata": {"labels": labels}});
    let enforce = |labels: Value| Policy::of(&namespace(labels), "enforce").to_string();
    assert_eq!(enforce(json!({})), "privileged:latest");
    assert_eq!(enforce(json!({"pod-security.kubernetes.io/enforce": "baseline"})), "baseline:latest");
    let dated = json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.33"});
    assert_eq!(enforce(dated), "restricted:v1.33");
    let wrong = json!({"pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn-version": "1.2", "x": "y"});
    assert_eq!(enforce(wrong.clone()), "restricted:latest", "what cannot be read is taken at its strictest");
    let names: Vec<String> = unreadable(&namespace(wrong)).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/warn-version"]);
}

#[test]
fn hook_8_probes_and_hooks_go_to_the_pod_itself() {
    let handlers = [
        json!({"lifecycle": {"postStart": {"httpGet": {"host": "169.254.169.254", "port": 80}}}}),
        json!({"lifecycle": {"preStop": {"tcpSocket": {"host": "169.254.169.254", "port": 80}}}}),
        json!({"livenessProbe": {"httpGet": {"host": "169.254.169.254", "port": 80}}}),
        json!({"readinessProbe": {"tcpSocket": {"host": "169.254.169.254", "port": 80}}}),
        json!({"startupProbe": {"httpGet": {"host": "169.254.169.254", "port": 80}}}),
    ];
    let wanted = "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"169.254.169.254\")";
    for mut container in handlers {
        container["name"] = json!("a");
        for list in ["initContainers", "containers"] {
            let spec = json!({list: [container]});
            assert_eq!(baseline(spec.clone()), [wanted], "{spec}");
            assert_eq!(of(Level::Baseline, Version::Minor(34), spec.clone()), [wanted]);
            assert!(of(Level::Baseline, Version::Minor(33), spec.clone()).is_empty(), "the rule is newer");
            assert!(of(Level::Privileged, Version::Latest, spec).is_empty());
        }
    }
    let own = json!({"name": "a", "livenessProbe": {"httpGet": {"host": "", "port": 80}}, "lifecycle": {"preStop": {"httpGet": {"port": 80}}}});
    assert!(baseline(json!({"containers": [own]})).is_empty());
    let with = |name: &str, host: &str| json!({"name": name, "livenessProbe": {"httpGet": {"host": host, "port": 80}}});
    assert_eq!(
        baseline(json!({"containers": [with("a", "h1"), with("b", "h2")]})),
        ["probe or lifecycle host (containers \"a\", \"b\" use probe or lifecycle hosts \"h1\", \"h2\")"]
    );
}

#[test]
fn the_baseline_refuses_what_leads_out_of_a_pod() {
    let container = |security: Value| json!({"containers": [{"name": "a", "securityContext": security}]});
    for (spec, wanted) in [
        (json!({"hostNetwork": true, "hostIPC": true}), "host namespaces (hostNetwork=true, hostIPC=true)"),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"containerPort": 1}]}]}),
            "hostPort (container \"a\" uses hostPort 80)",
        ),
        (
            container(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            container(json!({"capabilities": {"add": ["CHOWN", "NET_ADMIN"]}})),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            container(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            container(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (container \"a\" must not set securityContext.appArmorProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        assert_eq!(baseline(spec.clone()), [wanted], "{spec}");
    }
    let old = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    assert_eq!(of(Level::Baseline, Version::Minor(31), old), ["forbidden sysctls (net.ipv4.tcp_rmem)"]);
    assert!(baseline(json!({"containers": [{"name": "a"}]})).is_empty());
}

#[test]
fn the_restricted_level_wants_hardened_pods() {
    let restricted = |spec: Value| of(Level::Restricted, Version::Latest, spec);
    assert!(restricted(json!({"containers": [hardened()]})).is_empty());
    assert_eq!(
        restricted(
            json!({"hostNetwork": true, "containers": [{"name": "a"}], "volumes": [{"name": "v", "hostPath": {}}]})
        ),
        [
            "host namespaces (hostNetwork=true)",
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false)",
            "unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"])",
            "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
            "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)",
            "seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ]
    );
    // The pod speaks for its containers, but not against them.
    let mut bare = hardened();
    for field in ["runAsNonRoot", "seccompProfile"] {
        bare["securityContext"].as_object_mut().unwrap().remove(field);
    }
    let pod = json!({"runAsNonRoot": true, "seccompProfile": {"type": "Localhost"}});
    assert!(restricted(json!({"securityContext": pod, "containers": [bare]})).is_empty());
    let mut root = hardened();
    root["securityContext"]["runAsNonRoot"] = json!(false);
    root["securityContext"]["runAsUser"] = json!(0);
    root["securityContext"]["capabilities"]["add"] = json!(["NET_BIND_SERVICE", "CHOWN"]);
    assert_eq!(
        restricted(json!({"securityContext": pod, "containers": [root]})),
        [
            "unrestricted capabilities (container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
            "runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false)",
            "runAsUser=0 (container \"a\" must not set runAsUser=0)",
        ]
    );
}
