//! What the project's tasks and its tests on real parts share: a private registry, a small image, running programs.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod image;
pub mod registry;
pub mod shell;
pub mod tools;
pub mod vm;
