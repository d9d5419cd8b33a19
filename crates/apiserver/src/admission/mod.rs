//! Admission: what the cluster adds to objects and what it does not let in.
//!
//! One module per plugin, named as upstream names it; the chain runs in upstream's order, mutating halves first, then
//! validation of the object, then the validating halves. Webhooks come last in both; when one of them changed the object,
//! the plugins see it again. A plugin reads the world and never writes to it; only ResourceQuota, the very last, does.
//! To add one: write a module, add it to [`plugins`] and say in `choice` what it is by default.

mod always_pull_images;
mod certificates;
pub mod choice;
pub mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
pub mod pin_image_digests;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod taint_nodes_by_condition;
pub mod webhook;

use api::Kind;
use async_trait::async_trait;
use serde_json::Value;

use crate::query::Query;
use crate::status::Status;
use crate::user::UserInfo;
use crate::warnings::Warnings;
use crate::world::World;
use default_toleration_seconds::DefaultTolerationSeconds;
use pin_image_digests::PinImageDigests;
use resource_quota::ResourceQuota;
use webhook::Webhooks;
use webhook::client::WebhookClient;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a new subresource such as a binding.
    Create,
    /// A change.
    Update,
    /// A removal.
    Delete,
    /// A way into a running object, such as exec.
    Connect,
}

/// A kind by its names alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version in the group.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
}

impl From<&Kind> for Named {
    fn from(kind: &Kind) -> Named {
        Named { group: kind.group, version: kind.version, kind: kind.kind }
    }
}

/// One request as plugins see it.
pub struct Request<'a> {
    /// Kind of the object.
    pub kind: &'static Kind,
    /// What is done.
    pub operation: Operation,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Name; of an object that is to get a generated one, the name drawn for this try.
    pub name: &'a str,
    /// What a refusal calls the object instead: the generateName prefix while the name is not settled (RTC-27).
    pub called: Option<&'a str>,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The object as it is stored now.
    pub old: Option<&'a Value>,
    /// Read access to everything else.
    pub world: &'a World,
    /// Judge only: nothing is stored.
    pub dry_run: bool,
    /// The query of the request: what else the client asked for.
    pub query: &'a Query,
    /// What to tell the client beside the answer.
    pub warnings: &'a Warnings,
}

impl Request<'_> {
    /// Whether this is the main resource `plural` of `group`.
    pub fn is_on(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.kind.group == group && self.kind.plural == plural
    }

    /// What is sent where that is not the object in the path: a Scale, a Binding, an Eviction, PodExecOptions.
    pub fn sent(&self) -> Option<Named> {
        if (self.kind.plural, self.subresource) == ("nodes", "proxy") {
            return Some(Named { group: "", version: "v1", kind: "NodeProxyOptions" });
        }
        let sub = self.kind.subresource(self.subresource)?;
        let sent = Named { group: sub.group, version: sub.version, kind: sub.kind };
        (sent != Named::from(self.kind)).then_some(sent)
    }

    /// 403 in the words of this request.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        Status::forbidden(self.kind, self.called.unwrap_or(self.name), &why.to_string())
    }
}

/// One plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// Changes the object, or refuses the request. Must be idempotent. On deletions the object is null.
    async fn mutate(&self, _request: &Request<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the request, or not. No object on deletions.
    async fn validate(&self, _request: &Request<'_>, _object: Option<&Value>) -> Result<(), Status> {
        Ok(())
    }
}

/// Every plugin but those that are something else too, in upstream's order.
fn plugins(tolerations: DefaultTolerationSeconds) -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(namespace_lifecycle::NamespaceLifecycle),
        Box::new(limit_ranger::LimitRanger),
        Box::new(service_account::ServiceAccount),
        Box::new(node_restriction::NodeRestriction),
        Box::new(taint_nodes_by_condition::TaintNodesByCondition),
        Box::new(always_pull_images::AlwaysPullImages),
        Box::new(pod_security::PodSecurity),
        Box::new(priority::Priority),
        Box::new(tolerations),
        Box::new(runtime_class::RuntimeClass),
        Box::new(certificates::CertificateApproval),
        Box::new(certificates::CertificateSigning),
        Box::new(certificates::CertificateSubjectRestriction),
    ]
}

/// The enabled plugins.
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
    pins: Option<PinImageDigests>,
    webhooks: Webhooks,
    quota: Option<ResourceQuota>,
}

impl Chain {
    /// Plugins by name; an unknown name is returned as the error.
    pub fn new(
        enabled: &[String],
        client: WebhookClient,
        pins: PinImageDigests,
        tolerations: DefaultTolerationSeconds,
    ) -> Result<Chain, String> {
        if let Some(unknown) = enabled.iter().find(|name| !choice::names().any(|known| known == name.as_str())) {
            return Err(unknown.clone());
        }
        let mut plugins = plugins(tolerations);
        plugins.retain(|plugin| enabled.iter().any(|name| name == plugin.name()));
        let pins = enabled.iter().any(|name| name == pin_image_digests::NAME).then_some(pins);
        let quota = enabled.iter().any(|name| name == resource_quota::NAME).then(ResourceQuota::new);
        Ok(Chain { plugins, pins, webhooks: Webhooks::new(client, enabled), quota })
    }

    /// Runs the mutating halves.
    pub async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        self.mutate_by_plugins(request, object).await?;
        let pass = self.webhooks.mutate(request, object).await?;
        if pass.changed {
            self.mutate_by_plugins(request, object).await?;
            self.webhooks.mutate_again(request, object, pass).await?;
        }
        Ok(())
    }

    async fn mutate_by_plugins(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.mutate(request, object).await?;
        }
        match &self.pins {
            Some(pins) => pins.mutate(request, object).await,
            None => Ok(()),
        }
    }

    /// Runs the validating halves.
    pub async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        self.validate_by_plugins(request, object).await?;
        self.webhooks.validate(request, object).await?;
        match (&self.quota, object) {
            (Some(quota), Some(object)) => quota.charge(request, object, crate::clock::now()).await,
            _ => Ok(()),
        }
    }
}

impl Chain {
    /// Runs the plugins' validating halves alone, for what is only answered: it holds nothing that a webhook knows.
    pub async fn validate_by_plugins(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.validate(request, object).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_runs_in_the_order_of_the_names() {
        let others = [pin_image_digests::NAME, webhook::MUTATING, webhook::VALIDATING, resource_quota::NAME];
        let all = plugins(DefaultTolerationSeconds::default());
        let run: Vec<&str> = all.iter().map(|plugin| plugin.name()).chain(others).collect();
        assert_eq!(run, choice::names().collect::<Vec<_>>());
    }
}
