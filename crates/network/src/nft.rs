//! Runs of `nft`, the one way by which rules reach the kernel: atomic, all or nothing.

use crate::Error;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(20);

/// Applies a ruleset text in one transaction.
pub async fn run(text: &str) -> Result<(), Error> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Error::Rules(format!("{what}: {error}"));
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("cannot be started", &error))?;
    let mut stdin = child.stdin.take().ok_or_else(|| Error::Rules("has no input".into()))?;
    let whole = async {
        // It reads everything before it answers, so writing first cannot block for ever.
        stdin.write_all(text.as_bytes()).await?;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, whole)
        .await
        .map_err(|error| failed("did not end", &error))?
        .map_err(|error| failed("broke off", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::Rules(words.lines().take(4).collect::<Vec<_>>().join(" ")))
}
