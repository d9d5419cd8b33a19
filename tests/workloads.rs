//! Workloads on the whole program: what makes pods, and what bounds them, with a real kubectl.

mod support;

use serde_json::{Value, json};
use support::{Lab, text, wait};

fn set(lab: &Lab, name: &str, replicas: u32, more: &Value) -> String {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 1, "imagePullSecrets": [{"name": "regcred"}],
        "containers": [{"name": "c", "image": lab.image(), "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.05; done"]}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
    }})
    .to_string()
}

fn pods(lab: &Lab, app: &str) -> Vec<String> {
    let shown = lab.ask(&["get", "pods", "-l", &format!("app={app}"), "-o", "name"]);
    shown.lines().map(str::to_owned).collect()
}

fn ready(lab: &Lab, name: &str) -> i64 {
    lab.get("replicaset", name).and_then(|set| set["status"]["readyReplicas"].as_i64()).unwrap_or(0)
}

#[test]
fn replica_sets_make_keep_scale_and_lose_their_pods() {
    let lab = Lab::new("workloads", 47);
    lab.up();
    lab.right_secret();
    lab.apply(&set(&lab, "web", 2, &json!({})));
    wait("two ready pods", || ready(&lab, "web") == 2);
    let before = pods(&lab, "web");
    lab.ask(&["delete", &before[0], "--wait=true"]);
    wait("another pod in its place", || ready(&lab, "web") == 2 && !pods(&lab, "web").contains(&before[0]));
    lab.ask(&["scale", "rs/web", "--replicas=1"]);
    wait("one pod", || pods(&lab, "web").len() == 1);
    assert!(lab.ask(&["describe", "rs", "web"]).contains("SuccessfulDelete"));
    lab.ask(&["delete", "rs", "web", "--cascade=orphan"]);
    let kept = pods(&lab, "web");
    assert_eq!(kept.len(), 1);
    lab.apply(&set(&lab, "web", 1, &json!({})));
    wait("the orphan is adopted", || ready(&lab, "web") == 1);
    assert_eq!(pods(&lab, "web"), kept);
    lab.ask(&["delete", "rs", "web"]);
    wait("no pods", || pods(&lab, "web").is_empty());

    // RTC-22: the class is looked for when a pod is made; the refusal is an event of the set.
    lab.apply(&set(&lab, "classy", 1, &json!({"runtimeClassName": "nowhere"})));
    let refusal = "Error creating: pods \"classy-\" is forbidden: pod rejected: RuntimeClass \"nowhere\" not found";
    wait("the event FailedCreate", || lab.ask(&["describe", "rs", "classy"]).contains(refusal));
    lab.ask(&["delete", "rs", "classy"]);

    quotas_hold_and_give_back(&lab);
    lab.down(true);
}

fn quotas_hold_and_give_back(lab: &Lab) {
    lab.ask(&["create", "quota", "few", "--hard=pods=2"]);
    lab.apply(&set(lab, "many", 3, &json!({})));
    wait("the quota is used up", || lab.ask(&["describe", "rs", "many"]).contains("exceeded quota: few"));
    wait("two ready pods", || ready(lab, "many") == 2);
    let described = lab.ask(&["describe", "quota", "few"]);
    assert!(described.lines().any(|line| line.split_whitespace().eq(["pods", "2", "2"])), "{described}");
    lab.ask(&["delete", "rs", "many"]);
    wait("the quota is free again", || {
        let described = lab.ask(&["describe", "quota", "few"]);
        described.lines().any(|line| line.split_whitespace().eq(["pods", "0", "2"]))
    });
    let refused = lab.kubectl(&["create", "quota", "bad", "--hard=storage=1"]);
    assert!(text(&refused.stderr).contains("must be a standard resource for quota"));
}
