//! The CRI configuration of a sandbox or container, made from a Pod.
