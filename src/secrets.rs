//! Keys of Secrets at rest: the file that holds them, and `sampan secrets rotate`.
//!
//! What a change of keys does is in `apiserver`; here is who asks for it and where the file lies. Start at [`run`].

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use apiserver::SecretKeys;
use clap::Subcommand;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::output::line;
use crate::settings::Settings;
use crate::wiring::{self, ControlPlane};
use crate::{certificates, join};

/// Words of `secrets`.
#[derive(Subcommand)]
pub enum Verb {
    /// Make a new key, encrypt all Secrets with it, and drop the older keys
    ///
    /// Works on a running instance and on a stopped one. When it is cut off, the next start finishes it. Copies of the
    /// store that were made before need the key file of their time.
    Rotate,
}

/// The key file, for the API server.
pub fn keys(data_dir: &Path) -> anyhow::Result<SecretKeys> {
    let path = file(data_dir);
    let text = certificates::read_if_there(&path)?;
    let save = move |text: &str| certificates::write_private(&path, text).map_err(std::io::Error::other);
    Ok(SecretKeys { text, save: Box::new(save) })
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("pki/secrets.key")
}

/// Runs a verb of `secrets`.
pub fn run(settings: Settings, verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Rotate => rotate(settings),
    }
}

fn rotate(settings: Settings) -> anyhow::Result<()> {
    let instance = settings.instance();
    if join::joined(&instance)?.is_some() {
        bail!("this node has joined another cluster; its Secrets are kept there");
    }
    if !file(&instance.data_dir).exists() {
        bail!(
            "there are no keys in {}: nothing has been started there; name the instance's --data-dir",
            instance.data_dir.display()
        );
    }
    let mut resolved = settings.over_last(&instance)?.resolve()?;
    crate::settings::audit::off_stdout(&mut resolved);
    let answer = wiring::executor()?.block_on(async {
        if instance.running().is_some() {
            let (client, _) = wiring::client_from(&instance.admin_kubeconfig()).await?;
            return ask(&client).await;
        }
        instance.prepare()?;
        let Ok(_lock) = instance.lock()? else { bail!("sampan is just starting; try again when it runs") };
        let plane = ControlPlane::start(&resolved, &wiring::certificates(&resolved)?, CancellationToken::new()).await?;
        ask(&plane.client_of_administrator()).await
    })?;
    let number = |name: &str| answer[name].as_u64().unwrap_or_default();
    let key = answer["key"].as_str().unwrap_or_default();
    line(&format!("{} Secrets are encrypted with the new key {key}", number("secretsRewritten")));
    line(&format!("{} older keys dropped from {}", number("keysDropped"), file(&instance.data_dir).display()));
    Ok(())
}

async fn ask(client: &kube::Client) -> anyhow::Result<Value> {
    let request = http::Request::post(apiserver::ROTATE_SECRETS).body(Vec::new()).context("name the request")?;
    let answer = client.request_text(request).await.context("change the keys")?;
    serde_json::from_str(&answer).with_context(|| format!("the server says {answer:?}"))
}
