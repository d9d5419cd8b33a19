//! Lists: pages of one revision, selectors, continue tokens, resource versions.
//!
//! Reads come from the store, which keeps what is current in memory. Start at [`list`].

use std::sync::Arc;

use api::Kind;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use store::{Entry, List, Revision, Store};

use crate::answer::ListMeta;
use crate::filter::Filter;
use crate::object;
use crate::query::{ListOptions, Match};
use crate::status::Status;

/// How many entries are read at once while a selector discards some of them.
const CHUNK: usize = 500;

/// Where a list goes on.
#[derive(Debug, PartialEq)]
struct Token {
    /// None: whatever there is then, when the revision of the first page is no longer kept.
    revision: Option<Revision>,
    after: String,
}

impl Token {
    fn encode(&self) -> String {
        let revision = self.revision.map_or_else(|| (-1).into(), |revision| serde_json::Value::from(revision.0));
        let json = serde_json::json!({"v": "meta.k8s.io/v1", "rv": revision, "start": self.after});
        URL_SAFE_NO_PAD.encode(json.to_string())
    }

    fn decode(text: &str) -> Result<Token, Status> {
        let broken = || Status::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| broken())?;
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
        let revision = match (json["rv"].as_i64(), json["rv"].as_u64()) {
            (Some(-1), _) => None,
            (_, Some(revision)) if revision > 0 => Some(Revision(revision)),
            _ => return Err(broken()),
        };
        let after = json["start"].as_str().filter(|s| !s.is_empty() && !s.starts_with('/')).ok_or_else(broken)?;
        Ok(Token { revision, after: after.to_owned() })
    }
}

/// Lists a collection.
pub async fn list(
    store: &Arc<dyn Store>,
    prefix: &str,
    options: &ListOptions,
    filter: &Filter,
) -> Result<(Vec<(Bytes, Revision)>, ListMeta), Status> {
    let token = options.continue_token.as_deref().map(Token::decode).transpose()?;
    if token.is_some() && options.revision.is_some_and(|r| r != 0) {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let mut at = match &token {
        Some(token) => token.revision,
        None => wanted_revision(store, options).await?,
    };
    let mut after = token.as_ref().map(|token| format!("{prefix}{}", token.after));
    let mut items = Vec::new();
    loop {
        let want = if options.limit == 0 { 0 } else { options.limit - items.len() };
        let chunk = if filter.is_open() || want == 0 { want } else { want.max(CHUNK) };
        let request = List { prefix: prefix.to_owned(), after: after.clone(), limit: chunk, at };
        let page = store.list(request).await.map_err(|e| list_error(&e, token.as_ref()))?;
        at = Some(page.revision);
        let last = page.items.last().map(|entry| entry.key.clone());
        let cut = take(filter, (page.items, options.limit), &mut items);
        let more = page.remaining > 0 || cut.is_some();
        let resume = cut.or(last);
        let full = options.limit > 0 && items.len() >= options.limit;
        if !more || full {
            let meta = meta(prefix, page.revision, resume.filter(|_| more), page.remaining);
            let known = filter.is_open();
            return Ok((items, ListMeta { remaining: meta.remaining.filter(|_| known), ..meta }));
        }
        after = resume.map(|key| key.to_string());
    }
}

/// Keeps what the filter shows, up to the limit. Returns the last key looked at, if some were not looked at.
fn take(
    filter: &Filter,
    (entries, limit): (Vec<Entry>, usize),
    items: &mut Vec<(Bytes, Revision)>,
) -> Option<Arc<str>> {
    let count = entries.len();
    for (index, entry) in entries.into_iter().enumerate() {
        if filter.shows(&entry) {
            items.push((entry.value.clone(), entry.modified));
        }
        if limit > 0 && items.len() >= limit && index + 1 < count {
            return Some(entry.key);
        }
    }
    None
}

fn meta(prefix: &str, revision: Revision, resume: Option<Arc<str>>, remaining: u64) -> ListMeta {
    let after = resume.and_then(|key| key.strip_prefix(prefix).map(str::to_owned));
    ListMeta {
        revision,
        continue_token: after.map(|after| Token { revision: Some(revision), after }.encode()),
        remaining: Some(remaining),
    }
}

/// The snapshot that the options ask for; None = now. A revision that is yet to come is a 504.
async fn wanted_revision(store: &Arc<dyn Store>, options: &ListOptions) -> Result<Option<Revision>, Status> {
    let Some(wanted) = options.revision.filter(|r| *r > 0) else { return Ok(None) };
    let current = store.revision().await.map_err(|e| list_error(&e, None))?;
    if wanted > current.0 {
        return Err(Status::too_large_resource_version(wanted, current.0));
    }
    // A limited list with a version and no rule is exact, as upstream reads it.
    let exact = options.revision_match == Match::Exact || (options.revision_match == Match::Unset && options.limit > 0);
    Ok(exact.then_some(Revision(wanted)))
}

/// `begun` is where a list that was begun before was to go on.
fn list_error(error: &store::Error, begun: Option<&Token>) -> Status {
    match (error, begun) {
        (store::Error::Compacted { .. }, Some(token)) => {
            let rest = Token { revision: None, after: token.after.clone() };
            Status { continue_token: rest.encode(), ..Status::expired(TOO_LATE) }
        }
        (store::Error::Compacted { .. }, None) => Status::expired("The provided resource version is too old."),
        (store::Error::Future { requested, current }, _) => Status::too_large_resource_version(requested.0, current.0),
        (store::Error::Unreadable { .. }, _) => Status::internal(error),
        (other, _) => Status::unavailable(other.to_string()),
    }
}

/// Upstream's words: the token of the answer leads on, over what there is by then.
const TOO_LATE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
    without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
    Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted \
    between the time the first chunk was returned and now may show up in the list.";

/// The prefix of keys that a collection request covers.
pub fn prefix(kind: &Kind, namespace: Option<&str>) -> String {
    object::key(kind, namespace, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_survive_the_way_to_the_client_and_back() {
        for revision in [Some(Revision(7)), None] {
            let token = Token { revision, after: "default/ä b".to_owned() };
            assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        }
        assert_eq!(Token::decode("rubbish!").unwrap_err().code, 400);
        assert_eq!(Token::decode("e30").unwrap_err().code, 400);
    }
    #[tokio::test]
    async fn a_list_that_comes_too_late_is_told_how_to_go_on() {
        let store: Arc<dyn Store> = Arc::new(store::memory::MemoryStore::new());
        let kind = api::find("", "v1", "configmaps").unwrap();
        let prefix = prefix(kind, Some("x"));
        let put = async |name: &str| {
            let value = Bytes::from(format!("{{\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"x\"}}}}"));
            let key = object::key(kind, Some("x"), Some(name));
            store.put(store::Put { key, value, expect: store::Expect::Absent, ttl: None }).await.unwrap().modified
        };
        let asked = |query: &str| ListOptions::parse(&crate::query::Query::parse(Some(query))).unwrap();
        put("a").await;
        put("b").await;
        let options = asked("limit=1");
        let filter = Filter::parse(kind, &options, None).unwrap();
        let (_, first) = list(&store, &prefix, &options, &filter).await.unwrap();
        store.compact(put("c").await).await.unwrap();
        let options = asked(&format!("continue={}", first.continue_token.unwrap()));
        let late = list(&store, &prefix, &options, &filter).await.unwrap_err();
        assert_eq!((late.code, late.reason.as_ref()), (410, "Expired"));
        let told = late.to_value();
        let options = asked(&format!("continue={}", told["metadata"]["continue"].as_str().unwrap()));
        let (rest, _) = list(&store, &prefix, &options, &filter).await.unwrap();
        assert_eq!(rest.len(), 2, "b, and c that came later");
    }
}
