//! The door between a session and its client: what a client says, and how it is answered. WebSockets (`websocket`) and
//! SPDY (`command`) implement it; `session` uses it and knows neither.

use bytes::Bytes;
use serde_json::{Value, json};

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Bytes for the process.
    Input(Bytes),
    /// No more input.
    InputEnds,
    /// The terminal has a new size.
    Resize { columns: u16, rows: u16 },
}

/// A terminal's size as all protocols write it, in capital letters or small ones: Go reads both, and JavaScript's client
/// relies on that. None for what is no size.
pub(super) fn size(value: &Value) -> Option<Said> {
    let fields = value.as_object()?;
    let side = |name: &str| {
        let found = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?.1;
        u16::try_from(found.as_u64()?).ok()
    };
    Some(Said::Resize { columns: side("Width")?, rows: side("Height")? })
}

/// Which of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Stdout,
    Stderr,
}

/// The client hears no more.
#[derive(Debug, thiserror::Error)]
#[error("the client is gone")]
pub(super) struct Gone;

/// Listens to a client.
pub(super) trait Ear: Send {
    /// The next thing it says; None when it is gone. Cancelling loses nothing.
    fn hear(&mut self) -> impl Future<Output = Option<Said>> + Send;

    /// Waits, for a time, until the client hangs up; then does so itself.
    fn part(self) -> impl Future<Output = ()> + Send;
}

/// Speaks to a client.
pub(super) trait Voice: Send + Sync {
    /// Says that the streams are open, where the protocol wants to hear it.
    fn greet(&self) -> impl Future<Output = ()> + Send;

    /// Passes on output; slow clients make it wait.
    fn say(&self, from: From, bytes: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Tells how it ended: the last word.
    fn end(&self, end: &End) -> impl Future<Output = ()> + Send;
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The process has ended with this code, or there was none to end (attach).
    Exit(i32),
    /// It could not be done.
    Failed(String),
}

impl End {
    /// As a Status (POD-70), which the fourth version of the protocol began.
    pub(super) fn status(&self) -> Bytes {
        let status = match self {
            End::Exit(0) => json!({ "metadata": {}, "status": "Success" }),
            End::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": exit_text(*code),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            End::Failed(text) => json!({
                "metadata": {}, "status": "Failure", "message": text, "reason": "InternalError", "code": 500,
                "details": { "causes": [{ "message": text }] },
            }),
        };
        status.to_string().into()
    }

    /// As earlier versions say it: nothing when all is well.
    pub(super) fn plain(&self) -> Bytes {
        match self {
            End::Exit(0) => Bytes::new(),
            End::Exit(code) => exit_text(*code).into(),
            End::Failed(text) => text.clone().into(),
        }
    }
}

fn exit_text(code: i32) -> String {
    format!("command terminated with exit code {code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_travels_as_a_cause() {
        let status: Value = serde_json::from_slice(&End::Exit(7).status()).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "7" }));
        assert_eq!(End::Exit(7).plain(), "command terminated with exit code 7");
        assert!(End::Exit(0).plain().is_empty());
    }

    #[test]
    fn a_size_has_two_sides_that_fit() {
        assert_eq!(size(&json!({"Width": 80, "Height": 24})), Some(Said::Resize { columns: 80, rows: 24 }));
        assert_eq!(size(&json!({"width": 80, "height": 24})), Some(Said::Resize { columns: 80, rows: 24 }));
        assert_eq!(size(&json!([80, 24])), None);
        assert_eq!(size(&json!({"Width": -1, "Height": 24})), None);
        assert_eq!(size(&json!({"Width": 80})), None);
    }
}
