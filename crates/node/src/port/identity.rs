//! Who is calling, from the client certificate, and whether that may use the node port.
//!
//! Pure. The TLS layer has checked the certificate's chain; here only its subject is read.

use super::{Answer, text};
use http::StatusCode;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The API server's own identity towards nodes.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// The subject of a client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Caller {
    pub name: String,
    pub groups: Vec<String>,
}

/// The subject of the first certificate; None without one that can be read.
pub(super) fn caller(certificates: Option<&[CertificateDer<'_>]>) -> Option<Caller> {
    let first = certificates?.first()?;
    let (_, certificate) = X509Certificate::from_der(first.as_ref()).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().find_map(|n| n.as_str().ok())?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some(Caller { name, groups })
}

/// Only the API server and administrators may; others are told so (POD-68).
pub(super) fn admit(caller: &Option<Caller>) -> Result<(), Box<Answer>> {
    match caller {
        None => Err(Box::new(text(StatusCode::UNAUTHORIZED, "Unauthorized"))),
        Some(caller) if caller.name == API_SERVER || caller.groups.iter().any(|g| g == MASTERS) => Ok(()),
        Some(caller) => {
            let message = format!("Forbidden (user={}, verb=get, resource=nodes, subresource=proxy)", caller.name);
            Err(Box::new(text(StatusCode::FORBIDDEN, message)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_api_server_and_administrators_are_admitted() {
        let status = |name: &str, group: &str| {
            let caller = Caller { name: name.into(), groups: vec![group.into()] };
            admit(&Some(caller)).map_err(|a| a.status().as_u16())
        };
        assert_eq!(status(API_SERVER, ""), Ok(()));
        assert_eq!(status("admin", MASTERS), Ok(()));
        assert_eq!(status("system:node:n1", "system:nodes"), Err(403));
        assert_eq!(admit(&None).map_err(|a| a.status().as_u16()), Err(401));
    }
}
