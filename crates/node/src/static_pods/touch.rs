//! Which files are being written right now, from what the directory tells. Pure.
//!
//! A file is read when whoever wrote it has closed it or moved it here. Of a file about which nothing was told (it was
//! there before, or the file system tells nothing) that is not known: it is read when it has been quiet for a while.

use std::{collections::BTreeMap, ffi::OsString, time::Duration};

/// So long a file of which nothing is known has not changed when it is read.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// What was told of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// It is new; a link, or a file that is about to be written.
    Made,
    /// Somebody writes it.
    Written,
    /// Somebody who could write it has closed it, or it was moved here whole.
    Done,
    /// It is gone.
    Gone,
}

/// The last word on each file.
#[derive(Debug, Clone, Default)]
pub(super) struct Touches {
    last: BTreeMap<OsString, Touch>,
}

impl Touches {
    pub(super) fn note(&mut self, name: OsString, touch: Touch) {
        match touch {
            Touch::Gone => drop(self.last.remove(&name)),
            touch => drop(self.last.insert(name, touch)),
        }
    }

    /// Nothing that was told holds any more: words were lost.
    pub(super) fn forget(&mut self) {
        self.last.clear();
    }

    /// The file has been read as it is.
    pub(super) fn was_read(&mut self, name: &OsString) {
        if self.last.get(name) == Some(&Touch::Done) {
            self.last.remove(name);
        }
    }

    /// True while somebody writes it.
    pub(super) fn is_open(&self, name: &OsString) -> bool {
        self.last.get(name) == Some(&Touch::Written)
    }

    /// Whether a file that has not changed for so long is whole.
    pub(super) fn is_whole(&self, name: &OsString, quiet_for: Duration) -> bool {
        match self.last.get(name) {
            Some(Touch::Done) => true,
            Some(Touch::Written) => false,
            _ => quiet_for >= QUIET,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(told: &[Touch], quiet_for: Duration, is_whole: bool) {
        let mut touches = Touches::default();
        told.iter().for_each(|touch| touches.note("a".into(), *touch));
        assert_eq!(touches.is_whole(&"a".into(), quiet_for), is_whole, "{told:?} quiet for {quiet_for:?}");
    }

    #[test]
    fn a_file_is_read_when_its_writer_is_done() {
        use Touch::{Done, Gone, Made, Written};
        let hour = Duration::from_secs(3600);
        check(&[Made, Written, Done], Duration::ZERO, true);
        check(&[Done], Duration::ZERO, true);
        check(&[Made, Written], hour, false);
        check(&[Made, Written, Done, Written], hour, false);
        check(&[Made], Duration::ZERO, false);
        check(&[Made], QUIET, true);
        check(&[], Duration::ZERO, false);
        check(&[], hour, true);
        check(&[Written, Gone], hour, true);
    }

    #[test]
    fn a_file_that_was_read_is_whole_until_something_is_told_again() {
        let mut touches = Touches::default();
        touches.note("a".into(), Touch::Done);
        touches.was_read(&"a".into());
        assert!(!touches.is_whole(&"a".into(), Duration::ZERO));
        touches.note("a".into(), Touch::Written);
        touches.was_read(&"a".into());
        assert!(touches.is_open(&"a".into()));
    }
}
