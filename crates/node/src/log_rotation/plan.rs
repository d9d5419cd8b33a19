//! What is to be done with the files of one log that has become too large. Pure.
//!
//! Beside `0.log` stand `0.log.20261129-080000`, the one before it, and older ones with `.gz` at their end.

/// What to do, in this order; names stand in the log's own directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Left over from a round that was cut off, or too many.
    pub remove: Vec<String>,
    /// To be replaced by `NAME.gz`.
    pub compress: Vec<String>,
    /// The log's name from now on; None when that name is taken.
    pub rename: Option<String>,
}

/// The plan for the log `name` among the `others` in its directory. `stamp` is now as `YYYYMMDD-HHMMSS`; at most
/// `files_max` files are left, the new log among them (POD-66).
pub(super) fn plan(name: &str, others: &[String], stamp: &str, files_max: usize) -> Plan {
    let prefix = format!("{name}.");
    let mut of_log: Vec<&str> = others.iter().map(String::as_str).filter(|other| other.starts_with(&prefix)).collect();
    of_log.sort_unstable();
    let mut plan = Plan::default();
    let is_there = |name: &str| others.iter().any(|other| other == name);
    of_log.retain(|other| {
        // A compressed file is renamed when it is whole: the plain one beside it only waited to be removed.
        let is_left_over = other.ends_with(".tmp") || is_there(&format!("{other}.gz"));
        if is_left_over {
            plan.remove.push((*other).to_owned());
        }
        !is_left_over
    });
    // The log itself becomes one more, and a new one begins.
    let kept = files_max.saturating_sub(2);
    let surplus = of_log.len().saturating_sub(kept);
    plan.remove.extend(of_log.drain(..surplus).map(str::to_owned));
    plan.compress = of_log.into_iter().filter(|other| !other.ends_with(".gz")).map(str::to_owned).collect();
    let next = format!("{prefix}{stamp}");
    plan.rename = (!is_there(&next) && !is_there(&format!("{next}.gz"))).then_some(next);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_first_rotation_only_renames() {
        let wanted = Plan { rename: Some("0.log.T2".into()), ..Plan::default() };
        assert_eq!(plan("0.log", &names(&["0.log", "1.log", "10.log.T1"]), "T2", 5), wanted);
    }

    #[test]
    fn the_one_before_is_compressed_and_the_oldest_go() {
        let others = names(&["0.log", "0.log.T4", "0.log.T1.gz", "0.log.T3.gz", "0.log.T2.gz"]);
        let wanted =
            Plan { remove: names(&["0.log.T1.gz"]), compress: names(&["0.log.T4"]), rename: Some("0.log.T5".into()) };
        assert_eq!(plan("0.log", &others, "T5", 5), wanted);
        let wanted = Plan {
            remove: names(&["0.log.T1.gz", "0.log.T2.gz", "0.log.T3.gz", "0.log.T4"]),
            compress: vec![],
            rename: Some("0.log.T5".into()),
        };
        assert_eq!(plan("0.log", &others, "T5", 2), wanted);
    }

    #[test]
    fn what_a_cut_off_round_left_is_finished() {
        let others = names(&["0.log", "0.log.T1", "0.log.T1.gz", "0.log.T2.gz.tmp", "0.log.T2"]);
        let wanted = Plan {
            remove: names(&["0.log.T1", "0.log.T2.gz.tmp"]),
            compress: names(&["0.log.T2"]),
            rename: Some("0.log.T3".into()),
        };
        assert_eq!(plan("0.log", &others, "T3", 5), wanted);
    }

    #[test]
    fn a_taken_name_is_not_written_over() {
        assert_eq!(plan("0.log", &names(&["0.log", "0.log.T1"]), "T1", 5).rename, None);
    }
}
