//! The monitor's two clocks and the text of a time stamp.
//!
//! The only module that asks for the time. Start with [`now`].

use rustix::time::{ClockId, clock_gettime};

/// Wall time, nanoseconds since the epoch.
pub fn now() -> u64 {
    nanoseconds(ClockId::Realtime)
}

/// Monotonic time in milliseconds, for deadlines.
pub fn monotonic_milliseconds() -> u64 {
    nanoseconds(ClockId::Monotonic) / 1_000_000
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Appends `time` (nanoseconds since the epoch) as RFC 3339 in UTC with nine decimals: 30 bytes.
pub fn put_rfc3339(time: u64, out: &mut Vec<u8>) {
    let (seconds, nanoseconds) = (time / 1_000_000_000, time % 1_000_000_000);
    let (year, month, day) = civil_date(seconds / 86_400);
    let of_day = seconds % 86_400;
    put_digits(year, 4, out);
    for (separator, value) in [(b'-', month), (b'-', day), (b'T', of_day / 3600), (b':', of_day / 60 % 60)] {
        out.push(separator);
        put_digits(value, 2, out);
    }
    out.push(b':');
    put_digits(of_day % 60, 2, out);
    out.push(b'.');
    put_digits(nanoseconds, 9, out);
    out.push(b'Z');
}

fn put_digits(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut rest = value;
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Years are counted from March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(time: u64) -> String {
        let mut out = Vec::new();
        put_rfc3339(time, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn time_stamps_are_rfc_3339_with_nanoseconds() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_399_999_999_999), "2000-02-28T23:59:59.999999999Z");
        assert_eq!(text(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(text(1_735_689_599_000_000_000), "2024-12-31T23:59:59.000000000Z");
        assert_eq!(text(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000000000Z");
    }
}
