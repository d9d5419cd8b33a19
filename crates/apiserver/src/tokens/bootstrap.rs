//! Bootstrap tokens: what a machine proves itself by until it has a certificate.
//!
//! A token is `id.secret`; what is known of it is in the Secret `bootstrap-token-<id>` of `kube-system`. Start at
//! [`prove`].

use std::collections::BTreeSet;

use api::{Timestamp, look, time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::user::{UserInfo, same_secret};
use crate::world::World;

const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 16;
const GROUP: &str = "system:bootstrappers";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Id and secret of a text that has the form of a token.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let is =
        |text: &str, bytes| text.len() == bytes && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (is(id, ID_BYTES) && is(secret, SECRET_BYTES)).then_some((id, secret))
}

/// Whom a token proves.
///
/// # Errors
/// Why it proves nobody, without a word of its secret.
pub async fn prove(world: &World, (id, secret): (&str, &str), now: Timestamp) -> Result<UserInfo, String> {
    let found = world.find("", "secrets", Some("kube-system"), &format!("bootstrap-token-{id}")).await;
    judge(found.as_ref(), (id, secret), now)
}

fn judge(found: Option<&Value>, (id, secret): (&str, &str), now: Timestamp) -> Result<UserInfo, String> {
    let held = |key: &str| -> String {
        let text = found.map_or("", |found| look::text_at(found, &["data", key]));
        STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    // Compared also when there is nothing to compare with, so that the time does not tell which ids there are.
    let same = same_secret(held("token-secret").as_bytes(), secret.as_bytes());
    let Some(found) = found else { return Err(format!("there is no bootstrap token {id:?}")) };
    if !same {
        return Err(format!("another secret than that of bootstrap token {id:?}"));
    }
    if look::at(found, &["metadata", "deletionTimestamp"]).is_some() {
        return Err(format!("bootstrap token {id:?} is being deleted"));
    }
    if look::text(found, "type") != TYPE || held("token-id") != id {
        return Err(format!("the Secret of bootstrap token {id:?} is not of its form"));
    }
    let expiration = held("expiration");
    if !expiration.is_empty() && time::parse(&expiration).is_none_or(|ends| ends <= now) {
        return Err(format!("bootstrap token {id:?} has expired"));
    }
    if held("usage-bootstrap-authentication") != "true" {
        return Err(format!("bootstrap token {id:?} is not for authentication"));
    }
    let extra = held("auth-extra-groups");
    let extra: Vec<&str> = extra.split(',').filter(|_| !extra.is_empty()).collect();
    if let Some(bad) = extra.iter().find(|group| !is_group(group)) {
        return Err(format!("bootstrap token {id:?} has the group {bad:?}, which is not for bootstrap tokens"));
    }
    let groups: BTreeSet<&str> = extra.into_iter().chain([GROUP]).collect();
    let groups: Vec<&str> = groups.into_iter().collect();
    Ok(UserInfo::new(&format!("system:bootstrap:{id}"), &groups))
}

/// `system:bootstrappers:` and words of small letters, digits, `:` and `-`, with a letter or digit at the end.
fn is_group(group: &str) -> bool {
    const REST_MAX: usize = 255;
    let Some(rest) = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = rest.bytes().all(|b| word(b) || b == b':' || b == b'-');
    good && rest.len() <= REST_MAX && rest.bytes().last().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn token(change: &[(&str, &str)]) -> Value {
        let mut texts: std::collections::BTreeMap<&str, &str> = [
            ("token-id", "abcdef"),
            ("token-secret", SECRET),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-01-02T00:00:00Z"),
        ]
        .into();
        texts.extend(change.iter().copied());
        let data: serde_json::Map<String, Value> =
            texts.into_iter().map(|(key, text)| (key.to_owned(), STANDARD.encode(text).into())).collect();
        json!({"type": TYPE, "data": data})
    }

    fn judged(found: Option<&Value>, secret: &str, now: &str) -> Result<UserInfo, String> {
        judge(found, ("abcdef", secret), now.parse().unwrap())
    }

    const NOW: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn a_token_has_six_and_sixteen_small_letters_and_digits() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", SECRET)));
        for bad in [
            "",
            ".",
            "abcdef.",
            "abcde.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123456789abcde.",
            "a.b.c",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_proves_its_name_and_its_groups() {
        let user = judged(Some(&token(&[])), SECRET, NOW).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:authenticated"]);
        let more = token(&[("auth-extra-groups", "system:bootstrappers:b-1:x,system:bootstrappers:a")]);
        let groups = judged(Some(&more), SECRET, NOW).unwrap().groups;
        assert_eq!(groups[..3], ["system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:b-1:x"]);
        assert!(judged(Some(&token(&[("expiration", "")])), SECRET, "2999-01-01T00:00:00Z").is_ok());
    }

    #[test]
    fn whatever_is_wrong_is_refused_and_no_word_of_a_secret_is_told() {
        let other = "fedcba9876543210";
        let refused = |found: Option<&Value>, secret: &str, now: &str, why: &str| {
            let told = judged(found, secret, now).unwrap_err();
            assert!(told.contains(why) && !told.contains(SECRET) && !told.contains(other), "{told}");
        };
        refused(None, SECRET, NOW, "there is no bootstrap token");
        refused(None, "", NOW, "there is no bootstrap token");
        refused(Some(&token(&[])), other, NOW, "another secret");
        refused(Some(&token(&[])), SECRET, "2026-01-02T00:00:00Z", "has expired");
        refused(Some(&token(&[("expiration", "tomorrow")])), SECRET, NOW, "has expired");
        refused(Some(&token(&[("usage-bootstrap-authentication", "yes")])), SECRET, NOW, "not for authentication");
        refused(Some(&token(&[("token-id", "abcdeg")])), SECRET, NOW, "not of its form");
        for group in
            ["system:masters", "system:bootstrappers:", "system:bootstrappers:A", "system:bootstrappers:a-", ","]
        {
            refused(Some(&token(&[("auth-extra-groups", group)])), SECRET, NOW, "not for bootstrap tokens");
        }
        let mut opaque = token(&[]);
        opaque["type"] = "Opaque".into();
        refused(Some(&opaque), SECRET, NOW, "not of its form");
        let mut going = token(&[]);
        going["metadata"] = json!({"deletionTimestamp": NOW});
        refused(Some(&going), SECRET, NOW, "is being deleted");
        let mut empty = token(&[]);
        empty["data"] = json!({});
        refused(Some(&empty), "", NOW, "not of its form");
    }
}
