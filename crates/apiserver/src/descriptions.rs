//! What fields mean, in the words of the API's own documentation, for `kubectl explain`.
//!
//! They come out of k8s-openapi's schemas when a document is built. Start at [`Descriptions::gather`].

use api::Kind;
use k8s_openapi::api::{
    admissionregistration, apps, batch, certificates, coordination, core, events, node, policy, rbac, scheduling,
};
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

/// The definitions of the kinds of one document.
pub struct Descriptions(Map<String, Value>);

/// What is told about one type.
pub struct Told<'a>(Option<&'a Value>);

impl Descriptions {
    /// Builds the definitions that these kinds reach.
    pub fn gather(kinds: &[&Kind]) -> Descriptions {
        let mut generator = SchemaGenerator::default();
        for kind in kinds {
            gather_kind(&mut generator, kind);
        }
        Descriptions(generator.take_definitions(false))
    }

    /// A type by its full name.
    pub fn of(&self, name: &str) -> Told<'_> {
        Told(self.0.get(name))
    }
}

impl<'a> Told<'a> {
    /// About the type itself.
    pub fn text(&self) -> Option<&'a str> {
        self.0?.get("description")?.as_str()
    }

    /// About a field of it.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.0?.get("properties")?.get(name)?.get("description")?.as_str()
    }
}

const WEBHOOKS: &str = "admissionregistration.k8s.io";
const RBAC: &str = api::kind::RBAC;

fn gather_kind(generator: &mut SchemaGenerator, kind: &Kind) {
    let _ = match (kind.group, kind.kind) {
        ("", "Namespace") => generator.subschema_for::<core::v1::Namespace>(),
        ("", "Node") => generator.subschema_for::<core::v1::Node>(),
        ("", "Pod") => generator.subschema_for::<core::v1::Pod>(),
        ("", "PodTemplate") => generator.subschema_for::<core::v1::PodTemplate>(),
        ("", "LimitRange") => generator.subschema_for::<core::v1::LimitRange>(),
        ("", "ResourceQuota") => generator.subschema_for::<core::v1::ResourceQuota>(),
        ("apps", "ControllerRevision") => generator.subschema_for::<apps::v1::ControllerRevision>(),
        ("", "ReplicationController") => generator.subschema_for::<core::v1::ReplicationController>(),
        ("apps", "Deployment") => generator.subschema_for::<apps::v1::Deployment>(),
        ("apps", "ReplicaSet") => generator.subschema_for::<apps::v1::ReplicaSet>(),
        ("apps", "StatefulSet") => generator.subschema_for::<apps::v1::StatefulSet>(),
        ("apps", "DaemonSet") => generator.subschema_for::<apps::v1::DaemonSet>(),
        ("batch", "Job") => generator.subschema_for::<batch::v1::Job>(),
        ("batch", "CronJob") => generator.subschema_for::<batch::v1::CronJob>(),
        (WEBHOOKS, "MutatingWebhookConfiguration") => {
            generator.subschema_for::<admissionregistration::v1::MutatingWebhookConfiguration>()
        }
        (WEBHOOKS, "ValidatingWebhookConfiguration") => {
            generator.subschema_for::<admissionregistration::v1::ValidatingWebhookConfiguration>()
        }
        ("", "Secret") => generator.subschema_for::<core::v1::Secret>(),
        ("", "ConfigMap") => generator.subschema_for::<core::v1::ConfigMap>(),
        ("", "ServiceAccount") => generator.subschema_for::<core::v1::ServiceAccount>(),
        ("", "Event") => generator.subschema_for::<core::v1::Event>(),
        ("events.k8s.io", "Event") => generator.subschema_for::<events::v1::Event>(),
        ("coordination.k8s.io", "Lease") => generator.subschema_for::<coordination::v1::Lease>(),
        ("node.k8s.io", "RuntimeClass") => generator.subschema_for::<node::v1::RuntimeClass>(),
        ("scheduling.k8s.io", "PriorityClass") => generator.subschema_for::<scheduling::v1::PriorityClass>(),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            generator.subschema_for::<certificates::v1::CertificateSigningRequest>()
        }
        ("policy", "PodDisruptionBudget") => generator.subschema_for::<policy::v1::PodDisruptionBudget>(),
        (RBAC, "Role") => generator.subschema_for::<rbac::v1::Role>(),
        (RBAC, "RoleBinding") => generator.subschema_for::<rbac::v1::RoleBinding>(),
        (RBAC, "ClusterRole") => generator.subschema_for::<rbac::v1::ClusterRole>(),
        (RBAC, "ClusterRoleBinding") => generator.subschema_for::<rbac::v1::ClusterRoleBinding>(),
        _ => return,
    };
}
