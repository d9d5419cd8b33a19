//! The node port.
