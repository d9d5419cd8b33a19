//! Questions that are answered and not stored (TokenReview and its like). They have no rules beyond their schema.

use jiff::Timestamp;
use serde_json::Value;

use super::{Rules, name_cell};

/// Rules of every kind of [`crate::kind::reviews`].
pub struct Reviews;

impl Rules for Reviews {
    fn cells(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        vec![name_cell(object)]
    }
}
