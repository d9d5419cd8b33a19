//! Probes and lifecycle hooks (HOOK-1 to HOOK-10, POD-54).

use serde_json::Value;

use crate::field::{FieldError, Path};
use crate::look;
use crate::meta::NEGATIVE;
use crate::names;

const ONE_HANDLER: &str = "may not specify more than 1 handler type";

/// Which probe of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

/// Checks one probe.
pub(super) fn probe(probe: &Value, kind: ProbeKind, path: &Path, errors: &mut Vec<FieldError>) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], None, path, errors);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(number) = look::integer(probe, name).filter(|number| *number < 0) {
            errors.push(FieldError::invalid(&path.child(name), number, NEGATIVE));
        }
    }
    let grace = look::integer(probe, "terminationGracePeriodSeconds");
    if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(
            &path.child("terminationGracePeriodSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
    match (kind, grace) {
        (ProbeKind::Readiness, Some(seconds)) => {
            let detail = "must not be set for readinessProbes";
            errors.push(FieldError::invalid(&path.child("terminationGracePeriodSeconds"), seconds, detail));
        }
        (ProbeKind::Readiness, None) => {}
        _ => {
            let threshold = look::integer(probe, "successThreshold").unwrap_or(0);
            if threshold != 1 {
                errors.push(FieldError::invalid(&path.child("successThreshold"), threshold, "must be 1"));
            }
        }
    }
}

/// Checks the hooks and the stop signal of a container. `os` is the name of the pod's system, if it names one.
pub(super) fn lifecycle(
    lifecycle: &Value,
    grace_seconds: Option<i64>,
    os: Option<&str>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    for hook in ["postStart", "preStop"] {
        if let Some(found) = look::get(lifecycle, hook) {
            handler(found, &["exec", "httpGet", "tcpSocket", "sleep"], grace_seconds, &path.child(hook), errors);
        }
    }
    if let Some(signal) = look::get(lifecycle, "stopSignal").and_then(Value::as_str) {
        stop_signal(signal, os, &path.child("stopSignal"), errors);
    }
}

/// HOOK-2: exactly one kind of handler; the kinds are looked at in a fixed order.
fn handler(object: &Value, kinds: &[&str], grace_seconds: Option<i64>, path: &Path, errors: &mut Vec<FieldError>) {
    let mut count = 0;
    for kind in kinds {
        let Some(action) = look::get(object, kind) else { continue };
        let path = path.child(kind);
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(&path, ONE_HANDLER));
            continue;
        }
        match *kind {
            "exec" if look::list(action, "command").is_empty() => {
                errors.push(FieldError::required(&path.child("command"), ""));
            }
            "httpGet" => http_get(action, &path, errors),
            "tcpSocket" | "grpc" => port(look::get(action, "port"), &path.child("port"), errors),
            "sleep" => sleep(action, grace_seconds, &path, errors),
            _ => {}
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

/// HOOK-4.
fn http_get(action: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if look::text(action, "path").is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    port(look::get(action, "port"), &path.child("port"), errors);
    let scheme = look::text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in look::list(action, "httpHeaders") {
        let name = look::text(header, "name");
        for complaint in names::header_name(name) {
            errors.push(FieldError::invalid(&path.child("httpHeaders"), name, complaint));
        }
    }
}

/// A port by number or by name; an absent one is the number 0.
fn port(port: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    match port {
        Some(Value::String(name)) => {
            errors
                .extend(names::port_name(name).into_iter().map(|text| FieldError::invalid(path, name.as_str(), text)));
        }
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or(0);
            errors.extend(names::port_number(number).into_iter().map(|text| FieldError::invalid(path, number, text)));
        }
    }
}

/// HOOK-5.
fn sleep(action: &Value, grace_seconds: Option<i64>, path: &Path, errors: &mut Vec<FieldError>) {
    let seconds = look::integer(action, "seconds").unwrap_or(0);
    let Some(grace) = grace_seconds else { return };
    if seconds < 0 || seconds > grace {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(path, seconds, detail));
    }
}

const SIGNALS: [&str; 35] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMIN",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
];

/// HOOK-7.
fn stop_signal(signal: &str, os: Option<&str>, path: &Path, errors: &mut Vec<FieldError>) {
    match os {
        None => {
            errors.push(FieldError::forbidden(path, "may not be set for containers with empty `spec.os.name`"));
        }
        Some("windows") if !matches!(signal, "SIGKILL" | "SIGTERM") => {
            errors.push(FieldError::not_supported(path, signal, &["SIGKILL", "SIGTERM"]));
        }
        Some("linux") if !linux_signals().iter().any(|known| known == signal) => {
            let signals = linux_signals();
            let supported: Vec<&str> = signals.iter().map(String::as_str).collect();
            errors.push(FieldError::not_supported(path, signal, &supported));
        }
        Some(_) => {}
    }
}

fn linux_signals() -> Vec<String> {
    let fixed = SIGNALS.iter().map(|name| (*name).to_owned()).chain(["SIGXFSZ".to_owned()]);
    let above = (1..=15).map(|n| format!("SIGRTMIN+{n}"));
    let below = (1..=14).map(|n| format!("SIGRTMAX-{n}"));
    let mut all: Vec<String> = fixed.chain(above).chain(below).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(hooks: Value, expected: &[&str]) {
        let mut errors = Vec::new();
        lifecycle(&hooks, Some(30), Some("linux"), &Path::new("l"), &mut errors);
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.starts_with(expected), "{text}\nwanted: {expected}");
        }
    }

    #[test]
    fn hook_2_exactly_one_handler() {
        check(json!({"postStart": {"exec": {"command": ["a"]}}, "preStop": {"sleep": {"seconds": 1}}}), &[]);
        check(json!({"preStop": {}}), &["l.preStop: Required value: must specify a handler type"]);
        check(
            json!({"preStop": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}, "sleep": {"seconds": 1}}}),
            &[
                "l.preStop.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "l.preStop.sleep: Forbidden: may not specify more than 1 handler type",
            ],
        );
    }

    #[test]
    fn hook_3_to_5_each_handler() {
        check(json!({"preStop": {"exec": {}}}), &["l.preStop.exec.command: Required value"]);
        let http = |more: Value| {
            let mut action = json!({"path": "/", "scheme": "HTTP", "port": 80});
            for (name, value) in more.as_object().unwrap() {
                action[name] = value.clone();
            }
            json!({"preStop": {"httpGet": action}})
        };
        check(http(json!({})), &[]);
        check(http(json!({"port": "http"})), &[]);
        check(
            http(json!({"port": 0})),
            &["l.preStop.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"],
        );
        check(http(json!({"port": 65536})), &["l.preStop.httpGet.port: Invalid value: 65536"]);
        check(http(json!({"port": "a_b"})), &["l.preStop.httpGet.port: Invalid value: \"a_b\": must contain only"]);
        check(
            http(json!({"scheme": "https"})),
            &["l.preStop.httpGet.scheme: Unsupported value: \"https\": supported values: \"HTTP\", \"HTTPS\""],
        );
        check(
            http(json!({"httpHeaders": [{"name": "a b"}]})),
            &["l.preStop.httpGet.httpHeaders: Invalid value: \"a b\""],
        );
        let sleep = |seconds: i64| json!({"preStop": {"sleep": {"seconds": seconds}}});
        check(sleep(0), &[]);
        check(sleep(30), &[]);
        let text = "must be non-negative and less than terminationGracePeriodSeconds (30)";
        check(sleep(-1), &[&format!("l.preStop.sleep: Invalid value: -1: {text}")]);
        check(sleep(31), &[&format!("l.preStop.sleep: Invalid value: 31: {text}")]);
    }

    #[test]
    fn hook_7_stop_signals() {
        check(json!({"stopSignal": "SIGRTMIN+15"}), &[]);
        check(json!({"stopSignal": "SIGNO"}), &["l.stopSignal: Unsupported value: \"SIGNO\""]);
        assert_eq!(linux_signals().len(), 65);
    }

    #[test]
    fn pod_54_probes() {
        let check = |body: Value, kind: ProbeKind, expected: &[&str]| {
            let mut errors = Vec::new();
            probe(&body, kind, &Path::new("p"), &mut errors);
            let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
            assert_eq!(texts, expected);
        };
        let body = |success: i64| json!({"tcpSocket": {"port": 1}, "successThreshold": success, "periodSeconds": 1});
        check(body(1), ProbeKind::Liveness, &[]);
        check(body(2), ProbeKind::Liveness, &["p.successThreshold: Invalid value: 2: must be 1"]);
        check(body(2), ProbeKind::Readiness, &[]);
        check(json!({"successThreshold": 1}), ProbeKind::Startup, &["p: Required value: must specify a handler type"]);
        check(
            json!({"grpc": {"port": 1}, "successThreshold": 1, "timeoutSeconds": -1, "terminationGracePeriodSeconds": 0}),
            ProbeKind::Liveness,
            &[
                "p.timeoutSeconds: Invalid value: -1: must be greater than or equal to 0",
                "p.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            ],
        );
    }

    #[test]
    fn hook_89_a_readiness_probe_grants_no_grace() {
        for (kind, expected) in [
            (ProbeKind::Liveness, vec![]),
            (ProbeKind::Startup, vec![]),
            (
                ProbeKind::Readiness,
                vec!["p.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes"],
            ),
        ] {
            let body = json!({"exec": {"command": ["x"]}, "successThreshold": 1, "terminationGracePeriodSeconds": 5});
            let mut errors = Vec::new();
            probe(&body, kind, &Path::new("p"), &mut errors);
            assert_eq!(errors.iter().map(FieldError::to_string).collect::<Vec<_>>(), expected);
        }
    }
}
