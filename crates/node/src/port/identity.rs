//! Who is calling, from the client certificate.
//!
//! Pure. The TLS layer has checked the certificate's chain; here only its subject is read. What a bearer token proves, the
//! API says (`guard`).

use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The group of everybody who has shown who he is.
pub(super) const AUTHENTICATED: &str = "system:authenticated";

/// Somebody, as access reviews name him.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Caller {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// As one who has shown who he is.
    pub(super) fn authenticated(mut self) -> Caller {
        if !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// The subject of the first certificate; None without one that can be read.
pub(super) fn caller(certificates: Option<&[CertificateDer<'_>]>) -> Option<Caller> {
    let first = certificates?.first()?;
    let (_, certificate) = X509Certificate::from_der(first.as_ref()).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().find_map(|n| n.as_str().ok())?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some(Caller { name, groups, ..Caller::default() }.authenticated())
}
