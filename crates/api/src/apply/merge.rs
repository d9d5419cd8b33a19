//! Merging a configuration into the live object, and removing what its manager no longer applies.
//!
//! Start at [`merge`] and [`prune`].

use serde_json::{Map, Value};

use super::set::{Branch, Set, field};
use super::shape::{Form, element, items};
use crate::look::is_empty;

/// The live value with everything that the configuration says.
pub(super) fn merge(form: Form, live: Option<&Value>, config: &Value) -> Value {
    match (form, live, config) {
        (Form::Struct(_) | Form::Map(_), Some(Value::Object(live)), Value::Object(config)) => {
            let mut out = live.clone();
            for (name, value) in config {
                let merged = merge(form.member(name).0, live.get(name), value);
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Form::Keyed(..) | Form::Set, Some(live @ Value::Array(_)), config @ Value::Array(_)) => {
            merge_items(form, &items(form, live), &items(form, config))
        }
        _ => config.clone(),
    }
}

/// Items of both lists: those of the configuration in its order, the others where they stood, as far as both can be had.
/// An item that both have is a fixed point; before the next one, the live list's other items come first.
fn merge_items(form: Form, live: &[(Box<str>, &Value)], config: &[(Box<str>, &Value)]) -> Value {
    let in_live = |element: &str| live.iter().find(|(other, _)| **other == *element).map(|(_, item)| *item);
    let in_config = |element: &str| config.iter().any(|(other, _)| **other == *element);
    let mut fixed =
        config.iter().filter(|(element, _)| in_live(element).is_some()).map(|(element, _)| &**element).peekable();
    let mut out: Vec<Value> = Vec::with_capacity(live.len() + config.len());
    let mut merged: Vec<&str> = Vec::with_capacity(config.len());
    let (mut left, mut right) = (0, 0);
    while left < live.len() || right < config.len() {
        if let (Some((ours, _)), Some((theirs, item))) = (live.get(left), config.get(right)) {
            if ours == theirs {
                merged.push(theirs);
                out.push(merge(form.item(), in_live(theirs), item));
                (left, right) = (left + 1, right + 1);
                fixed.next();
                continue;
            }
            if in_config(ours) && fixed.peek().is_some_and(|next| **next != **ours) {
                // Both have it, but it is not its turn: it comes where the configuration has it.
                left += 1;
                continue;
            }
        }
        if let Some((ours, item)) = live.get(left) {
            if !in_config(ours) {
                out.push((*item).clone());
                left += 1;
                continue;
            }
            if merged.contains(&&**ours) {
                left += 1;
            }
        }
        if let Some((theirs, item)) = config.get(right) {
            merged.push(theirs);
            out.push(merge(form.item(), in_live(theirs), item));
            right += 1;
            if fixed.peek() == Some(&&**theirs) {
                fixed.next();
            }
        }
    }
    Value::Array(out)
}

/// Removes from a merged value what is in `last`, the manager's former claims, and in nobody's claims now (`owned`).
///
/// An item or a struct goes with everything in it, because what else is in it are defaults that came with it; a map or a
/// list stays as long as something is in it.
pub(super) fn prune(form: Form, value: &mut Value, last: &Set, owned: &Set) {
    match (form, value) {
        (Form::Struct(_) | Form::Map(_), Value::Object(fields)) => prune_fields(form, fields, (last, owned)),
        (Form::Keyed(..) | Form::Set, Value::Array(list)) => {
            list.retain_mut(|item| {
                let Ok(element) = element(form, item) else { return true };
                let Some(before) = last.get(&element) else { return true };
                let none = Branch::default();
                let now = owned.get(&element).unwrap_or(&none);
                if before.member && !now.member {
                    return false;
                }
                prune(form.item(), item, &before.below, &now.below);
                true
            });
        }
        _ => {}
    }
}

fn prune_fields(form: Form, fields: &mut Map<String, Value>, (last, owned): (&Set, &Set)) {
    fields.retain(|name, value| {
        let element = field(name);
        let Some(before) = last.get(&element) else { return true };
        let none = Branch::default();
        let now = owned.get(&element).unwrap_or(&none);
        let below = form.member(name).0;
        let is_struct = matches!(below, Form::Struct(_)) && matches!(form, Form::Struct(_));
        let was_mine = before.member || (is_struct && !before.below.is_empty());
        if was_mine && now.is_empty() && !has_strangers(below, value, before) {
            return false;
        }
        let hollow = is_empty(value);
        prune(below, value, &before.below, &now.below);
        // What lost its last member goes too, unless somebody owns it as empty.
        now.member || hollow || !is_empty(value)
    });
}

/// Whether a map or list holds something that the manager never applied.
fn has_strangers(form: Form, value: &Value, before: &Branch) -> bool {
    match form {
        Form::Map(_) => {
            value.as_object().into_iter().flatten().any(|(name, _)| before.below.get(&field(name)).is_none())
        }
        Form::Keyed(..) | Form::Set => {
            items(form, value).iter().any(|(element, _)| before.below.get(element).is_none())
        }
        _ => false,
    }
}
