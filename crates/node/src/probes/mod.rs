//! Probes of running containers.
