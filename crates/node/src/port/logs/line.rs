//! The CRI log format: `<RFC3339Nano> <stdout|stderr> <P|F[:more]> <bytes>\n` (POD-64).
//!
//! Pure.

use super::Wanted;
use jiff::Timestamp;

/// Which output a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// One raw line without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub time: &'a str,
    pub stream: Stream,
    /// More of the same line follows in the next raw line.
    pub is_partial: bool,
    pub text: &'a [u8],
}

/// Reads a raw line; None for what is not in the format.
pub(super) fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let mut fields = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(fields.next()?).ok().filter(|t| t.contains('T'))?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tags = fields.next()?;
    let is_partial = match tags.split(|b| *b == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line { time, stream, is_partial, text: fields.next().unwrap_or_default() })
}

/// Turns raw lines into what the client reads, until the limit is reached.
#[derive(Debug)]
pub(super) struct Render {
    wanted: Wanted,
    /// Per stream: the last raw line was partial, so the next one continues it.
    is_open: [bool; 2],
    written: u64,
}

impl Render {
    pub fn new(wanted: Wanted) -> Render {
        Render { wanted, is_open: [false; 2], written: 0 }
    }

    /// True when the client has all the bytes that it wanted.
    pub fn is_full(&self) -> bool {
        self.wanted.limit_bytes.is_some_and(|limit| self.written >= limit)
    }

    /// Appends the text of one raw line to `out`.
    pub fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(raw) else { return };
        let is_continued = std::mem::replace(&mut self.is_open[line.stream as usize], line.is_partial);
        if self.wanted.stream.is_some_and(|stream| stream != line.stream) || self.is_too_early(line.time) {
            return;
        }
        let begin = out.len();
        if self.wanted.has_timestamps && !is_continued {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.is_partial {
            out.push(b'\n');
        }
        if let Some(limit) = self.wanted.limit_bytes {
            let left = usize::try_from(limit.saturating_sub(self.written)).unwrap_or(usize::MAX);
            out.truncate(begin + left.min(out.len() - begin));
        }
        self.written += (out.len() - begin) as u64;
    }

    fn is_too_early(&self, time: &str) -> bool {
        let Some(since) = self.wanted.since else { return false };
        time.parse::<Timestamp>().is_ok_and(|time| time < since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: [&str; 5] = [
        "2026-01-01T00:00:01.5Z stdout P one ",
        "2026-01-01T00:00:02Z stderr F bad",
        "2026-01-01T00:00:03Z stdout F more",
        "nonsense",
        "2026-01-01T00:00:04Z stdout F",
    ];

    fn rendered(wanted: Wanted) -> String {
        let (mut render, mut out) = (Render::new(wanted), Vec::new());
        LOG.iter().for_each(|raw| render.add(raw.as_bytes(), &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn partial_lines_are_joined_and_options_hold() {
        let only = |stream| Wanted { stream: Some(stream), ..Default::default() };
        assert_eq!(rendered(Wanted::default()), "one bad\nmore\n\n");
        assert_eq!(rendered(only(Stream::Stdout)), "one more\n\n");
        assert_eq!(rendered(only(Stream::Stderr)), "bad\n");
        let stamped = Wanted { has_timestamps: true, ..only(Stream::Stdout) };
        assert_eq!(rendered(stamped), "2026-01-01T00:00:01.5Z one more\n2026-01-01T00:00:04Z \n");
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(rendered(Wanted { since, ..Default::default() }), "more\n\n");
        assert_eq!(rendered(Wanted { limit_bytes: Some(6), ..Default::default() }), "one ba");
    }

    #[test]
    fn extra_tags_are_ignored_and_foreign_lines_are_refused() {
        assert!(parse(b"2026-01-01T00:00:01Z stdout P:x:y a b").unwrap().is_partial);
        for raw in ["", "x stdout F a", "2026-01-01T00:00:01Z stdin F a", "2026-01-01T00:00:01Z stdout X a"] {
            assert_eq!(parse(raw.as_bytes()), None, "{raw}");
        }
    }
}
