//! From the bytes of a file or an answer to pods as the API server would have made them.
//!
//! Pure. Owns what makes a manifest a static pod: its UID, name, annotations, defaults, and what it may not use. Start
//! at [`pod`] and [`pods`].

use crate::{object::Pod, pod::clock::Clock};
use api::{
    look,
    pod::reference::{Reference, references},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// Annotation: `file` or `http`.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// Annotation: the static pod's UID.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Annotation: when this content was first seen.
pub const SEEN: &str = "kubernetes.io/config.seen";
/// Annotation of a mirror: the UID of the static pod that it shows.
pub const MIRROR: &str = api::rules::pod::MIRROR_ANNOTATION;

/// What a manifest may not say, because an API server says it.
const OF_THE_SERVER: [&str; 8] = [
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "managedFields",
    "ownerReferences",
    "selfLink",
];
/// The priorities of the classes that every cluster has (also one that cannot be asked).
const PRIORITIES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// The kind of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Origin {
    /// `staticPodPath`.
    File,
    /// `staticPodURL`.
    Url,
}

impl Origin {
    /// As the annotation says it.
    pub fn source(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Url => "http",
        }
    }
}

/// A pod from a source, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticPod {
    /// The kind of its source.
    pub origin: Origin,
    /// The file or URL that it stands in.
    pub from: String,
    /// The whole object, as its mirror shows it.
    pub object: Value,
    /// What the node needs of it.
    pub pod: Arc<Pod>,
}

impl StaticPod {
    /// From a whole object.
    ///
    /// # Errors
    /// When it is no pod.
    pub fn new(origin: Origin, from: String, object: Value) -> Result<Self, serde_json::Error> {
        let mut pod: Pod = serde_json::from_value(object.clone())?;
        pod.is_static = true;
        Ok(Self { origin, from, object, pod: Arc::new(pod) })
    }

    /// Its UID on this node; that of its mirror is another one.
    pub fn uid(&self) -> &str {
        self.pod.uid()
    }

    /// Its namespace and name.
    pub fn name(&self) -> super::Name {
        super::Name::of(&self.pod)
    }

    /// Whether both say the same, whenever they were seen.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let bare = |pod: &Self| {
            let mut object = pod.object.clone();
            look::remove(look::child(look::child(&mut object, "metadata"), "annotations"), SEEN);
            object
        };
        self.origin == other.origin && self.from == other.from && bare(self) == bare(other)
    }
}

/// Why a manifest gives no pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It cannot be read.
    #[error("it is neither YAML nor JSON: {0}")]
    Syntax(String),
    /// It is something else.
    #[error("it holds {0}, not a v1 Pod")]
    Kind(String),
    /// Without a name.
    #[error("invalid pod: name is needed for the pod")]
    NoName,
    /// The UID becomes part of paths.
    #[error("invalid pod: metadata.uid {0:?} is no UID: letters, digits and '-', at most 64")]
    Uid(String),
    /// What an API server would refuse too.
    #[error("invalid pod: {0}")]
    Invalid(String),
    /// It needs an object of the API.
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
}

/// Whose node reads, and when.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub node_name: String,
    pub clock: Clock,
}

impl Reader {
    pub(super) fn place<'a>(&'a self, origin: Origin, from: &'a str) -> Place<'a> {
        Place { origin, from, node_name: &self.node_name, now: self.clock.now() }
    }
}

/// Where a manifest stands, and when it is read.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The kind of its source.
    pub origin: Origin,
    /// The file or URL.
    pub from: &'a str,
    /// The node that reads it.
    pub node_name: &'a str,
    /// When.
    pub now: Timestamp,
}

/// The pod in a manifest, and the names of fields in it that nobody knows.
///
/// # Errors
/// [`Refused`].
pub fn pod(bytes: &[u8], place: Place<'_>) -> Result<(StaticPod, Vec<String>), Refused> {
    prepare(document(bytes)?, place)
}

/// The pods of an answer: a Pod, or a PodList of which every pod is good.
///
/// # Errors
/// [`Refused`].
pub fn pods(bytes: &[u8], place: Place<'_>) -> Result<Vec<StaticPod>, Refused> {
    let document = document(bytes)?;
    if look::text(&document, "kind") != "PodList" {
        return Ok(vec![prepare(document, place)?.0]);
    }
    look::list(&document, "items").iter().map(|item| Ok(prepare(item.clone(), place)?.0)).collect()
}

fn document(bytes: &[u8]) -> Result<Value, Refused> {
    let text = std::str::from_utf8(bytes).map_err(|error| Refused::Syntax(error.to_string()))?;
    if text.trim().is_empty() {
        return Err(Refused::Empty);
    }
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    serde_saphyr::from_str(text).map_err(|error| Refused::Syntax(error.to_string()))
}

fn prepare(mut object: Value, place: Place<'_>) -> Result<(StaticPod, Vec<String>), Refused> {
    let kind = api::find("", "v1", "pods").expect("the table of kinds has pods");
    let said = [look::text(&object, "apiVersion"), look::text(&object, "kind")];
    // The items of a list need not repeat what they are.
    if !object.is_object() || !matches!(said, ["v1", "Pod"] | ["", ""]) {
        return Err(Refused::Kind(format!("{:?}", said.join(" ").trim())));
    }
    let report = api::schema::check(kind, &object);
    if let Some(wrong) = report.mistyped.first() {
        return Err(Refused::Invalid(wrong.message.clone()));
    }
    api::schema::prune(kind, &mut object);
    strip(&mut object);
    if look::text_at(&object, &["metadata", "name"]).is_empty() {
        return Err(Refused::NoName);
    }
    let uid = uid(&object, place)?;
    // IMG-24: exactly what an API server does to a new pod.
    kind.rules.default(&mut object);
    settle(&mut object, &uid, place);
    kind.rules.prepare_create(&mut object, place.now);
    let mut errors = api::meta::validate_create(kind, &object);
    errors.extend(kind.rules.validate_create(&object));
    if !errors.is_empty() {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(Refused::Invalid(texts.join(", ")));
    }
    // IMG-190: pull secrets are not read, and the mirror is refused; everything else has to be there for the pod to run.
    let needed = references(&object["spec"]).into_iter().find(|reference| *reference != Reference::PullSecret);
    if let Some(reference) = needed {
        return Err(Refused::Reference(reference.plural()));
    }
    let pod = StaticPod::new(place.origin, place.from.to_owned(), object);
    Ok((pod.map_err(|error| Refused::Invalid(error.to_string()))?, report.unknown))
}

/// Takes away what only an API server or the node may say.
fn strip(object: &mut Value) {
    look::set(object, "apiVersion", "v1");
    look::set(object, "kind", "Pod");
    look::remove(object, "status");
    let metadata = look::child(object, "metadata");
    for field in OF_THE_SERVER {
        look::remove(metadata, field);
    }
    if let Some(annotations) = look::get_mut(metadata, "annotations") {
        for name in [SOURCE, HASH, SEEN, MIRROR] {
            look::remove(annotations, name);
        }
    }
}

/// The UID that the manifest gives, else one made of node, place and content. Made before the defaults, so that pods run
/// on when a new version has other defaults.
fn uid(object: &Value, place: Place<'_>) -> Result<String, Refused> {
    let given = look::text_at(object, &["metadata", "uid"]);
    if !given.is_empty() {
        let good = given.len() <= 64 && given.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        return if good { Ok(given.to_owned()) } else { Err(Refused::Uid(given.to_owned())) };
    }
    let place = match place.origin {
        Origin::File => format!("host:{}\0file:{}", place.node_name, place.from),
        Origin::Url => format!("url:{}", place.from),
    };
    let digest = Sha256::digest(format!("{place}\0{object}"));
    Ok(hex::encode(&digest[..16]))
}

/// Binds the pod to this node and marks where it comes from.
fn settle(object: &mut Value, uid: &str, place: Place<'_>) {
    let metadata = look::child(object, "metadata");
    let name = format!("{}-{}", look::text(metadata, "name"), place.node_name.to_lowercase());
    look::set(metadata, "name", name);
    look::set(metadata, "uid", uid);
    look::set_empty(metadata, "namespace", "default");
    let annotations = look::child(metadata, "annotations");
    look::set(annotations, SOURCE, place.origin.source());
    look::set(annotations, HASH, uid);
    look::set(annotations, SEEN, place.now.to_string());
    let spec = look::child(object, "spec");
    look::set(spec, "nodeName", place.node_name);
    let class = look::text(spec, "priorityClassName");
    if let Some((_, priority)) = PRIORITIES.iter().find(|(name, _)| *name == class) {
        look::set_absent(spec, "priority", *priority);
    }
    if place.origin == Origin::File {
        tolerate(spec);
    }
}

/// What is wrong with the node does not take its own pods away.
fn tolerate(spec: &mut Value) {
    let mut all = look::list(spec, "tolerations").to_vec();
    let wanted = json!({"operator": "Exists", "effect": "NoExecute"});
    let covers = |given: &Value| {
        look::text(given, "key").is_empty()
            && look::text(given, "operator") == "Exists"
            && matches!(look::text(given, "effect"), "" | "NoExecute")
            && look::get(given, "tolerationSeconds").is_none()
    };
    if !all.iter().any(covers) {
        all.push(wanted);
        look::set(spec, "tolerations", all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x:1}]}";

    fn place(origin: Origin) -> Place<'static> {
        Place { origin, from: "/etc/manifests/web.yaml", node_name: "node1", now: Timestamp::UNIX_EPOCH }
    }

    fn read(text: &str) -> StaticPod {
        pod(text.as_bytes(), place(Origin::File)).unwrap().0
    }

    fn refused(text: &str) -> String {
        pod(text.as_bytes(), place(Origin::File)).unwrap_err().to_string()
    }

    #[test]
    fn img_24_a_manifest_gets_what_an_api_server_would_add() {
        let pod = read(WEB);
        let container = &pod.object["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
        assert_eq!(pod.object["spec"]["terminationGracePeriodSeconds"], 30);
        assert_eq!(pod.object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        let latest = read(&WEB.replace("x:1", "x"));
        assert_eq!(latest.object["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod.pod.spec.containers[0].image_pull_policy, "IfNotPresent", "what runs is what is shown");
    }

    #[test]
    fn a_static_pod_is_bound_named_and_marked() {
        let pod = read(WEB);
        let metadata = &pod.object["metadata"];
        assert_eq!((&metadata["name"], &metadata["namespace"]), (&json!("web-node1"), &json!("default")));
        assert_eq!(pod.object["spec"]["nodeName"], "node1");
        let marks = &metadata["annotations"];
        assert_eq!((&marks[SOURCE], &marks[HASH]), (&json!("file"), &metadata["uid"]));
        assert_eq!(marks[SEEN], "1970-01-01T00:00:00Z");
        assert_eq!(pod.object["spec"]["tolerations"], json!([{"operator": "Exists", "effect": "NoExecute"}]));
        assert!(pod.pod.is_static);
        let fetched = pods(WEB.as_bytes(), place(Origin::Url)).unwrap();
        assert_eq!(fetched[0].object["metadata"]["annotations"][SOURCE], "http");
        assert_eq!(fetched[0].object["spec"]["tolerations"], Value::Null);
    }

    #[test]
    fn the_uid_follows_the_content_and_the_place_and_nothing_else() {
        let uid = |text: &str| read(text).uid().to_owned();
        let first = uid(WEB);
        assert_eq!(first.len(), 32);
        let json = r#"{"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [{"image": "x:1", "name": "c"}]}, "metadata": {"name": "web"}}"#;
        assert_eq!(uid(json), first, "the same in other words");
        assert_eq!(uid(&format!("# a comment\n{WEB}\nstatus: {{phase: Running}}")), first);
        assert_ne!(uid(&WEB.replace("x:1", "x:2")), first);
        let later = Place { now: Timestamp::MAX, ..place(Origin::File) };
        assert_eq!(pod(WEB.as_bytes(), later).unwrap().0.uid(), first);
        let elsewhere = Place { from: "/etc/manifests/other.yaml", ..place(Origin::File) };
        assert_ne!(pod(WEB.as_bytes(), elsewhere).unwrap().0.uid(), first);
        assert_eq!(uid(&WEB.replace("name: web", "name: web, uid: mine-1")), "mine-1");
        assert!(refused(&WEB.replace("name: web", "name: web, uid: ../x")).contains("\"../x\" is no UID"));
    }

    #[test]
    fn what_is_wrong_with_a_manifest_is_said() {
        assert_eq!(refused(" \n"), "it is empty");
        assert!(refused("a: [").starts_with("it is neither YAML nor JSON: "));
        assert_eq!(refused(&WEB.replace("kind: Pod", "kind: Node")), "it holds \"v1 Node\", not a v1 Pod");
        assert_eq!(refused(&WEB.replace("name: web", "labels: {}")), "invalid pod: name is needed for the pod");
        assert!(refused(&WEB.replace("name: c,", "")).contains("spec.containers[0].name: Required value"));
        let typed = refused(&WEB.replace("name: c,", "name: c, stdin: 3,"));
        assert!(typed.starts_with("invalid pod: ") && typed.contains("stdin"), "{typed}");
        assert!(refused(&format!("{WEB}\n---\n{WEB}")).starts_with("it is neither YAML nor JSON: "), "one pod a file");
    }

    #[test]
    fn what_nobody_knows_is_dropped_and_told() {
        let text = WEB.replace("name: c,", "name: c, colour: red,");
        let (pod, unknown) = pod(text.as_bytes(), place(Origin::File)).unwrap();
        assert_eq!(unknown, ["unknown field \"spec.containers[0].colour\""]);
        assert_eq!(pod.object["spec"]["containers"][0]["colour"], Value::Null);
    }

    #[test]
    fn img_190_static_pods_refer_to_nothing_but_pull_secrets_that_nobody_reads() {
        let with = |spec: &str| refused(&WEB.replace("spec: {", &format!("spec: {{{spec}, ")));
        assert_eq!(with("serviceAccountName: robot"), "static pods may not reference serviceaccounts");
        assert_eq!(with("volumes: [{name: v, secret: {secretName: s}}]"), "static pods may not reference secrets");
        assert_eq!(with("volumes: [{name: v, configMap: {name: s}}]"), "static pods may not reference configmaps");
        let allowed = read(&WEB.replace("spec: {", "spec: {imagePullSecrets: [{name: s}], "));
        assert_eq!(allowed.pod.spec.image_pull_secrets[0].name, "s");
    }

    #[test]
    fn a_critical_pod_has_its_number_without_being_admitted() {
        let pod = read(&WEB.replace("spec: {", "spec: {priorityClassName: system-node-critical, "));
        assert_eq!(pod.pod.spec.priority, Some(2_000_001_000));
    }

    #[test]
    fn an_answer_is_a_pod_or_a_list_of_good_pods() {
        let list = |second: &str| {
            format!(
                r#"{{"apiVersion": "v1", "kind": "PodList", "items": [
                {{"metadata": {{"name": "a"}}, "spec": {{"containers": [{{"name": "c", "image": "x"}}]}}}},
                {{"metadata": {{"name": "{second}"}}, "spec": {{"containers": [{{"name": "c", "image": "x"}}]}}}}]}}"#
            )
        };
        let read = |text: &str| pods(text.as_bytes(), place(Origin::Url));
        let names: Vec<String> = read(&list("b")).unwrap().iter().map(|pod| pod.pod.name().to_owned()).collect();
        assert_eq!(names, ["a-node1", "b-node1"]);
        assert_eq!(read(&list("")).unwrap_err(), Refused::NoName);
        assert_eq!(read(WEB).unwrap().len(), 1);
    }

    #[test]
    fn the_time_of_seeing_makes_no_difference() {
        let (first, later) = (read(WEB), Place { now: Timestamp::MAX, ..place(Origin::File) });
        let again = pod(WEB.as_bytes(), later).unwrap().0;
        assert!(first != again && first.says_the_same(&again));
        assert!(!first.says_the_same(&read(&WEB.replace("x:1", "x:2"))));
    }
}
