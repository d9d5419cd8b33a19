//! Containers: one file a verb. The OCI runtime is run by the sandbox's monitor; this side plans and keeps the books.

pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod remove;
pub(crate) mod signal;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod update;
pub(crate) mod volumes;
