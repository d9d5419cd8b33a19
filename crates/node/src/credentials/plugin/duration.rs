//! Durations as Go writes them: `12h`, `1h30m`, `0s`, `-1.5m`.
//!
//! Pure. Start at [`parse`].

use std::time::Duration;

/// A duration with its sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signed {
    Positive(Duration),
    /// Less than nothing, by however much.
    Negative,
}

/// Reads a duration; `None` if it is none.
pub(super) fn parse(text: &str) -> Option<Signed> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Signed::Positive(Duration::ZERO));
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit_end..];
    }
    Some(if negative && !total.is_zero() { Signed::Negative } else { Signed::Positive(total) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in
            [("12h", 43200.0), ("1h30m", 5400.0), ("0s", 0.0), ("0", 0.0), ("1.5m", 90.0), ("2ms", 0.002)]
        {
            assert_eq!(parse(text), Some(Signed::Positive(Duration::from_secs_f64(seconds))), "{text}");
        }
        assert_eq!(parse("-1m"), Some(Signed::Negative));
        for text in ["", "-", "1", "h", "1d", "1h2", "abc"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
