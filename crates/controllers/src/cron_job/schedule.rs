//! When the times of a schedule are, in a time zone. What a schedule says is read by `api::schedule`.

use api::Timestamp;
use api::schedule::{self, Field, Times};
use jiff::ToSpan;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// How far back the last time is looked for, in steps: enough for the 29th of February.
const BACK_SECONDS: [i64; 5] = [7_200, 172_800, 5_356_800, 63_244_800, 315_576_000];

/// How many years ahead the next time may be.
const YEARS_AHEAD: i16 = 9;

/// The times of a CronJob.
#[derive(Debug, Clone)]
pub struct Schedule {
    times: Times,
    zone: TimeZone,
}

impl Schedule {
    /// Reads a schedule and the name of a time zone; empty is UTC.
    pub fn read(text: &str, zone: &str) -> Result<Schedule, (&'static str, String)> {
        let (prefix, text) = schedule::split_zone(text);
        let zone = if zone.is_empty() { prefix } else { zone };
        let zone = match zone {
            "" | "UTC" => Ok(TimeZone::UTC),
            named => TimeZone::get(named),
        };
        let zone = zone.map_err(|error| ("UnknownTimeZone", format!("invalid timeZone: {error}")))?;
        let unparseable = |_| ("UnparseableSchedule", format!("unparseable schedule: {text}"));
        Ok(Schedule { times: schedule::parse(text).map_err(unparseable)?, zone })
    }

    /// The first time after a moment.
    pub fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let fields = match &self.times {
            Times::Every(duration) => {
                let next = moment.checked_add(*duration).ok()?;
                return Timestamp::from_second(next.as_second()).ok();
            }
            Times::Fields(fields) => fields,
        };
        let local = moment.to_zoned(self.zone.clone()).datetime();
        let mut at = local.with().second(0).subsec_nanosecond(0).build().ok()?;
        let last = local.year().saturating_add(YEARS_AHEAD);
        loop {
            at = next_match(fields, at.checked_add(1.minute()).ok()?, last)?;
            // An hour that the clock skips or repeats has one time of each name.
            let found = at.to_zoned(self.zone.clone()).ok()?.timestamp();
            if found > moment {
                return Some(found);
            }
        }
    }

    /// The last time after one moment that is not after another.
    pub fn latest(&self, earliest: i64, now: Timestamp) -> Option<Timestamp> {
        if let Times::Every(duration) = &self.times {
            let (period, passed) = (duration.as_secs().max(1), now.as_second() - earliest);
            return if passed < period {
                None
            } else {
                Timestamp::from_second(earliest + passed / period * period).ok()
            };
        }
        for back in BACK_SECONDS {
            let from = earliest.max(now.as_second() - back);
            let mut found = None;
            let mut moment = Timestamp::from_second(from).ok()?;
            while let Some(next) = self.after(moment).filter(|next| *next <= now) {
                found = Some(next);
                moment = next;
            }
            if found.is_some() || from == earliest {
                return found;
            }
        }
        None
    }
}

/// The first local time from one on that fits.
fn next_match(fields: &[Field; 5], mut at: DateTime, last: i16) -> Option<DateTime> {
    let [minute, hour, day, month, weekday] = fields;
    while at.year() <= last {
        if !month.has(at.month()) {
            at = at.first_of_month().checked_add(1.month()).ok()?.start_of_day();
            continue;
        }
        let (by_day, by_weekday) = (day.has(at.day()), weekday.has(at.weekday().to_sunday_zero_offset()));
        // If both are given, either will do.
        let is_day = if day.is_any || weekday.is_any { by_day && by_weekday } else { by_day || by_weekday };
        if !is_day {
            at = at.checked_add(1.day()).ok()?.start_of_day();
        } else if !hour.has(at.hour()) {
            at = at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?;
        } else if !minute.has(at.minute()) {
            at = at.checked_add(1.minute()).ok()?;
        } else {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, zone: &str, from: &str, expect: &[&str]) {
        let schedule = Schedule::read(schedule, zone).unwrap();
        let mut moment: Timestamp = from.parse().unwrap();
        for expected in expect {
            moment = schedule.after(moment).unwrap();
            assert_eq!(moment, expected.parse::<Timestamp>().unwrap());
        }
    }

    #[test]
    fn times_follow_each_other() {
        check("*/20 * * * *", "", "2026-01-01T00:00:30Z", &["2026-01-01T00:20:00Z", "2026-01-01T00:40:00Z"]);
        check("0 9-17/4 * * mon-fri", "", "2026-01-02T14:00:00Z", &["2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z"]);
        check(
            "0 0 13 * FRI",
            "",
            "2026-01-01T00:00:00Z",
            &["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"],
        );
        check("0 0 29 2 *", "", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
        check("@every 90s", "", "2026-01-01T00:00:00Z", &["2026-01-01T00:01:30Z", "2026-01-01T00:03:00Z"]);
        check("5-59/4294967295 * * * *", "", "2026-01-01T00:00:00Z", &["2026-01-01T00:05:00Z", "2026-01-01T01:05:00Z"]);
        assert!(Schedule::read("0 0 30 2 *", "").unwrap().after(Timestamp::UNIX_EPOCH).is_none());
    }

    #[test]
    fn zones_have_their_own_clocks() {
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            &["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"],
        );
        assert_eq!(Schedule::read("@daily", "Middle/Earth").unwrap_err().0, "UnknownTimeZone");
    }

    #[test]
    fn the_latest_time_is_found_however_long_ago() {
        let latest = |text: &str, from: &str, now: &str| {
            let from: Timestamp = from.parse().unwrap();
            Schedule::read(text, "").unwrap().latest(from.as_second(), now.parse().unwrap()).map(|at| at.to_string())
        };
        assert_eq!(
            latest("* * * * *", "2016-01-01T00:00:00Z", "2026-01-01T00:00:10Z").unwrap(),
            "2026-01-01T00:00:00Z"
        );
        assert_eq!(latest("@yearly", "2016-01-01T00:00:00Z", "2026-05-01T00:00:10Z").unwrap(), "2026-01-01T00:00:00Z");
        assert_eq!(latest("@daily", "2026-01-01T00:00:00Z", "2026-01-01T23:00:00Z"), None);
        assert_eq!(
            latest("@every 1h", "2026-01-01T00:00:00Z", "2026-01-01T02:30:00Z").unwrap(),
            "2026-01-01T02:00:00Z"
        );
    }
}
