//! The tables of phases, replayed from `tables.txt`.

use super::*;
use serde_json::{Value, json};

fn containers(words: &str) -> Vec<Value> {
    let container = |word: &str| match word.split_once(':') {
        Some((name, "rule-1")) => json!({"name": name, "restartPolicy": "Never", "restartPolicyRules":
            [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]}),
        Some((name, policy)) => json!({"name": name, "restartPolicy": policy}),
        None if word.ends_with('+') => json!({"name": word.trim_end_matches('+'), "restartPolicy": "Always"}),
        None => json!({"name": word}),
    };
    words.split_whitespace().map(container).collect()
}

fn status_of(name: &str, state: &str) -> Value {
    let ended = |code: i32| json!({"terminated": {"exitCode": code}});
    let waiting = json!({"waiting": {"reason": "x"}});
    let (state, last, started) = match state {
        "running" => (json!({"running": {}}), json!({}), false),
        "started" => (json!({"running": {}}), json!({}), true),
        "stopped" | "succeeded" => (ended(0), json!({}), false),
        "failed" => (ended(1), json!({}), false),
        "waiting" => (waiting, json!({}), false),
        "after-0" => (waiting, ended(0), false),
        "after-1" => (waiting, ended(1), false),
        other => panic!("no such state: {other}"),
    };
    json!({"name": name, "state": state, "lastState": last, "started": started})
}

/// The phase of a pod that has only these statuses.
fn replay(pod: &Pod, row: &str) -> &'static str {
    let words: Vec<&str> = row.split_whitespace().collect();
    let statuses = |names: &[String]| -> Vec<Value> {
        let pairs = words.iter().filter_map(|word| word.split_once('='));
        pairs.filter(|(name, _)| names.iter().any(|n| n == name)).map(|(name, state)| status_of(name, state)).collect()
    };
    let names = |list: &[crate::object::Container]| -> Vec<String> { list.iter().map(|c| c.name.clone()).collect() };
    let status = json!({
        "initContainerStatuses": statuses(&names(&pod.spec.init_containers)),
        "containerStatuses": statuses(&names(&pod.spec.containers)),
    });
    computed(pod, &serde_json::from_value(status).unwrap(), words.contains(&"terminal"))
}

#[test]
fn pod_42_the_nine_tables_of_phases() {
    let (mut pod, mut tables, mut wrong) = (Pod::default(), 0, Vec::new());
    for line in include_str!("tables.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix("table ") {
            let [_, policy, init, apps] = head.split(" :").collect::<Vec<_>>()[..] else { panic!("{line}") };
            let spec = json!({"restartPolicy": policy.trim(), "initContainers": containers(init), "containers": containers(apps)});
            pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            tables += 1;
            continue;
        }
        let (row, phase) = line.split_once("->").unwrap();
        let seen = replay(&pod, row);
        if seen != phase.trim() {
            wrong.push(format!("table {tables}: {line}, and not {seen}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(tables, 9);
}
