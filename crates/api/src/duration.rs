//! Durations as Go reads them, and therefore Kubernetes' fields and flags: `12h`, `1h30m`, `-1.5m`, `0`. Pure.

use jiff::SignedDuration;

/// Units and their seconds; one that begins like another is after it.
const UNITS: [(&str, f64); 8] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("μs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Reads a duration; `None` if it is none, or longer than can be counted.
pub fn parse(text: &str) -> Option<SignedDuration> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        total = total.checked_add(SignedDuration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit.len()..];
    }
    Some(if is_negative { -total } else { total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("12h", 43200.0),
            ("1h30m", 5400.0),
            ("0s", 0.0),
            ("0", 0.0),
            ("+1.5m", 90.0),
            ("2ms", 0.002),
            ("1m500ms", 60.5),
            ("3µs", 0.000_003),
            ("-1m", -60.0),
            ("-0", 0.0),
        ] {
            assert_eq!(parse(text), Some(SignedDuration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "-", "1", "h", "1d", "1h2", "abc", "1..5s", "1 h", "99999999999999999999999h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
