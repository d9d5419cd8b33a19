//! The machine of one pod: observe → decide → act → report.
//!
//! ```text
//!             volumes+sandbox ready      init i done        last init done
//!  Preparing ───────────────► Initialising(i) ─┐ ─────────────────► Running ──all ended, no restart──► Finished
//!      ▲  ▲                        │  └────────┘                       │
//!      │  └── sandbox died ────────┴───────────────────────────────────┘
//!      any of these ── Desired::Stop (API deletion, eviction, drain) ──► Stopping ──nothing live──► Cleaning ──► Gone
//! ```
//!
//! Owns the life of a pod on this node. The stage is derived from (desired, observed) and never stored. Must not share
//! a lock across a call to the runtime or the API. Start at [`decide`]; [`view`] has the facts, `act` carries out one
//! action, `shell` is the loop.

pub mod act;
pub mod checkpoint;
pub mod clock;
pub mod decide;
pub mod effect;
mod gone;
pub mod grace;
mod hook;
pub mod last_words;
pub mod observe;
pub mod shell;
pub mod view;
