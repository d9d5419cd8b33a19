//! Table tests of the configuration: YAML-like pods in, messages out.

use super::*;
use crate::object::Secret;
use serde_json::{Value, json};

fn context() -> Context {
    Context {
        node_name: "n1".into(),
        host_name: "host".into(),
        node_ips: vec!["10.0.0.1".parse().unwrap()],
        data_dir: "/d".into(),
        log_dir: "/var/log/pods".into(),
        cgroup_top: "/sampan".into(),
        cgroup_v2: false,
        resolv_conf: ResolvConf::parse("nameserver 1.1.1.1\nsearch example.org\noptions timeout:2\n"),
        cluster_dns: vec![],
        cluster_domain: "cluster.local".into(),
        cpu_milli: 4000,
        memory_bytes: 1 << 30,
        storage_bytes: 1 << 34,
        api_address: None,
        api_address_of_host: None,
    }
}

fn pod(spec: Value) -> Pod {
    let metadata = json!({ "name": "p", "namespace": "ns", "uid": "u1", "labels": { "app": "web" } });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
}

fn objects() -> Objects {
    let secret: Secret = serde_json::from_value(json!({ "data": { "k": "dg==" } })).unwrap();
    let map = serde_json::from_value(json!({ "data": { "a": "1", "b": "2" } })).unwrap();
    Objects { config_maps: [("m".into(), map)].into(), secrets: [("s".into(), secret)].into() }
}

fn built_with(pod: &Pod, image_uid: Option<i64>, image_user: &str) -> Result<v1::ContainerConfig, Error> {
    let volume = |name: &str, read_only| {
        (name.to_owned(), crate::volumes::MountedVolume::Path { path: format!("/v/{name}").into(), read_only })
    };
    let inputs = Inputs {
        attempt: 3,
        image: &v1::ImageSpec::default(),
        image_uid,
        image_user,
        pod_ips: &["10.1.0.2".to_owned()],
        mounted: &Mounted { volumes: [volume("data", false), volume("secret", true)].into() },
        objects: &objects(),
        target_id: None,
        can_read_only_below: false,
    };
    build(pod, &pod.spec.containers[0], inputs, &context(), &mut |s: SubPath<'_>| {
        Ok(format!("/bound/{}", s.sub_path).into())
    })
}

fn built(container: Value) -> Result<v1::ContainerConfig, Error> {
    built_with(&pod(json!({ "containers": [container] })), None, "")
}

fn env(container: Value) -> Vec<String> {
    let config = built(container).unwrap();
    config.envs.iter().map(|e| format!("{}={}", e.key, String::from_utf8_lossy(e.value.as_ref()))).collect()
}

#[test]
fn the_environment_is_from_sources_then_variables_that_may_use_earlier_ones() {
    let container = json!({ "name": "c",
        "envFrom": [{ "prefix": "P_", "configMapRef": { "name": "m" } }, { "secretRef": { "name": "none", "optional": true } }],
        "env": [
            { "name": "P_a", "value": "own" },
            { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
            { "name": "APP", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
            { "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
            { "name": "NO", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "z", "optional": true } } },
            { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
            { "name": "MIB", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
            { "name": "ALL", "value": "$(IP)-$(P_b)-$(LATER)-$$(IP)" },
            { "name": "LATER", "value": "x" } ] });
    assert_eq!(
        env(container),
        [
            "P_a=own",
            "P_b=2",
            "IP=10.1.0.2",
            "APP=web",
            "KEY=v",
            "CPU=4",
            "MIB=1024",
            "ALL=10.1.0.2-2-$(LATER)-$(IP)",
            "LATER=x"
        ]
    );
}

#[test]
fn a_pod_finds_the_api_server_by_variables_that_its_own_replace() {
    let ctx = Context {
        api_address: Some("10.1.0.1:6443".parse().unwrap()),
        api_address_of_host: Some("127.0.0.1:6443".parse().unwrap()),
        ..context()
    };
    let env = |spec: Value| {
        let pod = pod(spec);
        let fields = Fields { pod: &pod, pod_ips: &[], ctx: &ctx };
        environment::environment(fields, &pod.spec.containers[0], &objects()).unwrap()
    };
    let value = |env: &[(String, String)], name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let own = env(json!({ "containers": [{ "name": "c", "env": [
        { "name": "URL", "value": "https://$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)" },
        { "name": "KUBERNETES_PORT", "value": "mine" }] }] }));
    assert_eq!(value(&own, "URL").unwrap(), "https://10.1.0.1:6443");
    assert_eq!(value(&own, "KUBERNETES_PORT").unwrap(), "mine");
    assert_eq!(value(&own, "KUBERNETES_PORT_6443_TCP_ADDR").unwrap(), "10.1.0.1");
    let host = env(json!({ "hostNetwork": true, "containers": [{ "name": "c" }] }));
    assert_eq!(value(&host, "KUBERNETES_SERVICE_HOST").unwrap(), "127.0.0.1");
}

#[test]
fn what_is_missing_is_named_in_kubernetes_words() {
    let from = |source: Value| json!({ "name": "c", "env": [{ "name": "E", "valueFrom": source }] });
    let root = |user: Value| json!({ "name": "c", "securityContext": user });
    for (container, expect) in [
        (from(json!({ "configMapKeyRef": { "name": "x", "key": "k" } })), r#"configmap "x" not found"#),
        (from(json!({ "secretKeyRef": { "name": "x", "key": "k" } })), r#"secret "x" not found"#),
        (from(json!({ "configMapKeyRef": { "name": "m", "key": "k" } })), "couldn't find key k in ConfigMap ns/m"),
        (from(json!({ "secretKeyRef": { "name": "s", "key": "z" } })), "couldn't find key z in Secret ns/s"),
        (json!({ "name": "c", "envFrom": [{ "secretRef": { "name": "x" } }] }), r#"secret "x" not found"#),
        (
            root(json!({ "runAsNonRoot": true })),
            r#"container has runAsNonRoot and image will run as root (pod: "p_ns(u1)", container: c)"#,
        ),
        (
            root(json!({ "runAsNonRoot": true, "runAsUser": 0 })),
            r#"container's runAsUser breaks non-root policy (pod: "p_ns(u1)", container: c)"#,
        ),
    ] {
        assert_eq!(built(container).unwrap_err().to_string(), expect);
    }
    let pod = pod(json!({ "containers": [{ "name": "c" }], "securityContext": { "runAsNonRoot": true } }));
    assert!(built_with(&pod, Some(1000), "").is_ok());
    let error = built_with(&pod, None, "web").unwrap_err().to_string();
    assert!(
        error.starts_with("container has runAsNonRoot and image has non-numeric user (web), cannot verify"),
        "{error}"
    );
}

#[test]
fn mounts_are_the_volumes_then_the_nodes_own_files() {
    let config = built(json!({ "name": "c", "terminationMessagePath": "/dev/termination-log", "args": ["$(D)"],
        "env": [{ "name": "D", "value": "logs" }],
        "volumeMounts": [
            { "name": "data", "mountPath": "/data", "mountPropagation": "HostToContainer" },
            { "name": "data", "mountPath": "/logs", "subPathExpr": "$(D)/x", "readOnly": true },
            { "name": "secret", "mountPath": "/secret" } ] }))
    .unwrap();
    let plain: Vec<_> = config
        .mounts
        .iter()
        .map(|m| format!("{} {} {} {}", m.container_path, m.host_path, m.readonly, m.propagation))
        .collect();
    assert_eq!(
        plain,
        [
            "/data /v/data false 1",
            "/logs /bound/logs/x true 0",
            "/secret /v/secret true 0",
            "/etc/hosts /d/pods/u1/etc-hosts false 0",
            "/dev/termination-log /d/pods/u1/containers/c/termination-3 false 0",
        ]
    );
    assert_eq!((config.args, config.log_path), (vec!["logs".to_owned()], "c/3.log".to_owned()));
}

#[test]
fn a_sub_path_that_leaves_its_volume_or_lacks_a_variable_is_refused() {
    for (key, path) in [("subPath", "../x"), ("subPath", "/x"), ("subPathExpr", "$(NONE)/x")] {
        let mount = json!({ "name": "data", "mountPath": "/d", key: path });
        let error = built(json!({ "name": "c", "volumeMounts": [mount] })).unwrap_err().to_string();
        assert!(error.starts_with("failed to prepare subPath for volumeMount \"data\" of container \"c\""), "{error}");
    }
}

#[test]
fn resources_become_shares_quotas_and_oom_scores() {
    for (resources, expect) in [
        (json!({}), (2, 0, 0, 1000)),
        (json!({ "requests": { "cpu": "100m", "memory": "256Mi" } }), (102, 0, 0, 750)),
        (json!({ "limits": { "cpu": "5m", "memory": "1Gi" } }), (5, 1000, 1 << 30, -997)),
        (json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "1500m" } }), (1024, 150_000, 0, 999)),
    ] {
        let config = built(json!({ "name": "c", "resources": resources })).unwrap();
        let got = config.linux.unwrap().resources.unwrap();
        assert_eq!(
            (got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj),
            expect,
            "{resources}"
        );
    }
}

#[test]
fn rtc_71_overhead_changes_neither_a_containers_limits_nor_its_oom_score() {
    for resources in
        [json!({}), json!({ "requests": { "memory": "256Mi" } }), json!({ "limits": { "cpu": "1", "memory": "1Gi" } })]
    {
        let container = json!({ "name": "c", "resources": resources });
        let heavy = pod(json!({ "containers": [container], "overhead": { "cpu": "2", "memory": "8Gi" } }));
        let light = built(container).unwrap().linux.unwrap().resources;
        assert_eq!(built_with(&heavy, None, "").unwrap().linux.unwrap().resources, light);
    }
}

#[test]
fn the_containers_security_words_go_before_the_pods() {
    let pod = pod(json!({
        "securityContext": { "runAsUser": 5, "runAsGroup": 6, "fsGroup": 7, "supplementalGroups": [8],
            "seccompProfile": { "type": "RuntimeDefault" } },
        "shareProcessNamespace": true, "hostIPC": true,
        "containers": [{ "name": "c", "securityContext": { "runAsUser": 9, "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] }, "readOnlyRootFilesystem": true } }] }));
    let got = built_with(&pod, Some(1), "").unwrap().linux.unwrap().security_context.unwrap();
    assert_eq!((got.run_as_user.unwrap().value, got.run_as_group.unwrap().value), (9, 6));
    assert_eq!(got.supplemental_groups, [7, 8]);
    assert!(got.no_new_privs && got.readonly_rootfs && !got.privileged);
    assert_eq!(got.capabilities.unwrap().add_capabilities, ["NET_ADMIN"]);
    let namespaces = got.namespace_options.unwrap();
    assert_eq!([namespaces.network, namespaces.pid, namespaces.ipc], [0, 0, 2]);
    assert_eq!(got.seccomp.unwrap().profile_type, 0);
    assert_eq!(got.masked_paths.len(), 12);
}

#[test]
fn an_image_that_names_nobody_runs_as_root_and_that_is_said() {
    let pod = pod(json!({ "securityContext": { "runAsGroup": 6 }, "containers": [{ "name": "c" }] }));
    let user = |uid, name| {
        let security = built_with(&pod, uid, name).unwrap().linux.unwrap().security_context.unwrap();
        (security.run_as_user.map(|user| user.value), security.run_as_username)
    };
    assert_eq!(user(None, ""), (Some(0), String::new()));
    assert_eq!(user(None, "web"), (None, "web".into()));
    assert_eq!(user(Some(5), ""), (Some(5), String::new()));
}

#[test]
fn sandboxes_carry_name_dns_ports_and_overhead() {
    let pod = pod(json!({ "hostname": "web-0", "overhead": { "cpu": "250m", "memory": "16Mi" },
        "securityContext": { "sysctls": [{ "name": "net/ipv4/ip_forward", "value": "1" }] },
        "containers": [{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": 8080, "protocol": "UDP" }] }] }));
    let config = sandbox(&pod, &context());
    assert_eq!(config.hostname, "web-0");
    assert_eq!(config.log_directory, "/var/log/pods/ns_p_u1");
    assert_eq!(config.labels["io.kubernetes.pod.uid"], "u1");
    assert_eq!(config.labels["app"], "web");
    assert_eq!((config.port_mappings[0].protocol, config.port_mappings[0].host_port), (1, 8080));
    let linux = config.linux.unwrap();
    assert_eq!(linux.cgroup_parent, "/sampan/kubepods/besteffort/podu1");
    assert_eq!(linux.sysctls["net.ipv4.ip_forward"], "1");
    let overhead = linux.overhead.unwrap();
    assert_eq!((overhead.cpu_shares, overhead.cpu_quota, overhead.memory_limit_in_bytes), (256, 25_000, 16 << 20));
}

#[test]
fn dns_follows_the_policy() {
    let with_dns = Context { cluster_dns: vec!["10.96.0.10".parse().unwrap()], ..context() };
    let extra =
        json!({ "nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{ "name": "ndots", "value": "2" }] });
    for (spec, ctx, servers, searches, options) in [
        (json!({}), &context(), "1.1.1.1", "example.org", "timeout:2"),
        (
            json!({ "dnsPolicy": "ClusterFirst" }),
            &with_dns,
            "10.96.0.10",
            "ns.svc.cluster.local svc.cluster.local cluster.local example.org",
            "ndots:5",
        ),
        (json!({ "dnsPolicy": "ClusterFirst", "hostNetwork": true }), &with_dns, "1.1.1.1", "example.org", "timeout:2"),
        (json!({ "dnsPolicy": "Default" }), &with_dns, "1.1.1.1", "example.org", "timeout:2"),
        (json!({ "dnsPolicy": "None", "dnsConfig": extra }), &with_dns, "9.9.9.9", "x", "ndots:2"),
    ] {
        let config = sandbox(&pod(spec.clone()), ctx).dns_config.unwrap();
        let got = [config.servers.join(" "), config.searches.join(" "), config.options.join(" ")];
        assert_eq!(got, [servers, searches, options], "{spec}");
    }
}

#[test]
fn hook_57_a_container_carries_what_ends_it_well() {
    let mut pod = pod(json!({ "terminationGracePeriodSeconds": 40, "containers": [{
        "name": "c",
        "image": "i:1",
        "ports": [{ "name": "web", "containerPort": 80, "protocol": "TCP" }],
        "terminationMessagePath": "/dev/end",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": { "preStop": { "httpGet": { "path": "/bye", "port": "web", "scheme": "HTTP" } } },
    }, { "name": "bare", "image": "i:1" }] }));
    pod.metadata.deletion_grace_period_seconds = Some(7);
    let annotations = built_with(&pod, None, "").unwrap().annotations;
    let of = |name: &str| annotations.get(&format!("io.kubernetes.{name}")).map(String::as_str);
    let json_of = |name: &str| serde_json::from_str::<Value>(of(name).unwrap()).unwrap();
    let hook = json_of("container.preStopHandler");
    assert_eq!(hook, json!({ "httpGet": { "path": "/bye", "port": "web", "scheme": "HTTP" } }));
    // What is read back is the handler that was written.
    let handler: crate::object::HookAction = serde_json::from_value(hook).unwrap();
    let lifecycle = pod.spec.containers[0].lifecycle.as_ref().unwrap();
    assert_eq!(Some(&handler), lifecycle.pre_stop.as_ref());
    let ports = json!([{ "name": "web", "containerPort": 80, "protocol": "TCP" }]);
    assert_eq!(json_of("container.ports"), ports);
    assert_eq!(of("container.terminationMessagePath"), Some("/dev/end"));
    assert_eq!(of("container.terminationMessagePolicy"), Some("FallbackToLogsOnError"));
    assert_eq!(of("container.restartCount"), Some("3"));
    assert_eq!((of("pod.deletionGracePeriod"), of("pod.terminationGracePeriod")), (Some("7"), Some("40")));
    let digits = of("container.hash").unwrap();
    assert!(!digits.is_empty() && u64::from_str_radix(digits, 16).is_ok(), "{digits}");
    // Nothing is said of what there is not.
    pod.metadata.deletion_grace_period_seconds = None;
    pod.spec.containers.remove(0);
    let bare = built_with(&pod, None, "").unwrap().annotations;
    for name in ["container.preStopHandler", "container.ports", "pod.deletionGracePeriod"] {
        assert!(!bare.contains_key(&format!("io.kubernetes.{name}")), "{name}");
    }
}
