//! Reading the body of an answer in bounded time and space.

use super::fault::{Fault, RequestError, classify};
use super::transport::Reply;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;

const ERROR_BYTES_MAX: usize = 8 * 1024;
const ERROR_CHARACTERS_MAX: usize = 512;

/// What a body gave.
pub(crate) enum Next {
    Data(Bytes),
    End,
}

/// The next bytes of a body; silence for longer than `stall` is an error.
pub(crate) async fn next_frame(body: &mut Incoming, stall: Duration, host: &str) -> Result<Next, RequestError> {
    loop {
        match tokio::time::timeout(stall, body.frame()).await {
            Err(_) => return Err(RequestError::new(Fault::TimedOut, host, "no byte came in time")),
            Ok(None) => return Ok(Next::End),
            Ok(Some(Err(error))) => {
                let (fault, detail) = classify(&error);
                return Err(RequestError::new(fault, host, detail));
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Next::Data(data));
                }
            }
        }
    }
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn read_document(reply: Reply, limit: u64, stall: Duration) -> Result<Vec<u8>, RequestError> {
    let mut body = reply.response.into_body();
    let mut bytes = Vec::new();
    while let Next::Data(data) = next_frame(&mut body, stall, &reply.host).await? {
        bytes.extend_from_slice(&data);
        if bytes.len() as u64 > limit {
            return Err(RequestError::new(Fault::TooLarge(bytes.len() as u64), &reply.host, "document too large"));
        }
    }
    Ok(bytes)
}

/// What a registry says about a failure: its error messages, or the status alone (IMG-123).
pub(crate) async fn error_text(reply: Reply, stall: Duration) -> String {
    let status = reply.response.status();
    let mut body = reply.response.into_body();
    let mut bytes = Vec::new();
    while let Ok(Next::Data(data)) = next_frame(&mut body, stall, &reply.host).await {
        bytes.extend_from_slice(&data);
        if bytes.len() >= ERROR_BYTES_MAX {
            break;
        }
    }
    let said = messages(&bytes[..bytes.len().min(ERROR_BYTES_MAX)]);
    if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }
}

fn messages(body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |error: &serde_json::Value, name: &str| error[name].as_str().unwrap_or_default().to_owned();
    let errors = document["errors"].as_array().cloned().unwrap_or_default();
    let mut texts: Vec<String> = errors
        .iter()
        .map(|error| match (word(error, "code"), word(error, "message")) {
            (code, message) if message.is_empty() => code,
            (_, message) => message,
        })
        .collect();
    texts.extend(["details", "message", "error_description", "error"].iter().map(|name| word(&document, name)));
    texts.retain(|text| !text.is_empty());
    texts.dedup();
    let joined = texts.join("; ");
    joined.chars().filter(|c| !c.is_control()).take(ERROR_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_give_their_messages_without_control_characters() {
        assert_eq!(messages(br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way"}]}"#), "no[31m way");
        assert_eq!(messages(br#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
        assert_eq!(messages(br#"{"details":"incorrect username or password"}"#), "incorrect username or password");
        assert_eq!(messages(b"<html>"), "");
    }
}
