//! Globs: `*`, `?`, `[set]`, `[^set]`, ranges and `\c`, matched against a whole text.
//!
//! Two readings: [`matches()`] knows no separators, [`matches_path`] goes segment by segment as Go's `path.Match` does.

/// `*`, `?`, `[set]`, `[^set]`, ranges and `\c` (IMG-175). A malformed glob matches nothing.
pub fn matches(glob: &str, text: &str) -> bool {
    let Some(pieces) = parse(glob) else { return false };
    let text: Vec<char> = text.chars().collect();
    // The set of positions reached in `text`, one piece at a time: no backtracking, so no hostile pattern is slow.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for piece in &pieces {
        let mut next = vec![false; text.len() + 1];
        for position in 0..=text.len() {
            if let Piece::Any = piece {
                next[position] = reached[position] || (position > 0 && next[position - 1]);
            } else if position > 0 {
                next[position] = reached[position - 1] && piece.takes(text[position - 1]);
            }
        }
        reached = next;
    }
    reached[text.len()]
}

/// The same for texts of segments between `/`, which no piece of the glob matches: `a.*` is `a.b` and not `a.b/c`.
pub fn matches_path(glob: &str, text: &str) -> bool {
    let (globs, segments): (Vec<&str>, Vec<&str>) = (glob.split('/').collect(), text.split('/').collect());
    globs.len() == segments.len() && globs.iter().zip(segments).all(|(glob, segment)| matches(glob, segment))
}

/// One piece of a parsed glob.
enum Piece {
    Any,
    One,
    Literal(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Piece {
    fn takes(&self, character: char) -> bool {
        match self {
            Piece::Any | Piece::One => true,
            Piece::Literal(own) => *own == character,
            Piece::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated
            }
        }
    }
}

fn parse(glob: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut characters = glob.chars().peekable();
    while let Some(character) = characters.next() {
        pieces.push(match character {
            '*' => Piece::Any,
            '?' => Piece::One,
            '\\' => Piece::Literal(characters.next()?),
            '[' => parse_class(&mut characters)?,
            other => Piece::Literal(other),
        });
    }
    Some(pieces)
}

fn parse_class(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Piece> {
    let negated = characters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match characters.next()? {
            ']' if ranges.is_empty() => return None,
            ']' => return Some(Piece::Class { negated, ranges }),
            '-' => return None,
            '\\' => characters.next()?,
            other => other,
        };
        let high = match characters.next_if_eq(&'-') {
            None => low,
            Some(_) => match characters.next()? {
                ']' | '-' => return None,
                '\\' => characters.next()?,
                other => other,
            },
        };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_texts() {
        for (glob, text, is) in [
            ("dev.gvisor.*", "dev.gvisor.flag.debug", true),
            ("dev.gvisor.*", "dev.gvisor", false),
            ("run.oci.handler", "run.oci.handler", true),
            ("run.oci.handler", "run.oci.handlers", false),
            ("*", "", true),
            ("a?c*e", "abcde", true),
            ("a?c", "ac", false),
            ("[a-c][^x]", "bz", true),
            ("[a-c][^x]", "bx", false),
            ("\\*", "*", true),
            ("[", "[", false),
        ] {
            assert_eq!(matches(glob, text), is, "{glob} {text}");
        }
    }

    #[test]
    fn no_piece_matches_a_slash_in_paths() {
        for (glob, text, is) in [
            ("io.x*", "io.x.y", true),
            ("io.x*", "io.x/y", false),
            ("io.x/*", "io.x/y", true),
            ("*/*", "io.x/y", true),
            ("*", "io.x/y", false),
        ] {
            assert_eq!(matches_path(glob, text), is, "{glob} {text}");
        }
    }
}
