//! The Pod Security Standards: what a pod of a level may not ask for (HOOK-8).
//!
//! Pure. A namespace names levels by labels; [`Policy::of`] reads them, [`violations`] judges a pod in upstream's words.
//! Rules of versions before 1.25 are applied as they were in 1.25.

mod baseline;
mod restricted;

use crate::look;
use serde_json::Value;

/// What the labels of a namespace begin with.
pub const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much a pod may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to lead out of the pod.
    Baseline,
    /// Only what hardened pods need.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Of which version of Kubernetes the rules are: the minor number, or the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Whatever is known here.
    Latest,
    /// `v1.N`.
    Minor(u32),
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "latest" => Some(Self::Latest),
            _ => text.strip_prefix("v1.")?.parse().ok().map(Self::Minor),
        }
    }

    fn is_at_least(self, minor: u32) -> bool {
        match self {
            Self::Latest => true,
            Self::Minor(own) => own >= minor,
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Minor(minor) => write!(f, "v1.{minor}"),
        }
    }
}

/// A level and the version of its rules: `baseline:v1.34`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How much is allowed.
    pub level: Level,
    /// By the rules of which version.
    pub version: Version,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.level.name(), self.version)
    }
}

impl Policy {
    /// What a namespace says for a mode (`enforce`, `warn`). Words that cannot be read are taken at their strictest.
    pub fn of(namespace: &Value, mode: &str) -> Self {
        let label = |name: &str| look::at(namespace, &["metadata", "labels", name]).and_then(Value::as_str);
        let level = label(&format!("{PREFIX}{mode}"));
        let version = label(&format!("{PREFIX}{mode}-version"));
        Self {
            level: level.map_or(Level::Privileged, |text| Level::parse(text).unwrap_or(Level::Restricted)),
            version: version.map_or(Version::Latest, |text| Version::parse(text).unwrap_or(Version::Latest)),
        }
    }
}

/// The labels of a namespace that cannot be read: name, value, and what it may be.
pub fn unreadable(namespace: &Value) -> Vec<(String, String, &'static str)> {
    let labels = look::at(namespace, &["metadata", "labels"]).and_then(Value::as_object);
    let mut out = Vec::new();
    for (name, value) in labels.into_iter().flatten() {
        let Some(mode) = name.strip_prefix(PREFIX) else { continue };
        let text = value.as_str().unwrap_or_default();
        let wanted = match mode {
            "enforce" | "audit" | "warn" if Level::parse(text).is_none() => {
                "must be one of privileged, baseline, restricted"
            }
            "enforce-version" | "audit-version" | "warn-version" if Version::parse(text).is_none() => {
                "must be \"latest\" or \"v1.x\""
            }
            _ => continue,
        };
        out.push((name.clone(), text.to_owned(), wanted));
    }
    out
}

/// One rule that a pod breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule in short.
    pub reason: &'static str,
    /// What of the pod breaks it.
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

/// What a pod, or a template, asks for beyond what the policy allows; in upstream's order.
pub fn violations(policy: Policy, pod: &Value) -> Vec<Violation> {
    let empty = Value::Null;
    let subject = Subject { pod, spec: look::get(pod, "spec").unwrap_or(&empty), version: policy.version };
    let mut out = Vec::new();
    if policy.level >= Level::Baseline {
        baseline::check(&subject, policy.level, &mut out);
    }
    if policy.level == Level::Restricted {
        restricted::check(&subject, &mut out);
    }
    out
}

/// `PodSecurity "baseline:latest": …`, what is violated; `None` if nothing is.
pub fn verdict(policy: Policy, pod: &Value) -> Option<String> {
    let found = violations(policy, pod);
    let texts: Vec<String> = found.iter().map(Violation::to_string).collect();
    (!texts.is_empty()).then(|| format!("PodSecurity \"{policy}\": {}", texts.join(", ")))
}

/// What is judged.
struct Subject<'a> {
    pod: &'a Value,
    spec: &'a Value,
    version: Version,
}

impl<'a> Subject<'a> {
    /// All containers, init containers first.
    fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| look::list(spec, list))
    }

    /// The names of the containers that are bad.
    fn bad(&self, is_bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| is_bad(container)).map(|container| look::text(container, "name")).collect()
    }

    fn is_windows(&self) -> bool {
        look::text_at(self.spec, &["os", "name"]) == "windows"
    }
}

/// A field of a pod's or a container's security context.
fn security<'a>(of: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let path: Vec<&str> = std::iter::once("securityContext").chain(path.iter().copied()).collect();
    look::at(of, &path).filter(|value| !value.is_null())
}

/// `"a", "b"`.
fn quoted<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{:?}", word.as_ref())).collect();
    words.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn named<S: AsRef<str>>(singular: &str, names: &[S]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{singular}{plural} {}", quoted(names))
}

/// `pod`, `container "a"`, or both.
fn pod_and<S: AsRef<str>>(pod: bool, names: &[S], joint: &str) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(named("container", names)),
        (true, false) => Some(format!("pod {joint} {}", named("container", names))),
    }
}

#[cfg(test)]
mod tests;
