//! Resource quantities as whole numbers.
//!
//! Owns nothing but the short forms that this room needs of `api::quantity`; both round up, as Kubernetes does. A text
//! that is no quantity counts as absent: the API validated it.

use api::quantity::Quantity;
use std::collections::BTreeMap;

/// The quantity in thousandths, rounded up; saturates.
pub fn milli(text: &str) -> Option<i64> {
    Quantity::parse(text).ok().map(Quantity::milli_value)
}

/// The quantity in whole units, rounded up; saturates.
pub fn whole(text: &str) -> Option<i64> {
    Quantity::parse(text).ok().map(Quantity::value)
}

/// The entry of that name in thousandths; 0 when absent.
pub fn milli_of(list: &BTreeMap<String, String>, resource: &str) -> i64 {
    list.get(resource).and_then(|q| milli(q)).unwrap_or(0)
}

/// The entry of that name in whole units; 0 when absent.
pub fn whole_of(list: &BTreeMap<String, String>, resource: &str) -> i64 {
    list.get(resource).and_then(|q| whole(q)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_round_up_to_the_unit_asked_for() {
        for (text, as_milli, as_whole) in [
            ("100m", 100, 1),
            ("0.5", 500, 1),
            ("1Ki", 1_024_000, 1024),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("1e3", 1_000_000, 1000),
            ("0", 0, 0),
        ] {
            assert_eq!((milli(text), whole(text)), (Some(as_milli), Some(as_whole)), "{text}");
        }
        assert_eq!(milli("many"), None);
    }
}
