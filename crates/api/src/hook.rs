//! The annotations that bound a pod's lifecycle hooks (HOOK-62, HOOK-64): a time-out, further attempts, what follows from a failure.
//!
//! Pure; the API server warns with it and the node goes by it. Without annotations all is as in Kubernetes. An annotation
//! may end in `.CONTAINER` and then holds for that container alone. Start at [`settings`].

use std::time::Duration;

/// Annotations all begin with this.
const DOMAIN: &str = "sampan.dev/";
/// `strict`: a status from 400 on fails an HTTP hook.
const HTTP_HOOKS: &str = "sampan.dev/http-hooks";
/// A hook's time-out is at most this long.
const TIMEOUT_SECONDS_MAX: u64 = 24 * 60 * 60;
/// At most so many further attempts.
const RETRIES_MAX: u32 = 10;

/// How the hooks of one kind of a container are called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// Attempts after the first one that failed.
    pub retries: u32,
    /// A postStart that failed does not kill its container.
    pub is_failure_ignored: bool,
    /// A response from 400 on is a failure.
    pub is_http_strict: bool,
}

/// The settings of a container's `post-start` or `pre-stop`, and what is wrong with annotations that are left out of them.
pub fn settings<'a>(of: impl Fn(&str) -> Option<&'a str>, hook: &str, container: &str) -> (Settings, Vec<String>) {
    let mut complaints = Vec::new();
    let mut settings = Settings::default();
    let mut look = |base: String, read: &mut dyn FnMut(&str) -> Result<(), String>| {
        let named = format!("{base}.{container}");
        let found = of(&named).map(|value| (named, value)).or_else(|| of(&base).map(|value| (base, value)));
        if let Some((key, value)) = found
            && let Err(complaint) = read(value)
        {
            complaints.push(format!("{key}: {complaint}; it has no effect"));
        }
    };
    look(format!("{DOMAIN}{hook}-timeout"), &mut |value| timeout(value).map(|value| settings.timeout = Some(value)));
    look(format!("{DOMAIN}{hook}-retries"), &mut |value| retries(value).map(|value| settings.retries = value));
    if hook == "post-start" {
        look(format!("{DOMAIN}{hook}-on-failure"), &mut |value| {
            one_of(value, ["kill", "ignore"]).map(|nth| settings.is_failure_ignored = nth == 1)
        });
    }
    look(HTTP_HOOKS.to_owned(), &mut |value| {
        one_of(value, ["lenient", "strict"]).map(|nth| settings.is_http_strict = nth == 1)
    });
    (settings, complaints)
}

/// Whole seconds, as in `90s`, `1m30s`, `2h`.
fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time-out such as 30s or 1m30s");
    let (mut rest, mut seconds) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(unit).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    match seconds {
        0 => Err(wrong()),
        1..=TIMEOUT_SECONDS_MAX => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{text:?} is longer than a day")),
    }
}

fn retries(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number <= RETRIES_MAX);
    number.ok_or_else(|| format!("{text:?} is no number from 0 to {RETRIES_MAX}"))
}

fn one_of(text: &str, words: [&str; 2]) -> Result<usize, String> {
    let found = words.iter().position(|word| *word == text);
    found.ok_or_else(|| format!("{text:?} is neither {:?} nor {:?}", words[0], words[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)], hook: &str) -> (Settings, Vec<String>) {
        let of = |wanted: &str| {
            annotations.iter().find(|(key, _)| wanted.strip_prefix(DOMAIN) == Some(key)).map(|(_, value)| *value)
        };
        settings(of, hook, "web")
    }

    #[test]
    fn without_annotations_hooks_are_kubernetes_own() {
        assert_eq!(read(&[], "post-start"), (Settings::default(), Vec::new()));
        assert_eq!(
            read(&[("pre-stop-timeout", "5s"), ("post-start-timeout.db", "5s")], "post-start").0,
            Settings::default()
        );
    }

    #[test]
    fn an_annotation_with_the_containers_name_goes_before_the_general_one() {
        let all = [
            ("post-start-timeout", "1h1m1s"),
            ("post-start-timeout.web", "90s"),
            ("post-start-retries", "3"),
            ("post-start-on-failure", "ignore"),
            ("http-hooks", "strict"),
        ];
        let timeout = Some(Duration::from_secs(90));
        let expected = Settings { timeout, retries: 3, is_failure_ignored: true, is_http_strict: true };
        assert_eq!(read(&all, "post-start"), (expected, Vec::new()));
        let (of_pre_stop, _) = read(&[("pre-stop-timeout", "1h1m1s"), ("pre-stop-on-failure", "ignore")], "pre-stop");
        assert_eq!(of_pre_stop, Settings { timeout: Some(Duration::from_secs(3661)), ..Settings::default() });
    }

    #[test]
    fn what_cannot_be_read_is_told_and_has_no_effect() {
        for (key, value, complaint) in [
            ("pre-stop-timeout", "soon", "\"soon\" is no time-out such as 30s or 1m30s"),
            ("pre-stop-timeout", "5", "\"5\" is no time-out such as 30s or 1m30s"),
            ("pre-stop-timeout", "", "\"\" is no time-out such as 30s or 1m30s"),
            ("pre-stop-timeout", "0s", "\"0s\" is no time-out such as 30s or 1m30s"),
            ("pre-stop-timeout", "5ü", "\"5ü\" is no time-out such as 30s or 1m30s"),
            ("pre-stop-timeout", "25h", "\"25h\" is longer than a day"),
            (
                "pre-stop-timeout.web",
                "99999999999999999999s",
                "\"99999999999999999999s\" is no time-out such as 30s or 1m30s",
            ),
            ("pre-stop-retries", "11", "\"11\" is no number from 0 to 10"),
            ("pre-stop-retries", "-1", "\"-1\" is no number from 0 to 10"),
            ("http-hooks", "Strict", "\"Strict\" is neither \"lenient\" nor \"strict\""),
        ] {
            let expected = vec![format!("sampan.dev/{key}: {complaint}; it has no effect")];
            assert_eq!(read(&[(key, value)], "pre-stop"), (Settings::default(), expected));
        }
    }
}
