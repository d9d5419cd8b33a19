//! The times of a CronJob: five fields as cron reads them, or a descriptor such as `@daily`. Pure; when those times are, in
//! which zone, is the controller's to find. Start at [`parse`].

use jiff::SignedDuration;

/// Names and bounds of the five fields.
const FIELDS: [Bounds; 5] = [
    Bounds { low: 0, high: 59, names: &[] },
    Bounds { low: 0, high: 23, names: &[] },
    Bounds { low: 1, high: 31, names: &[] },
    Bounds {
        low: 1,
        high: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Bounds { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

/// What the descriptors stand for.
const DESCRIPTORS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

struct Bounds {
    low: u64,
    high: u64,
    /// Names of the values from `low` on.
    names: &'static [&'static str],
}

/// The values of a field, as bits, and whether it is `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Field {
    bits: u64,
    /// Whether it lets every value through because it says nothing.
    pub is_any: bool,
}

impl Field {
    /// Whether a value is one of them.
    pub fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| value < u64::BITS && self.bits & (1 << value) != 0)
    }
}

/// A schedule that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Times {
    /// Minute, hour, day of the month, month, day of the week.
    Fields([Field; 5]),
    /// So long after the last one: whole seconds, at least one.
    Every(SignedDuration),
}

/// The time zone that a schedule names in front, or nothing, and the schedule.
pub fn split_zone(text: &str) -> (&str, &str) {
    match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map_or((rest, ""), |(zone, rest)| (zone, rest.trim())),
        None => ("", text),
    }
}

/// Reads a schedule without its zone. The error says what is wrong with it, in the words of upstream's parser.
pub fn parse(text: &str) -> Result<Times, String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    match text.starts_with('@') {
        true => descriptor(text),
        false => fields(text),
    }
}

fn fields(text: &str) -> Result<Times, String> {
    let all: Vec<&str> = text.split_whitespace().collect();
    if all.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", all.len(), all.join(" ")));
    }
    let mut fields = [Field::default(); 5];
    for ((text, bounds), field) in all.iter().zip(&FIELDS).zip(&mut fields) {
        for range in text.split(',') {
            add_range(field, range, bounds)?;
        }
    }
    Ok(Times::Fields(fields))
}

fn descriptor(text: &str) -> Result<Times, String> {
    if let Some((_, meant)) = DESCRIPTORS.iter().find(|(name, _)| *name == text) {
        return fields(meant);
    }
    let Some(duration) = text.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {text}"));
    };
    match crate::duration::parse(duration) {
        Some(every) => Ok(Times::Every(SignedDuration::from_secs(every.as_secs().max(1)))),
        None => Err(format!("failed to parse duration {text}: time: invalid duration {duration:?}")),
    }
}

/// `*`, `?`, `5`, `1-5`, each with or without a step behind `/`.
fn add_range(field: &mut Field, text: &str, bounds: &Bounds) -> Result<(), String> {
    let mut parts = text.split('/');
    let (range, step) = (parts.next().unwrap_or(""), parts.next());
    if parts.next().is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let limits: Vec<&str> = range.split('-').collect();
    let is_any = matches!(limits.as_slice(), ["*" | "?"]);
    let (from, to) = match limits.as_slice() {
        _ if is_any => (bounds.low, bounds.high),
        // A single value with a step means from there on.
        [one] => number(one, bounds).map(|at| (at, if step.is_some() { bounds.high } else { at }))?,
        [from, to] => (number(from, bounds)?, number(to, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = step.map_or(Ok(1), integer)?;
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    if from < bounds.low {
        return Err(format!("beginning of range ({from}) below minimum ({}): {text}", bounds.low));
    }
    if to > bounds.high {
        return Err(format!("end of range ({to}) above maximum ({}): {text}", bounds.high));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {text}"));
    }
    field.is_any |= is_any && step == 1;
    // Both ends are within bounds; a step may be larger than anything.
    let mut next = Some(from);
    while let Some(value) = next.filter(|value| *value <= to) {
        field.bits |= 1 << value;
        next = value.checked_add(step);
    }
    Ok(())
}

fn number(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let name = text.to_lowercase();
    match bounds.names.iter().position(|known| *known == name) {
        Some(position) => Ok(bounds.low + position as u64),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u64, String> {
    let number: i64 = text
        .parse()
        .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))?;
    u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

/// What is wrong with the name of a time zone. Whether it exists is the controller's to find out: this room has no
/// table of zones.
pub(crate) fn zone_complaint(zone: &str) -> Option<String> {
    if zone.is_empty() {
        return Some("timeZone must be nil or non-empty string".to_owned());
    }
    let is_part = |part: &str| {
        !part.is_empty()
            && part.len() <= 14
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b))
    };
    if !zone.split('/').all(is_part) {
        return Some(format!("unknown time zone {zone}"));
    }
    zone.eq_ignore_ascii_case("Local")
        .then(|| "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        for text in [
            "* * * * *",
            "*/5 0-6,12 1 JAN-mar sun",
            "0 0 ? * 0",
            "@daily",
            "@every 1h30m",
            "5/15 * * * *",
            "TZ=UTC 0 0 * * *",
        ] {
            assert!(parse(split_zone(text).1).is_ok(), "{text}");
        }
        let cases = [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_step_beyond_the_end_leaves_the_first_value() {
        let minutes = |text: &str| -> Vec<i8> {
            let Times::Fields([minute, ..]) = parse(&format!("{text} * * * *")).unwrap() else { return Vec::new() };
            (0..=i8::MAX).filter(|value| minute.has(*value)).collect()
        };
        for step in ["60", "4294967295", "4294967296", "9223372036854775807"] {
            assert_eq!(minutes(&format!("5-59/{step}")), [5], "{step}");
            assert_eq!(minutes(&format!("*/{step}")), [0], "{step}");
        }
        assert_eq!(minutes("50/5,3,1-2"), [1, 2, 3, 50, 55]);
        assert!(parse("5-59/9223372036854775808 * * * *").unwrap_err().starts_with("failed to parse int"));
        assert_eq!(parse("*/-1 * * * *").unwrap_err(), "negative number (-1) not allowed: -1");
        let any = |text: &str| matches!(parse(text), Ok(Times::Fields([field, ..])) if field.is_any);
        assert!(any("* * * * *") && any("?/1 * * * *") && !any("*/2 * * * *") && !any("0-59 * * * *"));
    }

    #[test]
    fn every_is_whole_seconds_and_at_least_one() {
        for (text, seconds) in [("1h30m", 5400), ("1999ms", 1), ("1ns", 1), ("-1m", 1)] {
            let every = Times::Every(SignedDuration::from_secs(seconds));
            assert_eq!(parse(&format!("@every {text}")), Ok(every), "{text}");
        }
        assert_eq!(split_zone("CRON_TZ=Europe/Berlin  @daily"), ("Europe/Berlin", "@daily"));
        assert_eq!(split_zone("TZ=UTC"), ("UTC", ""));
    }

    #[test]
    fn zones_have_names() {
        assert_eq!(zone_complaint("Europe/Berlin"), None);
        for zone in ["", "Local", "a//b", "../x", "-x"] {
            assert!(zone_complaint(zone).is_some(), "{zone}");
        }
    }
}
