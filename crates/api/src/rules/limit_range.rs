//! LimitRanges: how small and how large containers and pods of a namespace may be.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::pod::resources;
use super::{Rules, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;
use crate::quantity::Quantity;

/// Rules of `v1 LimitRange`.
pub struct LimitRanges;

/// The lists of one item.
const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

impl Rules for LimitRanges {
    fn default(&self, object: &mut Value) {
        for item in look::list_mut(look::child(object, "spec"), "limits") {
            if look::text(item, "type") == "Container" {
                // An unnamed default limit is the maximum, an unnamed default request the limit, or the minimum.
                for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                    fill(item, from, to);
                }
            }
            for list in LISTS {
                resources::round_list(item, list);
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, mut types) = (Vec::new(), BTreeSet::new());
        let path = Path::new("spec").child("limits");
        for (index, item) in look::list_at(object, &["spec", "limits"]).iter().enumerate() {
            let path = path.index(index);
            let kind = look::text(item, "type");
            type_name(kind, &path.child("type"), &mut errors);
            if !types.insert(kind) {
                errors.push(FieldError::duplicate(&path.child("type"), kind));
            }
            validate_item(item, kind, &path, &mut errors);
        }
        errors
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![name_cell(object), look::text_at(object, &["metadata", "creationTimestamp"]).into()]
    }
}

/// Copies what `to` lacks.
fn fill(item: &mut Value, from: &str, to: &str) {
    let source: Vec<(String, Value)> = look::map(item, from).map(|(k, v)| (k.to_owned(), v.clone())).collect();
    let target = look::child(item, to);
    for (name, value) in source {
        look::set_absent(target, &name, value);
    }
}

fn type_name(kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let complaints = names::label_key(kind);
    let shaped = complaints.is_empty();
    errors.extend(complaints.into_iter().map(|text| FieldError::invalid(path, kind, text)));
    let standard = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim");
    if shaped && !kind.contains('/') && !standard {
        errors.push(FieldError::invalid(path, kind, "must be a standard limit type or fully qualified"));
    }
}

fn validate_item(item: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    for list in LISTS {
        let path = path.child(list);
        if kind == "Pod" && list.starts_with("default") {
            if look::map(item, list).next().is_some() {
                errors.push(FieldError::forbidden(&path, "may not be specified when `type` is 'Pod'"));
            }
        } else if matches!(kind, "Pod" | "Container") {
            for (name, _) in look::map(item, list) {
                resources::container_name(name, &path.key(name), errors);
            }
        }
    }
    let has = |list| look::at(item, &[list, "storage"]).is_some();
    if kind == "PersistentVolumeClaim" && !has("max") && !has("min") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&path.child("limits"), detail));
    }
    let known: BTreeSet<&str> = LISTS.iter().flat_map(|list| look::map(item, list).map(|(name, _)| name)).collect();
    for name in known {
        compare(item, name, path, errors);
    }
}

/// The five figures of one resource do not contradict each other.
fn compare(item: &Value, name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let figure = |list| look::at(item, &[list, name]).and_then(|value| Quantity::from_value(value).ok());
    let [max, min, default, request, ratio] = LISTS.map(figure);
    let mut complain = |list: &str, value: Quantity, detail: String| {
        errors.push(FieldError::invalid(&path.child(list).key(name), value.to_string(), detail));
    };
    let above = |a: Option<Quantity>, b: Option<Quantity>| a.zip(b).filter(|(a, b)| a > b);
    if let Some((min, max)) = above(min, max) {
        complain("min", min, format!("min value {min} is greater than max value {max}"));
    }
    if let Some((min, request)) = above(min, request) {
        complain("defaultRequest", request, format!("min value {min} is greater than default request value {request}"));
    }
    if let Some((request, max)) = above(request, max) {
        complain("defaultRequest", request, format!("default request value {request} is greater than max value {max}"));
    }
    if let Some((request, default)) = above(request, default) {
        let detail = format!("default request value {request} is greater than default limit value {default}");
        complain("defaultRequest", request, detail);
    }
    if let Some((min, default)) = above(min, default) {
        complain("default", min, format!("min value {min} is greater than default value {default}"));
    }
    if let Some((default, max)) = above(default, max) {
        complain("default", max, format!("default value {default} is greater than max value {max}"));
    }
    if let Some(ratio) = ratio {
        if ratio < Quantity::units(1) {
            complain("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let Some((min, max)) = min.zip(max).filter(|(min, _)| !min.is_zero()) {
            let most = max.ratio_to(min);
            if ratio.ratio_to(Quantity::units(1)) > most {
                complain("maxLimitRequestRatio", ratio, format!("ratio {ratio} is greater than max/min = {most:.6}"));
            }
        }
    }
    if let Some((request, default)) = request.zip(default)
        && request != default
        && !resources::overcommits(name)
    {
        let detail = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        complain("defaultRequest", request, detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(items: Value, expected: &[&str]) {
        let texts: Vec<String> = LimitRanges
            .validate_create(&json!({"spec": {"limits": items}}))
            .iter()
            .map(FieldError::to_string)
            .collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn what_a_container_item_leaves_open_follows_from_the_rest() {
        let item = json!({"type": "Container", "max": {"cpu": "2", "memory": "1Gi"}, "min": {"cpu": "0.1"},
            "default": {"cpu": "1"}, "defaultRequest": {}});
        let pod = json!({"type": "Pod", "max": {"cpu": 2}});
        let mut object = json!({"spec": {"limits": [item, pod]}});
        LimitRanges.default(&mut object);
        assert_eq!(
            object["spec"]["limits"],
            json!([
                {"type": "Container", "max": {"cpu": "2", "memory": "1Gi"}, "min": {"cpu": "100m"},
                    "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "1", "memory": "1Gi"}},
                {"type": "Pod", "max": {"cpu": "2"}},
            ])
        );
        let once = object.clone();
        LimitRanges.default(&mut object);
        assert_eq!(object, once);
    }

    #[test]
    fn figures_do_not_contradict_each_other() {
        check(
            json!([{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}}]),
            &[],
        );
        check(
            json!([{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "500m"}}]),
            &[
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ],
        );
        check(
            json!([{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "2"}, "defaultRequest": {"cpu": "3"}}]),
            &[
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than default limit value 2",
                "spec.limits[0].default[cpu]: Invalid value: \"1\": default value 2 is greater than max value 1",
            ],
        );
        check(
            json!([{"type": "Pod", "max": {"cpu": "4"}, "min": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}]),
            &[
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            ],
        );
    }

    #[test]
    fn types_and_names_are_known_and_types_occur_once() {
        check(
            json!([{"type": "Pod", "default": {"cpu": "1"}}, {"type": "Pod"}, {"type": "Box"}]),
            &[
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[1].type: Duplicate value: \"Pod\"",
                "spec.limits[2].type: Invalid value: \"Box\": must be a standard limit type or fully qualified",
            ],
        );
        check(
            json!([{"type": "Container", "max": {"pods": "1"}}, {"type": "PersistentVolumeClaim"}]),
            &[
                "spec.limits[0].max[pods]: Invalid value: \"pods\": must be a standard resource for containers",
                "spec.limits[1].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ],
        );
    }
}
