//! `metadata.managedFields` on the way: who a writer is, and how the owners of fields follow a write.
//!
//! What owning means is in `api::apply`. In stored bytes the owners stand first in the metadata, so that they are cut out
//! and put back as bytes; they are read only when something changed that can be owned. Pure. Start at [`of_changed`].

use std::borrow::Cow;

use api::apply::{self, Entry, Writer};
use api::look;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use crate::query::Query;
use crate::registry::Call;
use crate::status::Status;
use crate::user::UserInfo;

/// The longest name of a manager, in bytes.
const MANAGER_BYTES_MAX: usize = 128;

/// The name of the manager that a request speaks for: what it says, else the first word of its user agent. Components
/// inside of this process have no user agent; they go by the names that they have elsewhere.
pub fn manager(query: &Query, headers: &HeaderMap, user: &UserInfo) -> String {
    if let Some(name) = query.get("fieldManager") {
        return name.to_owned();
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let word = agent.split('/').next().unwrap_or_default();
    if !word.is_empty() {
        return word.chars().filter(|c| !c.is_control()).take(MANAGER_BYTES_MAX).collect();
    }
    match user.name.as_str() {
        _ if user.node_name().is_some() => "kubelet".to_owned(),
        name => name.strip_prefix("system:").unwrap_or("unknown").to_owned(),
    }
}

/// Checks `fieldManager` and `force` as upstream does; `applies` for server-side apply.
pub fn check_options(query: &Query, method: &Method, applies: bool) -> Result<(), Status> {
    let name = query.get("fieldManager").unwrap_or_default();
    let mut problems = Vec::new();
    if applies && name.is_empty() {
        problems.push("fieldManager: Required value: is required for apply patch".to_owned());
    }
    if *method == Method::PATCH && !applies && query.get("force").is_some() {
        problems.push("force: Forbidden: may not be specified for non-apply patch".to_owned());
    }
    if name.len() > MANAGER_BYTES_MAX {
        problems.push(format!("fieldManager: Too long: may not be more than {MANAGER_BYTES_MAX} bytes"));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let shown = format!("U+{:04X}", u32::from(c));
        problems.push(format!("fieldManager: Invalid value: {name:?}: invalid character {shown} (at position {at})"));
    }
    let joined = match problems.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let options = match *method {
        Method::PATCH => "PatchOptions",
        Method::PUT => "UpdateOptions",
        _ => "CreateOptions",
    };
    Err(Status::plain(422, "Invalid", format!("{options}.meta.k8s.io \"\" is invalid: {joined}")))
}

/// The writer of a call.
pub fn writer<'a>(call: &Call<'a>) -> Writer<'a> {
    Writer { kind: call.kind, subresource: call.subresource, manager: call.manager, now: call.now }
}

/// The owners of a new object.
pub fn of_new(call: &Call<'_>, object: &Value) -> Vec<u8> {
    apply::update_stored(&writer(call), (None, object), b"").unwrap_or_default()
}

/// The owners of a changed object. `claimed` are those that the client sent, `live` those that are stored.
///
/// As upstream: a list with one empty entry takes all owners away; what a client sends through a subresource, or in a form
/// that is not understood, does not count, and neither does an empty list.
pub fn of_changed<'a>(
    call: &Call<'_>,
    (new, old): (&Value, &Value),
    claimed: Option<&Value>,
    live: &'a [u8],
) -> Cow<'a, [u8]> {
    let claimed = claimed.filter(|_| call.subresource.is_none());
    if claimed.is_some_and(is_reset) {
        return Cow::Owned(Vec::new());
    }
    let claimed: Option<Vec<Entry>> = claimed.and_then(apply::read_foreign).filter(|entries| !entries.is_empty());
    let Some(claimed) = claimed else {
        return apply::update_stored(&writer(call), (Some(old), new), live).map_or(Cow::Borrowed(live), Cow::Owned);
    };
    let followed = apply::update(&writer(call), (Some(old), new), || claimed.clone());
    Cow::Owned(apply::write(followed.as_ref().unwrap_or(&claimed)))
}

fn is_reset(claimed: &Value) -> bool {
    match claimed.as_array().map(Vec::as_slice) {
        Some([only]) => {
            only.as_object().is_some_and(|entry| entry.values().all(|value| value.is_null() || value == ""))
        }
        _ => false,
    }
}

/// Whether two stored forms say the same but for times.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a == b || apply::same_but_for_times(&apply::read(a), &apply::read(b))
}

/// Puts the owners into an object that is to be shown or patched with them.
pub fn attach(object: &mut Value, managed: &[u8]) {
    if let Ok(list) = serde_json::from_slice::<Value>(managed) {
        look::set(crate::object::metadata_mut(object), "managedFields", list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_who_it_says_or_its_user_agent_or_its_user() {
        let mut headers = HeaderMap::new();
        let node = UserInfo::node("n");
        let none = Query::default();
        assert_eq!(manager(&none, &headers, &node), "kubelet");
        assert_eq!(manager(&none, &headers, &UserInfo::new("system:kube-scheduler", &[])), "kube-scheduler");
        assert_eq!(manager(&none, &headers, &UserInfo::admin()), "unknown");
        headers.insert("user-agent", "kubectl/v1.32.0 (linux/amd64) kubernetes/x".parse().unwrap());
        assert_eq!(manager(&none, &headers, &node), "kubectl");
        assert_eq!(manager(&Query::parse(Some("fieldManager=me")), &headers, &node), "me");
    }

    #[test]
    fn options_are_checked_in_upstreams_words() {
        let told = |query: &str, applies| {
            check_options(&Query::parse(Some(query)), &Method::PATCH, applies)
                .err()
                .map(|status| (status.code, status.message))
        };
        let invalid = |why: &str| Some((422, format!("PatchOptions.meta.k8s.io \"\" is invalid: {why}")));
        assert_eq!(told("", true), invalid("fieldManager: Required value: is required for apply patch"));
        assert_eq!(told("force=true", false), invalid("force: Forbidden: may not be specified for non-apply patch"));
        assert_eq!(
            told(&format!("fieldManager={}", "x".repeat(129)), false),
            invalid("fieldManager: Too long: may not be more than 128 bytes")
        );
        assert!(told("fieldManager=a%0Ab", false).unwrap().1.ends_with("invalid character U+000A (at position 1)"));
        assert_eq!(told("fieldManager=a&force=true", true), None);
    }
}
