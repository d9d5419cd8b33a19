//! One run of a hook, as it is kept and as it is told.
//!
//! Pure. The shapes are those of docs/walls/node-port.md and only grow. Start at [`Run`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Bytes kept of the beginning of an output (overrides: HOOK-15, 65).
pub const HEAD_BYTES_MAX: usize = 4 << 10;
/// Bytes kept of its end.
pub const TAIL_BYTES_MAX: usize = 2 << 10;

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Moment {
    /// After the start.
    PostStart,
    /// Before the end.
    PreStop,
}

impl Moment {
    /// As manifests call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Handler {
    /// A command in the container.
    Exec,
    /// A request from the node.
    HttpGet,
    /// A pause.
    Sleep,
    /// What cannot be run (HOOK-9).
    TcpSocket,
}

impl Handler {
    /// As manifests call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::HttpGet => "httpGet",
            Self::Sleep => "sleep",
            Self::TcpSocket => "tcpSocket",
        }
    }
}

/// How a run ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Result {
    /// It is under way.
    Running,
    /// Exit code 0, an HTTP response, the whole pause.
    Succeeded,
    /// Anything else that came back.
    Failed,
    /// The time that an annotation gives was over (HOOK-62).
    TimedOut,
    /// The grace period was over (HOOK-49).
    GraceExceeded,
    /// Nobody waited for it any more: the pod is being deleted, the container has ended, or the agent stops (HOOK-61).
    Abandoned,
    /// The agent ended meanwhile; it was delivered again if the container still ran (HOOK-59).
    Interrupted,
}

impl Result {
    /// As metrics call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timedOut",
            Self::GraceExceeded => "graceExceeded",
            Self::Abandoned => "abandoned",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What is known when a run begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begun {
    /// The container's name.
    pub container: String,
    /// Its id in the runtime.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Which restart of the container.
    pub restart: u32,
    /// Which hook.
    pub hook: Moment,
    /// What is called.
    pub handler: Handler,
    /// The command, the address without its query, the length of the pause.
    pub target: String,
    /// Which delivery of this hook to this container, from 1.
    pub attempt: u32,
    /// When.
    pub started_at: Timestamp,
    /// What was left of the grace period; nothing while the pod is not being stopped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grace_seconds_left: Option<f64>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// The outcome.
    pub result: Result,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub finished_at: Option<Timestamp>,
    /// The command's exit code.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<i32>,
    /// The last response's status.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub http_status: Option<u16>,
    /// Why it failed, without anything that the hook said.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// What the command wrote.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stdout: Option<Output>,
    /// What it wrote to standard error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stderr: Option<Output>,
}

impl Ended {
    /// With this outcome, and nothing else known.
    pub fn with(result: Result) -> Self {
        Self {
            result,
            finished_at: None,
            exit_code: None,
            http_status: None,
            reason: String::new(),
            stdout: None,
            stderr: None,
        }
    }
}

/// The beginning and the end of what a command wrote. What is no UTF-8 is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// The beginning.
    pub head: String,
    /// The end, if it did not fit into the beginning.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub tail: String,
    /// Bytes that were written in all.
    pub bytes: u64,
    /// Bytes between the two that were not kept.
    pub omitted_bytes: u64,
}

impl Output {
    /// Of what the runtime kept of `total` written bytes: the beginning, and after it the end.
    pub fn of(kept: &[u8], total: u64) -> Self {
        let head = &kept[..kept.len().min(HEAD_BYTES_MAX)];
        let rest = &kept[head.len()..];
        let tail = &rest[rest.len().saturating_sub(TAIL_BYTES_MAX)..];
        let shown = u64::try_from(head.len() + tail.len()).unwrap_or(u64::MAX);
        let total = total.max(u64::try_from(kept.len()).unwrap_or(u64::MAX));
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { head: text(head), tail: text(tail), bytes: total, omitted_bytes: total - shown }
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The pod's UID: names come again.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// Its beginning.
    #[serde(flatten)]
    pub begun: Begun,
    /// Its end.
    #[serde(flatten)]
    pub ended: Ended,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_seconds: Option<f64>,
}

impl Run {
    /// Puts a beginning and an end together.
    pub fn new(pod_uid: &str, begun: Begun, ended: Ended) -> Self {
        let duration = ended.finished_at.map(|at| at.duration_since(begun.started_at).as_secs_f64().max(0.0));
        Self { pod_uid: pod_uid.to_owned(), begun, ended, duration_seconds: duration }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_output_the_beginning_and_the_end_are_kept() {
        let kept: Vec<u8> = [vec![b'a'; HEAD_BYTES_MAX], vec![b'z'; TAIL_BYTES_MAX]].concat();
        let output = Output::of(&kept, 1 << 30);
        assert_eq!((output.head.len(), output.tail.len()), (4096, 2048));
        assert!(output.head.ends_with('a') && output.tail.starts_with('z'));
        assert_eq!((output.bytes, output.omitted_bytes), (1 << 30, (1 << 30) - 6144));
    }

    #[test]
    fn of_a_runtime_that_keeps_more_no_more_is_taken() {
        let kept: Vec<u8> = (0..100_000_u32).map(|n| b'a' + (n / 10_000) as u8).collect();
        let output = Output::of(&kept, 0);
        assert!(output.head.starts_with('a') && output.tail.ends_with('j'));
        assert_eq!((output.head.len(), output.tail.len(), output.omitted_bytes), (4096, 2048, 93_856));
    }

    #[test]
    fn a_short_output_is_whole_and_bytes_that_are_no_text_do_no_harm() {
        let output = Output::of(b"ab\xff", 3);
        assert_eq!(output, Output { head: "ab\u{fffd}".into(), tail: String::new(), bytes: 3, omitted_bytes: 0 });
        assert_eq!(
            serde_json::to_value(Output::of(b"", 0)).unwrap(),
            serde_json::json!({"head": "", "bytes": 0, "omittedBytes": 0})
        );
    }
}
