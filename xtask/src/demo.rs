//! The main job, shown: from an empty machine to a Pod that runs from a private registry.

use std::path::Path;

use anyhow::Context;

use xtask::registry::{PASSWORD, Registry, USER};
use xtask::{image, shell};

use crate::setup;

const DIR: &str = "/var/lib/sampan-demo";
const PORT: u16 = 5051;
const IMAGE: &str = "team/hello:1.0";
const KUBECONFIG: &str = "/var/lib/sampan/admin.kubeconfig";

/// Runs the demo; a second run works too.
pub fn run() -> anyhow::Result<()> {
    setup::demo()?;
    println!("building the release binary (a few minutes the first time)");
    shell::run("cargo", &["build", "--release", "--quiet", "--manifest-path", &manifest()?])?;
    let registry = Registry::new(Path::new(DIR), PORT);
    registry.ensure()?;
    let layout = Path::new(DIR).join("image");
    image::layout(&layout, image::architecture())?;
    registry.push(&layout, IMAGE)?;
    println!("a private registry runs at {} (user {USER}); it holds {IMAGE}", registry.address);

    let sampan = sampan()?;
    shell::show("Start a cluster of one node", &sampan, &["up", "--detach"])?;
    // Every kubectl below talks to this cluster and to no other.
    let kubectl = |title: &str, arguments: &[&str]| {
        shell::show(title, "kubectl", &[&["--kubeconfig", KUBECONFIG], arguments].concat())
    };
    let secret = shell::output(
        "kubectl",
        &[
            "create",
            "secret",
            "docker-registry",
            "regcred",
            "--dry-run=client",
            "--output=yaml",
            &format!("--docker-server={}", registry.address),
            &format!("--docker-username={USER}"),
            &format!("--docker-password={PASSWORD}"),
        ],
        "",
    )?;
    shell::output("kubectl", &["--kubeconfig", KUBECONFIG, "apply", "-f", "-"], &secret)?;
    let examples = shell::root().join("examples");
    let examples = examples.to_str().context("the checkout's path is no text")?;
    kubectl("Apply the examples", &["apply", "-f", examples])?;
    kubectl("Wait until the Pod is Ready", &["wait", "--for=condition=Ready", "pod/hello", "--timeout=60s"])?;
    kubectl("Where it runs", &["get", "pods", "-o", "wide"])?;
    kubectl("Its story", &["describe", "pod", "hello"])?;
    kubectl("What it says of itself", &["logs", "hello"])?;
    kubectl("A command in it", &["exec", "hello", "--", "wget", "-qO-", "http://127.0.0.1:8080/"])?;
    println!(
        "\nGo on:  kubectl get events            (the context `sampan` is in your kubeconfig)\n        \
         kubectl exec -it hello -- sh\n        sampan is at {sampan}\nStop:   cargo xtask demo --stop"
    );
    Ok(())
}

/// Stops what the demo started and removes what it made.
pub fn stop() -> anyhow::Result<()> {
    shell::show("Stop all pods and the node", &sampan()?, &["down", "--purge"])?;
    Registry::new(Path::new(DIR), PORT).stop()?;
    std::fs::remove_dir_all(DIR)
        .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    println!("the machine is as it was before the demo");
    Ok(())
}

fn manifest() -> anyhow::Result<String> {
    Ok(shell::root().join("Cargo.toml").to_str().context("the checkout's path is no text")?.into())
}

fn sampan() -> anyhow::Result<String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), Into::into);
    Ok(target.join("release/sampan").to_str().context("the target directory's path is no text")?.into())
}
