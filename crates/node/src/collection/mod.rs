//! Removing images that nobody needs, when the file system fills up or when they are old (IMG-260 … IMG-269).
//!
//! Owns the inventory of images with first and last use (`view`), the decision (`decide`, pure), the removal (`act`) and
//! the round every five minutes (`shell`). Must not remove what is in use, pinned, being pulled or about to be started.
//! Start at [`decide::plan`].

pub mod act;
pub mod decide;
mod shell;
pub mod view;

pub use decide::Policy;
pub use shell::{Collector, Error, Options};
