//! Initialising: init containers one after another, sidecars staying up (POD-13 … POD-15).
//!
//! Owns which init container is next. Progress is read from the records of the present sandbox, from the last init
//! container backwards, so that records which were collected are not run again.

use super::{
    Draft,
    start::{self, Progress},
};
use crate::{
    object::ContainerKind,
    pod::view::{Sandbox, View},
};

/// Plans the next init step. `Some(index)` while initialisation goes on, `None` once app containers may start.
pub(super) fn plan(draft: &mut Draft<'_>, sandbox: &Sandbox) -> Option<usize> {
    let view = draft.view;
    let next = next(view, sandbox);
    keep_sidecars(draft, sandbox, next.unwrap_or(usize::MAX));
    let index = next?;
    let container = &view.pod.spec.init_containers[index];
    let kind = kind_of(view, index);
    start::step(draft, kind, container, sandbox);
    Some(index)
}

/// The init container that is to run or runs now; `None` when all are done.
pub(super) fn next(view: &View, sandbox: &Sandbox) -> Option<usize> {
    let inits = &view.pod.spec.init_containers;
    let here = |name: &str| view.observed.newest(name).filter(|record| record.sandbox == sandbox.id);
    if view.pod.spec.containers.iter().any(|app| here(&app.name).is_some()) {
        return None;
    }
    let mut next = 0;
    for (index, container) in inits.iter().enumerate().rev() {
        let Some(record) = here(&container.name) else { continue };
        let passed = match kind_of(view, index) {
            ContainerKind::Sidecar => view.is_started(container, record),
            _ => record.exit().is_some_and(|exit| exit.code == 0),
        };
        next = if passed { index + 1 } else { index };
        break;
    }
    (next < inits.len()).then_some(next)
}

/// Sidecars before the present step are kept running; one that fails is skipped (HOOK-36).
fn keep_sidecars(draft: &mut Draft<'_>, sandbox: &Sandbox, before: usize) {
    let view = draft.view;
    for (index, container) in view.pod.spec.init_containers.iter().enumerate().take(before) {
        if kind_of(view, index) == ContainerKind::Sidecar {
            let _: Progress = start::step(draft, ContainerKind::Sidecar, container, sandbox);
        }
    }
}

fn kind_of(view: &View, index: usize) -> ContainerKind {
    match view.pod.spec.init_containers[index].restart_policy.as_str() {
        "Always" => ContainerKind::Sidecar,
        _ => ContainerKind::Init,
    }
}
