//! The columns of `kubectl get pods`: what a pod is doing in one word, as upstream's printer says it.

use jiff::Timestamp;
use serde_json::Value;

use crate::look;
use crate::time;

const NONE: &str = "<none>";

/// One cell for each column of pods.
pub(super) fn of_pod(object: &Value, now: Timestamp) -> Vec<Value> {
    let tally = tally(object);
    let ip = look::list_at(object, &["status", "podIPs"]).first().map_or("", |ip| look::text(ip, "ip"));
    let or_none = |text: &str| Value::from(if text.is_empty() { NONE } else { text });
    vec![
        super::super::name_cell(object),
        Value::from(format!("{}/{}", tally.ready, tally.total)),
        Value::from(tally.word),
        Value::from(restarts(tally.restarts, tally.last_restart, now)),
        super::super::age_cell(object, now),
        or_none(ip),
        or_none(look::text_at(object, &["spec", "nodeName"])),
        or_none(look::text_at(object, &["status", "nominatedNodeName"])),
        Value::from(readiness_gates(object)),
    ]
}

#[derive(Default)]
struct Tally {
    ready: usize,
    total: usize,
    word: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Tally {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += look::integer(status, "restartCount").unwrap_or(0);
        let finished = look::text_at(status, &["lastState", "terminated", "finishedAt"]);
        self.last_restart = self.last_restart.max(time::parse(finished));
    }
}

fn tally(object: &Value) -> Tally {
    let phase = look::text_at(object, &["status", "phase"]);
    let mut tally = Tally { word: phase.to_owned(), ..Tally::default() };
    let reason = look::text_at(object, &["status", "reason"]);
    if !reason.is_empty() {
        tally.word = reason.to_owned();
    }
    if condition(object, "PodScheduled").is_some_and(|found| look::text(found, "reason") == "SchedulingGated") {
        tally.word = "SchedulingGated".to_owned();
    }
    let inits = look::list_at(object, &["spec", "initContainers"]);
    let sidecars: Vec<&str> =
        inits.iter().filter(|c| look::text(c, "restartPolicy") == "Always").map(|c| look::text(c, "name")).collect();
    tally.total = look::list_at(object, &["spec", "containers"]).len() + sidecars.len();
    let sidecar_tally = count_inits(object, inits.len(), &sidecars, &mut tally);
    let initializing = sidecar_tally.word == "initializing";
    if !initializing || condition_is_true(object, "Initialized") {
        tally.restarts = sidecar_tally.restarts;
        tally.last_restart = sidecar_tally.last_restart;
        count_containers(object, &mut tally);
    }
    if look::at(object, &["metadata", "deletionTimestamp"]).is_some() {
        if reason == "NodeLost" {
            tally.word = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            tally.word = "Terminating".to_owned();
        }
    }
    tally
}

/// Counts init containers into the tally; returns the restarts of sidecars alone, with the word `initializing` while
/// an init container stands in the way.
fn count_inits(object: &Value, total: usize, sidecars: &[&str], tally: &mut Tally) -> Tally {
    let mut apart = Tally::default();
    for (index, status) in look::list_at(object, &["status", "initContainerStatuses"]).iter().enumerate() {
        let sidecar = sidecars.contains(&look::text(status, "name"));
        tally.count_restarts(status);
        if sidecar {
            apart.count_restarts(status);
        }
        let terminated = look::at(status, &["state", "terminated"]);
        if terminated.is_some_and(|end| look::integer(end, "exitCode").unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && look::flag(status, "started") {
            tally.ready += usize::from(look::flag(status, "ready"));
            continue;
        }
        let waiting = look::text_at(status, &["state", "waiting", "reason"]);
        tally.word = match terminated {
            Some(end) => format!("Init:{}", ended(end)),
            None if !matches!(waiting, "" | "PodInitializing") => format!("Init:{waiting}"),
            None => format!("Init:{index}/{total}"),
        };
        apart.word = "initializing".to_owned();
        break;
    }
    apart
}

fn count_containers(object: &Value, tally: &mut Tally) {
    let mut running = false;
    let mut failure = String::new();
    for status in look::list_at(object, &["status", "containerStatuses"]).iter().rev() {
        tally.count_restarts(status);
        let waiting = look::text_at(status, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            tally.word = waiting.to_owned();
        } else if let Some(end) = look::at(status, &["state", "terminated"]) {
            tally.word = ended(end);
            if look::integer(end, "exitCode").unwrap_or(0) != 0 {
                failure.clone_from(&tally.word);
            }
        } else if look::flag(status, "ready") && look::at(status, &["state", "running"]).is_some() {
            running = true;
            tally.ready += 1;
        }
    }
    if tally.word != "Completed" {
        return;
    }
    // One container has ended well: that is not yet the word for the whole pod.
    if running && condition_is_true(object, "Ready") {
        tally.word = "Running".to_owned();
    } else if !failure.is_empty() {
        tally.word = failure;
    } else if running {
        tally.word = "NotReady".to_owned();
    }
}

/// How a container ended: its reason, else its signal, else its exit code.
fn ended(terminated: &Value) -> String {
    let reason = look::text(terminated, "reason");
    let signal = look::integer(terminated, "signal").unwrap_or(0);
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", look::integer(terminated, "exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn restarts(count: i64, last: Option<Timestamp>, now: Timestamp) -> String {
    match last.filter(|_| count != 0) {
        Some(last) => format!("{count} ({} ago)", time::human(now.as_second() - last.as_second())),
        None => count.to_string(),
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    look::list_at(object, &["status", "conditions"]).iter().find(|condition| look::text(condition, "type") == kind)
}

fn condition_is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| look::text(condition, "status") == "True")
}

fn readiness_gates(object: &Value) -> String {
    let gates = look::list_at(object, &["spec", "readinessGates"]);
    let open = gates.iter().filter(|gate| condition_is_true(object, look::text(gate, "conditionType"))).count();
    if gates.is_empty() { NONE.to_owned() } else { format!("{open}/{}", gates.len()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// READY, STATUS and RESTARTS of a pod with one app container (two where the status has two), at second 600.
    fn check(spec: Value, status: Value, expected: [&str; 3]) {
        let mut object = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}, "status": status});
        for (name, value) in spec.as_object().unwrap() {
            let target = if name == "deletionTimestamp" { &mut object["metadata"] } else { &mut object["spec"] };
            target[name] = value.clone();
        }
        let cells = of_pod(&object, Timestamp::from_second(600).unwrap());
        assert_eq!(cells[1..4], expected, "{}", object["status"]);
    }

    #[test]
    fn the_life_of_a_simple_pod() {
        check(json!({}), json!({"phase": "Pending"}), ["0/1", "Pending", "0"]);
        let creating = json!({"phase": "Pending", "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}]});
        check(json!({}), creating, ["0/1", "ContainerCreating", "0"]);
        let running =
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]});
        check(json!({}), running.clone(), ["1/1", "Running", "0"]);
        check(json!({"deletionTimestamp": "1970-01-01T00:00:00Z"}), running, ["1/1", "Terminating", "0"]);
        let done = json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]});
        check(json!({}), done.clone(), ["0/1", "Completed", "0"]);
        check(json!({"deletionTimestamp": "1970-01-01T00:00:00Z"}), done, ["0/1", "Completed", "0"]);
        check(json!({}), json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]);
    }

    #[test]
    fn a_crashing_pod() {
        let crash = json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:05:00Z"}}}]});
        check(json!({}), crash, ["0/1", "CrashLoopBackOff", "3 (5m ago)"]);
        let bare = |end: Value| json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": {"terminated": end}}]});
        check(json!({}), bare(json!({"exitCode": 7})), ["0/1", "ExitCode:7", "0"]);
        check(json!({}), bare(json!({"exitCode": 137, "signal": 9})), ["0/1", "Signal:9", "0"]);
    }

    #[test]
    fn some_containers_have_ended() {
        let status = |conditions: Value| {
            json!({"phase": "Running", "conditions": conditions, "containerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                {"name": "b", "ready": true, "state": {"running": {}}},
            ]})
        };
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        check(two.clone(), status(json!([])), ["1/2", "NotReady", "0"]);
        check(two.clone(), status(json!([{"type": "Ready", "status": "True"}])), ["1/2", "Running", "0"]);
        let failed = json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
            {"name": "b", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}},
        ]});
        check(two, failed, ["0/2", "Error", "0"]);
    }

    #[test]
    fn init_containers_count_up() {
        let inits = json!({"initContainers": [{"name": "i"}, {"name": "j"}]});
        let status = |list: Value| {
            json!({"phase": "Pending", "initContainerStatuses": list,
            "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "PodInitializing"}}}]})
        };
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        check(inits.clone(), status(json!([{"name": "i", "state": {"running": {}}}])), ["0/1", "Init:0/2", "0"]);
        check(
            inits.clone(),
            status(json!([done, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}])),
            ["0/1", "Init:1/2", "0"],
        );
        check(
            inits.clone(),
            status(json!([{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}])),
            ["0/1", "Init:CrashLoopBackOff", "2"],
        );
        check(
            inits.clone(),
            status(json!([{"name": "i", "state": {"terminated": {"exitCode": 3}}}])),
            ["0/1", "Init:ExitCode:3", "0"],
        );
        check(inits, status(json!([done, done])), ["0/1", "PodInitializing", "0"]);
    }

    #[test]
    fn sidecars_count_as_containers() {
        let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}]});
        let status = json!({"phase": "Running",
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
            "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]});
        check(spec, status, ["2/2", "Running", "1"]);
    }

    #[test]
    fn wide_columns() {
        let object = json!({"metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]},
            "status": {"podIPs": [{"ip": "10.0.0.2"}], "conditions": [{"type": "x", "status": "True"}]}});
        let cells = of_pod(&object, Timestamp::from_second(600).unwrap());
        assert_eq!(cells[4..], ["10m", "10.0.0.2", "n", "<none>", "1/2"]);
    }
}
