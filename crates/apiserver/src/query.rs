//! Query strings: decoding, and the list, watch and write options in them.
//!
//! Pure. Start at [`Query`].

use std::borrow::Cow;

use crate::status::Status;

/// Decoded `key=value` pairs in their order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the raw query of a URI.
    pub fn parse(raw: Option<&str>) -> Query {
        let pairs = raw.unwrap_or_default().split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (plus_decode(key), plus_decode(value))
        });
        Query(pairs.collect())
    }

    /// First value of `key`, if it is not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A boolean as Go reads it from a query: absent, `0` and `false` are false, the rest is true.
    pub fn flag(&self, key: &str) -> bool {
        match self.0.iter().find(|(k, _)| k == key) {
            None => false,
            Some((_, value)) => !matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "f"),
        }
    }

    /// An integer, or 400.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, Status> {
        self.get(key)
            .map(|text| text.parse().map_err(|_| Status::bad_request(format!("invalid value {text:?} for {key}"))))
            .transpose()
    }
}

fn plus_decode(text: &str) -> String {
    if text.contains('+') {
        percent_decode(&text.replace('+', " ")).into_owned()
    } else {
        percent_decode(text).into_owned()
    }
}

/// Decodes `%41`; a broken escape stays as it is, broken UTF-8 becomes the replacement character.
pub fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| bytes.get(i + 1..i + 3)).flatten();
        match hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// Encodes everything but unreserved characters.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `resourceVersionMatch` of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The client did not say.
    Unset,
    /// This revision and no other.
    Exact,
    /// This revision or a newer one.
    NotOlderThan,
}

/// Options of lists and watches.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Label selector as text.
    pub labels: Option<String>,
    /// Field selector as text.
    pub fields: Option<String>,
    /// Most items in one page; 0 = all.
    pub limit: usize,
    /// Token of the page before.
    pub continue_token: Option<String>,
    /// Wanted revision: None = unset.
    pub revision: Option<u64>,
    /// How the revision is meant.
    pub revision_match: Match,
    /// Watch, do not list.
    pub watch: bool,
    /// The client understands bookmarks.
    pub bookmarks: bool,
    /// The client wants the present state as events first.
    pub initial_events: Option<bool>,
    /// End the watch after so many seconds.
    pub timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads and checks them as upstream does.
    pub fn parse(query: &Query) -> Result<ListOptions, Status> {
        let revision = parse_revision(query.get("resourceVersion"))?;
        let revision_match = match query.get("resourceVersionMatch") {
            None => Match::Unset,
            Some("Exact") => Match::Exact,
            Some("NotOlderThan") => Match::NotOlderThan,
            Some(other) => {
                return Err(invalid_options(&format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                )));
            }
        };
        let options = ListOptions {
            labels: query.get("labelSelector").map(str::to_owned),
            fields: query.get("fieldSelector").map(str::to_owned),
            limit: usize::try_from(query.integer("limit")?.unwrap_or(0)).unwrap_or(0),
            continue_token: query.get("continue").map(str::to_owned),
            revision,
            revision_match,
            watch: query.flag("watch"),
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            timeout_seconds: query.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0),
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), Status> {
        if self.watch {
            return self.check_watch();
        }
        if self.initial_events.is_some() {
            return Err(invalid_options("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"));
        }
        let problem = match self.revision_match {
            Match::Unset => return Ok(()),
            _ if self.revision.is_none() => {
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
            }
            _ if self.continue_token.is_some() => {
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"
            }
            Match::Exact if self.revision == Some(0) => {
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\""
            }
            _ => return Ok(()),
        };
        Err(invalid_options(problem))
    }

    fn check_watch(&self) -> Result<(), Status> {
        let problem = match (self.initial_events, self.revision_match) {
            (None, Match::Unset) => return Ok(()),
            (None, _) => {
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            }
            (Some(_), Match::NotOlderThan) if self.continue_token.is_none() => return Ok(()),
            (Some(_), Match::NotOlderThan) => "continue: Forbidden: continue is forbidden for watch",
            (Some(_), _) => {
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            }
        };
        Err(invalid_options(problem))
    }
}

/// A resource version in a request: absent or empty is None.
pub fn parse_revision(text: Option<&str>) -> Result<Option<u64>, Status> {
    text.map(|text| {
        text.parse().map_err(|_| {
            Status::plain(
                400,
                "BadRequest",
                format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"),
            )
        })
    })
    .transpose()
}

fn invalid_options(problem: &str) -> Status {
    Status::plain(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {problem}"))
}

/// How unknown and duplicate fields of a body are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// Say nothing.
    Ignore,
    /// A Warning header for each.
    Warn,
    /// 400.
    Strict,
}

/// Options of writes.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Judge and answer, store nothing.
    pub dry_run: bool,
    /// What unknown fields mean.
    pub field_validation: FieldValidation,
}

impl WriteOptions {
    /// Reads them; unknown values are refused as upstream does.
    pub fn parse(query: &Query) -> Result<WriteOptions, Status> {
        let mut dry_run = false;
        for value in query.all("dryRun").filter(|v| !v.is_empty()) {
            if value != "All" {
                let text = format!("dryRun: Unsupported value: {value:?}: supported values: \"All\"");
                return Err(Status::plain(
                    422,
                    "Invalid",
                    format!("CreateOptions.meta.k8s.io \"\" is invalid: {text}"),
                ));
            }
            dry_run = true;
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let text = format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                );
                return Err(Status::plain(
                    422,
                    "Invalid",
                    format!("CreateOptions.meta.k8s.io \"\" is invalid: {text}"),
                ));
            }
        };
        Ok(WriteOptions { dry_run, field_validation })
    }
}
