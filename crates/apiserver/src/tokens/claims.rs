//! What a token of a service account says, in upstream's form, and whether its times and addressees hold.
//!
//! Pure: the time is an argument. Start at [`Claims`].

use serde::{Deserialize, Serialize};

/// The claims of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is.
    pub aud: Vec<String>,
    /// Until when, in seconds since 1970.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// By whom.
    pub iss: String,
    /// A name of its own.
    #[serde(default)]
    pub jti: String,
    /// Whose it is and to what it is bound.
    #[serde(rename = "kubernetes.io")]
    pub place: Place,
    /// Since when.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// Upstream's private claims.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Namespace of the account.
    pub namespace: String,
    /// The node it is bound to, or that the pod is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Named>,
    /// The pod it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// The Secret it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Named>,
    /// The account.
    pub serviceaccount: Named,
    /// From when on whoever still presents it should have asked for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object by name and UID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its UID; empty for a node that did not exist.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The user name of an account.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

impl Claims {
    /// The addressees among `wanted`, or why the claims do not hold now.
    pub fn judge(&self, issuer: &str, wanted: &[String], now_seconds: i64) -> Result<Vec<String>, &'static str> {
        if self.iss != issuer {
            return Err("the token was issued by somebody else");
        }
        if self.sub != user_name(&self.place.namespace, &self.place.serviceaccount.name) {
            return Err("the subject is not the service account of the token");
        }
        if now_seconds >= self.exp {
            return Err("service account token has expired");
        }
        if now_seconds < self.nbf {
            return Err("service account token is not valid yet");
        }
        let common: Vec<String> = wanted.iter().filter(|audience| self.aud.contains(audience)).cloned().collect();
        if common.is_empty() { Err("token audiences are invalid for what was asked") } else { Ok(common) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let named = |name: &str| Named { name: name.to_owned(), uid: "u".to_owned() };
        Claims {
            aud: vec!["a".into(), "b".into()],
            exp: 200,
            iat: 100,
            iss: "us".into(),
            jti: "j".into(),
            place: Place {
                namespace: "n".into(),
                node: None,
                pod: Some(named("p")),
                secret: None,
                serviceaccount: named("s"),
                warnafter: None,
            },
            nbf: 100,
            sub: "system:serviceaccount:n:s".into(),
        }
    }

    #[test]
    fn issuer_subject_times_and_audience_must_all_hold() {
        let wanted = ["b".to_owned(), "c".to_owned()];
        assert_eq!(claims().judge("us", &wanted, 100).unwrap(), ["b"]);
        assert_eq!(claims().judge("us", &wanted, 199).unwrap(), ["b"]);
        let refused = |claims: Claims, issuer: &str, wanted: &[String], now| claims.judge(issuer, wanted, now).is_err();
        assert!(refused(claims(), "them", &wanted, 150));
        assert!(refused(claims(), "us", &["c".to_owned()], 150));
        assert!(refused(claims(), "us", &wanted, 200));
        assert!(refused(claims(), "us", &wanted, 99));
        assert!(refused(Claims { sub: "system:serviceaccount:n:root".into(), ..claims() }, "us", &wanted, 150));
        assert!(refused(Claims { aud: Vec::new(), ..claims() }, "us", &wanted, 150));
    }

    #[test]
    fn the_claims_have_upstreams_names() {
        let text = serde_json::to_value(claims()).unwrap();
        assert_eq!(text["kubernetes.io"]["serviceaccount"], serde_json::json!({"name": "s", "uid": "u"}));
        assert_eq!(text["kubernetes.io"]["pod"]["name"], "p");
        assert!(text["kubernetes.io"].get("node").is_none());
    }
}
