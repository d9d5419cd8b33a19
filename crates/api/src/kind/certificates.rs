//! The kinds of `certificates.k8s.io/v1`.

use super::{ALL_VERBS, Kind, STATUS_VERBS, Storage, Subresource, status_of};
use crate::certificate::GROUP;
use crate::rules::certificate_request::CertificateRequests;
use crate::table;

pub(super) const REQUESTS: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "approval",
            group: GROUP,
            version: "v1",
            kind: "CertificateSigningRequest",
            verbs: STATUS_VERBS,
        },
        status_of(GROUP, "CertificateSigningRequest"),
    ],
    rules: &CertificateRequests,
    columns: table::CERTIFICATE_REQUESTS,
    storage: &Storage { group: GROUP, plural: "certificatesigningrequests" },
    schema: "certificates.v1.CertificateSigningRequest",
};
