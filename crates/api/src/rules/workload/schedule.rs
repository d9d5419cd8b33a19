//! The times of a CronJob: five fields as cron reads them, or a descriptor such as `@daily`. Start at [`complaint`].

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

const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

struct Bounds {
    low: u32,
    high: u32,
    /// Names of the values from `low` on.
    names: &'static [&'static str],
}

/// What is wrong with a schedule, in the words of upstream's parser.
pub(super) fn complaint(text: &str) -> Option<String> {
    let text = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest.trim()),
        None => text,
    };
    check(text).err()
}

fn check(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    if text.starts_with('@') {
        return descriptor(text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for range in field.split(',') {
            check_range(range, bounds)?;
        }
    }
    Ok(())
}

fn descriptor(text: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&text) {
        return Ok(());
    }
    let Some(duration) = text.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {text}"));
    };
    match crate::duration::parse(duration).is_some() {
        true => Ok(()),
        false => Err(format!("failed to parse duration {text}: time: invalid duration {duration:?}")),
    }
}

/// `*`, `?`, `5`, `1-5`, each with or without a step behind `/`.
fn check_range(text: &str, bounds: &Bounds) -> Result<(), String> {
    let mut parts = text.split('/');
    let (range, step) = (parts.next().unwrap_or(""), parts.next());
    if parts.next().is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let limits: Vec<&str> = range.split('-').collect();
    let (from, to) = match limits.as_slice() {
        ["*" | "?"] => (bounds.low, bounds.high),
        // A single value with a step means from there on.
        [one] => number(one, bounds).map(|at| (at, if step.is_some() { bounds.high } else { at }))?,
        [from, to] => (number(from, bounds)?, number(to, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    if let Some(step) = step
        && integer(step)? == 0
    {
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
    Ok(())
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let name = text.to_lowercase();
    match bounds.names.iter().position(|known| *known == name) {
        Some(position) => Ok(bounds.low + u32::try_from(position).unwrap_or(0)),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u32, String> {
    let number: i64 = text
        .parse()
        .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))?;
    u32::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

/// What is wrong with the name of a time zone. Whether it exists is the controller's to find out: this room has no
/// table of zones.
pub(super) fn zone_complaint(zone: &str) -> Option<String> {
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
            assert_eq!(complaint(text), None, "{text}");
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
            assert_eq!(complaint(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn zones_have_names() {
        assert_eq!(zone_complaint("Europe/Berlin"), None);
        for zone in ["", "Local", "a//b", "../x", "-x"] {
            assert!(zone_complaint(zone).is_some(), "{zone}");
        }
    }
}
