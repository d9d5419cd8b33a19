//! Whether a connection still lives: which of its requests run, whether their answers are taken, since when it is idle.
//!
//! Owns the body around every answer that tells it. What follows (an end) is the listener's. Start at [`Pulse`].

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::limits::{Limits, Turn};

/// An answer that people read at their own pace, such as a log.
#[derive(Clone, Copy, Debug)]
pub struct Unhurried;

/// What is known of one connection.
#[derive(Debug)]
pub struct Pulse {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Since when the client has not come for more of each answer; None while the server is the one to move.
    answers: BTreeMap<u64, Option<Instant>>,
    next: u64,
    idle_since: Instant,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing; look again then.
    Lives(Instant),
    /// It asks for nothing any more.
    Idle,
    /// It does not take what it asked for.
    Stalled,
}

impl Pulse {
    /// A connection that begins now.
    pub fn new(limits: Limits, now: Instant) -> Arc<Pulse> {
        let state = State { answers: BTreeMap::new(), next: 0, idle_since: now };
        Arc::new(Pulse { limits, state: Mutex::new(state) })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request has begun; it ends when the returned part of it goes.
    pub fn request(self: &Arc<Pulse>) -> Running {
        let id = self.with(|state| {
            state.next += 1;
            state.answers.insert(state.next, None);
            state.next
        });
        Running { pulse: self.clone(), id }
    }

    /// What is to be done now.
    pub fn judge(&self, now: Instant) -> Verdict {
        let limits = &self.limits;
        self.with(|state| {
            if state.answers.is_empty() {
                let end = state.idle_since + if state.next == 0 { limits.header } else { limits.idle };
                return if end <= now { Verdict::Idle } else { Verdict::Lives(end) };
            }
            // Everything that begins from now on ends later than this.
            let soonest = now + limits.request.min(limits.idle);
            let stall = state.answers.values().flatten().min().map(|since| *since + limits.request);
            match stall {
                Some(end) if end <= now => Verdict::Stalled,
                Some(end) => Verdict::Lives(end.min(soonest)),
                None => Verdict::Lives(soonest),
            }
        })
    }
}

/// One running request.
#[derive(Debug)]
pub struct Running {
    pulse: Arc<Pulse>,
    id: u64,
}

impl Running {
    /// The answer, whose body keeps the request running until it is taken or dropped.
    pub fn answer(self, mut response: Response) -> Response {
        let turn = response.extensions_mut().remove::<Turn>();
        let hurries = response.extensions().get::<Unhurried>().is_none();
        if hurries {
            self.mark(Some(Instant::now()));
        }
        response.map(|body| Body::new(Taken { body, running: self, hurries, _turn: turn }))
    }

    fn mark(&self, since: Option<Instant>) {
        self.pulse.with(|state| state.answers.insert(self.id, since));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = Instant::now();
        self.pulse.with(|state| {
            state.answers.remove(&self.id);
            state.idle_since = now;
        });
    }
}

/// The body of an answer.
struct Taken {
    body: Body,
    running: Running,
    hurries: bool,
    _turn: Option<Turn>,
}

impl HttpBody for Taken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if self.hurries {
            self.running.mark(matches!(polled, Poll::Ready(Some(_))).then(Instant::now));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::response::IntoResponse;
    use futures_util::StreamExt;
    use http_body_util::BodyExt;

    use super::*;

    fn pulse() -> (Arc<Pulse>, Limits) {
        let limits = Limits::default();
        (Pulse::new(limits.clone(), Instant::now()), limits)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_sooner_than_one_that_had_some() {
        let (pulse, limits) = pulse();
        assert_eq!(pulse.judge(Instant::now()), Verdict::Lives(Instant::now() + limits.header));
        tokio::time::advance(limits.header).await;
        assert_eq!(pulse.judge(Instant::now()), Verdict::Idle);
        let running = pulse.request();
        tokio::time::advance(limits.idle * 10).await;
        assert!(matches!(pulse.judge(Instant::now()), Verdict::Lives(_)), "a request runs");
        drop(running);
        tokio::time::advance(limits.idle - Duration::from_secs(1)).await;
        assert!(matches!(pulse.judge(Instant::now()), Verdict::Lives(_)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pulse.judge(Instant::now()), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_come_for_the_rest_of_an_answer_is_stalled_and_who_waits_for_it_is_not() {
        let (pulse, limits) = pulse();
        let quiet = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from("a"))]);
        let quiet = quiet.chain(futures_util::stream::pending());
        let mut body = pulse.request().answer(Body::from_stream(quiet).into_response()).into_body();
        tokio::time::advance(limits.request).await;
        assert_eq!(pulse.judge(Instant::now()), Verdict::Stalled, "nobody has come for the first frame");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        tokio::time::advance(limits.request - Duration::from_secs(1)).await;
        assert!(matches!(pulse.judge(Instant::now()), Verdict::Lives(_)));
        let waits = tokio::time::timeout(limits.idle * 10, body.frame()).await;
        assert!(waits.is_err(), "nothing happens");
        assert!(matches!(pulse.judge(Instant::now()), Verdict::Lives(_)), "the server is the one to move");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_is_read_at_its_readers_pace() {
        let (pulse, limits) = pulse();
        let mut response = Body::from("a").into_response();
        response.extensions_mut().insert(Unhurried);
        let _answer = pulse.request().answer(response);
        tokio::time::advance(limits.request * 10).await;
        assert!(matches!(pulse.judge(Instant::now()), Verdict::Lives(_)));
    }
}
