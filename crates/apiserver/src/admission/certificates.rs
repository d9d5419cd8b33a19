//! `CertificateApproval`, `CertificateSigning`, `CertificateSubjectRestriction`: who may say yes to a request for a
//! certificate, who may answer it, and what nobody gets this way.
//!
//! Rights are the verbs `approve` and `sign` on the resource `signers` that is nowhere served: by a signer's name, or by
//! `domain/*` for all of a domain. Start at [`may`].

use api::certificate::{self, CLIENT, GROUP, PLURAL, Request as Asked};
use api::look;
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::authz::Attributes;
use crate::status::Status;
use crate::user::MASTERS;

/// Who approves or denies needs `approve` on the signer.
pub struct CertificateApproval;
/// Who issues or fails needs `sign` on the signer.
pub struct CertificateSigning;
/// Nobody becomes an administrator by a request.
pub struct CertificateSubjectRestriction;

fn is_on(request: &Request<'_>, subresource: &str) -> bool {
    (request.kind.group, request.kind.plural, request.subresource) == (GROUP, PLURAL, subresource)
}

/// Whether the user of a request may do this at a signer.
async fn may(request: &Request<'_>, verb: &str, signer: &str) -> Result<bool, Status> {
    if request.user.is_in(MASTERS) {
        return Ok(true);
    }
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    for name in [signer, &domain] {
        let attributes = Attributes {
            user: request.user,
            verb,
            group: GROUP,
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
            fields: "",
            path: "",
        };
        let world = request.world;
        let allowed = world.rbac.allows(&*world.store, &attributes).await;
        if allowed.map_err(|error| Status::internal(error.to_string()))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The signer that the stored request names: what a change claims does not count.
fn signer<'a>(request: &Request<'a>) -> &'a str {
    request.old.map_or("", |old| look::text_at(old, &["spec", "signerName"]))
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, request: &Request<'_>, _object: Option<&Value>) -> Result<(), Status> {
        if !is_on(request, "approval") || request.operation != Operation::Update {
            return Ok(());
        }
        let signer = signer(request);
        match may(request, "approve", signer).await? {
            true => Ok(()),
            false => {
                Err(request.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
            }
        }
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        if !is_on(request, "status") || request.operation != Operation::Update {
            return Ok(());
        }
        let field =
            |object: Option<&Value>, field| object.and_then(|object| look::at(object, &["status", field]).cloned());
        let same = |of| look::same(field(object, of).as_ref(), field(request.old, of).as_ref());
        if same("certificate") && same("conditions") {
            return Ok(());
        }
        let signer = signer(request);
        match may(request, "sign", signer).await? {
            true => Ok(()),
            false => Err(request.forbidden(format!("user not permitted to sign requests with signerName {signer:?}"))),
        }
    }
}

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object.filter(|_| is_on(request, "") && request.operation == Operation::Create) else {
            return Ok(());
        };
        if look::text_at(object, &["spec", "signerName"]) != CLIENT {
            return Ok(());
        }
        let asked = Asked::of(object).map_err(|why| request.forbidden(format!("failed to parse CSR: {why}")))?;
        match asked.organisations.iter().any(|group| group == MASTERS) {
            true => Err(request.forbidden(format!("use of {CLIENT} signer with {MASTERS} group is not allowed"))),
            false => Ok(()),
        }
    }
}

/// A node asks for certificates of its own name alone.
pub fn of_node(request: &Request<'_>, node: &str, object: Option<&Value>) -> Result<(), Status> {
    let Some(object) = object.filter(|_| request.operation == Operation::Create) else { return Ok(()) };
    let signer = look::text_at(object, &["spec", "signerName"]);
    if ![certificate::NODE_CLIENT, certificate::NODE_SERVING].contains(&signer) {
        return Ok(());
    }
    let asked = Asked::of(object).map_err(|why| request.forbidden(format!("unable to parse csr: {why}")))?;
    match asked.common_name.strip_prefix(certificate::NODE_PREFIX) == Some(node) {
        true => Ok(()),
        false => Err(request.forbidden(format!("can only create a node CSR with CN=system:node:{node}"))),
    }
}
