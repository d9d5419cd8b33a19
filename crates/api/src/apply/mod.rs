//! Server-side apply: who owns which fields of an object, and what happens to them.
//!
//! The entries of `metadata.managedFields` ([`Entry`]) hold sets of fields ([`Set`]) in upstream's form, FieldsV1. A write
//! takes what it changes ([`update`]); an apply ([`apply()`]) claims what its configuration says, merges it into the live
//! object by the list and map types of the schema facts, removes what its manager claimed before and nobody claims now,
//! and is refused where another manager owns a field that it would change, unless it is forced.
//!
//! Pure. The order of a write is the API server's: defaults are filled in before [`update`] and after [`apply()`].

mod check;
mod compare;
mod fields_v1;
mod managers;
mod merge;
mod set;
mod shape;
#[cfg(test)]
mod tests;

pub use compare::Difference;
pub use fields_v1::{read, read_foreign, write};
pub use managers::{Applied, Entry, Operation, Writer, apply, check_config, same_but_for_times, update, update_stored};
pub use set::Set;

/// A field that an apply would take from another manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager, as messages name it.
    pub manager: String,
    /// The field.
    pub path: String,
}

/// An apply that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The configuration is of another kind than the path.
    #[error("invalid object type: {found}")]
    WrongType {
        /// What it says it is.
        found: String,
    },
    /// Owners are not for the client to say.
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsGiven,
    /// The configuration does not fit the schema.
    #[error("failed to create typed patch object ({object}): {problem}")]
    Unfit {
        /// Namespace, name and kind.
        object: String,
        /// Where, and what is wrong.
        problem: String,
    },
    /// Other managers own some of the fields.
    #[error("{}", told(.0))]
    Conflict(Vec<Conflict>),
}

/// Upstream's words: one conflict in a line, several in a list by manager.
fn told(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        let paths = conflicts.iter().filter(|conflict| conflict.manager == manager);
        lines.extend(paths.map(|conflict| format!("- {}", conflict.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
