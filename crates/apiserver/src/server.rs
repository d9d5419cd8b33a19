//! The server as a whole: its parts, who may enter, and the first fork of the road.
//!
//! Owns [`ApiServer`]. It must not know kinds. Start at [`ApiServer::start`] and [`handle`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use http::request::Parts;
use http::{Method, header};
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::admission;
use crate::admission::choice::DEFAULT_PLUGINS;
use crate::admission::default_toleration_seconds::DefaultTolerationSeconds;
use crate::admission::pin_image_digests::{DigestResolver, PinImageDigests, UnresolvedTags};
use crate::admission::webhook::client::{self, WebhookClient};
use crate::audit::{AuditLog, Log, Peer, Record, Who};
use crate::authz::{self, Attributes, Authorizer};
use crate::certificates::ClientCertificates;
use crate::leftover::Leftover;
use crate::limits::{Limits, Turn, Turns};
use crate::query::Query;
use crate::registry::Registry;
use crate::route::{self, Route};
use crate::secrets::{RotateError, SealedStore, SecretKeys};
use crate::status::Status;
use crate::subresource::node_port::{NodePort, NodeTls};
use crate::tokens::Tokens;
use crate::user::{MASTERS, StaticToken, UserInfo};
use crate::watch::Frames;
use crate::world::World;
use crate::{answer, authn, bootstrap, discovery, impersonation, object, openapi, resource, reviews, secrets};

/// What the server is made of.
pub struct Options {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// How long events live.
    pub event_ttl: Duration,
    /// Names of the enabled admission plugins.
    pub admission: Vec<String>,
    /// How long new pods tolerate a node that is not ready or out of reach.
    pub default_tolerations: DefaultTolerationSeconds,
    /// The way to admission webhooks.
    pub webhooks: WebhookClient,
    /// Who looks up tags for `PinImageDigests`.
    pub digests: Option<DigestResolver>,
    /// What that plugin does with tags that cannot be looked up.
    pub unresolved_tags: UnresolvedTags,
    /// Identity for the node port; without it logs and streams are refused.
    pub node_tls: Option<NodeTls>,
    /// Bearer tokens that are known from the start.
    pub tokens: Vec<StaticToken>,
    /// Private key (PEM, PKCS#8, P-256) that signs tokens of service accounts; without it one is made that ends with the
    /// server.
    pub service_account_key_pem: Option<String>,
    /// Audiences for which a node gets tokens beyond those that its pods' volumes name (IMG-208).
    pub node_audiences: Vec<String>,
    /// Keys of Secrets at rest; without them Secrets are stored as they are.
    pub secret_keys: Option<SecretKeys>,
    /// Where it is written who asked for what.
    pub audit_log: Option<AuditLog>,
    /// CA of client certificates, PEM; without it no certificate proves anything.
    pub client_ca_pem: Option<String>,
    /// `gitVersion` of /version.
    pub service_version: String,
    /// What clients over the network are borne with.
    pub limits: Limits,
}

impl Options {
    /// The defaults over a store: upstream's plugins, events for one hour, no tokens, no node port.
    pub fn new(store: Arc<dyn Store>) -> Options {
        Options {
            store,
            event_ttl: Duration::from_secs(3600),
            admission: DEFAULT_PLUGINS.iter().map(|name| (*name).to_owned()).collect(),
            default_tolerations: DefaultTolerationSeconds::default(),
            webhooks: client::https(),
            digests: None,
            unresolved_tags: UnresolvedTags::default(),
            node_tls: None,
            tokens: Vec::new(),
            service_account_key_pem: None,
            node_audiences: Vec::new(),
            secret_keys: None,
            audit_log: None,
            client_ca_pem: None,
            service_version: "v1.36.1+sampan".to_owned(),
            limits: Limits::default(),
        }
    }
}

/// Why the server did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An admission plugin that does not exist.
    #[error("unknown admission plugin {0:?}")]
    UnknownPlugin(String),
    /// The key for tokens of service accounts cannot be used.
    #[error("cannot use the key for service account tokens: {0}")]
    TokenKey(String),
    /// The authority of client certificates cannot be used.
    #[error("cannot use the authority of client certificates: {0}")]
    ClientCa(String),
    /// The identity for the node port cannot be used.
    #[error("cannot use the identity for the node port: {0}")]
    NodeTls(String),
    /// The audit log cannot be opened.
    #[error("cannot open the audit log")]
    AuditLog(#[source] std::io::Error),
    /// Secrets at rest cannot be encrypted.
    #[error("cannot keep Secrets encrypted")]
    Secrets(#[from] RotateError),
    /// The objects that every cluster has could not be made.
    #[error("cannot make the initial objects: {0}")]
    Bootstrap(Status),
    /// The listener is broken.
    #[error("cannot accept connections")]
    Accept(#[source] std::io::Error),
}

/// Shared by all requests.
pub struct Core {
    /// Writes.
    pub registry: Registry,
    /// Serialised events.
    pub frames: Arc<Frames>,
    /// Who may do what.
    pub authorizers: Vec<Box<dyn Authorizer>>,
    /// The way to the nodes.
    pub node_port: NodePort,
    /// Ends watches and connections.
    pub cancel: CancellationToken,
    /// Tokens of service accounts.
    pub tokens: Tokens,
    /// Where it is written who asked for what.
    pub audit: Option<Arc<Log>>,
    /// The layer that encrypts Secrets at rest.
    pub secrets: Option<Arc<SealedStore>>,
    /// Bearer tokens that are known from the start.
    pub static_tokens: Vec<StaticToken>,
    /// `gitVersion`.
    pub service_version: String,
    /// Who judges client certificates.
    pub certificates: Option<ClientCertificates>,
    /// What clients over the network are borne with.
    pub limits: Limits,
    /// Whose turn it is.
    pub turns: Turns,
}

/// A running API server. Clones share everything.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) core: Arc<Core>,
}

impl ApiServer {
    /// Builds the server and makes the objects that every cluster has.
    pub async fn start(options: Options, cancel: CancellationToken) -> Result<ApiServer, Error> {
        let (store, secrets) = sealed(options.store, options.secret_keys).await?;
        let world = World::new(store);
        let pins = PinImageDigests { resolver: options.digests, unresolved: options.unresolved_tags };
        let admission = admission::Chain::new(&options.admission, options.webhooks, pins, options.default_tolerations);
        let admission = admission.map_err(Error::UnknownPlugin)?;
        let key_pem = options.service_account_key_pem.as_deref();
        let certificates = options.client_ca_pem.as_deref().map(ClientCertificates::of).transpose();
        let core = Core {
            registry: Registry { world, admission, event_ttl: options.event_ttl },
            frames: Arc::default(),
            authorizers: authz::chain(options.node_audiences),
            node_port: NodePort::new(options.node_tls.as_ref()).map_err(Error::NodeTls)?,
            cancel,
            tokens: Tokens::new(key_pem).map_err(|error| Error::TokenKey(error.to_string()))?,
            audit: options.audit_log.map(Log::open).transpose().map_err(Error::AuditLog)?,
            secrets,
            static_tokens: options.tokens,
            service_version: options.service_version,
            certificates: certificates.map_err(Error::ClientCa)?,
            turns: Turns::new(&options.limits),
            limits: options.limits,
        };
        bootstrap::objects(&core.registry).await.map_err(Error::Bootstrap)?;
        Ok(ApiServer { core: Arc::new(core) })
    }

    /// Makes and mends the default roles that nothing in this server needs. A start does not wait for them.
    ///
    /// # Errors
    /// [`Error::Bootstrap`] when one cannot be made; the call may be repeated.
    pub async fn ensure_other_roles(&self) -> Result<(), Error> {
        bootstrap::later(&self.core.registry).await.map_err(Error::Bootstrap)
    }

    /// The door without authentication: whoever enters is authenticated by the bearer token or not at all.
    pub fn router(&self) -> Router {
        Router::new().fallback(handle).with_state(self.core.clone())
    }

    /// The in-process door: everything that enters is `user`, and is authorized as such.
    pub fn router_as(&self, user: UserInfo) -> Router {
        self.router().layer(Extension(user))
    }
}

/// The store with its layer over Secrets, if there are keys.
async fn sealed(
    store: Arc<dyn Store>,
    keys: Option<SecretKeys>,
) -> Result<(Arc<dyn Store>, Option<Arc<SealedStore>>), Error> {
    let Some(keys) = keys else { return Ok((store, None)) };
    let kind = api::find("", "v1", "secrets").expect("the table of kinds has Secrets");
    let sealed = SealedStore::open(store, object::key(kind, None, None), keys).await?;
    Ok((sealed.clone(), Some(sealed)))
}

/// Answers one request.
async fn handle(State(core): State<Arc<Core>>, request: Request) -> Response {
    let record = core.audit.as_ref().and_then(|log| Record::begin(log, &request));
    let mut who = Who::default();
    let (parts, body) = request.into_parts();
    let (body, left) = Leftover::of(body);
    let mut response = match respond(&core, Request::from_parts(parts, body), &mut who).await {
        Ok(response) => response,
        Err(status) => {
            left.drain().await;
            status.into_response()
        }
    };
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, private"));
    }
    match record {
        Some(record) => record.end(&who, response),
        None => response,
    }
}

async fn respond(core: &Core, request: Request<Body>, who: &mut Who) -> Result<Response, Status> {
    let path = request.uri().path();
    let user = authn::authenticate(core, request.extensions(), request.headers()).await?;
    if let Some(response) = open(core, path) {
        return Ok(response);
    }
    let user = user.ok_or_else(Status::unauthorized)?;
    who.user = Some(user.clone());
    // Before it is judged: the attempt counts.
    who.impersonated = impersonation::asked_for(request.headers())?;
    let user = impersonation::apply(core, user, request.headers()).await?;
    let route = route::parse(path);
    let turn = turn(core, &user, &route, &request)?;
    let mut response = match route {
        Route::Resource(target) => resource::respond(core, target, user, request).await?,
        Route::Review(kind, namespace) => reviews::respond(core, (kind, namespace), user, request).await?,
        Route::Unknown | Route::Plain => plain(core, &user, &request.into_parts().0).await?,
    };
    if let Some(turn) = turn {
        response.extensions_mut().insert(turn);
    }
    Ok(response)
}

/// The turn of a request over the network; streams and, as upstream, administrators need none.
fn turn(core: &Core, user: &UserInfo, route: &Route, request: &Request<Body>) -> Result<Option<Turn>, Status> {
    let streams = match route {
        Route::Resource(target) => {
            Query::parse(request.uri().query()).flag("watch")
                || route::is_stream(target.subresource.as_deref().unwrap_or_default())
        }
        _ => false,
    };
    if streams || user.is_in(MASTERS) || request.extensions().get::<Peer>().is_none() {
        return Ok(None);
    }
    core.turns.take(!matches!(*request.method(), Method::GET | Method::HEAD)).map(Some)
}

/// Paths that need no identity.
fn open(core: &Core, path: &str) -> Option<Response> {
    match path.trim_end_matches('/') {
        "/healthz" | "/livez" | "/readyz" => Some(answer::typed(200, "text/plain; charset=utf-8", "ok")),
        "/version" => Some(answer::json_bytes(200, discovery::version(&core.service_version).to_string())),
        _ => None,
    }
}

/// kubectl asks here, without discovery, before it creates a kind that its documents do not let it change (TokenReview):
/// there are no custom resources, and this says so.
const CUSTOM_RESOURCES: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NO_CUSTOM_RESOURCES: &str = concat!(
    r#"{"kind":"CustomResourceDefinitionList","apiVersion":"apiextensions.k8s.io/v1","#,
    r#""metadata":{"resourceVersion":"1"},"items":[]}"#
);

/// Discovery and OpenAPI.
async fn plain(core: &Core, user: &UserInfo, request: &Parts) -> Result<Response, Status> {
    let path = request.uri.path();
    let verb = match request.method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        _ => "delete",
    };
    let attributes =
        Attributes { user, verb, group: "", resource: "", subresource: "", namespace: "", name: "", fields: "", path };
    authz::authorize(&core.authorizers, &attributes, &core.registry.world).await?;
    if verb == "post" && path == secrets::PATH {
        return secrets::respond(core).await;
    }
    if verb != "get" {
        return Err(if discovery::exists(path) { Status::method_not_allowed() } else { Status::no_such_path() });
    }
    match path.trim_end_matches('/') {
        "/openid/v1/jwks" => {
            return Ok(answer::typed(200, "application/jwk-set+json", core.tokens.public_keys().to_string()));
        }
        "/.well-known/openid-configuration" => {
            return Ok(answer::json_bytes(200, core.tokens.configuration().to_string()));
        }
        CUSTOM_RESOURCES => return Ok(answer::json_bytes(200, NO_CUSTOM_RESOURCES)),
        _ => {}
    }
    let found = discovery::respond(path, &request.headers).or_else(|| openapi::respond(path, &request.headers, core));
    found.unwrap_or_else(|| Err(Status::no_such_path()))
}
