//! What a reader has made of a value, kept with it so that the next reader need not.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A place for one thing that follows from an entry's value; all copies of the entry share it, and it goes with them.
///
/// It is no part of the entry: every memo equals every other.
#[derive(Clone, Default)]
pub struct Memo(Arc<OnceLock<Box<dyn Any + Send + Sync>>>);

impl Memo {
    /// What is kept, made by `make` if nothing is; `None` if something of another type is kept.
    pub fn get_or_init<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl PartialEq for Memo {
    fn eq(&self, _: &Memo) -> bool {
        true
    }
}

impl Eq for Memo {}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "kept" } else { "empty" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reader_makes_it_and_copies_share_it() {
        let memo = Memo::default();
        assert_eq!(memo.clone().get_or_init(|| 3), Some(&3));
        assert_eq!(memo.get_or_init(|| 4), Some(&3));
        assert_eq!(memo.get_or_init(|| "of another type"), None);
        assert_eq!(Memo::default().get_or_init(|| 4), Some(&4));
    }
}
