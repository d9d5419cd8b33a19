//! SPDY/3.1 as far as streams of commands and ports need it, the serving side.
//!
//! [`frame`] turns bytes into frames and back, [`block`] the header blocks within them, [`window`] counts what may be
//! sent: all three are pure. [`connection`] carries them, [`stream`] is what its users hold. Nothing here knows what the
//! streams are for. Garbage ends the connection and nothing else. Memory is bounded: pieces of at most 32 KiB, 1 MiB of
//! them for a connection; past that the connection is not read, so TCP slows the client.

mod block;
mod connection;
mod frame;
mod stream;
mod window;

pub(super) use block::Headers;
#[cfg(test)]
pub(super) use connection::tests;
pub(super) use connection::{Connection, Outlet};
pub(super) use stream::{Input, Output, Stream};
