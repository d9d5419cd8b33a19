//! Debug output of messages that carry secrets. Must never print a password, a token or an encoded pair of both.

use std::fmt;

use crate::sampan::PullRequest;
use crate::v1::AuthConfig;

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |secret: &str| if secret.is_empty() { "" } else { "<redacted>" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &shown(&self.password))
            .field("auth", &shown(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &shown(&self.identity_token))
            .field("registry_token", &shown(&self.registry_token))
            .finish()
    }
}

impl fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.password.is_empty() { "" } else { "<redacted>" };
        let mut shown = f.debug_struct("PullRequest");
        shown.field("image", &self.image).field("username", &self.username).field("password", &password).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::PullImageRequest;

    #[test]
    fn no_secret_appears_in_debug_output_of_a_request() {
        let secret = || "s3cr3t".to_owned();
        let auth = AuthConfig {
            username: "somebody".into(),
            password: secret(),
            auth: secret(),
            server_address: "registry.test".into(),
            identity_token: secret(),
            registry_token: secret(),
        };
        let shown = format!("{:?}", PullImageRequest { auth: Some(auth), ..Default::default() });
        assert!(!shown.contains("s3cr3t"), "{shown}");
        assert!(shown.contains("somebody"), "{shown}");
    }
}
