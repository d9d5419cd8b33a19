//! What a refused request's body still holds.
//!
//! A server that answers before it has read the body resets the stream (HTTP/2) or the connection (HTTP/1.1), and some
//! clients then lose the answer. So the rest of the body is read and thrown away first. Start at [`Leftover::of`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// Most that is read of a refused body, and thrown away as it comes; who sends more may lose the answer.
const BYTES_MAX: usize = 128 << 20;
/// Longest time that a slow client is listened to.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same body as the request's, for whoever answers last.
pub struct Leftover(Shared);

#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Leftover {
    /// The body for the request, and the view of what it leaves.
    pub fn of(body: Body) -> (Body, Leftover) {
        if body.is_end_stream() {
            return (body, Leftover(Shared(Arc::default())));
        }
        let shared = Shared(Arc::new(Mutex::new(body)));
        (Body::new(shared.clone()), Leftover(shared))
    }

    /// Reads what is left and forgets it.
    pub async fn drain(mut self) {
        let rest = async {
            let mut read = 0;
            while read < BYTES_MAX
                && let Some(Ok(frame)) = self.0.frame().await
            {
                read += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // Whether it ended, failed, was too long or too slow: the answer follows.
        let _ = tokio::time::timeout(PATIENCE, rest).await;
    }
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Body) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_request_did_not_read_is_read_at_the_end() {
        let (body, left) = Leftover::of(Body::from("abc"));
        let view = left.0.clone();
        drop(body);
        left.drain().await;
        assert!(view.is_end_stream());
        let (body, left) = Leftover::of(Body::from("abc"));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
        left.drain().await;
    }
}
