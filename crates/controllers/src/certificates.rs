//! Requests for certificates: nodes' own are approved, what is approved is signed, and what is done with goes.
//!
//! Whether a node may is asked of the API once, and again only after roles or bindings have changed. Keys are not here:
//! the [`Signer`] that signs is handed in. Start at [`decide`] and [`Facts::read`].

use std::time::Duration;

use api::certificate::{self, GROUP, NODE_CLIENT, NODE_SERVING, PLURAL, Request};
use api::{Timestamp, look, time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use kube::Client;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::call::{self, Error};
use crate::view::World;

/// What is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The request, DER. Its form was checked.
    pub request: Vec<u8>,
    /// Names of the usages of the certificate.
    pub usages: Vec<String>,
    /// The life that was asked for; the signer has a limit of its own.
    pub seconds: Option<i64>,
}

/// Who holds the key: makes a certificate (PEM) of an order, or says why not.
pub type Signer = BoxCloneSyncService<Order, String, String>;

/// The signers that are served here.
const SIGNERS: [&str; 3] = [certificate::CLIENT, NODE_CLIENT, NODE_SERVING];

/// How long requests stay that were answered, denied or failed.
const DONE: Duration = Duration::from_secs(3600);
/// How long requests stay that nobody answered.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// How far a request has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Nobody has said anything.
    Pending,
    /// Somebody said no, then.
    Denied(Option<Timestamp>),
    /// The signer could not, then.
    Failed(Option<Timestamp>),
    /// Somebody said yes.
    Approved,
    /// There is a certificate since then, which ends then.
    Issued(Option<Timestamp>, Option<i64>),
    /// Something else was said, which is nobody's here.
    Other,
}

/// What is kept of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// metadata.uid.
    pub uid: String,
    /// How far it has come.
    pub stage: Stage,
    /// When it came.
    pub created: Option<Timestamp>,
    /// Whether a signer of this room is asked.
    pub is_ours: bool,
    /// By which of these rights it may be approved without a person.
    pub rights: Vec<&'static str>,
    /// At which count of changes of rights it was last found that none of them is held.
    pub judged: u64,
}

/// What can be wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    /// metadata.name.
    pub name: String,
    /// metadata.uid: another request of the name is not meant.
    pub uid: String,
    /// What to do.
    pub deed: Deed,
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Approve it if who asks may; rights have changed so often.
    Approve(u64),
    /// Sign it, or say why not.
    Sign,
    /// Remove it.
    Remove,
}

impl Facts {
    /// Reads them from a request.
    pub fn read(object: &Value) -> Facts {
        let spec = |field| look::text_at(object, &["spec", field]);
        let stage = stage(object);
        Facts {
            uid: look::text_at(object, &["metadata", "uid"]).to_owned(),
            created: time::parse(look::text_at(object, &["metadata", "creationTimestamp"])),
            is_ours: SIGNERS.contains(&spec("signerName")),
            rights: if stage == Stage::Pending { rights(object) } else { Vec::new() },
            stage,
            judged: 0,
        }
    }

    /// When it may go; None while somebody may still need it.
    fn goes_at(&self) -> Option<Timestamp> {
        let after = |since: Option<Timestamp>, time: Duration| since?.checked_add(time).ok();
        match &self.stage {
            Stage::Pending => after(self.created, PENDING),
            Stage::Denied(since) | Stage::Failed(since) => after(*since, DONE),
            Stage::Issued(since, ends) => {
                let ends = ends.and_then(|ends| Timestamp::from_second(ends).ok());
                after(*since, DONE).into_iter().chain(ends).min()
            }
            Stage::Approved | Stage::Other => None,
        }
    }
}

fn stage(object: &Value) -> Stage {
    let conditions = look::list_at(object, &["status", "conditions"]);
    let of = |kind: &str| conditions.iter().find(|one| look::text(one, "type") == kind);
    let since = |one: &Value| time::parse(look::text(one, "lastUpdateTime"));
    let certificate = look::text_at(object, &["status", "certificate"]);
    match (of("Denied"), of("Failed"), of("Approved")) {
        (Some(denied), _, _) => Stage::Denied(since(denied)),
        (None, Some(failed), _) => Stage::Failed(since(failed)),
        (None, None, Some(approved)) if !certificate.is_empty() => {
            let pem = STANDARD.decode(certificate).unwrap_or_default();
            Stage::Issued(since(approved), certificate::end(&pem))
        }
        (None, None, Some(_)) => Stage::Approved,
        (None, None, None) if conditions.is_empty() && certificate.is_empty() => Stage::Pending,
        (None, None, None) => Stage::Other,
    }
}

/// The rights of which one is enough for an approval without a person: for a node's client certificate alone.
fn rights(object: &Value) -> Vec<&'static str> {
    let spec = |field| look::text_at(object, &["spec", field]);
    let Some(spec_value) = look::get(object, "spec") else { return Vec::new() };
    let Ok(request) = Request::of(object) else { return Vec::new() };
    let usages = look::texts(spec_value, "usages");
    if spec("signerName") != NODE_CLIENT || certificate::complaint(NODE_CLIENT, &request, &usages).is_some() {
        return Vec::new();
    }
    match spec("username") == request.common_name {
        true => vec!["selfnodeclient", "nodeclient"],
        false => vec!["nodeclient"],
    }
}

/// What is to be done, and when to look again.
pub fn decide(world: &World, now: Timestamp) -> (Vec<Task>, Option<Timestamp>) {
    let (mut tasks, mut wake_at) = (Vec::new(), None::<Timestamp>);
    for (name, facts) in &world.requests {
        let mut task = |deed| tasks.push(Task { name: name.clone(), uid: facts.uid.clone(), deed });
        match facts.goes_at() {
            Some(at) if at <= now => {
                task(Deed::Remove);
                continue;
            }
            Some(at) => wake_at = Some(wake_at.map_or(at, |wake_at| wake_at.min(at))),
            None => {}
        }
        match facts.stage {
            Stage::Pending if !facts.rights.is_empty() && facts.judged < world.rights => {
                task(Deed::Approve(world.rights));
            }
            Stage::Approved if facts.is_ours && world.signs => task(Deed::Sign),
            _ => {}
        }
    }
    (tasks, wake_at)
}

/// Notes that a task was carried out.
pub fn done(world: &mut World, task: &Task) {
    let Deed::Approve(rights) = task.deed else { return };
    if let Some(facts) = world.requests.get_mut(&task.name).filter(|facts| facts.uid == task.uid) {
        facts.judged = facts.judged.max(rights);
    }
}

/// Carries out a task.
pub async fn act(client: &Client, task: &Task, signer: Option<Signer>) -> Result<(), Error> {
    let path = format!("/apis/{GROUP}/v1/{PLURAL}/{}", task.name);
    if task.deed == Deed::Remove {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": task.uid}});
        return call::call_unless(client, Method::DELETE, &path, Some(&options), &[404, 409]).await;
    }
    let object = match call::call(client, Method::GET, &path, None).await {
        Err(error) if error.status() == Some(404) => return Ok(()),
        outcome => outcome?,
    };
    if look::text_at(&object, &["metadata", "uid"]) != task.uid {
        return Ok(());
    }
    let facts = Facts::read(&object);
    match (task.deed, &facts.stage, signer) {
        (Deed::Approve(_), Stage::Pending, _) => approve(client, &path, object, &facts.rights).await,
        (Deed::Sign, Stage::Approved, Some(signer)) => sign(client, &path, object, signer).await,
        _ => Ok(()),
    }
}

async fn approve(client: &Client, path: &str, mut object: Value, rights: &[&str]) -> Result<(), Error> {
    for right in rights {
        let review = review(&object, right);
        let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = call::call(client, Method::POST, reviews, Some(&review)).await?;
        if look::at(&answer, &["status", "allowed"]) != Some(&Value::Bool(true)) {
            continue;
        }
        let own = if *right == "selfnodeclient" { "self " } else { "" };
        let message = format!("Auto approving {own}kubelet client certificate after SubjectAccessReview.");
        add_condition(&mut object, "Approved", "AutoApproved", &message);
        return call::call(client, Method::PUT, &format!("{path}/approval"), Some(&object)).await.map(drop);
    }
    Ok(())
}

/// Whether who sent the request may have it.
fn review(object: &Value, right: &str) -> Value {
    let spec = &object["spec"];
    json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": spec["username"], "uid": look::text(spec, "uid"),
            "groups": look::list(spec, "groups"), "extra": look::get(spec, "extra").cloned().unwrap_or(json!({})),
            "resourceAttributes": {"group": GROUP, "resource": PLURAL, "subresource": right, "verb": "create"},
        },
    })
}

fn add_condition(object: &mut Value, kind: &str, reason: &str, message: &str) {
    let status = look::child(object, "status");
    let mut conditions = look::list(status, "conditions").to_vec();
    conditions.push(json!({"type": kind, "status": "True", "reason": reason, "message": message}));
    look::set(status, "conditions", conditions);
}

async fn sign(client: &Client, path: &str, mut object: Value, signer: Signer) -> Result<(), Error> {
    match order(&object) {
        Err(complaint) => add_condition(&mut object, "Failed", "SignerValidationFailure", &complaint),
        Ok(order) => {
            let certificate = signer.oneshot(order).await.map_err(Error::Sign)?;
            look::set(look::child(&mut object, "status"), "certificate", STANDARD.encode(certificate));
        }
    }
    call::call(client, Method::PUT, &format!("{path}/status"), Some(&object)).await.map(drop)
}

/// What to sign for a request, or what is wrong with its form.
fn order(object: &Value) -> Result<Order, String> {
    let request = Request::of(object)?;
    let spec = &object["spec"];
    let usages = look::texts(spec, "usages");
    match certificate::complaint(look::text(spec, "signerName"), &request, &usages) {
        Some(complaint) => Err(complaint),
        None => Ok(Order {
            request: request.der,
            usages: usages.into_iter().map(str::to_owned).collect(),
            seconds: look::integer(spec, "expirationSeconds"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pem(common_name: &str, organisation: &str) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organisation);
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn request(signer: &str, username: &str, (common_name, organisation): (&str, &str)) -> Value {
        json!({
            "metadata": {"name": "a", "uid": "u", "creationTimestamp": "2026-01-01T23:00:00Z"},
            "spec": {
                "request": STANDARD.encode(pem(common_name, organisation)), "signerName": signer,
                "usages": ["client auth", "digital signature"], "username": username,
            },
        })
    }

    fn node(username: &str) -> Value {
        request(NODE_CLIENT, username, ("system:node:n", "system:nodes"))
    }

    fn with(mut object: Value, conditions: &[(&str, &str)]) -> Value {
        let conditions =
            conditions.iter().map(|(kind, at)| json!({"type": kind, "status": "True", "lastUpdateTime": at}));
        object["status"]["conditions"] = conditions.collect();
        object
    }

    fn world(object: &Value) -> World {
        let mut world = World::default();
        (world.signs, world.rights) = (true, 3);
        world.requests.insert("a".into(), Facts::read(object));
        world
    }

    fn check(object: &Value, now: &str, expected: &[Deed], wake_at: Option<&str>) {
        let (tasks, at_last) = decide(&world(object), at(now));
        let deeds: Vec<Deed> = tasks.iter().map(|task| task.deed).collect();
        assert_eq!((&*deeds, at_last), (expected, wake_at.map(at)), "{object} at {now}");
    }

    #[test]
    fn a_nodes_own_request_is_judged_once_for_each_change_of_rights() {
        let object = node("system:node:n");
        assert_eq!(Facts::read(&object).rights, ["selfnodeclient", "nodeclient"]);
        assert_eq!(Facts::read(&node("system:bootstrap:abcdef")).rights, ["nodeclient"]);
        check(&object, NOW, &[Deed::Approve(3)], Some("2026-01-02T23:00:00Z"));
        let mut world = world(&object);
        let (tasks, _) = decide(&world, at(NOW));
        done(&mut world, &tasks[0]);
        assert!(decide(&world, at(NOW)).0.is_empty());
        world.rights += 1;
        assert_eq!(decide(&world, at(NOW)).0[0].deed, Deed::Approve(4));
    }

    #[test]
    fn nothing_but_a_nodes_client_certificate_is_approved_without_a_person() {
        for object in [
            request(certificate::CLIENT, "system:node:n", ("system:node:n", "system:nodes")),
            request(NODE_SERVING, "system:node:n", ("system:node:n", "system:nodes")),
            request("example.com/mine", "system:node:n", ("system:node:n", "system:nodes")),
            request(NODE_CLIENT, "eve", ("eve", "system:nodes")),
            request(NODE_CLIENT, "eve", ("system:node:n", "system:masters")),
        ] {
            assert_eq!(Facts::read(&object).rights, [""; 0], "{object}");
        }
        let mut more = node("system:node:n");
        more["spec"]["usages"] = json!(["client auth", "digital signature", "server auth"]);
        assert_eq!(Facts::read(&more).rights, [""; 0]);
    }

    #[test]
    fn what_is_approved_is_signed_by_the_signers_of_this_room_unless_it_failed() {
        let then = "2026-01-01T23:30:00Z";
        check(&with(node("x"), &[("Approved", then)]), NOW, &[Deed::Sign], None);
        let other = request("example.com/mine", "x", ("a", "b"));
        check(&with(other, &[("Approved", then)]), NOW, &[], None);
        let goes = Some("2026-01-02T00:30:00Z");
        check(&with(node("x"), &[("Approved", then), ("Failed", then)]), NOW, &[], goes);
        check(&with(node("x"), &[("Denied", then)]), NOW, &[], goes);
        let mut keyless = world(&with(node("x"), &[("Approved", then)]));
        keyless.signs = false;
        assert!(decide(&keyless, at(NOW)).0.is_empty(), "without a signer nothing is signed");
    }

    #[test]
    fn requests_go_when_nobody_needs_them_any_more() {
        let long_ago = "2026-01-01T23:00:00Z";
        check(&with(node("x"), &[("Denied", long_ago)]), NOW, &[Deed::Remove], None);
        check(&with(node("x"), &[("Approved", long_ago), ("Failed", long_ago)]), NOW, &[Deed::Remove], None);
        check(&node("x"), "2026-01-02T23:00:00Z", &[Deed::Remove], None);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2026, 1, 1);
        let mut issued = with(node("x"), &[("Approved", "2026-01-01T23:59:00Z")]);
        issued["status"]["certificate"] = STANDARD.encode(params.self_signed(&key).unwrap().pem()).into();
        check(&issued, NOW, &[Deed::Remove], None);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        issued["status"]["certificate"] = STANDARD.encode(params.self_signed(&key).unwrap().pem()).into();
        check(&issued, NOW, &[], Some("2026-01-02T00:59:00Z"));
        check(&issued, "2026-01-02T00:59:00Z", &[Deed::Remove], None);
    }

    #[test]
    fn an_order_is_made_of_a_good_form_alone() {
        let mut object = node("x");
        object["spec"]["expirationSeconds"] = 900.into();
        let order = order(&object).unwrap();
        assert_eq!((order.usages.len(), order.seconds), (2, Some(900)));
        let bad = request(NODE_CLIENT, "x", ("system:node:n", "dev"));
        assert_eq!(super::order(&bad).unwrap_err(), "subject organization is not system:nodes");
    }
}
