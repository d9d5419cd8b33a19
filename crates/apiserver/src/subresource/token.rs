//! `serviceaccounts/token`: a token of the account for whoever may ask for one.
//!
//! Texts and numbers are upstream's. What is asked by a node is judged by `NodeRestriction` too, and its audience is
//! asked of the authorizers (IMG-208). Start at [`issue`].

use api::field::{FieldError, Path};
use api::{Kind, Timestamp, look};
use serde_json::{Value, json};

use crate::authz::{self, Attributes};
use crate::object;
use crate::registry::Call;
use crate::server::Core;
use crate::status::Status;
use crate::tokens::claims::{Claims, Named, Place, user_name};

const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
/// What `ServiceAccount` admission asks for in pods: such a token lives on for clients that read it once only, and
/// `warnafter` says until when it should have been used.
const SECONDS_OF_PODS: i64 = 3607;
const SECONDS_EXTENDED: i64 = 365 * 24 * 3600;
/// What authorizers are asked about the audience of a node's request.
pub const AUDIENCE_VERB: &str = "request-serviceaccounts-token-audience";

/// Answers a checked TokenRequest with its token.
pub async fn issue(core: &Core, call: &Call<'_>, mut asked: Value) -> Result<Value, Status> {
    let entry = core.registry.entry(call).await?;
    let account = object::decode(call.kind, &entry);
    let named = object::name(&asked);
    if !named.is_empty() && named != call.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            call.name
        )));
    }
    let spec = look::child(&mut asked, "spec");
    if look::texts(spec, "audiences").is_empty() {
        look::set(spec, "audiences", core.tokens.audiences.clone());
    }
    look::set_zero(spec, "expirationSeconds", SECONDS_DEFAULT);
    validate(spec)?;
    core.registry.restrict(call, &asked).await?;
    let bound = bind(core, call, &asked["spec"]).await?;
    audience_for_node(core, call, &asked["spec"], &bound).await?;
    let claims = claims(core, (call, &account), &asked["spec"], bound);
    let token = core.tokens.issue(&claims.0).ok_or_else(|| Status::internal("no token can be signed"))?;
    Ok(answer(call, asked, (&token, claims.1)))
}

fn validate(spec: &Value) -> Result<(), Status> {
    let seconds = look::integer(spec, "expirationSeconds").unwrap_or(SECONDS_DEFAULT);
    let path = Path::new("spec").child("expirationSeconds");
    let refuse = |why: &str| {
        let errors = [FieldError::invalid(&path, seconds, why)];
        Err(Status::invalid(api::kind::token_request(), "", &errors))
    };
    match seconds {
        ..SECONDS_MIN => refuse("may not specify a duration less than 10 minutes"),
        SECONDS_MIN..=SECONDS_MAX => Ok(()),
        _ => refuse("may not specify a duration larger than 2^32 seconds"),
    }
}

/// What a token is bound to beside its account.
#[derive(Default)]
struct Bound {
    pod: Option<Value>,
    place: [Option<Named>; 3],
}

/// Looks up `spec.boundObjectRef`.
async fn bind(core: &Core, call: &Call<'_>, spec: &Value) -> Result<Bound, Status> {
    let Some(reference) = look::get(spec, "boundObjectRef").filter(|reference| reference.is_object()) else {
        return Ok(Bound::default());
    };
    let text = |field| look::text(reference, field);
    let (plural, namespace) = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => ("pods", call.namespace),
        ("v1", "Secret") => ("secrets", call.namespace),
        ("v1", "Node") => ("nodes", None),
        (version, kind) => {
            let group = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
            return Err(Status::bad_request(format!("cannot bind token to object of type {group}, Kind={kind}")));
        }
    };
    let kind = api::find("", "v1", plural).unwrap_or(call.kind);
    let name = text("name");
    let world = &core.registry.world;
    let found = world.find("", plural, namespace, name).await.ok_or_else(|| Status::not_found(kind, name))?;
    if plural == "pods" && look::text_at(&found, &["spec", "serviceAccountName"]) != call.name {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            call.name
        )));
    }
    same_uid(kind, (name, text("uid")), &found)?;
    let named = Some(named(&found));
    Ok(match plural {
        "pods" => {
            let node = node_of(core, &found).await;
            Bound { pod: Some(found), place: [named, None, node] }
        }
        "secrets" => Bound { pod: None, place: [None, named, None] },
        _ => Bound { pod: None, place: [None, None, named] },
    })
}

fn same_uid(kind: &Kind, (name, wanted): (&str, &str), found: &Value) -> Result<(), Status> {
    let uid = object::meta(found, "uid");
    if wanted.is_empty() || wanted == uid {
        return Ok(());
    }
    Err(Status::conflict(kind, name, &uid_mismatch(wanted)))
}

/// Upstream's words for a reference to an object that was deleted and made again.
pub fn uid_mismatch(wanted: &str) -> String {
    format!(
        "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been \
         deleted and then recreated"
    )
}

fn named(found: &Value) -> Named {
    Named { name: object::name(found).to_owned(), uid: object::meta(found, "uid").to_owned() }
}

/// The node of a pod; without a UID when there is no such Node.
async fn node_of(core: &Core, pod: &Value) -> Option<Named> {
    let name = look::text_at(pod, &["spec", "nodeName"]);
    if name.is_empty() {
        return None;
    }
    let node = core.registry.world.find("", "nodes", None, name).await;
    Some(node.as_ref().map_or_else(|| Named { name: name.to_owned(), uid: String::new() }, named))
}

/// IMG-208: a node gets tokens for the audiences that the pod's volumes name, and for those it was allowed.
async fn audience_for_node(core: &Core, call: &Call<'_>, spec: &Value, bound: &Bound) -> Result<(), Status> {
    if call.user.node_name().is_none() {
        return Ok(());
    }
    let refuse = |why: String| Err(Status::forbidden(call.kind, call.name, &why));
    let audiences = look::texts(spec, "audiences");
    let [audience] = audiences.as_slice() else {
        return refuse("node may only request 0 or 1 audiences".to_owned());
    };
    let own = core.tokens.audiences.iter().any(|own| own == audience);
    if bound.pod.as_ref().is_some_and(|pod| projects(pod, audience, own)) {
        return Ok(());
    }
    let attributes = Attributes {
        user: call.user,
        verb: AUDIENCE_VERB,
        group: "",
        resource: audience,
        subresource: "",
        namespace: call.namespace.unwrap_or_default(),
        name: call.name,
        fields: "",
        path: "",
    };
    match authz::authorize(&core.authorizers, &attributes, &core.registry.world).await {
        Ok(()) => Ok(()),
        Err(_) => refuse(format!("audience {audience:?} not found in pod spec volume")),
    }
}

/// Whether a volume of the pod has a token for the audience; an empty one means this server's `own`.
fn projects(pod: &Value, audience: &str, own: bool) -> bool {
    let volumes = look::list_at(pod, &["spec", "volumes"]).iter();
    let mut sources = volumes.flat_map(|volume| look::list_at(volume, &["projected", "sources"]));
    sources.any(|source| {
        look::get(source, "serviceAccountToken").is_some_and(|token| match look::text(token, "audience") {
            "" => own,
            named => named == audience,
        })
    })
}

/// The claims, and when the asker should count the token as expired.
fn claims(core: &Core, (call, account): (&Call<'_>, &Value), spec: &Value, bound: Bound) -> (Claims, i64) {
    let now = call.now.as_second();
    let seconds = look::integer(spec, "expirationSeconds").unwrap_or(SECONDS_DEFAULT);
    let aud: Vec<String> = look::texts(spec, "audiences").into_iter().map(str::to_owned).collect();
    let for_us = aud.iter().all(|audience| core.tokens.audiences.contains(audience));
    let extended = seconds == SECONDS_OF_PODS && for_us && bound.pod.is_some();
    let [pod, secret, node] = bound.place;
    let namespace = call.namespace.unwrap_or_default().to_owned();
    let claims = Claims {
        aud,
        exp: now + if extended { SECONDS_EXTENDED } else { seconds },
        iat: now,
        iss: core.tokens.issuer.clone(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: user_name(&namespace, call.name),
        place: Place {
            namespace,
            node,
            pod,
            secret,
            serviceaccount: named(account),
            warnafter: extended.then_some(now + seconds),
        },
        nbf: now,
    };
    (claims, now + seconds)
}

fn answer(call: &Call<'_>, mut asked: Value, (token, expires): (&str, i64)) -> Value {
    let expires = Timestamp::from_second(expires).unwrap_or(call.now);
    asked["kind"] = "TokenRequest".into();
    asked["apiVersion"] = "authentication.k8s.io/v1".into();
    let metadata = look::child(&mut asked, "metadata");
    look::set(metadata, "name", call.name);
    look::set(metadata, "namespace", call.namespace.unwrap_or_default());
    look::set(metadata, "creationTimestamp", object::timestamp(call.now));
    asked["status"] = json!({"token": token, "expirationTimestamp": object::timestamp(expires)});
    asked
}
