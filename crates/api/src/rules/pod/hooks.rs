//! Warnings about lifecycle hooks: annotations that have no effect, and a preStop that leaves no time to stop in.

use serde_json::Value;

use crate::hook;
use crate::look;

/// Grace of a pod that names none.
const GRACE_SECONDS: i64 = 30;

/// Warnings about the hooks of a pod, or of a template, whose metadata and spec are at these paths.
pub(in crate::rules) fn warnings(pod: &Value, root: &str) -> Vec<String> {
    let annotation = |key: &str| look::at(pod, &["metadata", "annotations", key]).and_then(Value::as_str);
    let grace = look::at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    let grace = grace.unwrap_or(GRACE_SECONDS).max(0);
    let mut out = Vec::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in look::list_at(pod, &["spec", list]).iter().enumerate() {
            let name = look::text(container, "name");
            for (field, words) in [("postStart", "post-start"), ("preStop", "pre-stop")] {
                let Some(handler) = look::at(container, &["lifecycle", field]).filter(|found| found.is_object()) else {
                    continue;
                };
                let (settings, complaints) = hook::settings(annotation, words, name);
                out.extend(complaints.into_iter().map(|text| format!("{root}metadata.annotations: {text}")));
                if field == "preStop" {
                    let path = format!("{root}spec.{list}[{index}].lifecycle.preStop");
                    out.extend(too_long(handler, &settings, grace).map(|text| format!("{path}: {text}")));
                }
            }
        }
    }
    out.sort();
    out.dedup();
    out
}

/// HOOK-46: hook and stop share the grace period. What the manifest says of the hook's length is compared with it.
fn too_long(handler: &Value, settings: &hook::Settings, grace: i64) -> Option<String> {
    let attempts = i64::from(settings.retries) + 1;
    let timeout = settings.timeout.map(|timeout| i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX));
    let sleep = look::get(handler, "sleep").and_then(|sleep| look::integer(sleep, "seconds"));
    let longest = match (sleep, timeout) {
        (Some(sleep), Some(timeout)) => sleep.min(timeout),
        (Some(sleep), None) => sleep,
        (None, Some(timeout)) => timeout.saturating_mul(attempts),
        (None, None) => return None,
    };
    (longest > 0 && longest >= grace).then(|| {
        format!(
            "may take {longest}s and terminationGracePeriodSeconds is {grace}: no time is left for the container to stop in"
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(annotations: &Value, lifecycle: &Value) -> Vec<String> {
        let spec = json!({"terminationGracePeriodSeconds": 20, "containers": [{"name": "c", "lifecycle": lifecycle}]});
        warnings(&json!({"metadata": {"annotations": annotations}, "spec": spec}), "")
    }

    #[test]
    fn hook_62_annotations_without_effect_are_told_once() {
        let both = json!({"postStart": {"sleep": {"seconds": 1}}, "preStop": {"sleep": {"seconds": 1}}});
        let bad = json!({"sampan.dev/http-hooks": "yes", "sampan.dev/post-start-retries.c": "many"});
        assert_eq!(
            of(&bad, &both),
            [
                "metadata.annotations: sampan.dev/http-hooks: \"yes\" is neither \"lenient\" nor \"strict\"; it has no effect",
                "metadata.annotations: sampan.dev/post-start-retries.c: \"many\" is no number from 0 to 10; it has no effect",
            ]
        );
        assert!(of(&bad, &json!({"stopSignal": "SIGINT"})).is_empty(), "there is no hook");
    }

    #[test]
    fn hook_46_a_pre_stop_as_long_as_the_grace_is_warned_about() {
        let words = |seconds: i64| {
            vec![format!(
                "spec.containers[0].lifecycle.preStop: may take {seconds}s and terminationGracePeriodSeconds is 20: no \
                 time is left for the container to stop in"
            )]
        };
        let sleep = |seconds: i64| json!({"preStop": {"sleep": {"seconds": seconds}}});
        assert_eq!(of(&json!({}), &sleep(20)), words(20));
        assert!(of(&json!({}), &sleep(19)).is_empty());
        assert!(of(&json!({"sampan.dev/pre-stop-timeout": "5s"}), &sleep(20)).is_empty(), "it is cut off");
        let exec = json!({"preStop": {"exec": {"command": ["x"]}}});
        assert!(of(&json!({}), &exec).is_empty(), "nothing is declared");
        assert_eq!(of(&json!({"sampan.dev/pre-stop-timeout.c": "30s"}), &exec), words(30));
        let thrice = json!({"sampan.dev/pre-stop-timeout": "7s", "sampan.dev/pre-stop-retries": "2"});
        assert_eq!(of(&thrice, &exec), words(21));
        assert!(of(&json!({"sampan.dev/post-start-timeout": "30s"}), &json!({"postStart": {"exec": {}}})).is_empty());
    }
}
