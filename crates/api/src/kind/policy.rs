//! The kinds of `policy/v1`.

use super::{ALL_VERBS, Kind, Storage, status_of};
use crate::rules::disruption_budget::DisruptionBudgets;
use crate::table;

pub(super) const DISRUPTION_BUDGETS: Kind = Kind {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[status_of("policy", "PodDisruptionBudget")],
    rules: &DisruptionBudgets,
    columns: table::DISRUPTION_BUDGETS,
    storage: &Storage { group: "policy", plural: "poddisruptionbudgets" },
    schema: "policy.v1.PodDisruptionBudget",
};
