//! ControllerRevisions: the templates that a DaemonSet or a StatefulSet has had, so that its pods can be told apart and
//! `kubectl rollout undo` can go back.

use api::look;
use serde_json::{Value, json};

use super::{Step, View, Words, hash};
use crate::view::Served;

/// The label of pods and revisions that says which is which.
pub const HASH: &str = "controller-revision-hash";

/// The present revision among those there are.
#[derive(Debug, Clone)]
pub struct Revision {
    /// metadata.name.
    pub name: String,
    /// The label [`HASH`] of the revision.
    pub hash: String,
    /// What has to be done so that it is there and the newest.
    pub steps: Vec<Step>,
}

fn kind() -> Served {
    Served::named("apps", "controllerrevisions")
}

/// What a revision keeps: the template, to replace the one there is.
fn data(template: &Value) -> Value {
    let mut template = template.clone();
    look::set(&mut template, "$patch", "replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub fn template(revision: &Value) -> Value {
    let mut template = revision["data"]["spec"]["template"].clone();
    look::remove(&mut template, "$patch");
    template
}

fn number(revision: &Value) -> i64 {
    look::integer(revision, "revision").unwrap_or(0)
}

/// The revision of the present template.
pub fn current(view: &View, own: &[&Value]) -> Revision {
    let data = data(view.template());
    let newest = own.iter().map(|one| number(one)).max().unwrap_or(0);
    let same = own.iter().filter(|one| look::same(look::get(one, "data"), Some(&data)));
    if let Some(found) = same.max_by_key(|one| number(one)) {
        let text = |path: &[&str]| look::text_at(found, path).to_owned();
        let mut steps = Vec::new();
        if number(found) < newest {
            let mut object = (*found).clone();
            look::set(&mut object, "revision", newest + 1);
            steps.push(Step::Replace { kind: kind(), object });
        }
        return Revision { name: text(&["metadata", "name"]), hash: text(&["metadata", "labels", HASH]), steps };
    }
    let hash = hash::of(&data, look::integer(view.status(), "collisionCount"));
    let name = format!("{}-{hash}", view.name());
    let mut labels = view.template()["metadata"]["labels"].clone();
    look::set(&mut labels, HASH, hash.clone());
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {
            "name": name, "labels": labels, "ownerReferences": [view.owner_reference()],
            "annotations": look::at(&view.object, &["metadata", "annotations"]),
        },
        "data": data, "revision": newest + 1,
    });
    let words = Words { failed: ("FailedCreate", "Error creating revision: {}".to_owned()), ..Words::default() };
    Revision { name, hash, steps: vec![Step::Create { kind: kind(), objects: vec![object], words }] }
}

/// Revisions that no pod has and that are beyond the history go, the oldest first.
pub fn history(view: &View, own: &[&Value], is_live: impl Fn(&Value) -> bool) -> Vec<Step> {
    let limit = usize::try_from(view.number("revisionHistoryLimit").unwrap_or(10)).unwrap_or(0);
    let mut old: Vec<&&Value> = own.iter().filter(|one| !is_live(one)).collect();
    old.sort_by_key(|one| number(one));
    let excess = old.len().saturating_sub(limit);
    old.into_iter().take(excess).map(|one| Step::delete_child(kind(), one, Words::default())).collect()
}
