//! Impersonation: a request that is to be judged as somebody else's, by who may.
//!
//! The headers are `Impersonate-User`, `-Group`, `-Uid` and `-Extra-*`, as upstream; each of them is a right of its own
//! (verb `impersonate`). Whoever names a user gets that user's rights and none of his own. Start at [`apply`].

use http::{HeaderMap, HeaderName};

use crate::authz::{self, Attributes};
use crate::query::percent_decode;
use crate::server::Core;
use crate::status::Status;
use crate::user::{AUTHENTICATED, SERVICE_ACCOUNTS, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const VERB: &str = "impersonate";
const ACCOUNT: &str = "system:serviceaccount:";

/// The user that a request is judged as.
///
/// # Errors
/// 403 when the one who asks may not be that user, 500 in upstream's words when no user is named.
pub async fn apply(core: &Core, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let Some(wanted) = wanted(headers)? else { return Ok(user) };
    for (group, resource, subresource, namespace, name) in demands(&wanted) {
        let attributes =
            Attributes { user: &user, verb: VERB, group, resource, subresource, namespace, name, fields: "", path: "" };
        authz::authorize(&core.authorizers, &attributes, &core.registry.world).await?;
    }
    Ok(with_groups(wanted))
}

/// Whom the headers name, whether or not he who asks may be that one.
///
/// # Errors
/// As [`apply`]: 500 when no user is named.
pub fn asked_for(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    Ok(wanted(headers)?.map(with_groups))
}

/// The user as the headers name him; None if none of them is one that counts.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let mut wanted = UserInfo::default();
    for (name, value) in headers {
        if !name.as_str().starts_with("impersonate-") {
            continue;
        }
        let value = value.to_str().map_err(|_| Status::bad_request(format!("the header {name} is not text")))?;
        add(&mut wanted, name, value);
    }
    let others = !wanted.groups.is_empty() || !wanted.uid.is_empty() || !wanted.extra.is_empty();
    match (wanted.name.is_empty(), others) {
        (false, _) => Ok(Some(wanted)),
        (true, false) => Ok(None),
        (true, true) => Err(Status::internal("requested groups, a uid or extras without impersonating a user")),
    }
}

fn add(wanted: &mut UserInfo, name: &HeaderName, value: &str) {
    match name.as_str() {
        USER if wanted.name.is_empty() => value.clone_into(&mut wanted.name),
        UID if wanted.uid.is_empty() => value.clone_into(&mut wanted.uid),
        GROUP => wanted.groups.push(value.to_owned()),
        other => {
            if let Some(key) = other.strip_prefix(EXTRA) {
                let key = percent_decode(key).to_lowercase();
                wanted.extra.entry(key).or_default().push(value.to_owned());
            }
        }
    }
}

/// Namespace and name of a service account's user name.
fn account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(ACCOUNT)?.split_once(':').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
}

type Demand<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

/// What the one who asks has to be allowed: group, resource, subresource, namespace and name.
fn demands(wanted: &UserInfo) -> Vec<Demand<'_>> {
    const IDENTITY: &str = "authentication.k8s.io";
    let mut demands = vec![match account(&wanted.name) {
        Some((namespace, name)) => ("", "serviceaccounts", "", namespace, name),
        None => ("", "users", "", "", wanted.name.as_str()),
    }];
    demands.extend(wanted.groups.iter().map(|group| ("", "groups", "", "", group.as_str())));
    if !wanted.uid.is_empty() {
        demands.push((IDENTITY, "uids", "", "", wanted.uid.as_str()));
    }
    for (key, values) in &wanted.extra {
        demands.extend(values.iter().map(|value| (IDENTITY, "userextras", key.as_str(), "", value.as_str())));
    }
    demands
}

/// The groups that a user of this name has without saying so.
fn with_groups(mut wanted: UserInfo) -> UserInfo {
    if let (Some((namespace, _)), true) = (account(&wanted.name), wanted.groups.is_empty()) {
        wanted.groups = vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
    }
    let implied = if wanted.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !wanted.is_in(AUTHENTICATED) && !wanted.is_in(UNAUTHENTICATED) {
        wanted.groups.push(implied.to_owned());
    }
    wanted
}

const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn each_header_demands_a_right_of_its_own() {
        let list = [
            ("Impersonate-User", "ann"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-example.com%2fScopes", "view"),
        ];
        let user = wanted(&headers(&list)).unwrap().unwrap();
        assert_eq!(
            demands(&user),
            [
                ("", "users", "", "", "ann"),
                ("", "groups", "", "", "dev"),
                ("authentication.k8s.io", "uids", "", "", "7"),
                ("authentication.k8s.io", "userextras", "example.com/scopes", "", "view"),
            ]
        );
        assert_eq!(with_groups(user).groups, ["dev", "system:authenticated"]);
    }

    #[test]
    fn a_service_account_comes_with_its_groups() {
        let user = wanted(&headers(&[("Impersonate-User", "system:serviceaccount:n:s")])).unwrap().unwrap();
        assert_eq!(demands(&user), [("", "serviceaccounts", "", "n", "s")]);
        let groups = ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"];
        assert_eq!(with_groups(user).groups, groups);
    }

    #[test]
    fn groups_without_a_user_are_refused_and_nobody_is_nobody() {
        assert_eq!(wanted(&headers(&[("Impersonate-Group", "g")])).unwrap_err().code, 500);
        assert_eq!(wanted(&headers(&[("Impersonate-Other", "g")])), Ok(None));
        let user = wanted(&headers(&[("Impersonate-User", "system:anonymous")])).unwrap().unwrap();
        assert_eq!(with_groups(user).groups, ["system:unauthenticated"]);
    }
}
