//! Sets of fields: trees of path elements, some of which are members.
//!
//! An element is kept as FieldsV1 writes it: `f:replicas` a field, `k:{"name":"c"}` an item of a list by its keys,
//! `v:"x"` an item of a set by its value. So a set is read and written without being taken apart. Start at [`Set`].

use std::cmp::Ordering;
use std::fmt::Write;

use serde_json::Value;

/// A set of paths below one object. The nodes are in order of their elements, and each leads to a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    nodes: Vec<Node>,
}

/// One path element: whether it is a member itself, and what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) element: Box<str>,
    pub(super) branch: Branch,
}

/// A path without its last element: a member or not, and what is below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) member: bool,
    pub(super) below: Set,
}

impl Branch {
    /// Just a member.
    pub(super) fn leaf() -> Branch {
        Branch { member: true, below: Set::default() }
    }

    /// Whether there is no member in it.
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// The element of a field.
pub(super) fn field(name: &str) -> Box<str> {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element.into_boxed_str()
}

impl Set {
    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Adds a branch. Elements come in order nearly always, so that this is an append.
    pub(super) fn add(&mut self, element: Box<str>, branch: Branch) {
        if branch.is_empty() {
            return;
        }
        match self.nodes.last().map(|last| last.element.as_ref().cmp(&element)) {
            None | Some(Ordering::Less) => self.nodes.push(Node { element, branch }),
            _ => match self.position(&element) {
                Ok(at) => self.nodes[at].branch.unite(&branch),
                Err(at) => self.nodes.insert(at, Node { element, branch }),
            },
        }
    }

    fn position(&self, element: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.element.as_ref().cmp(element))
    }

    pub(super) fn get(&self, element: &str) -> Option<&Branch> {
        self.position(element).ok().map(|at| &self.nodes[at].branch)
    }

    /// Adds the members of another set.
    pub fn unite(&mut self, other: &Set) {
        for node in &other.nodes {
            match self.position(&node.element) {
                Ok(at) => self.nodes[at].branch.unite(&node.branch),
                Err(at) => self.nodes.insert(at, node.clone()),
            }
        }
    }

    /// Takes away the members of another set; what is below them stays. Tells whether any was there.
    pub fn subtract(&mut self, other: &Set) -> bool {
        let mut taken = false;
        for node in &other.nodes {
            let Ok(at) = self.position(&node.element) else { continue };
            let branch = &mut self.nodes[at].branch;
            taken |= branch.member && node.branch.member;
            branch.member &= !node.branch.member;
            taken |= branch.below.subtract(&node.branch.below);
            if branch.is_empty() {
                self.nodes.remove(at);
            }
        }
        taken
    }

    /// The members that both have.
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set::default();
        for node in &self.nodes {
            let Some(branch) = other.get(&node.element) else { continue };
            let member = node.branch.member && branch.member;
            let below = node.branch.below.intersection(&branch.below);
            out.add(node.element.clone(), Branch { member, below });
        }
        out
    }

    /// Takes away one member, a path of fields.
    pub(super) fn remove(&mut self, path: &[&str]) {
        self.cut(path, &mut |branch| branch.member = false);
    }

    /// Takes away everything at and below a path of fields.
    pub(super) fn forget(&mut self, path: &[&str]) {
        self.cut(path, &mut |branch| *branch = Branch::default());
    }

    fn cut(&mut self, path: &[&str], change: &mut dyn FnMut(&mut Branch)) {
        let Some((first, rest)) = path.split_first() else { return };
        let found =
            self.nodes.binary_search_by(|node| node.element.strip_prefix("f:").unwrap_or("\u{10ffff}").cmp(first));
        let Ok(at) = found else { return };
        let branch = &mut self.nodes[at].branch;
        match rest {
            [] => change(branch),
            rest => branch.below.cut(rest, change),
        }
        if branch.is_empty() {
            self.nodes.remove(at);
        }
    }

    /// The members as paths for people: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        for node in &self.nodes {
            let length = path.len();
            show(&node.element, path);
            if node.branch.member {
                out.push(path.clone());
            }
            node.branch.below.collect(path, out);
            path.truncate(length);
        }
    }
}

impl Branch {
    fn unite(&mut self, other: &Branch) {
        self.member |= other.member;
        self.below.unite(&other.below);
    }
}

/// Appends an element as messages show it.
pub(super) fn show(element: &str, out: &mut String) {
    match element.split_at_checked(2) {
        Some(("f:", name)) => {
            out.push('.');
            out.push_str(name);
        }
        Some(("k:", keys)) => {
            let keys: Value = serde_json::from_str(keys).unwrap_or(Value::Null);
            let pairs = keys.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={value}"));
            // Writing into a text cannot fail.
            let _ = write!(out, "[{}]", pairs.collect::<Vec<_>>().join(","));
        }
        Some(("v:", value)) => {
            let _ = write!(out, "[={value}]");
        }
        Some((_, index)) => {
            let _ = write!(out, "[{index}]");
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(fields: Value) -> Set {
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn sets_are_united_subtracted_and_intersected_by_member() {
        let a = set(json!({"f:a": {}, "f:m": {".": {}, "f:x": {}, "f:y": {}}}));
        let b = set(json!({"f:b": {}, "f:m": {"f:y": {}, "f:z": {}}}));
        let mut union = a.clone();
        union.unite(&b);
        assert_eq!(union, set(json!({"f:a": {}, "f:b": {}, "f:m": {".": {}, "f:x": {}, "f:y": {}, "f:z": {}}})));
        let mut rest = a.clone();
        assert!(rest.subtract(&b));
        assert_eq!(rest, set(json!({"f:a": {}, "f:m": {".": {}, "f:x": {}}})));
        assert!(!rest.subtract(&b));
        assert_eq!(a.intersection(&b), set(json!({"f:m": {"f:y": {}}})));
        assert!(a.intersection(&set(json!({"f:m": {"f:q": {}}}))).is_empty());
    }

    #[test]
    fn subtracting_a_member_leaves_what_is_below_it() {
        let mut a = set(json!({"f:m": {".": {}, "f:x": {}}}));
        a.subtract(&set(json!({"f:m": {}})));
        assert_eq!(a, set(json!({"f:m": {"f:x": {}}})));
        a.subtract(&set(json!({"f:m": {"f:x": {}}})));
        assert!(a.is_empty());
    }

    #[test]
    fn members_and_branches_are_cut_out_by_path() {
        let mut a =
            set(json!({"f:metadata": {".": {}, "f:name": {}, "f:labels": {"f:a": {}}}, "f:status": {"f:x": {}}}));
        a.remove(&["metadata"]);
        a.remove(&["metadata", "name"]);
        a.remove(&["status"]);
        a.remove(&["no", "such"]);
        assert_eq!(a, set(json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:status": {"f:x": {}}})));
        a.forget(&["status"]);
        assert_eq!(a, set(json!({"f:metadata": {"f:labels": {"f:a": {}}}})));
    }

    #[test]
    fn paths_read_as_upstream_prints_them() {
        let a = set(json!({
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {"f:name": {}}}}}},
            "f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}},
        }));
        assert_eq!(
            a.paths(),
            [
                ".metadata.finalizers[=\"a/b\"]",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].name",
            ]
        );
    }
}
