//! What workloads share and where they differ.

use jiff::Timestamp;

use super::*;
use crate::kind::{Kind, find};

/// The kinds that hold a pod template, and where.
const HOLDERS: [(&str, &str, &[&str]); 8] = [
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec", "template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
];

fn place<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(object, |value, name| look::child(value, name))
}

/// A small good object of a kind, with a template that its selector selects.
fn object(kind: &Kind, path: &[&str]) -> Value {
    let mut object = json!({"metadata": {"name": "w", "namespace": "default", "uid": "u-1"}});
    let ends = kind.group == "batch";
    *place(&mut object, path) = json!({
        "metadata": {"labels": {"app": "w"}},
        "spec": {"containers": [{"name": "c", "image": "app:1"}], "restartPolicy": if ends { "Never" } else { "Always" }},
    });
    match kind.plural {
        "replicasets" | "deployments" | "statefulsets" | "daemonsets" => {
            object["spec"]["selector"] = json!({"matchLabels": {"app": "w"}});
        }
        "cronjobs" => object["spec"]["schedule"] = json!("* * * * *"),
        _ => {}
    }
    object
}

fn made(kind: &Kind, mut object: Value) -> (Value, Vec<String>) {
    kind.rules.default(&mut object);
    kind.rules.prepare_create(&mut object, Timestamp::UNIX_EPOCH);
    let errors = kind.rules.validate_create(&object).iter().map(FieldError::to_string).collect();
    (object, errors)
}

fn changed(kind: &Kind, old: &Value, change: impl Fn(&mut Value)) -> (Value, Vec<String>) {
    let mut new = old.clone();
    change(&mut new);
    kind.rules.default(&mut new);
    kind.rules.prepare_update(&mut new, old, None);
    let errors = kind.rules.validate_update(&new, old, None).iter().map(FieldError::to_string).collect();
    (new, errors)
}

fn deployment() -> &'static Kind {
    find("apps", "v1", "deployments").unwrap()
}

#[test]
fn img_23_every_list_of_every_kind_gets_a_pull_policy() {
    let cases =
        [("app", "Always"), ("app:latest", "Always"), ("app:1", "IfNotPresent"), ("app:Latest", "IfNotPresent")];
    let kinds = HOLDERS.iter().map(|(group, plural, path)| (find(group, "v1", plural).unwrap(), *path));
    let pod = [(find("", "v1", "pods").unwrap(), &[][..])];
    for (kind, path) in kinds.chain(pod) {
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            for (image, policy) in cases {
                let mut object = object(kind, path);
                let spec = look::child(place(&mut object, path), "spec");
                look::set(spec, list, json!([{"name": "x", "image": image}]));
                look::set(spec, "volumes", json!([{"name": "v", "image": {"reference": image}}]));
                kind.rules.default(&mut object);
                let spec = look::child(place(&mut object, path), "spec");
                assert_eq!(spec[list][0]["imagePullPolicy"], policy, "{kind:?} {list} {image}");
                // IMG-301.
                assert_eq!(spec["volumes"][0]["image"]["pullPolicy"], policy, "{kind:?} volumes {image}");
            }
        }
    }
}

#[test]
fn img_27_30_302_every_template_is_checked_at_its_own_path() {
    for (group, plural, path) in HOLDERS {
        let kind = find(group, "v1", plural).unwrap();
        let (_, errors) = made(kind, object(kind, path));
        assert!(errors.is_empty(), "{kind:?}: {errors:?}");
        let mut object = object(kind, path);
        let spec = look::child(place(&mut object, path), "spec");
        look::set(spec, "containers", json!([{"name": "c", "image": "", "imagePullPolicy": "always"}]));
        // A template may leave the reference of an image volume open, and spaces around an image.
        look::set(spec, "initContainers", json!([{"name": "i", "image": " x"}]));
        look::set(spec, "volumes", json!([{"name": "v", "image": {}}]));
        let (_, errors) = made(kind, object);
        let root = path.join(".");
        assert_eq!(
            errors,
            [
                format!("{root}.spec.containers[0].image: Required value"),
                format!(
                    "{root}.spec.containers[0].imagePullPolicy: Unsupported value: \"always\": supported values: \
                     \"Always\", \"IfNotPresent\", \"Never\""
                ),
            ],
            "{kind:?}"
        );
    }
}

#[test]
fn img_25_26_the_policy_of_a_template_stays_unless_it_is_left_out() {
    for (group, plural, path) in HOLDERS {
        let kind = find(group, "v1", plural).unwrap();
        let (old, _) = made(kind, object(kind, path));
        let container = |object: &mut Value| place(object, path)["spec"]["containers"][0].take();
        let (mut kept, _) = changed(kind, &old, |new| {
            place(new, path)["spec"]["containers"][0]["image"] = json!("app:latest");
        });
        assert_eq!(container(&mut kept)["imagePullPolicy"], "IfNotPresent", "{kind:?}");
        let (mut put, _) = changed(kind, &old, |new| {
            place(new, path)["spec"]["containers"][0] = json!({"name": "c", "image": "app:latest"});
        });
        assert_eq!(container(&mut put)["imagePullPolicy"], "Always", "{kind:?}");
    }
}

#[test]
fn a_small_deployment_becomes_what_upstream_makes_of_it() {
    let (mut object, errors) = made(deployment(), object(deployment(), &["spec", "template"]));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(object["status"], json!({}));
    object["spec"]["template"].take();
    assert_eq!(
        object["spec"],
        json!({
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "template": null,
            "selector": {"matchLabels": {"app": "w"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        })
    );
}

#[test]
fn the_other_kinds_get_their_defaults() {
    let defaulted = |group: &str, plural: &str| {
        let kind = find(group, "v1", plural).unwrap();
        let path = HOLDERS.iter().find(|(_, other, _)| *other == plural).unwrap().2;
        made(kind, object(kind, path)).0
    };
    let set = defaulted("apps", "statefulsets");
    assert_eq!((&set["spec"]["podManagementPolicy"], &set["spec"]["replicas"]), (&json!("OrderedReady"), &json!(1)));
    assert_eq!(set["spec"]["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    assert_eq!(
        set["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    let daemons = defaulted("apps", "daemonsets");
    assert_eq!(daemons["spec"]["updateStrategy"]["rollingUpdate"], json!({"maxUnavailable": 1, "maxSurge": 0}));
    assert_eq!(daemons["metadata"]["annotations"]["deprecated.daemonset.template.generation"], "1");
    let job = defaulted("batch", "jobs");
    let spec = &job["spec"];
    assert_eq!((&spec["completions"], &spec["parallelism"], &spec["backoffLimit"]), (&json!(1), &json!(1), &json!(6)));
    assert_eq!((&spec["completionMode"], &spec["suspend"]), (&json!("NonIndexed"), &json!(false)));
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
    assert_eq!(spec["template"]["metadata"]["labels"]["batch.kubernetes.io/job-name"], "w");
    assert_eq!(job["metadata"]["labels"], spec["template"]["metadata"]["labels"]);
    let cron = defaulted("batch", "cronjobs");
    let spec = &cron["spec"];
    assert_eq!((&spec["concurrencyPolicy"], &spec["suspend"]), (&json!("Allow"), &json!(false)));
    assert_eq!((&spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]), (&json!(3), &json!(1)));
    let controller = defaulted("", "replicationcontrollers");
    assert_eq!(controller["spec"]["selector"], json!({"app": "w"}));
    assert_eq!(controller["metadata"]["labels"], json!({"app": "w"}));
}

/// The errors of a good object with some fields of its spec changed.
fn check(group: &str, plural: &str, spec: Value, expected: &[&str]) {
    let kind = find(group, "v1", plural).unwrap();
    let path = HOLDERS.iter().find(|(_, other, _)| *other == plural).unwrap().2;
    let mut object = object(kind, path);
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    let (_, errors) = made(kind, object);
    assert_eq!(errors, expected, "{kind:?}");
}

#[test]
fn selectors_select_the_template() {
    let unselected =
        "spec.template.metadata.labels: Invalid value: {\"app\":\"w\"}: `selector` does not match template `labels`";
    for plural in ["replicasets", "deployments", "statefulsets", "daemonsets"] {
        check("apps", plural, json!({"selector": {"matchLabels": {"app": "other"}}}), &[unselected]);
        check("apps", plural, json!({"selector": null}), &["spec.selector: Required value", unselected]);
    }
    check(
        "apps",
        "deployments",
        json!({"selector": {}}),
        &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    );
    check("", "replicationcontrollers", json!({"selector": {"app": "other"}}), &[unselected]);
    check(
        "batch",
        "jobs",
        json!({"selector": {"matchLabels": {"app": "w"}}}),
        &[
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"w\",\"batch.kubernetes.io/controller-uid\":\"u-1\"}}: `selector` not auto-generated",
        ],
    );
    check("batch", "jobs", json!({"manualSelector": true, "selector": {"matchLabels": {"app": "w"}}}), &[]);
}

#[test]
fn numbers_strategies_and_times_are_checked() {
    check(
        "apps",
        "deployments",
        json!({"replicas": -1, "progressDeadlineSeconds": 5, "minReadySeconds": 5}),
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
        ],
    );
    let rolling = |rolling: Value| json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
    check(
        "apps",
        "deployments",
        rolling(json!({"maxSurge": 0, "maxUnavailable": "0%"})),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"],
    );
    check(
        "apps",
        "deployments",
        rolling(json!({"maxUnavailable": "101%"})),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"],
    );
    check(
        "apps",
        "deployments",
        json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}}),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    check(
        "apps",
        "daemonsets",
        json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
        &[
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        ],
    );
    check(
        "apps",
        "statefulsets",
        json!({"podManagementPolicy": "x", "updateStrategy": {"type": "OnDelete"}}),
        &["spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'"],
    );
    check(
        "batch",
        "cronjobs",
        json!({"schedule": "60 * * * *", "timeZone": "Local"}),
        &[
            "spec.schedule: Invalid value: \"60 * * * *\": end of range (60) above maximum (59): 60",
            "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ],
    );
    check(
        "batch",
        "jobs",
        json!({"completionMode": "Indexed", "completions": null, "parallelism": 1}),
        &["spec.completions: Required value: when completion mode is Indexed"],
    );
    check(
        "batch",
        "jobs",
        json!({"podFailurePolicy": {"rules": [{"action": "Ignore"}]}, "backoffLimitPerIndex": 1}),
        &[
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
            "spec.podFailurePolicy.rules[0]: Invalid value: null: specifying one of OnExitCodes and OnPodConditions is required",
        ],
    );
}

#[test]
fn pods_of_lasting_workloads_restart_and_those_of_jobs_end() {
    let template = |policy: &str| {
        json!({"template": {"metadata": {"labels": {"app": "w"}}, "spec": {
            "restartPolicy": policy, "activeDeadlineSeconds": 5, "containers": [{"name": "c", "image": "x"}],
        }}})
    };
    check(
        "apps",
        "deployments",
        template("Never"),
        &[
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
        ],
    );
    check(
        "batch",
        "jobs",
        template("Always"),
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
}

#[test]
fn a_claim_is_a_volume_of_its_stateful_set() {
    let template = json!({"metadata": {"labels": {"app": "w"}}, "spec": {
        "containers": [{"name": "c", "image": "x", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}],
    }});
    let claims = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    check("apps", "statefulsets", json!({"template": template, "volumeClaimTemplates": claims}), &[]);
    check(
        "apps",
        "statefulsets",
        json!({"template": template}),
        &["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""],
    );
}

#[test]
fn the_generation_rises_with_the_spec_and_the_status_has_its_own_door() {
    for (group, plural, path) in &HOLDERS[1..] {
        let kind = find(group, "v1", plural).unwrap();
        let (old, _) = made(kind, object(kind, path));
        let (same, errors) = changed(kind, &old, |new| new["status"] = json!({"replicas": 7}));
        assert!(errors.is_empty(), "{kind:?} {errors:?}");
        assert_eq!((&same["metadata"]["generation"], &same["status"]), (&json!(1), &old["status"]), "{kind:?}");
        let (other, _) = changed(kind, &old, |new| {
            place(new, path)["spec"]["containers"][0]["image"] = json!("app:2");
        });
        assert_eq!(other["metadata"]["generation"], 2, "{kind:?}");
        let mut by_status = other.clone();
        by_status["status"] = json!({"observedGeneration": 1});
        kind.rules.prepare_update(&mut by_status, &old, Some("status"));
        assert_eq!((&by_status["spec"], &by_status["metadata"]["generation"]), (&old["spec"], &json!(1)), "{kind:?}");
        assert_eq!(by_status["status"]["observedGeneration"], 1);
    }
}

#[test]
fn what_is_fixed_stays() {
    let selector = |new: &mut Value| {
        new["spec"]["selector"] = json!({"matchLabels": {"app": "w", "x": "y"}});
        new["spec"]["template"]["metadata"]["labels"] = json!({"app": "w", "x": "y"});
    };
    for plural in ["replicasets", "deployments", "daemonsets"] {
        let kind = find("apps", "v1", plural).unwrap();
        let (old, _) = made(kind, object(kind, &["spec", "template"]));
        let (_, errors) = changed(kind, &old, selector);
        assert!(errors.len() == 1 && errors[0].starts_with("spec.selector: Invalid value"), "{errors:?}");
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
    }
    let set = find("apps", "v1", "statefulsets").unwrap();
    let (old, _) = made(set, object(set, &["spec", "template"]));
    let (_, errors) = changed(set, &old, |new| new["spec"]["serviceName"] = json!("x"));
    assert!(errors[0].starts_with("spec: Forbidden: updates to statefulset spec for fields other than"), "{errors:?}");
    assert!(changed(set, &old, |new| new["spec"]["replicas"] = json!(3)).1.is_empty());
    let job = find("batch", "v1", "jobs").unwrap();
    let (old, _) = made(job, object(job, &["spec", "template"]));
    let image = |new: &mut Value| new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("app:2");
    let (_, errors) = changed(job, &old, image);
    assert!(errors[0].starts_with("spec.template: Invalid value") && errors.len() == 1, "{errors:?}");
    let (_, errors) = changed(job, &old, |new| new["spec"]["completions"] = json!(5));
    assert_eq!(errors, ["spec.completions: Invalid value: 5: field is immutable"]);
    assert!(changed(job, &old, |new| new["spec"]["parallelism"] = json!(5)).1.is_empty());
}

#[test]
fn a_suspended_job_may_be_placed_anew() {
    let job = find("batch", "v1", "jobs").unwrap();
    let mut suspended = object(job, &["spec", "template"]);
    suspended["spec"]["suspend"] = json!(true);
    let (old, _) = made(job, suspended);
    let place = |new: &mut Value| new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    assert_eq!(changed(job, &old, place).1, [""; 0]);
    let mut started = old.clone();
    started["status"] = json!({"startTime": "1970-01-01T00:00:00Z"});
    assert_eq!(changed(job, &started, place).1.len(), 1);
}

#[test]
fn the_status_of_a_job_ends_once() {
    let job = find("batch", "v1", "jobs").unwrap();
    let (old, _) = made(job, object(job, &["spec", "template"]));
    let check = |status: Value, expected: &[&str]| {
        let mut new = old.clone();
        new["status"] = status;
        let errors = job.rules.validate_update(&new, &old, Some("status"));
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    };
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let time = "1970-01-01T00:00:00Z";
    let done = json!([condition("SuccessCriteriaMet"), condition("Complete")]);
    check(json!({"startTime": time, "completionTime": time, "succeeded": 1, "conditions": done}), &[]);
    check(
        json!({"startTime": time, "conditions": done, "active": 1}),
        &[
            "status.completionTime: Required value: completionTime is required for Complete jobs",
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
        ],
    );
    check(
        json!({"failed": -1}),
        &[
            "status.failed: Invalid value: -1: must be greater than or equal to 0",
            "status.failed: Invalid value: -1: cannot decrease the failed counter",
        ],
    );
}

#[test]
fn columns_are_upstreams() {
    let now = Timestamp::from_second(90).unwrap();
    let created = json!({"metadata": {"name": "w", "creationTimestamp": "1970-01-01T00:00:00Z"}});
    let cells = |group: &str, plural: &str, more: Value| {
        let mut object = created.clone();
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        find(group, "v1", plural).unwrap().rules.cells(&object, now)
    };
    let template = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"b": "1", "a": "2"}}, "template": template});
    let status = json!({"replicas": 2, "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1});
    assert_eq!(
        cells("apps", "deployments", json!({"spec": spec, "status": status})),
        [json!("w"), json!("1/3"), json!(2), json!(1), json!("90s"), json!("a,b"), json!("x:1,y"), json!("a=2,b=1")]
    );
    assert_eq!(
        cells("apps", "replicasets", json!({"spec": spec, "status": status}))[1..5],
        [json!(3), json!(2), json!(1), json!("90s")]
    );
    let job = json!({"spec": {"completions": 3, "template": template}, "status": {
        "succeeded": 1, "startTime": "1970-01-01T00:00:30Z",
    }});
    assert_eq!(cells("batch", "jobs", job)[1..5], ["Running", "1/3", "60s", "90s"]);
    let cron =
        json!({"spec": {"schedule": "* * * * *", "suspend": false, "jobTemplate": {"spec": {"template": template}}}});
    assert_eq!(
        cells("batch", "cronjobs", cron)[1..],
        [
            json!("* * * * *"),
            json!("<none>"),
            json!("False"),
            json!(0),
            json!("<none>"),
            json!("90s"),
            json!("a,b"),
            json!("x:1,y"),
            json!("<none>")
        ]
    );
}

#[test]
fn a_scale_is_one_form_for_all() {
    let (object, _) = made(deployment(), object(deployment(), &["spec", "template"]));
    let mut shown = scale::of(deployment(), &object);
    assert_eq!((&shown["spec"]["replicas"], &shown["status"]["selector"]), (&json!(1), &json!("app=w")));
    shown["spec"]["replicas"] = json!(5);
    assert_eq!(scale::applied(&shown, &object)["spec"]["replicas"], 5);
    let controller = find("", "v1", "replicationcontrollers").unwrap();
    let object = json!({"spec": {"replicas": 2, "selector": {"a": "b"}}});
    assert_eq!(scale::of(controller, &object)["status"]["selector"], "a=b");
}

#[test]
fn img_184_warnings_name_the_template() {
    let mut object = object(deployment(), &["spec", "template"]);
    object["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{"name": ""}, {"name": "a"}, {"name": "a"}]);
    assert_eq!(
        deployment().rules.warnings(&object),
        [
            "spec.template.spec.imagePullSecrets[0].name: invalid empty name \"\"",
            "spec.template.spec.imagePullSecrets[2].name: duplicate name \"a\"",
        ]
    );
}
