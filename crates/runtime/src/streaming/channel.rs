//! The framing of remote commands on a WebSocket: the first byte of a binary message is the channel. Pure.

use serde_json::{Value, json};

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A version of the protocol. The fifth can close one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V5,
}

impl Version {
    pub(super) fn name(self) -> &'static str {
        match self {
            Version::V4 => "v4.channel.k8s.io",
            Version::V5 => "v5.channel.k8s.io",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Version> {
        [Version::V4, Version::V5].into_iter().find(|version| version.name() == name)
    }
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// Bytes for the process.
    Input(&'a [u8]),
    /// No more input.
    InputEnds,
    /// The terminal has a new size.
    Resize { columns: u16, rows: u16 },
    /// Nothing that concerns us.
    Noise,
}

/// Reads a message of a client.
pub(super) fn parse(message: &[u8], version: Version) -> Said<'_> {
    match message.split_first() {
        Some((&STDIN, bytes)) => Said::Input(bytes),
        Some((&RESIZE, bytes)) => resize(bytes).unwrap_or(Said::Noise),
        Some((&CLOSE, [STDIN])) if version == Version::V5 => Said::InputEnds,
        _ => Said::Noise,
    }
}

fn resize(bytes: &[u8]) -> Option<Said<'static>> {
    let size: Value = serde_json::from_slice(bytes).ok()?;
    let side = |name: &str| size[name].as_u64().and_then(|side| u16::try_from(side).ok());
    Some(Said::Resize { columns: side("Width")?, rows: side("Height")? })
}

/// A message on a channel.
pub(super) fn frame(channel: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(bytes.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(bytes);
    frame
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The process has ended with this code, or there was none to end (attach).
    Exit(i32),
    /// It could not be done.
    Failed(String),
}

/// The last message: a Status on the error channel (POD-70).
pub(super) fn end(end: &End) -> Vec<u8> {
    let status = match end {
        End::Exit(0) => json!({ "metadata": {}, "status": "Success" }),
        End::Exit(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with exit code {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        End::Failed(text) => json!({
            "metadata": {}, "status": "Failure", "message": text, "reason": "InternalError", "code": 500,
            "details": { "causes": [{ "message": text }] },
        }),
    };
    frame(ERROR, status.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_by_their_first_byte() {
        assert_eq!(parse(b"\x00abc", Version::V4), Said::Input(b"abc"));
        assert_eq!(parse(b"\x04{\"Width\":80,\"Height\":24}", Version::V4), Said::Resize { columns: 80, rows: 24 });
        assert_eq!(parse(b"\xff\x00", Version::V5), Said::InputEnds);
        assert_eq!(parse(b"\xff\x00", Version::V4), Said::Noise);
        for garbage in [&b""[..], b"\x04{", b"\x04{\"Width\":-1,\"Height\":99999999}", b"\x09x"] {
            assert_eq!(parse(garbage, Version::V5), Said::Noise);
        }
    }

    #[test]
    fn an_exit_code_travels_as_a_cause() {
        let message = end(&End::Exit(7));
        let status: Value = serde_json::from_slice(&message[1..]).unwrap();
        assert_eq!(message[0], 3);
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "7" }));
    }
}
