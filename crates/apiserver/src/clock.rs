//! The one place where wall time enters this room. Everything else takes the time as an argument.

use jiff::Timestamp;

/// The present, cut to whole seconds as object metadata carries it.
pub fn now() -> Timestamp {
    let now = precise();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The present with all its digits.
pub fn precise() -> Timestamp {
    Timestamp::now()
}

/// The present as `MicroTime` writes it.
pub fn micro() -> String {
    api::time::micros(precise())
}
