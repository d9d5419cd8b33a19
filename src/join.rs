//! `sampan kubeconfig`: the file by which another machine's node agent joins this cluster, and the door of such a node.
//!
//! The file holds all that a node needs: where the API is, the cluster's authority, and an identity of its own that it
//! shows as client and on its node port. Start at [`print`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::Value;

use crate::certificates::{self, Identity};
use crate::instance::Instance;
use crate::output::line;
use crate::settings::Settings;
use crate::{kubeconfig, node_identity};

/// Words of `kubeconfig`.
#[derive(Args)]
pub struct Arguments {
    /// Name of the node that shall join
    #[arg(value_name = "NODE")]
    node: String,
    /// Address of the node at which the API server reaches it (its --node-ip); may be repeated
    #[arg(long, value_name = "ADDR", required = true)]
    address: Vec<IpAddr>,
    /// Where the node reaches the API [default: where this cluster's API listens]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
}

/// Prints the kubeconfig of a node.
pub fn print(settings: Settings, arguments: &Arguments) -> anyhow::Result<()> {
    let instance = settings.instance();
    let node = &arguments.node;
    if let Some(reason) = api::names::subdomain(node).into_iter().next() {
        bail!("{node:?} is no name of a node: {reason}");
    }
    if !instance.admin_kubeconfig().exists() {
        bail!("no cluster was started in {}; start it first, or name its --data-dir", instance.data_dir.display());
    }
    let server = server(&instance, arguments.server.as_deref())?;
    let (identity, ca) = certificates::for_node(&instance.data_dir.join("pki"), node, &arguments.address)?;
    line(kubeconfig::whole(&instance.name(), &server, &ca, &identity)?.trim_end());
    Ok(())
}

/// Where other machines reach the API: as told, or where it listens.
pub fn server(instance: &Instance, told: Option<&str>) -> anyhow::Result<String> {
    match told {
        Some(url) => Ok(url.to_owned()),
        None => server_of(&instance.admin_kubeconfig()),
    }
}

/// Where the running cluster's API is, for machines other than this one.
fn server_of(admin: &Path) -> anyhow::Result<String> {
    let config = read(admin).context("find out where the API is; name it by --server")?;
    let url = config["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
    let host = url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    if host.is_empty() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        bail!(
            "the API is served at {url:?}, which no other machine reaches: start it with --listen ADDR:PORT, or name \
             the way to it by --server"
        );
    }
    Ok(url.to_owned())
}

/// Keeps by which file this instance's node joined, so that `down` finds its pods.
pub fn remember(instance: &Instance, kubeconfig: &Path) -> anyhow::Result<()> {
    let path = kubeconfig.canonicalize().with_context(|| format!("read {}", kubeconfig.display()))?;
    certificates::write_private(&instance.joined(), &path.display().to_string())
}

/// The instance has a control plane of its own.
pub fn forget(instance: &Instance) -> anyhow::Result<()> {
    match std::fs::remove_file(instance.joined()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", instance.joined().display()))
        }
        _ => Ok(()),
    }
}

/// By which file this instance's node joined, if it joined another cluster.
pub fn joined(instance: &Instance) -> anyhow::Result<Option<PathBuf>> {
    let given = certificates::read_if_there(&instance.joined())?.map(PathBuf::from);
    // Its certificate may have ended, and been renewed before that.
    Ok(given.map(|given| node_identity::chosen(instance, &given).unwrap_or(given)))
}

/// A kubeconfig by which a node is a member of a cluster: what its current context says.
pub struct Membership {
    file: PathBuf,
    cluster: Value,
    user: Value,
}

impl Membership {
    /// Reads it.
    pub fn read(file: &Path) -> anyhow::Result<Membership> {
        let (cluster, user) = chosen(&read(file)?);
        Ok(Membership { file: file.into(), cluster, user })
    }

    /// Where the API is.
    pub fn server(&self) -> &str {
        self.cluster["server"].as_str().unwrap_or_default()
    }

    /// Whom to believe, PEM.
    pub fn ca(&self) -> anyhow::Result<Option<Vec<u8>>> {
        held(&self.file, &self.cluster, "certificate-authority")
    }

    /// The certificate and the key, if that is how the user is known.
    pub fn identity(&self) -> anyhow::Result<Option<Identity>> {
        let both = held(&self.file, &self.user, "client-certificate")?.zip(held(&self.file, &self.user, "client-key")?);
        let Some((certificate, key)) = both else { return Ok(None) };
        Ok(Some(Identity { certificate: String::from_utf8(certificate)?, key: String::from_utf8(key)? }))
    }
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("read {}", file.display()))
}

/// The cluster and the user of the current context: those that the node's client uses too.
fn chosen(config: &Value) -> (Value, Value) {
    let entry = |list: &str, name: &Value, field: &str| {
        let entries = config[list].as_array().into_iter().flatten();
        entries.filter(|entry| entry["name"] == *name).map(|entry| entry[field].clone()).next().unwrap_or_default()
    };
    let context = entry("contexts", &config["current-context"], "context");
    (entry("clusters", &context["cluster"], "cluster"), entry("users", &context["user"], "user"))
}

/// What a kubeconfig says in place, or in a file that it names.
fn held(file: &Path, of: &Value, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    if let Some(data) = of[format!("{name}-data")].as_str() {
        return Ok(Some(STANDARD.decode(data).with_context(|| format!("decode {name}-data of {}", file.display()))?));
    }
    let Some(path) = of[name].as_str() else { return Ok(None) };
    let path = file.parent().unwrap_or(Path::new(".")).join(path);
    Ok(Some(std::fs::read(&path).with_context(|| format!("read {}", path.display()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(server: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster: {{server: '{server}'}}\n");
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_node_is_not_sent_to_a_loopback_address_unless_told() {
        assert_eq!(server_of(admin("https://192.0.2.1:6443").path()).unwrap(), "https://192.0.2.1:6443");
        for out_of_reach in ["https://127.0.0.1:6443", "https://[::1]:6443", ""] {
            let error = server_of(admin(out_of_reach).path()).unwrap_err().to_string();
            assert!(error.contains("--listen") && error.contains("--server"), "{error}");
        }
    }

    #[test]
    fn of_several_clusters_the_one_of_the_current_context_is_believed() {
        let named = |name: &str, field: &str| serde_json::json!({"name": name, field: {"of": name}});
        let config = serde_json::json!({
            "current-context": "here",
            "clusters": [named("far", "cluster"), named("near", "cluster")],
            "users": [named("guest", "user"), named("node", "user")],
            "contexts": [
                {"name": "there", "context": {"cluster": "far", "user": "guest"}},
                {"name": "here", "context": {"cluster": "near", "user": "node"}},
            ],
        });
        let (cluster, user) = chosen(&config);
        assert_eq!((&cluster["of"], &user["of"]), (&"near".into(), &"node".into()));
        assert_eq!(chosen(&Value::Null), (Value::Null, Value::Null));
    }
}
