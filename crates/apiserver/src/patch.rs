//! PATCH: the three kinds of patch that change what is there. Server-side apply is in [`crate::apply`].
//!
//! How a patch changes a document is in `api::patch`; here is which one a request means, and that its result is an object
//! again. Pure. Start at [`Patch::read`].

use api::patch::PatchError;
use api::{Kind, look};
use http::HeaderMap;
use serde_json::Value;

use crate::body::{self, Checked};
use crate::codec::{self, Decoded};
use crate::object;
use crate::query::FieldValidation;
use crate::status::Status;

/// Media types of patches.
pub const ACCEPTED: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    crate::apply::MEDIA_TYPE,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sort {
    Json,
    Merge,
    Strategic,
}

/// A patch as it was sent.
#[derive(Debug)]
pub struct Patch {
    sort: Sort,
    document: Value,
    duplicates: Vec<String>,
}

impl Patch {
    /// Reads a patch; other media types are 415.
    pub fn read(headers: &HeaderMap, body: &[u8]) -> Result<Patch, Status> {
        let sort = match codec::media_type(headers).as_str() {
            "application/json-patch+json" => Sort::Json,
            "application/merge-patch+json" => Sort::Merge,
            "application/strategic-merge-patch+json" => Sort::Strategic,
            _ => return Err(Status::unsupported_media_type(&ACCEPTED)),
        };
        let Decoded { value: document, duplicates } = codec::decode_json(body)?;
        match (&document, sort) {
            (Value::Array(_), Sort::Json) | (Value::Object(_), Sort::Merge | Sort::Strategic) => {
                Ok(Patch { sort, document, duplicates })
            }
            _ => Err(Status::bad_request("error decoding patch: the document has the wrong shape")),
        }
    }

    /// Whether the patch reads or writes the owners of fields. Most do not, and are spared them.
    pub fn sees_owners(&self) -> bool {
        let leads_there =
            |path: &str| path.is_empty() || path == "/metadata" || path.starts_with("/metadata/managedFields");
        match &self.document {
            Value::Array(operations) => operations.iter().any(|operation| {
                ["path", "from"]
                    .iter()
                    .any(|name| look::get(operation, name).and_then(Value::as_str).is_some_and(leads_there))
            }),
            document => look::at(document, &["metadata", "managedFields"]).is_some(),
        }
    }

    /// The patched object and what to tell the client.
    pub fn apply(&self, kind: &Kind, old: &Value, validation: FieldValidation) -> Result<(Value, Vec<String>), Status> {
        let patched = match self.sort {
            Sort::Json => api::patch::json(old, &self.document),
            Sort::Merge => api::patch::merge(old, &self.document),
            Sort::Strategic => api::patch::strategic(kind, old, &self.document),
        };
        let mut patched = patched.map_err(|error| match error {
            PatchError::Malformed { .. } => Status::bad_request(error.to_string()),
            PatchError::TooLarge { .. } => Status::too_much(&error.to_string()),
            PatchError::Apply { .. } => Status::plain(422, "Invalid", error.to_string()),
        })?;
        // A patch that removes the version means no precondition, not an update without a version.
        if patched.is_object() {
            let metadata = object::metadata_mut(&mut patched);
            if look::text(metadata, "resourceVersion").is_empty() {
                look::copy(&old["metadata"], metadata, "resourceVersion");
            }
        }
        let document = Decoded { value: patched, duplicates: self.duplicates.clone() };
        let Checked { object, warnings } = body::check(kind, document, validation)?;
        Ok((object, warnings))
    }
}
