//! Selectors: which objects a request or a rule means.
//!
//! [`label`] has set-based label selectors, as text in queries and as objects; [`field`] has field selectors.

pub mod field;
pub mod label;
