//! Reading the body of an answer in bounded time and space.

use super::fault::{Fault, RequestError, classify};
use super::transport::Reply;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::{self, Write};
use std::time::Duration;

const ERROR_BYTES_MAX: usize = 8 * 1024;
const ERROR_CHARACTERS_MAX: usize = 512;
/// Coded bytes that are decoded in one step; what one step can swell to is bounded by this.
const DECODED_AT_ONCE: usize = 256;

/// What a body gave.
pub(crate) enum Next {
    Data(Bytes),
    End,
}

/// The body of an answer, with its content encoding undone (IMG-143).
pub(crate) struct Body {
    incoming: Incoming,
    pub(crate) host: String,
    decoder: Option<Decoder>,
    /// Bytes that came and are not decoded yet.
    coded: Bytes,
}

impl Body {
    /// The body of a reply. An encoding that is not known is an error.
    pub(crate) fn of(reply: Reply) -> Result<Body, RequestError> {
        let Reply { response, host, .. } = reply;
        let bad = |detail: String| RequestError::new(Fault::Protocol, &host, detail);
        let decoder = match coding(response.headers()) {
            None => None,
            Some(coding) => match Decoder::new(&coding).map_err(|error| bad(error.to_string()))? {
                None => return Err(bad(format!("unknown content encoding {coding:?}"))),
                decoder => decoder,
            },
        };
        Ok(Body { incoming: response.into_body(), host, decoder, coded: Bytes::new() })
    }

    /// The next bytes; silence for longer than `stall` is an error.
    pub(crate) async fn next(&mut self, stall: Duration) -> Result<Next, RequestError> {
        loop {
            if let (Some(decoder), false) = (&mut self.decoder, self.coded.is_empty()) {
                let step = self.coded.split_to(self.coded.len().min(DECODED_AT_ONCE));
                let data = decoder.push(&step).map_err(|error| self.undecodable(&error))?;
                if !data.is_empty() {
                    return Ok(Next::Data(data));
                }
                continue;
            }
            match self.frame(stall).await? {
                Next::Data(data) if self.decoder.is_some() => self.coded = data,
                Next::End => {
                    let rest = self.decoder.take().map(Decoder::finish).transpose();
                    let rest = rest.map_err(|error| self.undecodable(&error))?.unwrap_or_default();
                    return Ok(if rest.is_empty() { Next::End } else { Next::Data(rest) });
                }
                data @ Next::Data(_) => return Ok(data),
            }
        }
    }

    fn undecodable(&self, error: &io::Error) -> RequestError {
        RequestError::new(
            Fault::Protocol,
            &self.host,
            format!("the body is not what its content encoding says: {error}"),
        )
    }

    async fn frame(&mut self, stall: Duration) -> Result<Next, RequestError> {
        loop {
            match tokio::time::timeout(stall, self.incoming.frame()).await {
                Err(_) => return Err(RequestError::new(Fault::TimedOut, &self.host, "no byte came in time")),
                Ok(None) => return Ok(Next::End),
                Ok(Some(Err(error))) => {
                    let (fault, detail) = classify(&error);
                    return Err(RequestError::new(fault, &self.host, detail));
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Next::Data(data));
                    }
                }
            }
        }
    }
}

/// The content encoding of an answer, if there is one.
pub(super) fn coding(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(http::header::CONTENT_ENCODING)?;
    let text = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    (!text.is_empty() && text != "identity").then_some(text)
}

/// Undoes a content encoding, a few bytes at a time, so that a bomb takes no more memory than a block.
enum Decoder {
    Gzip(flate2::write::MultiGzDecoder<Vec<u8>>),
    Deflate(flate2::write::ZlibDecoder<Vec<u8>>),
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

impl Decoder {
    fn new(coding: &str) -> io::Result<Option<Decoder>> {
        Ok(Some(match coding {
            "gzip" | "x-gzip" => Decoder::Gzip(flate2::write::MultiGzDecoder::new(Vec::new())),
            "deflate" => Decoder::Deflate(flate2::write::ZlibDecoder::new(Vec::new())),
            "zstd" => Decoder::Zstd(zstd::stream::write::Decoder::new(Vec::new())?),
            _ => return Ok(None),
        }))
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        let plain = match self {
            Decoder::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                std::mem::take(decoder.get_mut())
            }
            Decoder::Deflate(decoder) => {
                decoder.write_all(bytes)?;
                std::mem::take(decoder.get_mut())
            }
            Decoder::Zstd(decoder) => {
                decoder.write_all(bytes)?;
                std::mem::take(decoder.get_mut())
            }
        };
        Ok(plain.into())
    }

    fn finish(self) -> io::Result<Bytes> {
        let rest = match self {
            Decoder::Gzip(decoder) => decoder.finish()?,
            Decoder::Deflate(decoder) => decoder.finish()?,
            Decoder::Zstd(mut decoder) => {
                decoder.flush()?;
                decoder.into_inner()
            }
        };
        Ok(rest.into())
    }
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn read_document(reply: Reply, limit: u64, stall: Duration) -> Result<Vec<u8>, RequestError> {
    let mut body = Body::of(reply)?;
    let mut bytes = Vec::new();
    while let Next::Data(data) = body.next(stall).await? {
        bytes.extend_from_slice(&data);
        if bytes.len() as u64 > limit {
            return Err(RequestError::new(Fault::TooLarge(bytes.len() as u64), &body.host, "document too large"));
        }
    }
    Ok(bytes)
}

/// What a registry says about a failure: its error messages, or the status alone (IMG-123).
pub(crate) async fn error_text(reply: Reply, stall: Duration) -> String {
    let status = reply.response.status();
    let mut bytes = Vec::new();
    if let Ok(mut body) = Body::of(reply) {
        while let Ok(Next::Data(data)) = body.next(stall).await {
            bytes.extend_from_slice(&data);
            if bytes.len() >= ERROR_BYTES_MAX {
                break;
            }
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
    fn encodings_are_undone_in_steps_and_a_bomb_swells_by_a_block_at_most() {
        let plain = vec![b'x'; 8 << 20];
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        };
        let deflate = {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = zstd::encode_all(plain.as_slice(), 19).unwrap();
        for (coding, coded) in [("gzip", gzip), ("deflate", deflate), ("zstd", zstd)] {
            let mut decoder = Decoder::new(coding).unwrap().unwrap();
            let (mut total, mut largest) = (0, 0);
            for step in coded.chunks(DECODED_AT_ONCE) {
                let out = decoder.push(step).unwrap();
                (total, largest) = (total + out.len(), largest.max(out.len()));
            }
            total += decoder.finish().unwrap().len();
            assert_eq!(total, plain.len(), "{coding}");
            assert!(largest <= 16 << 20, "{coding}: {largest}");
        }
        assert!(Decoder::new("br").unwrap().is_none());
    }

    #[test]
    fn error_bodies_give_their_messages_without_control_characters() {
        assert_eq!(messages(br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way"}]}"#), "no[31m way");
        assert_eq!(messages(br#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
        assert_eq!(messages(br#"{"details":"incorrect username or password"}"#), "incorrect username or password");
        assert_eq!(messages(b"<html>"), "");
    }
}
