//! ServiceAccounts. They have no rules beyond their metadata.

use jiff::Timestamp;
use serde_json::Value;

use super::{Rules, age_cell, name_cell};

/// Rules of `v1 ServiceAccount`.
pub struct ServiceAccounts;

impl Rules for ServiceAccounts {
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_cell(object), age_cell(object, now)]
    }
}
