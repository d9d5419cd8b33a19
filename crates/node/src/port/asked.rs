//! What a request to the node port asks for, in the words of access control.
//!
//! Pure: a verb and subresources of this Node, as the kubelet names them (KEP-2862). Start at [`asked`].

use http::Method;

/// What has to be allowed: the verb on one of these subresources of `nodes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// Empty for methods that the kubelet gives no verb; only who may everything has that.
    pub verb: &'static str,
    /// In the order in which they are tried. One suffices.
    pub subresources: &'static [&'static str],
}

/// The words for a method on a path, of which the first part decides: all that is served below it is of one kind.
pub(super) fn asked(method: &Method, parts: &[&str]) -> Asked {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let subresources: &[&str] = match parts.first().copied().unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        // As of pods/log.
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        // What was all `proxy` once is allowed by that still.
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        "statusz" => &["statusz", "proxy"],
        _ => &["proxy"],
    };
    Asked { verb, subresources }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_asks_for_its_subresource_and_each_method_for_its_verb() {
        let of = |method: Method, path: &str| {
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            let asked = asked(&method, &parts);
            (asked.verb, asked.subresources.join(","))
        };
        for (path, subresources) in [
            ("/stats/summary", "stats"),
            ("/stats", "stats"),
            ("/metrics", "metrics"),
            ("/metrics/cadvisor", "metrics"),
            ("/metrics/", "metrics"),
            ("/metricsx", "proxy"),
            ("/logs/syslog", "log"),
            ("/checkpoint/ns/p/c", "checkpoint"),
            ("/pods", "pods,proxy"),
            ("/runningpods/", "pods,proxy"),
            ("/healthz", "healthz,proxy"),
            ("/healthz/ping", "healthz,proxy"),
            ("/configz", "configz,proxy"),
            ("/statusz", "statusz,proxy"),
            ("/containerLogs/ns/p/c", "proxy"),
            ("/exec/ns/p/c", "proxy"),
            ("/attach/ns/p/c", "proxy"),
            ("/portForward/ns/p", "proxy"),
            ("/run/ns/p/c", "proxy"),
            ("/hooks/ns/p", "proxy"),
            ("/pulls", "proxy"),
            ("/images/collection", "proxy"),
            ("/spec", "proxy"),
            ("/", "proxy"),
            ("", "proxy"),
        ] {
            assert_eq!(of(Method::GET, path), ("get", subresources.to_owned()), "{path}");
        }
        for (method, verb) in [
            (Method::POST, "create"),
            (Method::PUT, "update"),
            (Method::PATCH, "patch"),
            (Method::DELETE, "delete"),
            (Method::HEAD, ""),
            (Method::OPTIONS, ""),
        ] {
            assert_eq!(of(method, "/metrics"), (verb, "metrics".to_owned()));
        }
    }
}
