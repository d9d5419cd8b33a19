//! Applies and writes one after another, and what they leave.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kind::find;

/// An object and its owners, written to by several managers.
#[derive(Clone, Debug)]
struct World {
    group: &'static str,
    plural: &'static str,
    object: Option<Value>,
    entries: Vec<Entry>,
    second: i64,
}

impl World {
    fn new(group: &'static str, plural: &'static str) -> World {
        World { group, plural, object: None, entries: Vec::new(), second: 0 }
    }

    fn deployment() -> World {
        World::new("apps", "deployments")
    }

    fn writer<'a>(&mut self, manager: &'a str, subresource: Option<&'a str>) -> Writer<'a> {
        self.second += 1;
        let kind = find(self.group, "v1", self.plural).unwrap();
        Writer { kind, subresource, manager, now: Timestamp::from_second(self.second).unwrap() }
    }

    fn whole(&mut self, mut config: Value) -> Value {
        let kind = find(self.group, "v1", self.plural).unwrap();
        config["apiVersion"] = kind.api_version().into();
        config["kind"] = kind.kind.into();
        config["metadata"]["name"] = "x".into();
        config
    }

    fn apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), ApplyError> {
        let config = self.whole(config);
        let writer = self.writer(manager, None);
        let applied = apply(&writer, (self.object.as_ref(), &config), self.entries.clone(), force)?;
        (self.object, self.entries) = (Some(applied.object), applied.entries);
        Ok(())
    }

    fn write(&mut self, manager: &str, object: Value) {
        self.write_to(manager, None, object);
    }

    fn write_to(&mut self, manager: &str, subresource: Option<&str>, object: Value) {
        let object = self.whole(object);
        let writer = self.writer(manager, subresource);
        if let Some(entries) = update(&writer, (self.object.as_ref(), &object), || self.entries.clone()) {
            self.entries = entries;
        }
        self.object = Some(object);
    }

    /// The object without what names it.
    fn bare(&self) -> Value {
        let mut object = self.object.clone().unwrap_or_default();
        for name in ["apiVersion", "kind"] {
            object.as_object_mut().unwrap().remove(name);
        }
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("name");
        if metadata.is_empty() {
            object.as_object_mut().unwrap().remove("metadata");
        }
        object
    }

    fn owned(&self, manager: &str) -> Value {
        let entry = self.entries.iter().find(|entry| entry.manager == manager);
        let mut out = Vec::new();
        entry.map(|entry| entry.fields.clone()).unwrap_or_default().write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }
}

fn containers(list: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}

fn conflict(result: Result<(), ApplyError>) -> String {
    match result {
        Err(error @ ApplyError::Conflict(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_item_that_is_applied_no_more_goes_with_its_defaults() {
    let mut world = World::deployment();
    world.apply("a", containers(json!([{"name": "x", "image": "1"}, {"name": "y", "image": "1"}])), false).unwrap();
    let object = world.object.as_mut().unwrap();
    object["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    world.apply("a", containers(json!([{"name": "x", "image": "2"}])), false).unwrap();
    assert_eq!(world.bare(), containers(json!([{"name": "x", "image": "2"}])));
}

#[test]
fn an_item_that_another_applies_too_stays() {
    let mut world = World::deployment();
    world.apply("a", containers(json!([{"name": "x", "image": "1"}, {"name": "y", "image": "1"}])), false).unwrap();
    world.apply("b", containers(json!([{"name": "y", "tty": true}])), false).unwrap();
    world.apply("a", containers(json!([{"name": "x", "image": "1"}])), false).unwrap();
    assert_eq!(world.bare(), containers(json!([{"name": "x", "image": "1"}, {"name": "y", "tty": true}])));
}

#[test]
fn a_struct_goes_with_the_defaults_in_it_and_a_map_keeps_what_was_not_applied() {
    let mut world = World::deployment();
    let probed = json!([{"name": "x", "livenessProbe": {"tcpSocket": {"port": 1}}}]);
    world.apply("a", containers(probed), false).unwrap();
    let object = world.object.as_mut().unwrap();
    object["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] = json!(10);
    world.apply("a", containers(json!([{"name": "x"}])), false).unwrap();
    assert_eq!(world.bare(), containers(json!([{"name": "x"}])));

    let mut world = World::new("", "configmaps");
    world.apply("a", json!({"data": {"mine": "1"}}), false).unwrap();
    world.object.as_mut().unwrap()["data"]["nobodys"] = json!("2");
    world.apply("a", json!({}), false).unwrap();
    assert_eq!(world.bare(), json!({"data": {"nobodys": "2"}}));
}

#[test]
fn an_empty_piece_that_is_applied_stays_when_its_content_goes() {
    let volumes =
        |source: Value| json!({"spec": {"template": {"spec": {"volumes": [{"name": "v", "emptyDir": source}]}}}});
    let mut world = World::deployment();
    world.apply("a", volumes(json!({"medium": "Memory"})), false).unwrap();
    world.apply("a", volumes(json!({})), false).unwrap();
    assert_eq!(world.bare(), volumes(json!({})));
}

#[test]
fn what_another_owns_with_another_value_is_a_conflict_unless_forced() {
    let mut world = World::deployment();
    world.write("kubectl-create", json!({"spec": {"replicas": 2, "paused": true}}));
    let message = conflict(world.apply("a", json!({"spec": {"replicas": 3}}), false));
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas");
    let message = conflict(world.apply("a", json!({"spec": {"replicas": 3, "paused": false}}), false));
    assert_eq!(
        message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using apps/v1:\n- .spec.paused\n- .spec.replicas"
    );
    world.apply("a", json!({"spec": {"replicas": 3}}), true).unwrap();
    assert_eq!(world.owned("a"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(world.owned("kubectl-create"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(
        conflict(world.apply("b", json!({"spec": {"replicas": 4}}), false)),
        "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"
    );
}

#[test]
fn the_same_value_is_shared_and_stays_until_both_let_go() {
    let mut world = World::deployment();
    world.apply("a", json!({"spec": {"replicas": 2}}), false).unwrap();
    world.apply("b", json!({"spec": {"replicas": 2}}), false).unwrap();
    world.apply("a", json!({}), false).unwrap();
    assert_eq!(world.bare(), json!({"spec": {"replicas": 2}}));
    assert_eq!(world.owned("a"), json!({}));
    world.apply("b", json!({}), false).unwrap();
    assert_eq!(world.bare(), json!({}));
}

#[test]
fn a_write_takes_what_it_changes_from_everybody() {
    let mut world = World::deployment();
    world.apply("a", json!({"spec": {"replicas": 2, "paused": true}}), false).unwrap();
    world.write("hpa", json!({"spec": {"replicas": 5, "paused": true}}));
    assert_eq!(world.owned("a"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(world.owned("hpa"), json!({"f:spec": {"f:replicas": {}}}));
    // What the manager owns no more, it does not remove.
    world.apply("a", json!({"spec": {"paused": true}}), false).unwrap();
    assert_eq!(world.bare(), json!({"spec": {"replicas": 5, "paused": true}}));
    world.write("hpa", json!({"spec": {"paused": true}}));
    assert_eq!(world.owned("hpa"), json!({}));
}

#[test]
fn atomic_lists_are_one_piece_and_sets_are_merged() {
    let mut world = World::new("", "pods");
    world
        .apply("a", json!({"metadata": {"finalizers": ["x/a"]}, "spec": {"tolerations": [{"key": "a"}]}}), false)
        .unwrap();
    let message = conflict(world.apply("b", json!({"spec": {"tolerations": [{"key": "b"}]}}), false));
    assert!(message.ends_with(".spec.tolerations"), "{message}");
    world.apply("b", json!({"metadata": {"finalizers": ["x/b"]}}), false).unwrap();
    assert_eq!(world.bare()["metadata"]["finalizers"], json!(["x/a", "x/b"]));
    world.apply("a", json!({}), false).unwrap();
    assert_eq!(world.bare(), json!({"metadata": {"finalizers": ["x/b"]}}));
}

#[test]
fn ports_are_told_apart_by_number_and_protocol() {
    let ports = |list: Value| containers(json!([{"name": "c", "ports": list}]));
    let mut world = World::deployment();
    world.apply("a", ports(json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}])), false).unwrap();
    world.object.as_mut().unwrap()["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    world.apply("b", ports(json!([{"containerPort": 53, "protocol": "UDP", "name": "dns"}])), false).unwrap();
    world.apply("a", ports(json!([{"containerPort": 53}])), false).unwrap();
    assert_eq!(
        world.bare(),
        ports(
            json!([{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP", "name": "dns"}])
        )
    );
}

#[test]
fn the_configurations_order_wins_and_other_items_stay_where_they_were() {
    let names = |names: &[&str]| containers(names.iter().map(|name| json!({"name": name})).collect());
    let cases: [(&[&str], &[&str], &[&str]); 6] = [
        (&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]),
        (&["a", "b"], &["b", "a"], &["b", "a"]),
        (&["a", "b"], &["x", "b"], &["a", "x", "b"]),
        (&["a"], &["x", "y"], &["a", "x", "y"]),
        (&["a", "b", "c"], &["a", "x", "c"], &["a", "b", "x", "c"]),
        (&[], &["x"], &["x"]),
    ];
    for (live, config, expected) in cases {
        let mut world = World::deployment();
        world.write("w", names(live));
        world.apply("a", names(config), false).unwrap();
        assert_eq!(world.bare(), names(expected), "{live:?} ← {config:?}");
    }
}

#[test]
fn the_status_and_the_rest_have_owners_of_their_own() {
    let mut world = World::deployment();
    world.write("kubectl-create", json!({"spec": {"replicas": 1}, "status": {"replicas": 9}}));
    assert_eq!(world.owned("kubectl-create"), json!({"f:spec": {"f:replicas": {}}}));
    world.write_to("controller", Some("status"), json!({"spec": {"replicas": 7}, "status": {"replicas": 1}}));
    assert_eq!(world.owned("controller"), json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(world.entries.iter().find(|entry| entry.manager == "controller").unwrap().subresource, "status");
    assert_eq!(world.owned("kubectl-create"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn who_was_there_before_the_first_apply_keeps_its_fields() {
    let mut world = World::deployment();
    world.object = Some(world.clone().whole(json!({"spec": {"replicas": 1, "paused": true}})));
    world.write("w", json!({"spec": {"replicas": 2, "paused": true}}));
    assert!(world.entries.is_empty());
    let message = conflict(world.apply("a", json!({"spec": {"replicas": 3}}), false));
    assert!(message.contains("\"before-first-apply\" using apps/v1: .spec.replicas"), "{message}");
    world.apply("a", json!({"spec": {"replicas": 3}}), true).unwrap();
    assert_eq!(world.owned("before-first-apply"), json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn the_oldest_updates_are_folded_into_one() {
    let mut world = World::new("", "configmaps");
    let mut data = serde_json::Map::new();
    for number in 0..15 {
        data.insert(format!("k{number:02}"), json!("v"));
        world.write(&format!("m{number:02}"), json!({"data": data}));
    }
    let managers: Vec<&str> = world.entries.iter().map(|entry| entry.manager.as_str()).collect();
    assert_eq!(managers, ["ancient-changes", "m06", "m07", "m08", "m09", "m10", "m11", "m12", "m13", "m14"]);
    let ancient = world.owned("ancient-changes");
    assert_eq!(ancient["f:data"].as_object().unwrap().len(), 7, "{ancient}");
}

#[test]
fn kubectl_takes_over_from_its_own_client_side_apply() {
    let config = json!({"spec": {"replicas": 1, "paused": true}});
    let mut world = World::deployment();
    let annotation = world.whole(config.clone()).to_string();
    let mut written = config;
    written["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": annotation});
    world.write("kubectl-client-side-apply", written.clone());
    assert!(world.apply("other", json!({"spec": {"replicas": 2}}), false).is_err());
    world.apply("kubectl", json!({"spec": {"replicas": 2}}), false).unwrap();
    assert_eq!(world.bare()["spec"], json!({"replicas": 2, "paused": true}));
    let kept = &world.bare()["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(kept.as_str().unwrap().contains("\"replicas\":2"), "{kept}");
    // What somebody else changed since is a conflict as ever.
    written["spec"]["paused"] = json!(false);
    world.write("person", written);
    let message = conflict(world.apply("kubectl", json!({"spec": {"replicas": 2, "paused": true}}), false));
    assert!(message.contains("with \"person\" using apps/v1: .spec.paused"), "{message}");
}

#[test]
fn wrong_configurations_are_refused() {
    let kind = find("apps", "v1", "deployments").unwrap();
    let writer = Writer { kind, subresource: None, manager: "a", now: Timestamp::UNIX_EPOCH };
    let refused = |config: Value| apply(&writer, (None, &config), Vec::new(), false).unwrap_err().to_string();
    let meta = json!({"name": "x", "namespace": "n"});
    assert_eq!(refused(json!({"apiVersion": "v1", "kind": "Pod"})), "invalid object type: /v1, Kind=Pod");
    assert_eq!(refused(json!({"metadata": meta})), "invalid object type: /, Kind=");
    assert_eq!(
        refused(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "managedFields": []}})),
        "metadata.managedFields must be nil"
    );
    assert_eq!(
        refused(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"foo": 1}})),
        "failed to create typed patch object (n/x; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
    );
}

/// A configuration of a deployment out of a few fields, lists and maps of the names `a` to `c`.
fn config() -> impl Strategy<Value = Value> {
    let item =
        || prop::collection::btree_map("[a-c]", (prop::option::of("[1-3]"), prop::option::of(any::<bool>())), 0..3);
    let labels = prop::collection::btree_map("[a-c]", "[1-2]", 0..3);
    (prop::option::of(1..4i32), any::<bool>(), item(), item(), labels).prop_map(
        |(replicas, probe, items, init, labels)| {
            let list = |items: std::collections::BTreeMap<String, (Option<String>, Option<bool>)>| -> Vec<Value> {
                let one = |(name, (image, tty)): (String, (Option<String>, Option<bool>))| {
                    let mut item = json!({"name": name, "image": image, "tty": tty});
                    item.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                    item
                };
                items.into_iter().map(one).collect()
            };
            let mut spec = json!({"template": {"spec": {}}});
            if let Some(replicas) = replicas {
                spec["replicas"] = replicas.into();
            }
            if probe {
                spec["strategy"] = json!({"rollingUpdate": {"maxSurge": 1}});
            }
            for (name, items) in [("containers", list(items)), ("initContainers", list(init))] {
                if !items.is_empty() {
                    spec["template"]["spec"][name] = items.into();
                }
            }
            json!({"metadata": {"labels": labels}, "spec": spec})
        },
    )
}

/// The same with every name and value marked, so that two of them share nothing but structure.
fn marked(value: &Value, mark: &str) -> Value {
    match value {
        Value::Object(fields) => {
            let keep =
                |name: &str| ["metadata", "spec", "template", "containers", "initContainers", "labels"].contains(&name);
            let one = |(name, value): (&String, &Value)| match name.as_str() {
                "name" => (name.clone(), Value::from(format!("{mark}{}", value.as_str().unwrap()))),
                name if keep(name) => (name.to_owned(), marked(value, mark)),
                "a" | "b" | "c" => (format!("{mark}{name}"), value.clone()),
                _ => (name.clone(), value.clone()),
            };
            let own = |name: &str| !["replicas", "strategy"].contains(&name);
            Value::Object(fields.iter().map(one).filter(|(name, _)| own(name)).collect())
        }
        Value::Array(items) => items.iter().map(|item| marked(item, mark)).collect(),
        scalar => scalar.clone(),
    }
}

/// A value without the order of its lists and without what is empty.
fn unordered(value: &Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(unordered).collect();
            items.sort_by_key(Value::to_string);
            items.into()
        }
        Value::Object(fields) => {
            let kept = fields.iter().map(|(name, value)| (name.clone(), unordered(value)));
            kept.filter(|(_, value)| !crate::look::is_empty(value)).collect()
        }
        scalar => scalar.clone(),
    }
}

fn sets(world: &World) -> Vec<(String, Set)> {
    let mut all: Vec<_> = world.entries.iter().map(|entry| (entry.manager.clone(), entry.fields.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(first in config(), other in config(), config in config()) {
        let mut world = World::deployment();
        world.write("w", first);
        let _ = world.apply("b", other, true);
        world.apply("a", config.clone(), true).unwrap();
        let once = world.clone();
        world.apply("a", config, false).unwrap();
        prop_assert_eq!(&world.object, &once.object);
        prop_assert_eq!(&world.entries, &once.entries);
    }

    #[test]
    fn managers_of_different_fields_do_not_meet(a in config(), b in config(), a2 in config()) {
        let (a, a2, b) = (marked(&a, "x"), marked(&a2, "x"), marked(&b, "y"));
        let mut one = World::deployment();
        one.apply("a", a.clone(), false).unwrap();
        one.apply("b", b.clone(), false).unwrap();
        one.apply("a", a2.clone(), false).unwrap();
        let mut two = World::deployment();
        two.apply("b", b, false).unwrap();
        two.apply("a", a, false).unwrap();
        two.apply("a", a2, false).unwrap();
        prop_assert_eq!(unordered(&one.bare()), unordered(&two.bare()));
        prop_assert_eq!(sets(&one), sets(&two));
    }

    #[test]
    fn an_apply_removes_nothing_that_its_manager_did_not_apply(live in config(), a in config(), a2 in config()) {
        let mut world = World::deployment();
        world.write("w", live.clone());
        let before = sets(&world).into_iter().find(|(manager, _)| manager == "w").map(|(_, set)| set).unwrap_or_default();
        world.apply("a", a, true).unwrap();
        world.apply("a", a2, true).unwrap();
        // What the writer still owns is there, and is what it wrote.
        let still = sets(&world).into_iter().find(|(manager, _)| manager == "w").map(|(_, set)| set).unwrap_or_default();
        prop_assert!(still.intersection(&before) == still);
        let difference = super::compare::compare(
            super::shape::Form::root("apps.v1.Deployment"), Some(&live), world.object.as_ref().unwrap(),
        );
        prop_assert!(difference.removed.intersection(&still).is_empty());
        prop_assert!(difference.changed.intersection(&still).is_empty());
    }

    #[test]
    fn what_is_applied_is_there_and_what_all_let_go_is_not(a in config(), b in config()) {
        let mut world = World::deployment();
        world.apply("a", a, false).unwrap();
        world.apply("a", b.clone(), false).unwrap();
        prop_assert_eq!(unordered(&world.bare()), unordered(&b));
        world.apply("a", json!({}), false).unwrap();
        prop_assert_eq!(unordered(&world.bare()), json!({}));
    }

    #[test]
    fn stored_owners_follow_a_write_as_read_ones_do(live in config(), a in config(), next in config(), again in any::<bool>()) {
        let mut world = World::deployment();
        world.write("w", live);
        world.write_to("s", Some("status"), json!({"status": {"replicas": 1}}));
        world.apply("a", a, true).unwrap();
        let next = world.whole(next);
        let writer = world.writer(if again { "w" } else { "z" }, None);
        let old = world.object.as_ref();
        let slow = update(&writer, (old, &next), || world.entries.clone());
        let fast = update_stored(&writer, (old, &next), &write(&world.entries));
        prop_assert_eq!(fast, slow.map(|entries| write(&entries)));
    }

    #[test]
    fn sets_survive_their_written_form(config in config()) {
        let set = super::compare::fields_of(super::shape::Form::root("apps.v1.Deployment"), &config).below;
        let mut out = Vec::new();
        set.write(&mut out);
        let back: Set = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(back.canonical(), Some(set.clone()));
        prop_assert_eq!(back, set);
    }
}
