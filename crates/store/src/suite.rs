//! The suite that every implementation of the trait has to pass.
