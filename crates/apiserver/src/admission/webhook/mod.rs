//! `MutatingAdmissionWebhook` and `ValidatingAdmissionWebhook`: others are asked before an object is written.
//!
//! Mutating webhooks are called one after the other, in order of the names of their configurations; validating ones all
//! at once, after the object was validated. The configurations are read from the store at each request, so they are
//! never stale. `select` says who is asked, `review` what is said, `client` how it travels. Nothing of an object or an
//! answer is logged. Start at [`Webhooks::mutate`].

pub mod client;
mod review;
mod select;

use std::time::Duration;

use api::rules::workload::scale;
use api::{Kind, Toward, look};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::Value;
use tower::ServiceExt;

use self::client::{WebhookCall, WebhookClient};
use self::review::{Answer, Subject};
use super::{Named, Request};
use crate::status::Status;

/// Names of the two plugins.
pub const MUTATING: &str = "MutatingAdmissionWebhook";
pub const VALIDATING: &str = "ValidatingAdmissionWebhook";

const GROUP: &str = "admissionregistration.k8s.io";
/// Upstream's bound of a whole request.
const ALL_SECONDS_MAX: u64 = 60;
/// Upstream's patience with one webhook that names none, and the most that it may name.
const SECONDS: i64 = 10;
const SECONDS_MAX: i64 = 30;

/// Calls webhooks.
pub struct Webhooks {
    client: WebhookClient,
    mutating: bool,
    validating: bool,
}

/// What the first pass of mutating webhooks did.
#[derive(Debug, Default)]
pub struct FirstPass {
    /// The webhooks that want to see changes that came after them, with the object as they left it.
    again: Vec<(Value, Value)>,
    /// Whether any webhook changed the object.
    pub changed: bool,
}

/// Why there is no answer of a webhook.
struct Failure {
    webhook: String,
    why: String,
}

impl Webhooks {
    /// Over a client, with the enabled halves.
    pub fn new(client: WebhookClient, enabled: &[String]) -> Webhooks {
        let has = |name: &str| enabled.iter().any(|plugin| plugin == name);
        Webhooks { client, mutating: has(MUTATING), validating: has(VALIDATING) }
    }

    /// Calls the mutating webhooks once, in order.
    pub async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<FirstPass, Status> {
        let mut pass = FirstPass::default();
        if !self.mutating || select::is_exempt(request) {
            return Ok(pass);
        }
        let calls = async {
            for webhook in configured(request, "mutatingwebhookconfigurations").await {
                let Some(kind) = concerned(&webhook, request, Some(object)).await? else { continue };
                let before = object.clone();
                self.mutate_by(&webhook, request, (kind, object)).await?;
                pass.changed |= *object != before;
                if look::text(&webhook, "reinvocationPolicy") == "IfNeeded" {
                    pass.again.push((webhook, object.clone()));
                }
            }
            Ok(())
        };
        within(calls).await?;
        Ok(pass)
    }

    /// Calls those webhooks once more that asked for it and whose object changed after them.
    pub async fn mutate_again(&self, request: &Request<'_>, object: &mut Value, pass: FirstPass) -> Result<(), Status> {
        let calls = async {
            for (webhook, left) in &pass.again {
                if object == left {
                    continue;
                }
                if let Some(kind) = concerned(webhook, request, Some(object)).await? {
                    self.mutate_by(webhook, request, (kind, object)).await?;
                }
            }
            Ok(())
        };
        within(calls).await
    }

    async fn mutate_by(
        &self,
        webhook: &Value,
        request: &Request<'_>,
        (kind, object): (&'static Kind, &mut Value),
    ) -> Result<(), Status> {
        let form = Form::of(kind, request);
        let shown = object.is_object().then(|| form.show(object));
        let Some(answer) = self.ask(webhook, request, (&form, shown.as_ref()), true).await? else { return Ok(()) };
        if let (Some(patch), Some(shown)) = (answer.patch, shown) {
            let patched = api::patch::json(&shown, &patch).map_err(Status::internal)?;
            *object = form.take(&shown, patched, object)?;
        }
        Ok(())
    }

    /// Calls the validating webhooks all at once; the first refusal in their order counts.
    pub async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        if !self.validating || select::is_exempt(request) {
            return Ok(());
        }
        let webhooks = configured(request, "validatingwebhookconfigurations").await;
        let calls = webhooks.iter().map(|webhook| async move {
            let Some(kind) = concerned(webhook, request, object).await? else { return Ok(()) };
            let form = Form::of(kind, request);
            let shown = object.map(|object| form.show(object));
            self.ask(webhook, request, (&form, shown.as_ref()), false).await.map(drop)
        });
        within(async { join_all(calls).await.into_iter().collect() }).await
    }

    /// None: there is no answer, and that is to be ignored.
    async fn ask(
        &self,
        webhook: &Value,
        request: &Request<'_>,
        (form, object): (&Form<'_>, Option<&Value>),
        mutating: bool,
    ) -> Result<Option<Answer>, Status> {
        match self.call(webhook, request, (form, object), mutating).await {
            Ok(answer) => {
                request.warnings.extend(answer.warnings.iter().cloned());
                match answer.denied {
                    Some(status) => Err(status),
                    None => Ok(Some(answer)),
                }
            }
            Err(failure) => {
                let text = format!("failed calling webhook {:?}: {}", failure.webhook, failure.why);
                if look::text(webhook, "failurePolicy") == "Ignore" {
                    tracing::warn!(webhook = failure.webhook, "a webhook could not be called and is ignored");
                    return Ok(None);
                }
                tracing::warn!(webhook = failure.webhook, "a webhook could not be called; the request is refused");
                Err(Status::internal(text))
            }
        }
    }

    async fn call(
        &self,
        webhook: &Value,
        request: &Request<'_>,
        (form, object): (&Form<'_>, Option<&Value>),
        mutating: bool,
    ) -> Result<Answer, Failure> {
        let name = look::text(webhook, "name");
        let fail = |why: String| Failure { webhook: name.to_owned(), why };
        let client = look::get(webhook, "clientConfig").unwrap_or(&Value::Null);
        let Some(url) = look::get(client, "url").and_then(Value::as_str) else {
            return Err(fail("this server has no Services yet: name the webhook by clientConfig.url".to_owned()));
        };
        let ca_bundle = STANDARD.decode(look::text(client, "caBundle")).map_err(|error| fail(error.to_string()))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let old = request.old.map(|old| form.show(old));
        let subject = Subject { kind: form.kind(), resource: form.resource, object, old: old.as_ref() };
        let body = review::question(request, &subject, &uid).to_string();
        let seconds = look::integer(webhook, "timeoutSeconds").unwrap_or(SECONDS).clamp(1, SECONDS_MAX);
        let url = format!("{url}?timeout={seconds}s");
        let call = WebhookCall { url: url.clone(), ca_bundle: ca_bundle.into(), body: body.into() };
        let patience = Duration::from_secs(seconds.unsigned_abs());
        let answered: Result<Bytes, String> =
            match tokio::time::timeout(patience, self.client.clone().oneshot(call)).await {
                Ok(answered) => answered,
                Err(_) => Err("context deadline exceeded".to_owned()),
            };
        let bytes = answered.map_err(|why| fail(format!("failed to call webhook: Post {url:?}: {why}")))?;
        review::answer(name, &uid, &bytes, mutating)
            .map_err(|why| fail(format!("received invalid webhook response: {why}")))
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(Duration::from_secs(ALL_SECONDS_MAX), work).await {
        Ok(done) => done,
        Err(_) => Err(Status::plain(504, "Timeout", "Timeout: request did not complete within requested timeout")),
    }
}

/// The webhooks of one kind of configuration, in the order of its objects' names.
async fn configured(request: &Request<'_>, plural: &str) -> Vec<Value> {
    let mut configurations = request.world.all(GROUP, plural).await;
    configurations.sort_by(|a, b| crate::object::name(a).cmp(crate::object::name(b)));
    configurations.iter().flat_map(|configuration| look::list(configuration, "webhooks").to_vec()).collect()
}

/// Whether a webhook is to be asked, and in which kind's form.
async fn concerned(
    webhook: &Value,
    request: &Request<'_>,
    object: Option<&Value>,
) -> Result<Option<&'static Kind>, Status> {
    let Some(kind) = select::matching(webhook, request) else { return Ok(None) };
    if !select::object_is_selected(webhook, object, request.old) {
        return Ok(None);
    }
    if select::any_namespace(webhook) {
        return Ok(Some(kind));
    }
    let is_namespace = request.kind.group.is_empty() && request.kind.kind == "Namespace";
    let selected = if is_namespace {
        let own = object.filter(|object| object.is_object()).or(request.old);
        own.is_none_or(|namespace| select::namespace_is_selected(webhook, namespace))
    } else if request.namespace.is_empty() {
        // Objects outside of namespaces are never spared by them.
        true
    } else {
        match request.world.find("", "namespaces", None, request.namespace).await {
            Some(namespace) => select::namespace_is_selected(webhook, &namespace),
            None => {
                let kind = api::find("", "v1", "namespaces").unwrap_or(request.kind);
                return Err(Status::not_found(kind, request.namespace));
            }
        }
    };
    Ok(selected.then_some(kind))
}

/// The form in which a webhook sees an object: that of another view of it, or what is sent instead of it.
struct Form<'a> {
    resource: &'static Kind,
    request: &'a Request<'a>,
    sent: Option<Named>,
}

impl<'a> Form<'a> {
    fn of(resource: &'static Kind, request: &'a Request<'a>) -> Form<'a> {
        Form { resource, request, sent: request.sent() }
    }

    fn kind(&self) -> Named {
        self.sent.unwrap_or_else(|| self.resource.into())
    }

    /// A Scale stands for the object that the plugins see; what else is sent they see themselves.
    fn is_scale(&self) -> bool {
        self.request.subresource == "scale"
    }

    fn show(&self, object: &Value) -> Value {
        match self.sent {
            Some(_) if self.is_scale() => scale::of(self.request.kind, object),
            Some(_) => object.clone(),
            None => convert(object, self.request.kind, self.resource),
        }
    }

    /// The object that a patched form means, decoded as any body is.
    fn take(&self, shown: &Value, mut patched: Value, object: &Value) -> Result<Value, Status> {
        for field in ["apiVersion", "kind"] {
            if look::text(&patched, field) != look::text(shown, field) {
                return Err(Status::internal(format!("a webhook changed the {field} of the object")));
            }
        }
        let schema = match self.sent {
            Some(Named { group, version, kind }) => {
                format!("{}.{version}.{kind}", if group.is_empty() { "core" } else { group })
            }
            None => self.resource.schema.to_owned(),
        };
        if let Some(mistyped) = api::schema::check_type(&schema, &patched).mistyped.first() {
            return Err(Status::internal(format!(
                "a webhook made an object that cannot be decoded: {}",
                mistyped.message
            )));
        }
        let kind = match self.sent {
            Some(_) if self.is_scale() => api::kind::scale(),
            Some(_) => return Ok(patched),
            None => self.resource,
        };
        api::schema::prune(kind, &mut patched);
        kind.rules.default(&mut patched);
        match self.sent {
            Some(_) => Ok(scale::applied(&patched, object)),
            None => Ok(convert(&patched, self.resource, self.request.kind)),
        }
    }
}

fn convert(object: &Value, from: &Kind, to: &Kind) -> Value {
    let mut object = object.clone();
    if from != to {
        from.rules.convert(&mut object, Toward::Storage);
        to.rules.convert(&mut object, Toward::Served);
        look::set(&mut object, "kind", to.kind);
        look::set(&mut object, "apiVersion", to.api_version());
    }
    object
}
