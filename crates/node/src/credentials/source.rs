//! A credential to be tried, and where it comes from.
//!
//! Owns the types that cross to the pull and to its record. `Debug` shows no secret. Start at [`Lookup`].

use cri::v1;

/// Where a credential comes from: decides who may use the image that it fetched (IMG-238).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A pull Secret of the pod.
    Secret {
        /// Its UID.
        uid: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A file of the node, or a credential helper that such a file names.
    NodeFile,
    /// A credential provider plugin.
    Plugin {
        /// The service account whose token the plugin got; without one its answer is the whole node's (IMG-209).
        service_account: Option<Account>,
    },
    /// No credential at all.
    Anonymous,
}

impl Source {
    /// True if whatever it fetches is open to every pod of the node (IMG-238).
    pub fn is_node_wide(&self) -> bool {
        matches!(self, Self::NodeFile | Self::Plugin { service_account: None } | Self::Anonymous)
    }
}

/// The coordinates of a service account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// One attempt to pull. `Debug` shows the source and never the credential.
#[derive(Clone, PartialEq)]
pub struct Try {
    /// What is sent to the runtime; `None` for an anonymous attempt.
    pub auth: Option<v1::AuthConfig>,
    /// Headers for the registry that belong to this credential (IMG-163).
    pub headers: Vec<(String, String)>,
    /// Where it comes from: the first source that holds it.
    pub source: Source,
    /// Further sources that hold exactly the same credential; it is tried once for all of them (IMG-182).
    pub also: Vec<Source>,
}

impl Try {
    /// An attempt without credentials.
    pub fn anonymous() -> Try {
        Try { auth: None, headers: Vec::new(), source: Source::Anonymous, also: Vec::new() }
    }
}

impl std::fmt::Debug for Try {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Try")
            .field("source", &self.source)
            .field("also", &self.also)
            .field("headers", &headers)
            .finish_non_exhaustive()
    }
}

/// What was found for one image.
#[derive(Clone, Default, PartialEq)]
pub struct Lookup {
    /// To be tried one after another until one works (IMG-180); what [`Lookup::default`] leaves empty,
    /// `Credentials::for_image` never does: without a match there is one anonymous attempt (IMG-181).
    pub tries: Vec<Try>,
    /// Names of pull Secrets that could not be read, for `FailedToRetrieveImagePullSecret` (IMG-183).
    pub missing: Vec<String>,
    /// Credentials and plugins that were passed over and why; free of secrets (IMG-167).
    pub problems: Vec<String>,
}

impl Lookup {
    /// The warning of IMG-183, if a pull Secret is missing: its reason and text.
    pub fn warning(&self) -> Option<(&'static str, String)> {
        if self.missing.is_empty() {
            return None;
        }
        let names = self.missing.join(", ");
        let text = format!(
            "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
        );
        Some(("FailedToRetrieveImagePullSecret", text))
    }
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup")
            .field("tries", &self.tries)
            .field("missing", &self.missing)
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}
