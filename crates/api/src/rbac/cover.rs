//! Which rules cover others: nobody gives away rights that they do not have.
//!
//! Each rule is broken into the smallest ones (one verb, one group, one resource, one name), so that one rule covers such
//! a part whole or not at all. What is left over is told in upstream's form. Start at [`missing`].

use std::collections::{BTreeMap, BTreeSet};

use super::{ALL, Rule, has, has_or_all, url_covers};
use crate::field::quote;

/// The parts of `wanted` that `held` does not cover.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(parts).filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// All rights there are.
pub fn everything() -> [Rule; 2] {
    let all = || vec![Box::from(ALL)];
    [
        Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), urls: all(), ..Rule::default() },
    ]
}

fn parts(rule: &Rule) -> Vec<Rule> {
    let one = |word: &str| vec![Box::from(word)];
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for (group, resource) in rule.groups.iter().flat_map(|group| rule.resources.iter().map(move |r| (group, r))) {
            let part = Rule { verbs: one(verb), groups: one(group), resources: one(resource), ..Rule::default() };
            match rule.names.is_empty() {
                true => parts.push(part),
                false => parts.extend(rule.names.iter().map(|name| Rule { names: one(name), ..part.clone() })),
            }
        }
        parts.extend(rule.urls.iter().map(|url| Rule { verbs: one(verb), urls: one(url), ..Rule::default() }));
    }
    parts
}

fn covers(rule: &Rule, part: &Rule) -> bool {
    let all = |held: &[Box<str>], wanted: &[Box<str>]| wanted.iter().all(|word| has_or_all(held, word));
    let names = rule.names.is_empty() || !part.names.is_empty() && part.names.iter().all(|name| has(&rule.names, name));
    all(&rule.verbs, &part.verbs)
        && all(&rule.groups, &part.groups)
        && part.resources.iter().all(|resource| covers_resource(&rule.resources, resource))
        && names
        && part.urls.iter().all(|path| rule.urls.iter().any(|url| url_covers(url, path)))
}

fn covers_resource(held: &[Box<str>], resource: &str) -> bool {
    let everywhere = resource.split_once('/').map(|(_, part)| format!("*/{part}"));
    has_or_all(held, resource) || everywhere.is_some_and(|everywhere| has(held, &everywhere))
}

/// Rules that differ only in their verbs become one.
pub fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut compacted = Vec::new();
    let mut places: BTreeMap<[Box<str>; 3], usize> = BTreeMap::new();
    for rule in rules {
        let simple = match (rule.groups.as_slice(), rule.resources.as_slice(), rule.names.as_slice()) {
            ([group], [resource], [] | [_]) if rule.urls.is_empty() => {
                Some([group.clone(), resource.clone(), rule.names.first().cloned().unwrap_or_default()])
            }
            _ => None,
        };
        match simple.as_ref().and_then(|key| places.get(key)) {
            Some(place) => {
                let known: &mut Rule = &mut compacted[*place];
                let more = rule.verbs.into_iter().filter(|verb| !has(&known.verbs, verb)).collect::<Vec<_>>();
                known.verbs.extend(more);
            }
            None => {
                if let Some(key) = simple {
                    places.insert(key, compacted.len());
                }
                compacted.push(rule);
            }
        }
    }
    compacted
}

/// Rules one a line, sorted, in upstream's form.
pub fn describe(rules: Vec<Rule>) -> String {
    let lines: BTreeSet<String> = compact(rules).iter().map(line).collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn line(rule: &Rule) -> String {
    let lists = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.urls),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let filled = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let shown: Vec<String> = filled.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", shown.join(", "))
}

/// A list as Go's `%q` prints it.
pub fn quoted<T: AsRef<str>>(list: &[T]) -> String {
    let words: Vec<String> = list.iter().map(|word| quote(word.as_ref())).collect();
    format!("[{}]", words.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rules(list: Value) -> Vec<Rule> {
        list.as_array().unwrap().iter().map(Rule::read).collect()
    }

    fn check(held: Value, wanted: Value, left: &str) {
        assert_eq!(describe(missing(&rules(held), &rules(wanted))), left);
    }

    #[test]
    fn what_is_held_may_be_given() {
        let read = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
        check(read.clone(), read.clone(), "");
        check(json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]), read.clone(), "");
        check(json!([]), read.clone(), "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}");
        check(
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
            read,
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}",
        );
    }

    #[test]
    fn rights_of_several_rules_add_up() {
        check(
            json!([
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
                {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]},
            ]),
            json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]),
            "",
        );
    }

    #[test]
    fn a_name_is_covered_by_the_name_or_by_all_and_all_by_all_alone() {
        let named = |names: Value| json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": names}]);
        let all = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]);
        check(all.clone(), named(json!(["a"])), "");
        check(named(json!(["a", "b"])), named(json!(["b"])), "");
        check(named(json!(["a"])), all, "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}");
        check(
            named(json!(["a"])),
            named(json!(["b"])),
            "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"b\"], Verbs:[\"get\"]}",
        );
    }

    #[test]
    fn parts_of_resources_and_paths_are_covered_by_stars() {
        let one = |resource: &str| json!([{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]);
        check(one("*/scale"), one("pods/scale"), "");
        check(one("pods"), one("pods/scale"), "{APIGroups:[\"\"], Resources:[\"pods/scale\"], Verbs:[\"get\"]}");
        check(one("*/scale"), one("*"), "{APIGroups:[\"\"], Resources:[\"*\"], Verbs:[\"get\"]}");
        let path = |path: &str| json!([{"verbs": ["get"], "nonResourceURLs": [path]}]);
        check(path("/a/*"), path("/a/b"), "");
        check(path("/a/b"), path("/a/*"), "{NonResourceURLs:[\"/a/*\"], Verbs:[\"get\"]}");
        check(one("*"), path("/a"), "{NonResourceURLs:[\"/a\"], Verbs:[\"get\"]}");
    }

    #[test]
    fn nobody_has_everything_but_who_has_stars() {
        let stars = json!([
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]},
        ]);
        assert!(missing(&rules(stars), &everything()).is_empty());
        let almost = json!([{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}]);
        assert_eq!(missing(&rules(almost), &everything()).len(), 2);
    }
}
