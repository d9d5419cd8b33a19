//! Sets of indexes as a status writes them: `1,3-5,7`.

use std::collections::BTreeSet;

/// Reads them; what cannot be read is left out.
pub fn parse(text: &str) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) {
            all.extend(from..=to);
        }
    }
    all
}

/// Writes them.
pub fn format(all: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for index in all {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let text = |(from, to): (u32, u32)| match to - from {
        0 => from.to_string(),
        // Two neighbours are written apart.
        1 => format!("{from},{to}"),
        _ => format!("{from}-{to}"),
    };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_ranges() {
        assert_eq!(format(&parse("1,3-5,7,6")), "1,3-7");
        assert_eq!(format(&BTreeSet::from([0, 1])), "0,1");
        assert_eq!(format(&BTreeSet::new()), "");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(all in proptest::collection::btree_set(0u32..50, 0..30)) {
            prop_assert_eq!(parse(&format(&all)), all);
        }
    }
}
