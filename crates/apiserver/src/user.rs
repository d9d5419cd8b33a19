//! Who asks: the identity that authentication found and authorization judges.

use std::collections::BTreeMap;

use x509_parser::prelude::FromDer;

/// An authenticated identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name, for example `system:node:n1`.
    pub name: String,
    /// Stable id of the user; may be empty.
    pub uid: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// What authentication says beside it.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Group of administrators: everything is allowed.
pub const MASTERS: &str = "system:masters";
/// Group of node agents.
pub const NODES: &str = "system:nodes";
/// Group of all service accounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// Group of everybody who was authenticated.
pub const AUTHENTICATED: &str = "system:authenticated";

impl UserInfo {
    /// An authenticated user with these groups (`system:authenticated` is added).
    pub fn new(name: &str, groups: &[&str]) -> UserInfo {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }
    }

    /// The administrator of this cluster.
    pub fn admin() -> UserInfo {
        UserInfo::new("kubernetes-admin", &[MASTERS])
    }

    /// The agent of node `name`.
    pub fn node(name: &str) -> UserInfo {
        UserInfo::new(&format!("system:node:{name}"), &[NODES])
    }

    /// The identity as rules of kinds see it.
    pub fn requester(&self) -> api::Requester<'_> {
        api::Requester { name: &self.name, uid: &self.uid, groups: &self.groups, extra: &self.extra }
    }

    /// Whether the user is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, if this is a node agent.
    pub fn node_name(&self) -> Option<&str> {
        if !self.is_in(NODES) {
            return None;
        }
        self.name.strip_prefix("system:node:").filter(|name| !name.is_empty())
    }

    /// The identity in a verified client certificate: common name → user, organisations → groups.
    /// None if the certificate names nobody.
    pub fn from_certificate(der: &[u8]) -> Option<UserInfo> {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        if name.is_empty() {
            return None;
        }
        let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        Some(UserInfo::new(&name, &groups))
    }
}

/// A bearer token that is known from the start.
#[derive(Clone)]
pub struct StaticToken {
    /// The secret.
    pub token: String,
    /// Whom it proves.
    pub user: UserInfo,
}

impl std::fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticToken").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Compares secrets without telling by its duration where they differ.
pub fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0_u8, |acc, (x, y)| acc | (x ^ y)) == 0
}
