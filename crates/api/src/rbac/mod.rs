//! Access control by roles: what a rule allows, which rules cover others, what roles gather from others.
//!
//! Pure. [`Rule`] is one line of a role; [`cover`] compares lists of them; [`mend`] keeps the default roles what they are.

pub mod cover;
pub mod mend;

use serde_json::{Map, Value};

use crate::look;
use crate::selector::label::LabelSelector;

/// Stands for all verbs, groups, resources or paths.
pub const ALL: &str = "*";

/// One line of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What may be done.
    pub verbs: Vec<Box<str>>,
    /// API groups.
    pub groups: Vec<Box<str>>,
    /// `pods`, `pods/log`, `*/scale` or `*`.
    pub resources: Vec<Box<str>>,
    /// Names of objects; none is all.
    pub names: Vec<Box<str>>,
    /// Paths that are no resources; a trailing `*` is a prefix.
    pub urls: Vec<Box<str>>,
}

/// What is asked of a rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// What is to be done.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural name; empty for a path.
    pub resource: &'a str,
    /// Part of the resource or empty.
    pub subresource: &'a str,
    /// Name of the object or empty.
    pub name: &'a str,
    /// The path, when no resource is asked for.
    pub path: &'a str,
}

fn has(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|entry| **entry == *word)
}

fn has_or_all(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|entry| **entry == *word || **entry == *ALL)
}

const FIELDS: [&str; 5] = ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"];

impl Rule {
    /// A rule as objects hold it.
    pub fn read(rule: &Value) -> Rule {
        let list = |field| look::texts(rule, field).into_iter().map(Box::from).collect();
        let [verbs, groups, resources, names, urls] = FIELDS.map(list);
        Rule { verbs, groups, resources, names, urls }
    }

    /// The rules of a role.
    pub fn all_of(role: &Value) -> Vec<Rule> {
        look::list(role, "rules").iter().map(Rule::read).collect()
    }

    /// The rule as objects hold it.
    pub fn write(&self) -> Value {
        let lists = [&self.verbs, &self.groups, &self.resources, &self.names, &self.urls];
        let filled = FIELDS.into_iter().zip(lists).filter(|(_, list)| !list.is_empty());
        let written = filled.map(|(field, list)| (field.to_owned(), list.iter().map(|word| &**word).collect()));
        Value::Object(written.collect::<Map<String, Value>>())
    }

    /// Whether the rule allows it.
    pub fn allows(&self, asked: &Asked<'_>) -> bool {
        if !has_or_all(&self.verbs, asked.verb) {
            return false;
        }
        if asked.resource.is_empty() {
            return self.urls.iter().any(|url| url_covers(url, asked.path));
        }
        has_or_all(&self.groups, asked.group)
            && self.resources.iter().any(|resource| resource_matches(resource, asked))
            && (self.names.is_empty() || has(&self.names, asked.name))
    }
}

/// `pods` is pods alone, `pods/log` that part of them, `*/scale` that part of everything, `*` everything with its parts.
fn resource_matches(rule: &str, asked: &Asked<'_>) -> bool {
    if rule == ALL {
        return true;
    }
    match (rule.split_once('/'), asked.subresource) {
        (None, "") => rule == asked.resource,
        (None, _) | (Some(_), "") => false,
        (Some((resource, part)), wanted) => part == wanted && (resource == ALL || resource == asked.resource),
    }
}

/// Whether a path of a rule means `path` too.
fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

/// The rules that an aggregated role gathers from others (in order of their names); None if it gathers nothing.
pub fn gather(role: &Value, all: &[&Value]) -> Option<Vec<Value>> {
    let selectors = look::list(look::get(role, "aggregationRule")?, "clusterRoleSelectors");
    let name = |role: &Value| look::text_at(role, &["metadata", "name"]).to_owned();
    let own = name(role);
    let mut others: Vec<&&Value> = all.iter().filter(|other| name(other) != own).collect();
    others.sort_by_key(|other| name(other));
    let mut gathered: Vec<Value> = Vec::new();
    for selector in selectors {
        let Ok(selector) = LabelSelector::from_object(Some(selector)) else { continue };
        let selected = others.iter().filter(|other| selector.matches_object(other));
        for rule in selected.flat_map(|other| look::list(other, "rules")) {
            if !gathered.iter().any(|known| look::same(Some(known), Some(rule))) {
                gathered.push(rule.clone());
            }
        }
    }
    Some(gathered)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A question in one line: `get pods`, `get apps/deployments/scale`, `get pods=name`, `get /path`.
    fn check(rule: Value, allowed: &[&str], refused: &[&str]) {
        let rule = Rule::read(&rule);
        assert_eq!(Rule::read(&rule.write()), rule);
        for (lines, expected) in [(allowed, true), (refused, false)] {
            for line in lines {
                let (verb, what) = line.split_once(' ').unwrap();
                let (what, name) = what.split_once('=').unwrap_or((what, ""));
                let asked = match (what.starts_with('/'), what.split('/').collect::<Vec<_>>().as_slice()) {
                    (true, _) => Asked { verb, path: what, ..Asked::default() },
                    (_, [group, resource, subresource]) => Asked { verb, group, resource, subresource, name, path: "" },
                    (_, [group, resource]) => Asked { verb, group, resource, name, ..Asked::default() },
                    _ => Asked { verb, resource: what, name, ..Asked::default() },
                };
                assert_eq!(rule.allows(&asked), expected, "{line} by {rule:?}");
            }
        }
    }

    #[test]
    fn a_rule_allows_what_all_its_lists_name() {
        check(
            json!({"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods", "deployments"]}),
            &["get pods", "list pods", "get pods=a", "get apps/deployments", "get apps/pods", "get deployments"],
            &["watch pods", "get secrets", "get batch/pods", "get /pods/log", "get /api", "get //pods"],
        );
        check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), &["get pods"], &["get /pods/log"]);
        check(json!({"verbs": ["get"], "apiGroups": [""], "resources": []}), &[], &["get pods"]);
        check(json!({"verbs": ["get"], "apiGroups": [], "resources": ["pods"]}), &[], &["get pods"]);
        check(json!({"verbs": [], "apiGroups": [""], "resources": ["pods"]}), &[], &["get pods"]);
        check(json!({}), &[], &["get pods", "get /api"]);
    }

    #[test]
    fn stars_stand_for_verbs_groups_and_resources() {
        check(
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            &["get pods", "escalate rbac.authorization.k8s.io/roles", "create core/pods/exec", "x y/z=a"],
            &["get /api", "get /"],
        );
        check(json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}), &["x pods"], &["x apps/pods"]);
        check(json!({"verbs": ["get"], "apiGroups": ["*"], "resources": ["pods"]}), &["get apps/pods"], &["x pods"]);
    }

    #[test]
    fn parts_of_resources_are_named_for_themselves() {
        let apps = |resources: Value| json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": resources});
        check(
            apps(json!(["deployments/scale"])),
            &["get apps/deployments/scale"],
            &["get apps/deployments", "get apps/deployments/status", "get apps/replicasets/scale"],
        );
        check(
            apps(json!(["*/scale"])),
            &["get apps/deployments/scale", "get apps/replicasets/scale"],
            &["get apps/deployments", "get apps/deployments/status", "get apps/deployments/ale"],
        );
        check(apps(json!(["deployments"])), &["get apps/deployments"], &["get apps/deployments/scale"]);
        check(apps(json!(["deployments/*"])), &[], &["get apps/deployments/scale", "get apps/deployments"]);
        check(apps(json!(["*/*"])), &[], &["get apps/deployments/scale"]);
    }

    #[test]
    fn names_narrow_a_rule() {
        check(
            json!({"verbs": ["get", "create"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]}),
            &["get secrets=a", "get secrets=b"],
            &["get secrets=c", "get secrets", "create secrets", "get secrets=*"],
        );
    }

    #[test]
    fn paths_are_whole_or_prefixes() {
        let urls = |urls: Value| json!({"verbs": ["get"], "nonResourceURLs": urls});
        check(urls(json!(["/healthz"])), &["get /healthz"], &["get /healthz/", "post /healthz", "get pods"]);
        check(urls(json!(["/api/*"])), &["get /api/", "get /api/v1"], &["get /api", "get /apis"]);
        check(urls(json!(["*"])), &["get /", "get /x/y"], &["get pods"]);
        check(urls(json!(["/a*b"])), &["get /a*b"], &["get /axb"]);
    }

    #[test]
    fn a_role_gathers_what_its_selectors_select_in_order_of_names_and_once() {
        let role = |name: &str, label: &str, verb: &str| {
            json!({"metadata": {"name": name, "labels": {label: "true"}},
                   "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
        };
        let roles =
            [role("c", "take", "list"), role("a", "take", "get"), role("b", "take", "get"), role("d", "no", "x")];
        let roles: Vec<&Value> = roles.iter().collect();
        let mut whole =
            json!({"metadata": {"name": "whole", "labels": {"take": "true"}}, "rules": [{"verbs": ["own"]}]});
        assert_eq!(gather(&whole, &roles), None);
        whole["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"take": "true"}}]});
        let all: Vec<&Value> = roles.iter().copied().chain([&whole]).collect();
        let verbs: Vec<Value> = gather(&whole, &all).unwrap().iter().map(|rule| rule["verbs"][0].clone()).collect();
        assert_eq!(verbs, ["get", "list"]);
    }
}
