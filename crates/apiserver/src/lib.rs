//! The API server: HTTP in, store out.
//!
//! One generic path serves every kind in the table of `api`; this room owns authentication, authorization, admission,
//! discovery, OpenAPI, watches, and the way to the node port. It must not know what a kind means (that is `api`), nor
//! how bytes are kept (that is `store`). Start at [`ApiServer`], then `server::handle` → `resource::respond` →
//! `registry::Registry`.

#![forbid(unsafe_code)]

mod admission;
mod answer;
mod apply;
mod audit;
mod authn;
mod authz;
mod authz_node;
mod body;
mod bootstrap;
mod certificates;
mod clock;
mod codec;
mod delete;
mod descriptions;
mod discovery;
mod filter;
mod follow;
mod impersonation;
mod leftover;
mod limits;
mod list;
mod object;
mod openapi;
mod openapi_protobuf;
mod owners;
mod patch;
mod placement;
mod protobuf;
mod pulse;
mod query;
mod rbac;
mod registry;
mod resource;
mod reviews;
mod rights;
mod route;
mod secrets;
mod serve;
mod server;
mod status;
mod subresource;
mod tokens;
mod user;
mod warnings;
mod watch;
mod world;

pub use admission::choice::{Choice as AdmissionChoice, DEFAULT_PLUGINS, choose as choose_admission};
pub use admission::default_toleration_seconds::DefaultTolerationSeconds;
pub use admission::pin_image_digests::{DigestQuery, DigestResolver, UnresolvedTags};
pub use admission::webhook::client::{WebhookCall, WebhookClient};
pub use audit::AuditLog;
pub use certificates::ClientCertificates;
pub use limits::Limits;
pub use secrets::{PATH as ROTATE_SECRETS, RotateError, SaveKeys, SecretKeys};
pub use server::{ApiServer, Error, Options};
pub use status::Status;
pub use subresource::node_port::NodeTls;
pub use user::{StaticToken, UserInfo};
