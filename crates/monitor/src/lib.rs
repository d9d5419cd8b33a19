//! The process that holds a pod's containers, and the wall to it.
//!
//! Owns stdio, logs, exit codes and the namespaces of one pod sandbox, in a process of its own that
//! outlives every agent. It must not know Kubernetes, images or networks, and depends on no room.
//! Start with [`wire`] (the contract) and [`main`] (the process).

#![deny(unsafe_code)]

pub mod client;
mod clock;
mod connection;
mod container;
pub mod exit;
mod holder;
mod log;
mod note;
pub mod nursery;
mod oci;
mod start;
mod sys;
pub mod tree;
pub mod wire;

pub use start::main;
pub use sys::trim_memory;
