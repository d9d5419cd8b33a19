//! The volumes of pods.
