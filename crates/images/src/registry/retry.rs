//! Which failed request is worth another try, and when (IMG-138, IMG-139). Pure: jitter and time are arguments.

use std::time::Duration;

const ATTEMPTS_MAX: u32 = 5;
const PAUSE_SHORT: Duration = Duration::from_millis(50);
const PAUSE_SERVER: Duration = Duration::from_millis(250);
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// No budget is as long: what is beyond is as good as for ever, and can be reckoned with.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const WAIT_BEFORE_OTHERS_MAX: Duration = Duration::from_secs(10);

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 429, with what `Retry-After` says.
    RateLimited { retry_after: Option<Duration> },
    /// 408.
    RequestTimeout,
    /// 500, 502, 503 or 504.
    ServerError,
    /// The connection ended before the answer.
    Interrupted,
    /// No answer in time.
    TimedOut,
}

/// The memory of one request's attempts.
#[derive(Debug)]
pub(crate) struct Retry {
    /// Whether no other host can be asked instead.
    is_last: bool,
    attempts: u32,
    last: Option<Outcome>,
    waited: Duration,
    budget: Duration,
}

impl Retry {
    /// `budget` bounds the time that is spent waiting; while another host can be asked, that is better than a long wait.
    pub(crate) fn new(budget: Duration, is_last: bool) -> Retry {
        let budget = if is_last { budget } else { budget.min(WAIT_BEFORE_OTHERS_MAX) };
        Retry { is_last, attempts: 0, last: None, waited: Duration::ZERO, budget }
    }

    /// How long to wait before the next attempt; `None` to give up. `jitter` is in 0..1.
    pub(crate) fn next(&mut self, outcome: Outcome, jitter: f64) -> Option<Duration> {
        self.attempts += 1;
        let before = self.last.replace(outcome);
        let exponential = BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(10).saturating_sub(1)).min(BACKOFF_MAX);
        let wait = match outcome {
            Outcome::RateLimited { retry_after: Some(wait) } => wait,
            Outcome::RateLimited { retry_after: None } => exponential.mul_f64(0.75 + jitter / 2.0).min(BACKOFF_MAX),
            Outcome::Interrupted | Outcome::ServerError | Outcome::TimedOut if !self.is_last => return None,
            Outcome::RequestTimeout | Outcome::Interrupted => PAUSE_SHORT,
            // Not twice in a row: a registry that is down is reported, not hammered.
            Outcome::ServerError if before == Some(Outcome::ServerError) => return None,
            Outcome::TimedOut if before == Some(Outcome::TimedOut) => return None,
            Outcome::ServerError => PAUSE_SERVER,
            Outcome::TimedOut => PAUSE_SHORT,
        };
        self.waited = self.waited.saturating_add(wait);
        (self.attempts < ATTEMPTS_MAX && self.waited <= self.budget).then_some(wait)
    }
}

/// Reads `Retry-After`: seconds or an HTTP date.
pub(crate) fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let date = jiff::fmt::rfc2822::parse(value.trim()).ok()?.timestamp();
    let seconds = u64::try_from(date.as_second() - now.as_second()).unwrap_or(0);
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_secs(300);

    #[test]
    fn too_many_requests_wait_as_long_as_the_registry_asks() {
        let mut retry = Retry::new(MINUTES, true);
        let limited = Outcome::RateLimited { retry_after: Some(Duration::from_secs(2)) };
        for _ in 0..4 {
            assert_eq!(retry.next(limited, 0.5), Some(Duration::from_secs(2)));
        }
        assert_eq!(retry.next(limited, 0.5), None, "five attempts are enough");
        let endless = Outcome::RateLimited { retry_after: Some(Duration::from_secs(3600)) };
        assert_eq!(Retry::new(MINUTES, true).next(endless, 0.5), None, "an hour is beyond the budget");
    }

    #[test]
    fn a_registry_that_asks_for_eternity_is_given_up() {
        let now: jiff::Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        for value in ["18446744073709551615", "Fri, 01 Jan 9999 00:00:00 GMT"] {
            let asked = retry_after(value, now).unwrap();
            assert!(asked > MINUTES, "{value}");
            let mut retry = Retry::new(MINUTES, true);
            for wait in [asked, Duration::MAX, asked] {
                assert_eq!(retry.next(Outcome::RateLimited { retry_after: Some(wait) }, 0.5), None, "{value}");
            }
        }
    }

    #[test]
    fn without_a_hint_the_wait_doubles_with_jitter() {
        let mut retry = Retry::new(MINUTES, true);
        let limited = Outcome::RateLimited { retry_after: None };
        let waits: Vec<u128> = (0..4).filter_map(|_| retry.next(limited, 0.5)).map(|d| d.as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
    }

    #[test]
    fn a_server_error_is_tried_again_once_but_not_twice_in_a_row() {
        let mut retry = Retry::new(MINUTES, true);
        assert!(retry.next(Outcome::ServerError, 0.0).is_some());
        assert!(retry.next(Outcome::Interrupted, 0.0).is_some());
        assert!(retry.next(Outcome::ServerError, 0.0).is_some());
        assert!(retry.next(Outcome::ServerError, 0.0).is_none());
    }

    #[test]
    fn a_host_before_others_is_tried_again_only_if_it_asks_for_that() {
        let next = |outcome| Retry::new(MINUTES, false).next(outcome, 0.5);
        for outcome in [Outcome::Interrupted, Outcome::ServerError, Outcome::TimedOut] {
            assert_eq!(next(outcome), None, "{outcome:?}");
        }
        assert!(next(Outcome::RequestTimeout).is_some());
        assert!(next(Outcome::RateLimited { retry_after: Some(Duration::from_secs(9)) }).is_some());
        assert_eq!(next(Outcome::RateLimited { retry_after: Some(Duration::from_secs(60)) }), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: jiff::Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        assert_eq!(retry_after("2", now), Some(Duration::from_secs(2)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
