//! The protocol on a connection of the node port: HTTP/1.1 alone, and heads that come in time.
//!
//! Must not look into requests. Start at [`builder`].

use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioTimer;
use std::time::Duration;

/// What the handshake offers. Clients of HTTP/2 could hold a connection without asking for anything.
pub(super) const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];
/// Until a head is there, the next one of a connection too: as the API server's (upstream's `ReadHeaderTimeout`).
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// Bytes of a head.
const HEADER_BYTES_MAX: usize = 256 << 10;

/// Serves a connection after its handshake.
pub(super) fn builder() -> Builder {
    builder_with(HEADER_TIMEOUT)
}

fn builder_with(header_timeout: Duration) -> Builder {
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(HEADER_BYTES_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::Response;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinSet,
    };

    const TIMEOUT: Duration = Duration::from_millis(300);

    /// What a client that sends this and then nothing hears before it is cut off.
    async fn borne(bytes: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let service =
            service_fn(async |_| Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("ok")))));
        // A task, so that the connection goes when it has been served.
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            builder_with(TIMEOUT).serve_connection(TokioIo::new(server), service).with_upgrades().await.is_ok()
        });
        client.write_all(bytes).await.unwrap();
        let mut said = Vec::new();
        let heard = tokio::time::timeout(Duration::from_secs(60), client.read_to_end(&mut said)).await;
        heard.expect("it is borne").unwrap();
        String::from_utf8(said).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_or_slow_is_cut_off_before_and_after_a_request() {
        let whole = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        for (bytes, answered) in
            [("", false), ("GET /he", false), (&whole[..30], false), ("PRI * HTTP/2.0\r\n\r\n", false), (whole, true)]
        {
            let said = borne(bytes.as_bytes()).await;
            assert_eq!(said.starts_with("HTTP/1.1 200"), answered, "{bytes:?}: {said}");
        }
        let said = borne(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(300 << 10)).into_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    }
}
