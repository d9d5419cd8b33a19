//! Statuses of containers from what the runtime says of them.

use super::*;
use crate::pod::{
    decide::CrashBackOff,
    view::{Desired, Observed, Record, Sandbox},
};
use cri::v1;
use serde_json::{Value, json};
use std::sync::Arc;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// What the runtime says of a container, as it would come over the wire.
fn record(id: &str, name: &str, attempt: u32, change: impl FnOnce(&mut v1::ContainerStatus)) -> Record {
    let mut status = v1::ContainerStatus {
        id: id.into(),
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt }),
        state: v1::ContainerState::ContainerRunning as i32,
        created_at: 1_700_000_000_000_000_000,
        started_at: 1_700_000_001_000_000_000,
        image: Some(v1::ImageSpec { image: "sha256:0".into(), ..Default::default() }),
        image_ref: "registry.test/a@sha256:0".into(),
        annotations: [(crate::config::label::RESTART_COUNT.to_owned(), attempt.to_string())].into(),
        ..Default::default()
    };
    change(&mut status);
    Record::from_cri(&status, "s")
}

fn view(spec: Value, known: Value, records: Vec<Record>) -> View {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": spec,
        "status": known,
    });
    let mut observed = Observed::default();
    let sandbox = Sandbox { id: "s".into(), attempt: 0, ready: true, created_at: at(0), ips: vec!["10.0.0.2".into()] };
    observed.see_all(vec![sandbox], records);
    View {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        desired: Desired::Run,
        observed,
        host_ips: vec!["192.0.2.1".into()],
        runtime: "containerd".into(),
        crash_back_off: CrashBackOff::default(),
    }
}

fn status(view: &View) -> Value {
    serde_json::to_value(generate(view, Stage::Running, &BTreeMap::new(), at(9))).unwrap()
}

#[test]
fn pod_31_statuses_have_their_order_and_ids_their_scheme() {
    let container = |name: &str| json!({"name": name, "image": format!("registry.test/{name}:1")});
    let spec = json!({
        "restartPolicy": "Always",
        "initContainers": [container("z-init"), container("a-init")],
        "containers": [container("c"), container("b"), container("a")],
        "ephemeralContainers": [container("debug")],
    });
    let names = ["b", "debug", "a", "z-init", "c", "a-init"];
    let records = names.iter().enumerate().map(|(n, name)| record(&format!("{n}"), name, 0, |_| {})).collect();
    let status = status(&view(spec, json!({}), records));
    let of = |list: &str| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = status[list].as_array().unwrap().iter();
        all.map(|status| (text(&status["name"]), text(&status["containerID"]))).collect()
    };
    let pair = |name: &str, id: &str| (name.to_owned(), format!("containerd://{id}"));
    assert_eq!(of("containerStatuses"), [pair("a", "2"), pair("b", "0"), pair("c", "4")]);
    assert_eq!(of("initContainerStatuses"), [pair("z-init", "3"), pair("a-init", "5")]);
    assert_eq!(of("ephemeralContainerStatuses"), [pair("debug", "1")]);
    let first = &status["containerStatuses"][0];
    assert_eq!((&first["image"], &first["imageID"]), (&json!("registry.test/a:1"), &json!("registry.test/a@sha256:0")));
}

#[test]
fn pod_33_each_state_of_the_runtime_is_one_of_the_api() {
    let started = "2023-11-14T22:13:21Z";
    let running = json!({"state": {"running": {"startedAt": started}}, "restartCount": 2});
    let waiting = json!({"state": {"waiting": {}}, "restartCount": 2});
    let gone = json!({"exitCode": 137, "reason": "ContainerStatusUnknown",
        "message": "The container could not be located when the pod was terminated",
        "startedAt": null, "finishedAt": null});
    let set = |state: v1::ContainerState| move |status: &mut v1::ContainerStatus| status.state = state as i32;
    let exited = |code: i32, reason: &'static str, message: &'static str| {
        move |status: &mut v1::ContainerStatus| {
            status.state = v1::ContainerState::ContainerExited as i32;
            (status.exit_code, status.reason, status.message) = (code, reason.into(), message.into());
            status.finished_at = 1_700_000_002_000_000_000;
        }
    };
    let terminated = |code: i32, reason: &str, message: Option<&str>| {
        let mut end = json!({"exitCode": code, "reason": reason, "containerID": "containerd://1",
            "startedAt": started, "finishedAt": "2023-11-14T22:13:22Z"});
        if let Some(message) = message {
            end["message"] = json!(message);
        }
        json!({"terminated": end})
    };
    let made = |change: &dyn Fn(&mut v1::ContainerStatus)| record("1", "c", 2, change);
    for (record, known, state, restarts) in [
        (made(&set(v1::ContainerState::ContainerRunning)), &running, json!({"running": {"startedAt": started}}), 2),
        (made(&set(v1::ContainerState::ContainerCreated)), &waiting, json!({"waiting": {}}), 2),
        (made(&exited(0, "", "")), &running, terminated(0, "Completed", None), 2),
        (made(&exited(3, "", "words")), &running, terminated(3, "Error", Some("words")), 2),
        (made(&exited(137, "OOMKilled", "")), &running, terminated(137, "OOMKilled", None), 2),
        (made(&set(v1::ContainerState::ContainerUnknown)), &running, json!({"terminated": gone}), 3),
        (made(&set(v1::ContainerState::ContainerUnknown)), &waiting, json!({"waiting": {}}), 2),
        (
            made(&set(v1::ContainerState::ContainerUnknown)),
            &json!({"state": {"terminated": gone}, "restartCount": 3}),
            json!({"terminated": gone}),
            3,
        ),
    ] {
        let mut before = known.clone();
        before["name"] = json!("c");
        let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "a"}]});
        let view = view(spec, json!({"containerStatuses": [before]}), vec![record.clone()]);
        let seen = status(&view)["containerStatuses"][0].clone();
        assert_eq!((&seen["state"], &seen["restartCount"]), (&state, &json!(restarts)), "{:?} {known}", record.state);
    }
}

#[test]
fn pod_36_the_annotation_of_the_newest_record_counts() {
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "a"}]});
    let count = |records: Vec<Record>| {
        status(&view(spec.clone(), json!({}), records))["containerStatuses"][0]["restartCount"].clone()
    };
    let older = record("1", "c", 2, |status| status.state = v1::ContainerState::ContainerExited as i32);
    assert_eq!(count(vec![older.clone(), record("2", "c", 3, |_| {})]), 3);
    assert_eq!(count(vec![older, record("2", "c", 3, |status| status.annotations.clear())]), 0);
}

#[test]
fn pod_46_without_statuses_nobody_knows_whether_it_is_ready() {
    let view = view(json!({"restartPolicy": "Always"}), json!({}), vec![]);
    let status = status(&view);
    for index in [2, 3] {
        let condition = &status["conditions"][index];
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("UnknownContainerStatuses")));
    }
}

#[test]
fn pod_41_what_a_container_has_and_as_whom_it_runs() {
    let resources = json!({"limits": {"memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "32Mi"}});
    let container = json!({"name": "c", "image": "a", "resources": resources, "volumeMounts": [
        {"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "IfPossible"},
        {"name": "w", "mountPath": "/w", "readOnly": true, "recursiveReadOnly": "IfPossible"}]});
    let spec = json!({"restartPolicy": "Always", "containers": [container, {"name": "d", "image": "a"}]});
    let told = record("1", "c", 0, |status| {
        let linux = v1::LinuxContainerUser { uid: 0, gid: 7, supplemental_groups: vec![7, 8] };
        status.user = Some(v1::ContainerUser { linux: Some(linux) });
        status.stop_signal = v1::Signal::Sigusr1 as i32;
        let mount = |path: &str, recursive_read_only| v1::Mount {
            container_path: path.into(),
            recursive_read_only,
            ..Default::default()
        };
        status.mounts = vec![mount("/v", true), mount("/w", false)];
    });
    let status = status(&view(spec, json!({}), vec![told, record("2", "d", 0, |_| {})]));
    let (with, without) = (&status["containerStatuses"][0], &status["containerStatuses"][1]);
    assert_eq!(with["resources"], resources);
    assert_eq!(with["allocatedResources"], resources["requests"]);
    assert_eq!(with["user"], json!({"linux": {"uid": 0, "gid": 7, "supplementalGroups": [7, 8]}}));
    assert_eq!(with["stopSignal"], "SIGUSR1");
    let below = |index: usize| with["volumeMounts"][index]["recursiveReadOnly"].clone();
    assert_eq!((below(0), below(1)), (json!("Enabled"), json!("Disabled")));
    assert_eq!(without["resources"], json!({}));
    for field in ["allocatedResources", "user", "stopSignal", "volumeMounts"] {
        assert!(without[field].is_null(), "{field}");
    }
}
