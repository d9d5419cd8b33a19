//! The QoS tree and pod cgroups.
