//! `sampan token`: the tokens by which machines without a certificate ask for one.
//!
//! A token is a Secret of Kubernetes' own form, and so are its bindings, by kubeadm's names. A token is printed once, when
//! it is made, and nowhere else. Start at [`run`].

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use kube::Client;
use rand::Rng;
use serde_json::{Value, json};

use crate::instance::Instance;
use crate::output::line;
use crate::settings::{self, Settings};
use crate::{certificates, join, kubeconfig, wiring};

/// Words of `token`.
#[derive(Subcommand)]
pub enum Verb {
    /// Make a token by which other machines join, and print it
    ///
    /// On this machine:   sampan token create -o kubeconfig > join.kubeconfig
    /// On the other one:  sampan node --bootstrap-kubeconfig join.kubeconfig --node-name edge-1 --node-ip 192.0.2.7
    /// Who has the token may join as any node that is not there yet, until it ends or is deleted.
    #[command(verbatim_doc_comment)]
    Create {
        /// How long it is good; 0 for ever
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        ttl: String,
        /// What it is for, for people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Where nodes reach the API, with -o kubeconfig [default: where this cluster's API listens]
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// The token alone, or a file for `sampan node --bootstrap-kubeconfig`
        #[arg(short, long, value_enum, default_value = "token")]
        output: Output,
    },
    /// List the tokens, without their secrets
    List,
    /// Delete tokens, by their ids or whole; nodes that have joined stay
    Delete {
        /// The first six letters are enough
        #[arg(value_name = "TOKEN", required = true)]
        tokens: Vec<String>,
    },
}

/// How a new token is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// `id.secret`
    Token,
    /// A kubeconfig
    Kubeconfig,
}

const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// What the holders of tokens may: kubeadm's names, upstream's roles.
const BOUND: [(&str, &str); 2] = [
    ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper"),
    ("kubeadm:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"),
];

/// Runs a verb of `token`.
pub fn run(settings: Settings, verb: &Verb) -> anyhow::Result<()> {
    let instance = settings.instance();
    if join::joined(&instance)?.is_some() {
        bail!("this node has joined another cluster; tokens are made where its API is");
    }
    instance.must_run()?;
    wiring::executor()?.block_on(async {
        let (client, _) = wiring::client_from(&instance.admin_kubeconfig()).await?;
        match verb {
            Verb::Create { ttl, description, server, output } => {
                // Before anything is made, so that nothing is made in vain.
                let server = (*output == Output::Kubeconfig).then(|| join::server(&instance, server.as_deref()));
                let token = create(&client, ttl, description.as_deref(), server.transpose()?).await?;
                print(&instance, token)
            }
            Verb::List => list(&client).await,
            Verb::Delete { tokens } => delete(&client, tokens).await,
        }
    })
}

/// A new token, and where its holders reach the API if a kubeconfig is wanted.
struct Token {
    id: String,
    secret: String,
    server: Option<String>,
}

fn print(instance: &Instance, Token { id, secret, server }: Token) -> anyhow::Result<()> {
    let token = format!("{id}.{secret}");
    let Some(server) = server else {
        line(&token);
        return Ok(());
    };
    let ca = certificates::authority(&instance.data_dir.join("pki"))?;
    line(kubeconfig::with_user(&instance.name(), &server, &ca, json!({"token": token}))?.trim_end());
    Ok(())
}

async fn create(
    client: &Client,
    ttl: &str,
    description: Option<&str>,
    server: Option<String>,
) -> anyhow::Result<Token> {
    let ends = ends(ttl, Timestamp::now())?;
    for (name, role) in BOUND {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": GROUP}],
        });
        match call(client, "POST", BINDINGS, Some(&binding)).await {
            // Whatever somebody made of it stays.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other.with_context(|| format!("bind {role}"))?),
        }
    }
    let (id, secret) = (random(6), random(16));
    let mut data = json!({
        "token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true", "auth-extra-groups": GROUP,
    });
    if let Some(ends) = ends {
        data["expiration"] = ends.into();
    }
    if let Some(description) = description {
        data["description"] = description.into();
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE,
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"}, "stringData": data,
    });
    call(client, "POST", SECRETS, Some(&object)).await.context("make the token")?;
    Ok(Token { id, secret, server })
}

/// When a token ends, as its Secret says it; None for never.
fn ends(ttl: &str, now: Timestamp) -> anyhow::Result<Option<String>> {
    let ttl = settings::duration(ttl).context("--ttl")?;
    if ttl.is_zero() {
        return Ok(None);
    }
    let at = now.checked_add(ttl).context("--ttl")?;
    Ok(Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

/// Letters and digits of the system's own randomness.
fn random(letters: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut source = rand::rng();
    (0..letters).map(|_| char::from(LETTERS[source.random_range(0..LETTERS.len())])).collect()
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let path = format!("{SECRETS}?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken");
    let found = call(client, "GET", &path, None).await.context("list the tokens")?;
    let rows = found["items"].as_array().into_iter().flatten().map(|secret| row(secret, Timestamp::now()));
    line(&format!("{:<8}{:<10}{:<22}{:<50}{}", "ID", "TTL", "EXPIRES", "GROUPS", "DESCRIPTION"));
    rows.for_each(|row| line(row.trim_end()));
    Ok(())
}

/// A token without its secret.
fn row(secret: &Value, now: Timestamp) -> String {
    let held = |key: &str| {
        let text = secret["data"][key].as_str().unwrap_or_default();
        STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    let (expires, ttl) = match held("expiration") {
        text if text.is_empty() => ("<never>".to_owned(), "<forever>".to_owned()),
        text => {
            let left = api::time::parse(&text).map_or(0, |ends| ends.as_second() - now.as_second());
            (text, if left > 0 { api::time::human(left) } else { "<expired>".to_owned() })
        }
    };
    let (id, groups, description) = (held("token-id"), held("auth-extra-groups"), held("description"));
    format!("{id:<8}{ttl:<10}{expires:<22}{groups:<50}{description}")
}

async fn delete(client: &Client, tokens: &[String]) -> anyhow::Result<()> {
    for token in tokens {
        let id = token.split('.').next().unwrap_or_default();
        if id.len() != 6 || !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            // What was given may be the secret half.
            bail!("a token begins with an id of six small letters and digits; see `sampan token list`");
        }
        call(client, "DELETE", &format!("{SECRETS}/bootstrap-token-{id}"), None)
            .await
            .with_context(|| format!("delete token {id}"))?;
        line(&format!("token {id} deleted"));
    }
    Ok(())
}

/// Makes one call.
pub async fn call(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Result<Value, kube::Error> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_when_asked_or_never() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(ends("24h", now).unwrap().unwrap(), "2026-01-02T00:00:00Z");
        assert_eq!((ends("0", now).unwrap(), ends("0s", now).unwrap()), (None, None));
        assert!(ends("soon", now).is_err());
    }

    #[test]
    fn a_row_tells_everything_but_the_secret() {
        let data = |pairs: &[(&str, &str)]| -> Value {
            let pairs = pairs.iter().map(|(key, text)| ((*key).to_owned(), STANDARD.encode(text).into()));
            json!({"data": pairs.collect::<serde_json::Map<String, Value>>()})
        };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = data(&[
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("expiration", "2026-01-01T10:00:00Z"),
            ("description", "for the shed"),
        ]);
        let row = row(&token, now);
        assert!(row.starts_with("abcdef  10h ") && row.ends_with("for the shed"), "{row}");
        assert!(!row.contains("0123456789abcdef"));
        assert!(super::row(&data(&[("expiration", "2025-01-01T10:00:00Z")]), now).contains("<expired>"));
        assert!(super::row(&data(&[]), now).contains("<forever>"));
    }

    #[test]
    fn ids_and_secrets_are_of_the_form_that_the_server_believes() {
        let secret = random(16);
        assert!(secret.len() == 16 && secret.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert_ne!(secret, random(16));
    }
}
