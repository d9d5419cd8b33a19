//! Kinds that are sent and answered and never stored: scales, requests for tokens, questions about access.

use super::{Kind, Storage};
use crate::{rules, table};

/// What is sent to and received from the `scale` subresources: not stored, so not in the table.
pub fn scale() -> &'static Kind {
    &SCALE_KIND
}

static SCALE_KIND: Kind = Kind {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    plural: "scales",
    singular: "scale",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: &[],
    subresources: &[],
    rules: &rules::workload::scale::Scales,
    columns: table::SCALES,
    storage: &Storage { group: "autoscaling", plural: "scales" },
    schema: "autoscaling.v1.Scale",
};

/// What is sent to and received from `serviceaccounts/token`: not stored, so not in the table.
pub fn token_request() -> &'static Kind {
    &TOKEN_REQUEST_KIND
}

/// Questions about identity and access: answered, never stored, so not in the table of [`kinds`].
pub fn reviews() -> &'static [Kind] {
    REVIEWS
}

const fn question(group: &'static str, kind: &'static str, names: [&'static str; 2], schema: &'static str) -> Kind {
    Kind {
        group,
        version: "v1",
        kind,
        plural: names[0],
        singular: names[1],
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: &["create"],
        subresources: &[],
        rules: &rules::review::Reviews,
        columns: table::REVIEWS,
        storage: &Storage { group: "", plural: "" },
        schema,
    }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

static TOKEN_REQUEST_KIND: Kind =
    question(AUTHENTICATION, "TokenRequest", ["tokenrequests", "tokenrequest"], "authentication.v1.TokenRequest");

static REVIEWS: &[Kind] = &[
    question(AUTHENTICATION, "TokenReview", ["tokenreviews", "tokenreview"], "authentication.v1.TokenReview"),
    question(
        AUTHENTICATION,
        "SelfSubjectReview",
        ["selfsubjectreviews", "selfsubjectreview"],
        "authentication.v1.SelfSubjectReview",
    ),
    question(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        ["selfsubjectaccessreviews", "selfsubjectaccessreview"],
        "authorization.v1.SelfSubjectAccessReview",
    ),
    question(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        ["selfsubjectrulesreviews", "selfsubjectrulesreview"],
        "authorization.v1.SelfSubjectRulesReview",
    ),
    question(
        AUTHORIZATION,
        "SubjectAccessReview",
        ["subjectaccessreviews", "subjectaccessreview"],
        "authorization.v1.SubjectAccessReview",
    ),
    Kind {
        namespaced: true,
        ..question(
            AUTHORIZATION,
            "LocalSubjectAccessReview",
            ["localsubjectaccessreviews", "localsubjectaccessreview"],
            "authorization.v1.LocalSubjectAccessReview",
        )
    },
];
