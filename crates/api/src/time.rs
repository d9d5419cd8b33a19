//! Texts of points in time and of durations, as Kubernetes writes and prints them.

use jiff::Timestamp;

/// Writes a time as ObjectMeta does: whole seconds, UTC, `2026-01-02T03:04:05Z`.
pub fn seconds(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    whole.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes a time as `MicroTime` does: six digits after the second.
pub fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads an RFC 3339 time.
pub fn parse(text: &str) -> Option<Timestamp> {
    // RFC 3339 wants a `T` and a zone; the parser behind is more generous.
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' && bytes[13] == b':' && bytes[16] == b':';
    if shaped { text.parse().ok() } else { None }
}

/// The age of a time as a column shows it: `<unknown>` when there is no time.
pub fn age(time: &str, now: Timestamp) -> String {
    match parse(time) {
        Some(time) => human(now.as_second() - time.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A duration in seconds as kubectl prints it: `45s`, `2m30s`, `5h`, `3d4h`, `2y10d`.
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    if seconds < 120 {
        return format!("{seconds}s");
    }
    if minutes < 10 {
        return pair(minutes, "m", seconds % 60, "s");
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    if hours < 8 {
        return pair(hours, "h", minutes % 60, "m");
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    if hours < 24 * 8 {
        return pair(days, "d", hours % 24, "h");
    }
    if hours < 24 * 365 * 2 {
        return format!("{days}d");
    }
    if hours < 24 * 365 * 8 {
        return pair(days / 365, "y", days % 365, "d");
    }
    format!("{}y", days / 365)
}

fn pair(big: i64, big_unit: &str, small: i64, small_unit: &str) -> String {
    match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_kubectl() {
        let (m, h, d) = (60, 3600, 86400);
        let cases = [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (10 * m + 30, "10m"),
            (179 * m, "179m"),
            (3 * h + 5 * m, "3h5m"),
            (8 * h + 59 * m, "8h"),
            (47 * h, "47h"),
            (3 * d + 4 * h, "3d4h"),
            (8 * d + 4 * h, "8d"),
            (365 * d, "365d"),
            (730 * d, "2y"),
            (740 * d, "2y10d"),
            (3000 * d, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(seconds), text, "{seconds} seconds");
        }
    }

    #[test]
    fn times_are_written_and_read_back() {
        let time = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
        assert_eq!(seconds(time), "2023-11-14T22:13:20Z");
        assert_eq!(micros(time), "2023-11-14T22:13:20.123456Z");
        assert_eq!(parse("2023-11-14T22:13:20.123456Z"), Some(time));
        assert_eq!(parse("2023-11-14T23:13:20+01:00").unwrap().as_second(), time.as_second());
        assert_eq!(parse("2023-11-14"), None);
        assert_eq!(parse("2023-11-14 22:13:20Z"), None);
        assert_eq!(age("2023-11-14T22:13:20Z", Timestamp::from_second(1_700_000_045).unwrap()), "45s");
        assert_eq!(age("", time), "<unknown>");
    }
}
