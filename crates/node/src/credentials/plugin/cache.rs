//! How long a plugin's answer holds, and for which images (IMG-205).
//!
//! Pure: time is an argument. Start at [`Cache::find`].

use super::protocol::{Response, Scope};
use cri::v1;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Expired answers are thrown away so often.
const SWEEP: Duration = Duration::from_secs(15 * 60);

/// For whose account an answer holds; empty without a token.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) annotations: BTreeMap<String, String>,
    /// For plugins whose answer is only as good as one token.
    pub(super) token_hash: Option<[u8; 32]>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Image(String),
    Registry(String),
    Global,
}

/// Credentials by pattern.
pub(super) type Logins = Vec<(String, v1::AuthConfig)>;

/// The answers of one plugin.
pub(super) struct Cache {
    answers: BTreeMap<(Key, Holder), (Logins, Instant)>,
    swept: Instant,
}

impl Cache {
    /// Nothing is known.
    pub(super) fn new(now: Instant) -> Cache {
        Cache { answers: BTreeMap::new(), swept: now }
    }

    /// The answer that holds for an image: its own, else its registry's, else that for all.
    pub(super) fn find(&mut self, repository: &str, holder: &Holder, now: Instant) -> Option<Logins> {
        if now > self.swept + SWEEP {
            self.answers.retain(|_, (_, until)| now <= *until);
            self.swept = now;
        }
        [Scope::Image, Scope::Registry, Scope::Global].into_iter().find_map(|scope| {
            let (logins, until) = self.answers.get(&(key(scope, repository), holder.clone()))?;
            (now <= *until).then(|| logins.clone())
        })
    }

    /// Keeps an answer for as long as it says, or as the configuration says.
    pub(super) fn keep(&mut self, about: (&str, Holder), response: &Response, default: Duration, now: Instant) {
        let keep = response.keep.unwrap_or(default);
        let Some(until) = now.checked_add(keep).filter(|_| !keep.is_zero()) else { return };
        self.answers.insert((key(response.scope, about.0), about.1), (logins(response), until));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.answers.len()
    }
}

/// The credentials of an answer.
pub(super) fn logins(response: &Response) -> Logins {
    let login = |(key, (username, password)): (&String, &(String, String))| {
        let auth =
            v1::AuthConfig { username: username.clone(), password: password.clone(), ..v1::AuthConfig::default() };
        (key.clone(), auth)
    };
    response.auth.iter().map(login).collect()
}

fn key(scope: Scope, repository: &str) -> Key {
    match scope {
        Scope::Image => Key::Image(repository.to_owned()),
        Scope::Registry => Key::Registry(repository.split('/').next().unwrap_or_default().to_owned()),
        Scope::Global => Key::Global,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(scope: Scope, keep: Option<u64>) -> Response {
        let auth = [("r.io".to_owned(), ("u".to_owned(), "p".to_owned()))].into();
        Response { scope, keep: keep.map(Duration::from_secs), auth }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_image_its_registry_or_everything() {
        let now = Instant::now();
        for (scope, same, sibling, other) in [
            (Scope::Image, true, false, false),
            (Scope::Registry, true, true, false),
            (Scope::Global, true, true, true),
        ] {
            let mut cache = Cache::new(now);
            cache.keep(("r.io/a", Holder::default()), &response(scope, None), HOUR, now);
            for (repository, found) in [("r.io/a", same), ("r.io/b", sibling), ("s.io/a", other)] {
                assert_eq!(cache.find(repository, &Holder::default(), now).is_some(), found, "{scope:?} {repository}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn durations_are_the_answers_own_else_the_configured_one_and_zero_keeps_nothing() {
        let now = Instant::now();
        for (own, default, seconds) in
            [(Some(60), HOUR, 60), (None, HOUR, 3600), (Some(0), HOUR, 0), (None, Duration::ZERO, 0)]
        {
            let mut cache = Cache::new(now);
            cache.keep(("r.io/a", Holder::default()), &response(Scope::Image, own), default, now);
            let mut at =
                |seconds| cache.find("r.io/a", &Holder::default(), now + Duration::from_secs(seconds)).is_some();
            assert_eq!((at(seconds), at(seconds + 1)), (seconds > 0, false), "{own:?} {default:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accounts_annotations_and_tokens_keep_answers_apart() {
        let now = Instant::now();
        let holder = |name: &str, annotation: &str, token| Holder {
            name: name.into(),
            annotations: [("k".to_owned(), annotation.to_owned())].into(),
            token_hash: token,
            ..Holder::default()
        };
        let mut cache = Cache::new(now);
        cache.keep(("r.io/a", holder("one", "x", None)), &response(Scope::Global, None), HOUR, now);
        assert!(cache.find("r.io/b", &holder("one", "x", None), now).is_some());
        for other in
            [holder("two", "x", None), holder("one", "y", None), holder("one", "x", Some([1; 32])), Holder::default()]
        {
            assert!(cache.find("r.io/b", &other, now).is_none(), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn expired_answers_are_swept_every_quarter_of_an_hour() {
        let now = Instant::now();
        let mut cache = Cache::new(now);
        cache.keep(("r.io/a", Holder::default()), &response(Scope::Image, Some(60)), HOUR, now);
        let _ = cache.find("s.io/b", &Holder::default(), now + Duration::from_secs(14 * 60));
        assert_eq!(cache.len(), 1);
        let _ = cache.find("s.io/b", &Holder::default(), now + Duration::from_secs(16 * 60));
        assert_eq!(cache.len(), 0);
    }
}
