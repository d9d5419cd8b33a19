//! Kubeconfig files: the administrator's own, and the context `sampan` in the user's.
//!
//! The user's file is data of somebody else: it is read as a tree, only our three entries are touched, and it is replaced
//! whole or not at all.

use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificates::{Certificates, Identity, read_if_there, write_private};

/// The entries of one cluster, user and context, all of one name.
fn entries(name: &str, server: &str, ca: &str, user: &Value) -> [(&'static str, Value); 3] {
    let ca = STANDARD.encode(ca);
    [
        ("clusters", json!({"name": name, "cluster": {"server": server, "certificate-authority-data": ca}})),
        ("users", json!({"name": name, "user": user})),
        ("contexts", json!({"name": name, "context": {"cluster": name, "user": name}})),
    ]
}

fn user(identity: &Identity) -> Value {
    json!({
        "client-certificate-data": STANDARD.encode(&identity.certificate),
        "client-key-data": STANDARD.encode(&identity.key),
    })
}

/// The URL at which clients on this machine reach the API.
pub fn server_url(listen: SocketAddr) -> String {
    let host = match listen.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    format!("https://{host}:{}", listen.port())
}

/// Writes the administrator's kubeconfig: mode 0600, owned by who called sudo.
pub fn write_admin(path: &Path, name: &str, server: &str, certificates: &Certificates) -> anyhow::Result<()> {
    write_private(path, &whole(name, server, &certificates.ca, &certificates.admin)?)?;
    give_to_caller(path);
    Ok(())
}

/// A kubeconfig of one context, as YAML.
pub fn whole(name: &str, server: &str, ca: &str, identity: &Identity) -> anyhow::Result<String> {
    with_user(name, server, ca, user(identity))
}

/// The same for a user that is known in some way.
pub fn with_user(name: &str, server: &str, ca: &str, user: Value) -> anyhow::Result<String> {
    let mut config = json!({"apiVersion": "v1", "kind": "Config", "current-context": name});
    for (list, entry) in entries(name, server, ca, &user) {
        config[list] = json!([entry]);
    }
    to_yaml(&config)
}

/// Adds the context to the user's kubeconfig; the current context is set only if there is none. Returns the file.
pub fn merge(name: &str, server: &str, certificates: &Certificates) -> anyhow::Result<PathBuf> {
    let path = user_kubeconfig()?;
    let mut config = read(&path)?.unwrap_or_else(|| json!({"apiVersion": "v1", "kind": "Config", "preferences": {}}));
    for (list, entry) in entries(name, server, &certificates.ca, &user(&certificates.admin)) {
        put_entry(&mut config, list, name, Some(entry));
    }
    if config["current-context"].as_str().unwrap_or_default().is_empty() {
        config["current-context"] = json!(name);
    }
    write_user(&path, &config)?;
    Ok(path)
}

/// Removes our three entries; a file that held nothing else is removed, as it was not there before.
pub fn unmerge(name: &str) -> anyhow::Result<()> {
    let path = user_kubeconfig()?;
    let Some(mut config) = read(&path)? else { return Ok(()) };
    if !["clusters", "users", "contexts"].iter().any(|list| find(&config, list, name).is_some()) {
        return Ok(());
    }
    for list in ["clusters", "users", "contexts"] {
        put_entry(&mut config, list, name, None);
    }
    if config["current-context"] == json!(name) {
        config["current-context"] = json!("");
    }
    let empty = ["clusters", "users", "contexts"].iter().all(|list| config[list].as_array().is_none_or(Vec::is_empty));
    if empty {
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        // The directory goes too if it is ours alone; it is not when anything is left in it.
        if let Some(dir) = path.parent() {
            let _ = std::fs::remove_dir(dir);
        }
        return Ok(());
    }
    write_user(&path, &config)
}

fn find<'a>(config: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    config[list].as_array()?.iter().find(|entry| entry["name"] == name)
}

fn put_entry(config: &mut Value, list: &str, name: &str, entry: Option<Value>) {
    if !config[list].is_array() {
        config[list] = json!([]);
    }
    if let Some(entries) = config[list].as_array_mut() {
        entries.retain(|held| held["name"] != name);
        entries.extend(entry);
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Value>> {
    let Some(text) = read_if_there(path)? else { return Ok(None) };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let config: Value =
        serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    if !config.is_object() {
        bail!("{} is no kubeconfig; start with --no-merge-kubeconfig to leave it alone", path.display());
    }
    Ok(Some(config))
}

fn write_user(path: &Path, config: &Value) -> anyhow::Result<()> {
    // A link is followed, so that a kubeconfig kept elsewhere is edited where it lies.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let mode = std::fs::metadata(&target).map_or(0o600, |meta| meta.permissions().mode() & 0o777);
    let created_dir = match target.parent() {
        Some(dir) if !dir.exists() => {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            Some(dir)
        }
        _ => None,
    };
    let owner = std::fs::metadata(&target).ok();
    write_private(&target, &to_yaml(config)?)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode))?;
    if let Some(dir) = created_dir {
        give_to_caller(dir);
    }
    match owner {
        Some(meta) => chown(
            &target,
            Some(std::os::unix::fs::MetadataExt::uid(&meta)),
            Some(std::os::unix::fs::MetadataExt::gid(&meta)),
        )?,
        None => give_to_caller(&target),
    }
    Ok(())
}

fn to_yaml(config: &Value) -> anyhow::Result<String> {
    crate::output::yaml(config).context("write kubeconfig as YAML")
}

/// `$KUBECONFIG`'s first file, else `~/.kube/config` of who called sudo.
fn user_kubeconfig() -> anyhow::Result<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG")
        .and_then(|list| std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty()));
    if let Some(path) = listed {
        return Ok(path);
    }
    let home = caller().map(|caller| caller.home).or_else(|| std::env::var_os("HOME").map(PathBuf::from));
    Ok(home.context("neither KUBECONFIG nor HOME is set; start with --no-merge-kubeconfig")?.join(".kube/config"))
}

/// Who called sudo, if somebody did.
struct Caller {
    uid: u32,
    gid: u32,
    home: PathBuf,
}

fn caller() -> Option<Caller> {
    let name = std::env::var("SUDO_USER").ok()?;
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[0] == name)
            .then(|| {
                Some(Caller { uid: fields[2].parse().ok()?, gid: fields[3].parse().ok()?, home: fields[5].into() })
            })
            .flatten()
    })
}

fn give_to_caller(path: &Path) {
    if let Some(caller) = caller()
        && let Err(error) = chown(path, Some(caller.uid), Some(caller.gid))
    {
        tracing::warn!(path = %path.display(), %error, "could not give the file to the user who called sudo");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_replaced_and_removed_without_touching_others() {
        let mut config = json!({"clusters": [{"name": "other"}]});
        put_entry(&mut config, "clusters", "sampan", Some(json!({"name": "sampan", "v": 1})));
        put_entry(&mut config, "clusters", "sampan", Some(json!({"name": "sampan", "v": 2})));
        assert_eq!(config["clusters"], json!([{"name": "other"}, {"name": "sampan", "v": 2}]));
        put_entry(&mut config, "clusters", "sampan", None);
        assert_eq!(config["clusters"], json!([{"name": "other"}]));
    }

    #[test]
    fn certificates_stay_on_their_lines() {
        let text = to_yaml(&json!({"user": {"client-key-data": "A".repeat(500), "token": "b ".repeat(300)}})).unwrap();
        assert!(text.contains(&format!("client-key-data: {}\n", "A".repeat(500))), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn urls_name_a_host_that_a_client_can_reach() {
        for (listen, url) in [
            ("127.0.0.1:6443", "https://127.0.0.1:6443"),
            ("0.0.0.0:1", "https://127.0.0.1:1"),
            ("[::1]:2", "https://[::1]:2"),
        ] {
            assert_eq!(server_url(listen.parse().unwrap()), url);
        }
    }
}
