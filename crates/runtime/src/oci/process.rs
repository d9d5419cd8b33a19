//! The first process, and further ones by exec: arguments, environment, directory, identity.

use cri::v1::LinuxContainerSecurityContext;
use serde_json::{Value, json};

use super::Inputs;
use crate::error::Error;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn of(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
    capabilities: &[&str],
) -> Result<Value, Error> {
    let config = inputs.config;
    let ambient: Vec<&str> = ambient(security, capabilities);
    let mut process = json!({
        "terminal": config.tty,
        "user": {
            "uid": inputs.identity.uid,
            "gid": inputs.identity.gid,
            "additionalGids": inputs.identity.groups,
        },
        "args": arguments(config, inputs.image)?,
        "env": environment(inputs),
        "cwd": directory(&config.working_dir, &inputs.image.working_dir),
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
            "inheritable": ambient,
            "ambient": ambient,
        },
        "noNewPrivileges": security.no_new_privs,
    });
    let asked = config.linux.as_ref().and_then(|linux| linux.resources.as_ref()).map_or(0, |r| r.oom_score_adj);
    if let Some(score) = oom_score(asked, inputs.machine.oom_score_floor) {
        process["oomScoreAdj"] = json!(score);
    }
    Ok(process)
}

/// Where the kernel refuses lower scores, the container keeps the one that it inherits: an OCI runtime would die.
fn oom_score(asked: i64, floor: Option<i64>) -> Option<i64> {
    match floor {
        Some(floor) if asked <= floor => None,
        _ => Some(asked.clamp(-1000, 1000)),
    }
}

/// A command replaces the image's entrypoint and its arguments; arguments alone replace the image's arguments.
fn arguments(config: &cri::v1::ContainerConfig, image: &images::ImageConfig) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    if config.command.is_empty() {
        all.extend(image.entrypoint.iter().cloned());
        all.extend(if config.args.is_empty() { image.cmd.clone() } else { config.args.clone() });
    } else {
        all.extend(config.command.iter().chain(&config.args).cloned());
    }
    match all.first() {
        Some(program) if !program.is_empty() => Ok(all),
        _ => Err(Error::Invalid("no command specified".into())),
    }
}

/// Later values replace earlier ones in their place: defaults, the image, the container.
fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut all = vec![PATH.to_owned(), format!("HOSTNAME={}", inputs.hostname)];
    if inputs.config.tty {
        all.push("TERM=xterm".into());
    }
    let own = inputs.config.envs.iter().map(|env| format!("{}={}", env.key, String::from_utf8_lossy(&env.value)));
    for entry in inputs.image.env.iter().cloned().chain(own) {
        let name = entry.split('=').next().unwrap_or_default();
        let same = |known: &&mut String| known.split('=').next() == Some(name);
        match all.iter_mut().find(same) {
            Some(known) => *known = entry,
            None => all.push(entry),
        }
    }
    all
}

fn directory(asked: &str, image: &str) -> String {
    match (asked, image) {
        ("", "") => "/".into(),
        ("", image) => image.into(),
        (asked, _) => asked.into(),
    }
}

fn ambient<'a>(security: &LinuxContainerSecurityContext, capabilities: &[&'a str]) -> Vec<&'a str> {
    let asked =
        security.capabilities.as_ref().map(|asked| asked.add_ambient_capabilities.as_slice()).unwrap_or_default();
    let is_asked = |name: &&&str| asked.iter().any(|a| a == **name || Some(a.as_str()) == name.strip_prefix("CAP_"));
    capabilities.iter().filter(is_asked).copied().collect()
}

/// The document of an exec'd process: the container's own, with another command (HOOK-11).
pub(crate) fn exec(container: &Value, command: &[String], terminal: bool) -> Value {
    let mut process = container["process"].clone();
    process["args"] = json!(command);
    process["terminal"] = json!(terminal);
    if terminal && let Some(env) = process["env"].as_array_mut() {
        let known = env.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")));
        if !known {
            env.push(json!("TERM=xterm"));
        }
    }
    process
}
