//! Image references, digests, platforms globs, and the matching of credential keys.
//!
//! Owns the grammar and the arithmetic of names: what a reference means, which platform entry of an index suits a
//! node, which configured credential belongs to which repository. Pure: no files, no sockets, no clock, no await.
//! Start at [`Reference::parse`], then [`Platform`], then [`credential`].

#![forbid(unsafe_code)]

pub mod credential;
mod digest;
pub mod glob;
mod image;
mod platform;

pub use digest::{Algorithm, Digest, DigestError};
pub use image::{DEFAULT_DOMAIN, DEFAULT_TAG, ParseError, Reference, apply_default_tag};
pub use platform::{Platform, arm_variant};
