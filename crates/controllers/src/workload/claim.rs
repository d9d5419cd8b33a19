//! Which pods and children are a workload's own: adopted if they are free and selected, released if they are not selected.

use std::sync::Arc;

use api::look;
use api::selector::label::LabelSelector;
use serde_json::{Value, json};

use super::{Step, View};
use crate::view::{Meta, Pod, Served};

/// The pods that belong to the workload, and the steps that make it so.
pub fn pods(view: &View, selector: &LabelSelector) -> (Vec<Arc<Pod>>, Vec<Step>) {
    let (mut own, mut steps) = (Vec::new(), Vec::new());
    for pod in &view.pods {
        let is_selected = selector.matches(|key| pod.label(key));
        let holder = pod.controller.as_ref().map(|owner| owner.uid.as_str());
        match claim(view, holder, is_selected, !pod.is_active()) {
            Claim::Own => own.push(pod.clone()),
            Claim::Adopt => {
                steps.push(adopt(view, Served::pods(), &pod.name, &pod.uid));
                own.push(pod.clone());
            }
            Claim::Release if pod.deleting => {}
            Claim::Release => steps.push(release(view, Served::pods(), &pod.name, &pod.uid)),
            Claim::Strange => {}
        }
    }
    (own, steps)
}

/// The children of a kind that belong to the workload, and the steps that make it so.
pub fn children<'a>(view: &'a View, kind: Served, selector: &LabelSelector) -> (Vec<&'a Value>, Vec<Step>) {
    let (mut own, mut steps) = (Vec::new(), Vec::new());
    for child in &view.children {
        let meta = Meta::read(kind, child);
        let uid = look::text_at(child, &["metadata", "uid"]);
        let holder = meta.controller().map(|owner| owner.uid.as_str());
        match claim(view, holder, selector.matches_object(child), meta.deleting) {
            Claim::Own => own.push(child),
            Claim::Adopt => {
                steps.push(adopt(view, kind, &meta.place.name, uid));
                own.push(child);
            }
            Claim::Release if meta.deleting => {}
            Claim::Release => steps.push(release(view, kind, &meta.place.name, uid)),
            Claim::Strange => {}
        }
    }
    (own, steps)
}

enum Claim {
    Own,
    Adopt,
    Release,
    Strange,
}

fn claim(view: &View, holder: Option<&str>, is_selected: bool, is_ending: bool) -> Claim {
    match (holder, is_selected) {
        (Some(uid), true) if uid == view.uid() => Claim::Own,
        // Of a workload that is being deleted, what it lets go is the collector's to say.
        (Some(uid), false) if uid == view.uid() && !view.is_deleting() => Claim::Release,
        (None, true) if !is_ending && !view.is_deleting() => Claim::Adopt,
        _ => Claim::Strange,
    }
}

fn adopt(view: &View, kind: Served, name: &str, uid: &str) -> Step {
    let patch = json!({"metadata": {"uid": uid, "ownerReferences": [view.owner_reference()]}});
    Step::Patch { kind, name: name.to_owned(), patch }
}

fn release(view: &View, kind: Served, name: &str, uid: &str) -> Step {
    let refs = json!([{"$patch": "delete", "uid": view.uid()}]);
    Step::Patch { kind, name: name.to_owned(), patch: json!({"metadata": {"uid": uid, "ownerReferences": refs}}) }
}
