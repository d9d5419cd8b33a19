//! Requests on resources: from a route to the registry, the lists, the watches and the subresources, and back.
//!
//! One function for each verb, the same for every kind. It must not know a kind's rules. Start at [`respond`].

use api::selector::field::FieldSelector;
use api::{Kind, look};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::admission::Operation;
use crate::answer::{self, Form, Include};
use crate::authz::{self, Attributes};
use crate::body::{self, Checked};
use crate::codec::{self, Format, Output};
use crate::delete::{self, DeleteOptions};
use crate::filter::Filter;
use crate::limits::{BODY_BYTES_MAX, LIGHT_BODY_BYTES};
use crate::list;
use crate::patch;
use crate::pulse::Unhurried;
use crate::query::{ListOptions, Query, WriteOptions, percent_encode};
use crate::rbac::gathering;
use crate::registry::Call;
use crate::route::{self, Target};
use crate::server::Core;
use crate::status::{self, Status};
use crate::subresource::{binding, eviction, hooks, log, scale, stream, token};
use crate::user::UserInfo;
use crate::warnings::Warnings;
use crate::watch::{Subject, Watching};
use crate::{apply, clock, object, owners};

/// Everything about one request but its body.
pub struct Asked {
    target: Target,
    user: UserInfo,
    query: Query,
    headers: HeaderMap,
    form: Form,
    warnings: Warnings,
    manager: String,
}

impl Asked {
    /// The kind in the path.
    pub fn kind(&self) -> &'static Kind {
        self.target.kind
    }

    fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    /// Attributes of another verb on the same object, for authorization.
    pub fn attributes<'a>(&'a self, verb: &'a str) -> Attributes<'a> {
        Attributes {
            user: &self.user,
            verb,
            group: self.target.kind.group,
            resource: self.target.kind.plural,
            subresource: self.target.subresource.as_deref().unwrap_or_default(),
            namespace: self.target.namespace.as_deref().unwrap_or_default(),
            name: self.name(),
            fields: "",
            path: "",
        }
    }

    /// The request on the one object in its path.
    pub fn call(&self, dry_run: bool) -> Call<'_> {
        Call {
            kind: self.target.kind,
            namespace: self.target.namespace.as_deref(),
            name: self.name(),
            subresource: self.target.subresource.as_deref(),
            user: &self.user,
            dry_run,
            now: clock::now(),
            query: &self.query,
            warnings: &self.warnings,
            manager: &self.manager,
        }
    }
}

/// Answers a request on a resource.
pub async fn respond(core: &Core, target: Target, user: UserInfo, request: Request<Body>) -> Result<Response, Status> {
    let query = Query::parse(request.uri().query());
    let verb = route::verb(request.method(), target.name.is_some(), query.flag("watch"), target.subresource.as_deref());
    authorize(core, &target, (&user, verb), (&query, request.uri().path())).await?;
    check_served(&target, verb)?;
    check_names(&target)?;
    let warnings = Warnings::default();
    if let Some(onward) = subresource(core, (&target, &user), &query, &warnings).await? {
        let mut response = streaming(core, onward, request).await?;
        response.extensions_mut().insert(Unhurried);
        answer::warn(&mut response, &warnings.all());
        return Ok(response);
    }
    // Errors are JSON whatever the client accepts, so the form is settled only now.
    let format = Format::negotiate(request.headers(), query.flag("pretty"))?;
    let others = match target.kind.rules.cells_read() {
        Some((group, plural)) if format.output == Output::Table => core.registry.world.all(group, plural).await,
        _ => Vec::new(),
    };
    let include = Include::parse(query.get("includeObject"))?;
    let form = Form { format, include, now: clock::precise(), others: others.into() };
    let (parts, body) = request.into_parts();
    let manager = owners::manager(&query, &parts.headers, &user);
    let asked = Asked { target, user, query, headers: parts.headers, form, warnings, manager };
    match parts.method {
        Method::GET | Method::HEAD => read(core, asked).await,
        method => {
            let body = read_body(core, body).await?;
            let mut response = write(core, &asked, &method, &body).await.unwrap_or_else(IntoResponse::into_response);
            // Refusals carry their warnings too.
            answer::warn(&mut response, &asked.warnings.all());
            Ok(response)
        }
    }
}

async fn authorize(
    core: &Core,
    target: &Target,
    (user, verb): (&UserInfo, &str),
    (query, path): (&Query, &str),
) -> Result<(), Status> {
    let fields = query.get("fieldSelector").unwrap_or_default();
    // A list or watch of one name is asked for as that name, as upstream: a role may name it.
    let one = match verb {
        "list" | "watch" if target.name.is_none() => FieldSelector::parse(fields).ok(),
        _ => None,
    };
    let one = one.as_ref().and_then(|selector| selector.required("metadata.name"));
    let attributes = Attributes {
        user,
        verb,
        group: target.kind.group,
        resource: target.kind.plural,
        subresource: target.subresource.as_deref().unwrap_or_default(),
        namespace: target.namespace.as_deref().unwrap_or_default(),
        name: target.name.as_deref().or(one).unwrap_or_default(),
        fields,
        path,
    };
    authz::authorize(&core.authorizers, &attributes, &core.registry.world).await
}

/// 404 for subresources that are not there, 405 for verbs that are not offered.
fn check_served(target: &Target, verb: &str) -> Result<(), Status> {
    let kind = target.kind;
    match target.subresource.as_deref() {
        Some("proxy") if kind.plural == "nodes" => Ok(()),
        Some(name) => match kind.subresource(name) {
            None => Err(Status::no_such_path()),
            Some(sub) if !sub.verbs.contains(&verb) => Err(Status::method_not_allowed()),
            Some(_) => Ok(()),
        },
        None if !kind.verbs.contains(&verb) => Err(Status::method_not_allowed()),
        None if verb == "create" && (target.name.is_some() || (kind.namespaced && target.namespace.is_none())) => {
            Err(Status::method_not_allowed())
        }
        None => Ok(()),
    }
}

/// Names in the path that no object can have, as upstream's storage refuses them.
fn check_names(target: &Target) -> Result<(), Status> {
    for (what, name) in [("Name", &target.name), ("Namespace", &target.namespace)] {
        let Some(name) = name else { continue };
        let why = match name.as_str() {
            "." => "may not be '.'",
            ".." => "may not be '..'",
            name if name.contains('/') => "may not contain '/'",
            name if name.contains('%') => "may not contain '%'",
            _ => continue,
        };
        return Err(Status::bad_request(format!("{what} parameter invalid: {name:?}: {why}")));
    }
    Ok(())
}

/// A body that has been read, and its turn to be worked on if it is a large one.
pub struct Read {
    bytes: BytesMut,
    _turn: Option<OwnedSemaphorePermit>,
}

impl std::ops::Deref for Read {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The whole body, if it is not too large and comes in time.
pub async fn read_body(core: &Core, body: Body) -> Result<Read, Status> {
    let read = tokio::time::timeout(core.limits.request, read_all(core, body)).await;
    read.unwrap_or_else(|_| Err(Status::timeout()))
}

async fn read_all(core: &Core, body: Body) -> Result<Read, Status> {
    let mut body = Limited::new(body, BODY_BYTES_MAX);
    let (mut bytes, mut room) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(unread)?.into_data() else { continue };
        if room.is_none() && bytes.len() + data.len() > LIGHT_BODY_BYTES {
            room = Some(core.turns.room()?);
        }
        bytes.extend_from_slice(&data);
    }
    let turn = match room {
        Some(_room) => Some(core.turns.heavy().await),
        None => None,
    };
    Ok(Read { bytes, _turn: turn })
}

fn unread(error: Box<dyn std::error::Error + Send + Sync>) -> Status {
    match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Status::too_large(BODY_BYTES_MAX),
        None => Status::bad_request(format!("the request body could not be read: {error}")),
    }
}

/// A request that goes on to a node.
enum Onward {
    Hooks { namespace: String, pod: String, nodes: Vec<Value>, query: Query },
    Log { pod: Value, node: Option<Value>, query: Query },
    Stream { node: Value, path: String, upgrade_only: bool },
}

/// The subresources that are served by the node; None for all others. What leads into a running object is admitted first.
async fn subresource(
    core: &Core,
    (target, user): (&Target, &UserInfo),
    query: &Query,
    warnings: &Warnings,
) -> Result<Option<Onward>, Status> {
    let world = &core.registry.world;
    let (Some(name), Some(sub)) = (target.name.as_deref(), target.subresource.as_deref()) else { return Ok(None) };
    let connect = async |options: Value| {
        let (kind, namespace, subresource) = (target.kind, target.namespace.as_deref(), Some(sub));
        let (dry_run, now, manager) = (false, clock::now(), "");
        let call = Call { kind, namespace, name, subresource, user, dry_run, now, query, warnings, manager };
        core.registry.admit(&call, Operation::Connect, options).await
    };
    match (target.kind.plural, sub) {
        ("pods", "log" | "exec" | "attach" | "portforward") => {}
        ("nodes", "proxy") => {
            let options = connect(json!({"path": format!("/{}", target.rest)})).await?;
            let node = world.find("", "nodes", None, name).await.ok_or_else(|| Status::not_found(target.kind, name))?;
            let rest = look::text(&options, "path").trim_start_matches('/');
            let path: String = rest.split('/').map(|part| format!("/{}", percent_encode(part))).collect();
            return Ok(Some(Onward::Stream { node, path, upgrade_only: false }));
        }
        _ => return Ok(None),
    }
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let pod = world.pod(namespace, name).await;
    if sub == "log" && query.flag("hooks") {
        return Ok(Some(hooks_of(core, (namespace, name), pod.as_ref(), query).await));
    }
    let pod = pod.ok_or_else(|| Status::not_found(target.kind, name))?;
    let node_name = look::text_at(&pod, &["spec", "nodeName"]).to_owned();
    let node = world.find("", "nodes", None, &node_name).await;
    if sub == "log" {
        if node.is_none() && !node_name.is_empty() {
            return Err(no_node(&node_name));
        }
        return Ok(Some(Onward::Log { pod, node, query: query.clone() }));
    }
    let options = connect(stream::options(sub, query)?).await?;
    let path = stream::location(&pod, sub, &options)?;
    if node_name.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let node = node.ok_or_else(|| no_node(&node_name))?;
    Ok(Some(Onward::Stream { node, path, upgrade_only: true }))
}

/// A pod's node is asked for its hooks; for a pod that has gone, every node is.
async fn hooks_of(core: &Core, (namespace, name): (&str, &str), pod: Option<&Value>, query: &Query) -> Onward {
    let mut nodes = core.registry.world.all("", "nodes").await;
    if let Some(pod) = pod {
        let node = look::text_at(pod, &["spec", "nodeName"]);
        nodes.retain(|candidate| look::text_at(candidate, &["metadata", "name"]) == node);
    }
    Onward::Hooks { namespace: namespace.to_owned(), pod: name.to_owned(), nodes, query: query.clone() }
}

fn no_node(name: &str) -> Status {
    let kind = api::find("", "v1", "nodes").unwrap_or(&api::kinds()[0]);
    Status::not_found(kind, name)
}

async fn streaming(core: &Core, onward: Onward, request: Request<Body>) -> Result<Response, Status> {
    match onward {
        Onward::Hooks { namespace, pod, nodes, query } => {
            hooks::runs(&core.node_port, [&namespace, &pod], &nodes, &query).await
        }
        Onward::Log { pod, node, query } => log::log(&core.node_port, &pod, node.as_ref(), &query).await,
        Onward::Stream { upgrade_only: true, .. } if !stream::is_upgrade(&request) => {
            Err(Status::bad_request("Upgrade request required"))
        }
        Onward::Stream { node, path, upgrade_only } => {
            // The parameters of a proxied request are the node's; those of exec and others were translated.
            let path = match request.uri().query() {
                Some(query) if !upgrade_only => format!("{path}?{query}"),
                _ => path,
            };
            stream::proxy(&core.node_port, &node, &path, request).await
        }
    }
}

async fn read(core: &Core, asked: Asked) -> Result<Response, Status> {
    let kind = asked.kind();
    let watch = asked.query.flag("watch");
    if asked.target.subresource.as_deref() == Some("scale") {
        let shown = scale::read(&core.registry, &asked.call(false)).await?;
        return Ok(scaled(&asked, shown));
    }
    if asked.target.name.is_some() && !watch {
        let entry = core.registry.entry(&asked.call(false)).await?;
        return Ok(answer::object(200, kind, (&entry.value, Some(entry.modified)), &asked.form));
    }
    let options = ListOptions::parse(&asked.query)?;
    let filter = Filter::parse(kind, &options, asked.target.name.as_deref())?;
    let prefix = list::prefix(kind, asked.target.namespace.as_deref());
    let store = &core.registry.world.store;
    if watch {
        let subject = Subject { kind, prefix, filter, options, form: asked.form };
        let watching = Watching::start(store, core.frames.clone(), subject, core.cancel.child_token()).await?;
        return Ok(watching.into_response());
    }
    let (items, meta) = list::list(store, &prefix, &options, &filter).await?;
    Ok(answer::list(kind, &items, &meta, &asked.form))
}

async fn write(core: &Core, asked: &Asked, method: &Method, body: &[u8]) -> Result<Response, Status> {
    let applies = *method == Method::PATCH && codec::media_type(&asked.headers) == apply::MEDIA_TYPE;
    if *method != Method::DELETE {
        owners::check_options(&asked.query, method, applies)?;
    }
    let response = match *method {
        Method::POST => create(core, asked, body).await,
        Method::PUT => update(core, asked, body).await,
        Method::PATCH if applies => apply_object(core, asked, body).await,
        Method::PATCH => patch_object(core, asked, body).await,
        Method::DELETE if asked.target.name.is_some() => delete_one(core, asked, body).await,
        Method::DELETE => delete_many(core, asked, body).await,
        _ => Err(Status::method_not_allowed()),
    };
    if response.is_ok() && gathering::concerns(asked.kind()) {
        // What was asked is done; what follows from it is tried again with the next write and at the next start.
        if let Err(status) = gathering::refresh(&core.registry).await {
            tracing::warn!(error = %status, "roles could not gather the rules of others");
        }
    }
    response
}

async fn create(core: &Core, asked: &Asked, body: &[u8]) -> Result<Response, Status> {
    let options = WriteOptions::parse(&asked.query)?;
    let call = asked.call(options.dry_run);
    let document = codec::decode(&asked.headers, body)?;
    match call.subresource {
        None => {}
        Some("binding") => {
            let status = binding::bind(&core.registry, &call, document.value).await?;
            return Ok(answer::value(201, &status, asked.form.format));
        }
        Some("eviction") => {
            let status = eviction::evict(&core.registry, &call, document.value, &asked.query).await?;
            return Ok(answer::value(201, &status, asked.form.format));
        }
        Some("token") => {
            let Checked { object, warnings } =
                body::check(api::kind::token_request(), document, options.field_validation)?;
            call.warnings.extend(warnings);
            let issued = token::issue(core, &call, object).await?;
            return Ok(answer::value(201, &issued, asked.form.format));
        }
        Some(_) => return Err(Status::method_not_allowed()),
    }
    let kind = asked.kind();
    let Checked { object, warnings } = body::check(kind, document, options.field_validation)?;
    call.warnings.extend(warnings);
    body::check_place(&object, &call)?;
    call.warnings.extend(kind.rules.warnings(&object));
    let written = core.registry.create(&call, object).await?;
    Ok(answer::written(kind, &written, &asked.form))
}

async fn update(core: &Core, asked: &Asked, body: &[u8]) -> Result<Response, Status> {
    let options = WriteOptions::parse(&asked.query)?;
    let call = asked.call(options.dry_run);
    let document = codec::decode(&asked.headers, body)?;
    let kind = if call.subresource == Some("scale") { api::kind::scale() } else { asked.kind() };
    let Checked { object, warnings } = body::check(kind, document, options.field_validation)?;
    call.warnings.extend(warnings);
    body::check_place(&object, &call)?;
    if call.subresource == Some("scale") {
        let shown = scale::change(&core.registry, &call, &|_| Ok(object.clone())).await?;
        return Ok(scaled(asked, shown));
    }
    if call.subresource.is_none() {
        call.warnings.extend(kind.rules.warnings(&object));
        if kind.rules.creates_on_update() && core.registry.entry(&call).await.is_err() {
            authz::authorize(&core.authorizers, &asked.attributes("create"), &core.registry.world).await?;
        }
    }
    let written = core.registry.replace(&call, object).await?;
    Ok(answer::written(kind, &written, &asked.form))
}

fn scaled(asked: &Asked, shown: Value) -> Response {
    let document = answer::shaped(api::kind::scale(), shown, &asked.form);
    answer::value(200, &document, asked.form.format)
}

async fn patch_object(core: &Core, asked: &Asked, body: &[u8]) -> Result<Response, Status> {
    let options = WriteOptions::parse(&asked.query)?;
    let call = asked.call(options.dry_run);
    let patch = patch::Patch::read(&asked.headers, body)?;
    let validation = options.field_validation;
    let patched = |kind: &Kind, old: &Value| {
        let (object, told) = patch.apply(kind, old, validation)?;
        call.warnings.extend(told);
        body::check_place(&object, &call)?;
        Ok(object)
    };
    if call.subresource == Some("scale") {
        let kind = api::kind::scale();
        let shown = scale::change(&core.registry, &call, &|old| patched(kind, old)).await?;
        return Ok(scaled(asked, shown));
    }
    let written = core
        .registry
        .modify(&call, &|live| {
            let object = match patch.sees_owners() {
                true => patched(call.kind, &live.whole())?,
                false => patched(call.kind, live.object)?,
            };
            if call.subresource.is_none() {
                call.warnings.extend(call.kind.rules.warnings(&object));
            }
            Ok(object.into())
        })
        .await?;
    Ok(answer::written(asked.kind(), &written, &asked.form))
}

async fn apply_object(core: &Core, asked: &Asked, body: &[u8]) -> Result<Response, Status> {
    let options = WriteOptions::parse(&asked.query)?;
    let apply = apply::Apply::read(body, &asked.query)?;
    if asked.target.subresource.as_deref() == Some("scale") {
        let shown = scale::apply(&core.registry, &asked.call(options.dry_run), &apply).await?;
        return Ok(scaled(asked, shown));
    }
    let written = apply.carry_out(core, asked, &options).await?;
    Ok(answer::written(asked.kind(), &written, &asked.form))
}

fn delete_options(asked: &Asked, body: &[u8]) -> Result<DeleteOptions, Status> {
    let document = if body.is_empty() { None } else { Some(codec::decode(&asked.headers, body)?.value) };
    DeleteOptions::parse(document.as_ref(), &asked.query)
}

/// Kinds whose finished deletion answers with the object; the others answer with a Status.
const RETURN_DELETED: [&str; 5] = ["pods", "namespaces", "podtemplates", "resourcequotas", "serviceaccounts"];

async fn delete_one(core: &Core, asked: &Asked, body: &[u8]) -> Result<Response, Status> {
    let kind = asked.kind();
    let options = delete_options(asked, body)?;
    let written = delete::delete(&core.registry, &asked.call(false), &options).await?;
    if written.removed && !RETURN_DELETED.contains(&kind.plural) {
        let document = object::decode_at(kind, &written.stored, store::Revision(0));
        let status = status::deleted(kind, asked.name(), object::meta(&document, "uid"));
        return Ok(answer::value(200, &status, asked.form.format));
    }
    Ok(answer::written(kind, &written, &asked.form))
}

async fn delete_many(core: &Core, asked: &Asked, body: &[u8]) -> Result<Response, Status> {
    let kind = asked.kind();
    let delete_options = delete_options(asked, body)?;
    let options = ListOptions::parse(&asked.query)?;
    let filter = Filter::parse(kind, &options, None)?;
    let prefix = list::prefix(kind, asked.target.namespace.as_deref());
    let (items, meta) = list::list(&core.registry.world.store, &prefix, &options, &filter).await?;
    for (stored, revision) in &items {
        let document = object::decode_at(kind, stored, *revision);
        let namespace = object::meta(&document, "namespace");
        let call = Call {
            name: object::name(&document),
            namespace: kind.namespaced.then_some(namespace),
            ..asked.call(false)
        };
        match delete::delete(&core.registry, &call, &delete_options).await {
            Err(status) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    Ok(answer::list(kind, &items, &meta, &asked.form))
}
