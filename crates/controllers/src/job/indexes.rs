//! Sets of indexes as a status writes them: `1,3-5,7`.
//!
//! What is kept are the runs of neighbours, because a spec may name two billion indexes in a few letters.

use std::collections::BTreeMap;
use std::fmt;

/// A set of indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes {
    /// The last index of each run, by the first; between two runs at least one index is missing.
    runs: BTreeMap<u32, u32>,
}

impl Indexes {
    /// Reads them; what cannot be read is left out.
    pub fn parse(text: &str) -> Indexes {
        let mut all = Indexes::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(from), Ok(to)) = (from.parse(), to.parse()) {
                all.insert_run(from, to);
            }
        }
        all
    }

    /// Adds one.
    pub fn insert(&mut self, index: u32) {
        self.insert_run(index, index);
    }

    fn insert_run(&mut self, mut from: u32, mut to: u32) {
        if from > to {
            return;
        }
        // Whatever touches it becomes one run with it.
        while let Some((&first, &last)) = self.runs.range(..=to.saturating_add(1)).next_back() {
            if last.saturating_add(1) < from {
                break;
            }
            self.runs.remove(&first);
            (from, to) = (from.min(first), to.max(last));
        }
        self.runs.insert(from, to);
    }

    /// The last index of the run that this one is in.
    fn run_end(&self, index: u32) -> Option<u32> {
        let (_, last) = self.runs.range(..=index).next_back()?;
        (*last >= index).then_some(*last)
    }

    /// Whether this one is in it.
    pub fn contains(&self, index: u32) -> bool {
        self.run_end(index).is_some()
    }

    /// How many there are.
    pub fn len(&self) -> i64 {
        self.runs.iter().map(|(from, to)| i64::from(*to) - i64::from(*from) + 1).sum()
    }

    /// How many are in both.
    pub fn common(&self, other: &Indexes) -> i64 {
        let (mut count, mut ours, mut theirs) = (0, self.runs.iter().peekable(), other.runs.iter().peekable());
        while let (Some((from, to)), Some((other_from, other_to))) = (ours.peek(), theirs.peek()) {
            let (first, last) = ((*from).max(*other_from), (*to).min(*other_to));
            count += (i64::from(*last) - i64::from(*first) + 1).max(0);
            if to < other_to {
                ours.next();
            } else {
                theirs.next();
            }
        }
        count
    }

    /// The first index from this one on that is in none of the sets; None after the last one that there can be.
    pub fn first_outside(mut index: u32, sets: [&Indexes; 2]) -> Option<u32> {
        while let Some(last) = sets.iter().find_map(|set| set.run_end(index)) {
            index = last.checked_add(1)?;
        }
        Some(index)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (from, to)) in self.runs.iter().enumerate() {
            f.write_str(if nth > 0 { "," } else { "" })?;
            match to - from {
                0 => write!(f, "{from}")?,
                // Two neighbours are written apart.
                1 => write!(f, "{from},{to}")?,
                _ => write!(f, "{from}-{to}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_ranges() {
        assert_eq!(Indexes::parse("1,3-5,7,6").to_string(), "1,3-7");
        assert_eq!(Indexes::parse("0,1").to_string(), "0,1");
        assert_eq!(Indexes::default().to_string(), "");
        assert_eq!(Indexes::parse("5-3,x,-,9").to_string(), "9", "what cannot be read is left out");
    }

    #[test]
    fn all_indexes_that_there_can_be_are_one_run() {
        let all = Indexes::parse("0-4294967295,7");
        assert_eq!((all.runs.len(), all.len(), all.common(&all)), (1, 1 << 32, 1 << 32));
        let none = Indexes::default();
        assert_eq!(Indexes::first_outside(3, [&none, &all]), None);
        assert_eq!(Indexes::first_outside(3, [&none, &Indexes::parse("2-2147483646")]), Some(2_147_483_647));
    }

    fn lists() -> impl Strategy<Value = Vec<(u32, u32)>> {
        proptest::collection::vec((0u32..50, 0u32..8).prop_map(|(from, more)| (from, from + more)), 0..12)
    }

    fn both(list: &[(u32, u32)]) -> (Indexes, BTreeSet<u32>) {
        let text: Vec<String> = list.iter().map(|(from, to)| format!("{from}-{to}")).collect();
        (Indexes::parse(&text.join(",")), list.iter().flat_map(|(from, to)| *from..=*to).collect())
    }

    proptest! {
        #[test]
        fn they_are_as_sets_of_single_indexes(one in lists(), other in lists(), more in 0u32..60) {
            let ((mut ours, mut model), (theirs, their_model)) = (both(&one), both(&other));
            ours.insert(more);
            model.insert(more);
            let length = |model: &BTreeSet<u32>| i64::try_from(model.len()).unwrap();
            prop_assert_eq!(ours.len(), length(&model));
            prop_assert_eq!(ours.common(&theirs), length(&model.intersection(&their_model).copied().collect()));
            for index in 0..70 {
                prop_assert_eq!(ours.contains(index), model.contains(&index));
                let outside = (index..).find(|index| !model.contains(index) && !their_model.contains(index));
                prop_assert_eq!(Indexes::first_outside(index, [&ours, &theirs]), outside);
            }
            prop_assert_eq!(Indexes::parse(&ours.to_string()), ours);
        }
    }
}
