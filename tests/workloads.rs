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
    let lab = Lab::new("workloads", 48);
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

    a_drain_keeps_to_the_budget(&lab);
    quotas_hold_and_give_back(&lab);
    lab.down(true);
}

/// HOOK-95: `kubectl drain` evicts as many pods as the budget has, and the rest when it is gone.
fn a_drain_keeps_to_the_budget(lab: &Lab) {
    lab.apply(&set(lab, "guarded", 2, &json!({})));
    lab.ask(&["create", "pdb", "guard", "--selector=app=guarded", "--min-available=50%"]);
    let shown = |allowed: &str| {
        let row = lab.ask(&["get", "pdb", "guard", "--no-headers"]);
        row.split_whitespace().take(4).eq(["guard", "50%", "N/A", allowed])
    };
    wait("one pod may go", || ready(lab, "guarded") == 2 && shown("1"));
    let node = lab.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let drain = |seconds: &str| lab.kubectl(&["drain", &node, "--pod-selector=app=guarded", seconds]);
    let held = drain("--timeout=4s");
    let told = text(&held.stderr);
    assert!(!held.status.success(), "{told}");
    assert!(told.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{told}");
    // The node is cordoned, so the one that went has no successor that runs.
    wait("the other one stays", || ready(lab, "guarded") == 1 && shown("0"));
    lab.ask(&["delete", "pdb", "guard"]);
    let drained = drain("--timeout=30s");
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    wait("none is left", || ready(lab, "guarded") == 0);
    lab.ask(&["uncordon", &node]);
    lab.ask(&["delete", "rs", "guarded"]);
    wait("no guarded pods", || pods(lab, "guarded").is_empty());
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

const LOOP: &str = "trap 'exit 0' TERM; while true; do sleep 0.05; done";

/// A workload with a template of one container.
fn workload(lab: &Lab, (api, kind): (&str, &str), name: &str, command: &str, spec: &Value) -> String {
    let restart = if kind == "Job" || kind == "CronJob" { "Never" } else { "Always" };
    let template = json!({
        "metadata": {"labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1, "imagePullSecrets": [{"name": "regcred"}], "restartPolicy": restart,
            "containers": [{"name": "c", "image": lab.image(), "command": ["sh", "-c", command]}],
        },
    });
    let mut spec = spec.clone();
    match kind {
        "CronJob" => spec["jobTemplate"] = json!({"spec": {"template": template}}),
        _ => spec["template"] = template,
    }
    if restart == "Always" {
        spec["selector"] = json!({"matchLabels": {"app": name}});
    }
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
}

/// The values of a pod's variables; of one that has gone meanwhile what kubectl says of that.
fn env(lab: &Lab, pod: &str) -> String {
    let output = lab.kubectl(&["get", pod, "-o", "jsonpath={.spec.containers[0].env[*].value}"]);
    text(if output.status.success() { &output.stdout } else { &output.stderr })
}

#[test]
fn deployments_roll_and_go_back_and_other_workloads_run() {
    let lab = Lab::new("rollouts", 52);
    lab.up();
    lab.right_secret();
    deployments_roll_pause_and_go_back(&lab);
    deletion_goes_as_asked(&lab);
    jobs_end_and_cron_jobs_begin_them(&lab);
    daemons_and_stateful_pods_follow_their_template(&lab);
    lab.down(true);
}

fn deployments_roll_pause_and_go_back(lab: &Lab) {
    let status = || lab.ask(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    lab.apply(&workload(lab, ("apps/v1", "Deployment"), "web", LOOP, &json!({"replicas": 2})));
    assert!(status().contains("successfully rolled out"));
    lab.ask(&["set", "env", "deploy/web", "A=first"]);
    lab.ask(&["annotate", "deploy/web", "kubernetes.io/change-cause=set A"]);
    assert!(status().contains("successfully rolled out"));
    wait("only new pods", || {
        pods(lab, "web").iter().all(|pod| env(lab, pod) == "first") && pods(lab, "web").len() == 2
    });
    let history = lab.ask(&["rollout", "history", "deploy/web"]);
    assert!(history.contains("1         <none>") && history.contains("2         set A"), "{history}");
    lab.ask(&["rollout", "undo", "deploy/web"]);
    assert!(status().contains("successfully rolled out"));
    wait("the old template is back", || {
        pods(lab, "web").iter().all(|pod| env(lab, pod).is_empty()) && pods(lab, "web").len() == 2
    });
    let revision = "jsonpath={.metadata.annotations.deployment\\.kubernetes\\.io/revision}";
    assert_eq!(lab.ask(&["get", "deploy", "web", "-o", revision]), "3");
    lab.ask(&["rollout", "pause", "deploy/web"]);
    lab.ask(&["set", "env", "deploy/web", "A=second"]);
    lab.ask(&["scale", "deploy/web", "--replicas=1"]);
    wait("scaled while paused", || pods(lab, "web").len() == 1);
    assert!(pods(lab, "web").iter().all(|pod| env(lab, pod).is_empty()), "paused is paused");
    lab.ask(&["rollout", "resume", "deploy/web"]);
    assert!(status().contains("successfully rolled out"));
    wait("rolled on", || pods(lab, "web").iter().all(|pod| env(lab, pod) == "second"));
    let described = lab.ask(&["describe", "deploy", "web"]);
    assert!(described.contains("ScalingReplicaSet") && described.contains("NewReplicaSetAvailable"), "{described}");
}

fn deletion_goes_as_asked(lab: &Lab) {
    lab.ask(&["delete", "deploy", "web", "--cascade=orphan"]);
    let sets = lab.ask(&["get", "rs", "-l", "app=web", "-o", "name"]);
    assert!(sets.lines().count() >= 2 && pods(lab, "web").len() == 1, "what it owned stays: {sets}");
    lab.apply(&workload(lab, ("apps/v1", "Deployment"), "web", LOOP, &json!({"replicas": 1})));
    lab.ask(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let adopted =
        lab.ask(&["get", "rs", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.ownerReferences[*].name}"]);
    assert_eq!(adopted.split_whitespace().count(), sets.lines().count(), "the sets are its own again: {adopted}");
    lab.ask(&["delete", "deploy", "web", "--cascade=foreground", "--timeout=60s"]);
    assert_eq!(lab.ask(&["get", "rs,pods", "-l", "app=web", "-o", "name"]), "", "what it owned went before it");
}

fn jobs_end_and_cron_jobs_begin_them(lab: &Lab) {
    let command = "test \"$JOB_COMPLETION_INDEX\" != 3 && echo index $JOB_COMPLETION_INDEX";
    let spec = json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed"});
    lab.apply(&workload(lab, ("batch/v1", "Job"), "sum", command, &spec));
    lab.ask(&["wait", "--for=condition=complete", "job/sum", "--timeout=60s"]);
    let shown = lab.ask(&["get", "job", "sum", "--no-headers"]);
    assert!(shown.split_whitespace().take(3).eq(["sum", "Complete", "3/3"]), "{shown}");
    assert!(lab.ask(&["logs", "-l", "batch.kubernetes.io/job-completion-index=2"]).contains("index 2"));
    assert!(lab.ask(&["describe", "job", "sum"]).contains("Completed Indexes:  0-2"));
    lab.apply(&workload(lab, ("batch/v1", "Job"), "broken", "exit 7", &json!({"backoffLimit": 0})));
    lab.ask(&["wait", "--for=condition=failed", "job/broken", "--timeout=60s"]);
    assert!(lab.ask(&["describe", "job", "broken"]).contains("BackoffLimitExceeded"));
    lab.ask(&["delete", "job", "sum", "broken"]);
    wait("no pods of Jobs", || pods(lab, "sum").is_empty() && pods(lab, "broken").is_empty());

    let spec = json!({"schedule": "@every 1s", "concurrencyPolicy": "Forbid"});
    lab.apply(&workload(lab, ("batch/v1", "CronJob"), "tick", "echo tick", &spec));
    wait("a Job of the schedule", || !lab.ask(&["get", "jobs", "-o", "name"]).is_empty());
    lab.ask(&["create", "job", "--from=cronjob/tick", "by-hand"]);
    lab.ask(&["wait", "--for=condition=complete", "job/by-hand", "--timeout=60s"]);
    assert!(lab.ask(&["describe", "cronjob", "tick"]).contains("SuccessfulCreate"));
    lab.ask(&["delete", "cronjob", "tick"]);
    wait("its Jobs go too", || lab.ask(&["get", "jobs", "-o", "name"]).is_empty());
}

fn daemons_and_stateful_pods_follow_their_template(lab: &Lab) {
    lab.apply(&workload(lab, ("apps/v1", "DaemonSet"), "agent", LOOP, &json!({})));
    let rolled = |what: &str| lab.ask(&["rollout", "status", what, "--timeout=60s"]);
    assert!(rolled("ds/agent").contains("successfully rolled out"));
    lab.ask(&["set", "env", "ds/agent", "A=b"]);
    rolled("ds/agent");
    wait("a new pod on the node", || pods(lab, "agent").len() == 1 && env(lab, &pods(lab, "agent")[0]) == "b");
    lab.ask(&["rollout", "undo", "ds/agent"]);
    rolled("ds/agent");
    wait("the old template is back", || pods(lab, "agent").len() == 1 && env(lab, &pods(lab, "agent")[0]).is_empty());
    lab.ask(&["delete", "ds", "agent"]);

    lab.apply(&workload(lab, ("apps/v1", "StatefulSet"), "db", LOOP, &json!({"replicas": 2, "serviceName": "db"})));
    rolled("sts/db");
    assert_eq!(pods(lab, "db"), ["pod/db-0", "pod/db-1"]);
    assert_eq!(lab.ask(&["exec", "db-1", "--", "hostname"]).trim(), "db-1");
    lab.ask(&["set", "env", "sts/db", "A=b"]);
    rolled("sts/db");
    assert!(pods(lab, "db").iter().all(|pod| env(lab, pod) == "b"));
    lab.ask(&["scale", "sts/db", "--replicas=1"]);
    wait("the higher one goes", || pods(lab, "db") == ["pod/db-0"]);
    lab.ask(&["delete", "sts", "db"]);
    wait("no pods", || pods(lab, "db").is_empty() && pods(lab, "agent").is_empty());
}
