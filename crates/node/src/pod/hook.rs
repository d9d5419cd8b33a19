//! Delivering one lifecycle hook: exec in the container, HTTP from the node, or sleep (HOOK-11 … HOOK-31).
//!
//! Owns the call and the words of its failure. Must not decide when a hook runs, nor record it. Start at
//! [`Actor::run_hook`].

use super::act::{Actor, Outcome, Scene, rpc, rpc_text};
use crate::{
    image::go_duration,
    object::{Container, HookAction, HttpGetAction, IntOrString},
};
use cri::v1;
use std::time::Duration;

mod http;

/// A message about a hook is at most this long (overrides: HOOK-13, 14, 39).
const MESSAGE_BYTES_MAX: usize = 1024;

/// A hook that failed: what the status says in full, and what the event may say.
struct Failure {
    message: String,
    outline: String,
}

impl Actor {
    /// Runs postStart or preStop of a running container, once.
    pub(super) async fn run_hook(&self, scene: &Scene, id: &str, name: &str, post_start: bool) -> Outcome {
        let pod = &*scene.pod;
        let container = pod.container(name).map(|(_, container)| container);
        let lifecycle = container.and_then(|container| container.lifecycle.as_ref());
        let hook = lifecycle.and_then(|l| if post_start { l.post_start.as_ref() } else { l.pre_stop.as_ref() });
        let (Some(container), Some(hook)) = (container, hook) else { return Outcome::Hook(None) };
        let begun = self.clock.now();
        let Err(failure) = self.deliver(scene, id, container, hook).await else { return Outcome::Hook(None) };
        let took = go_duration(self.clock.now().duration_since(begun));
        let (reason, word) =
            if post_start { ("FailedPostStartHook", "PostStartHook") } else { ("FailedPreStopHook", "PreStopHook") };
        // HOOK-53: nobody is told that a hook missed a container which had just ended.
        if post_start || !self.has_exited(id).await {
            self.warn(pod, name, reason, format!("{word} failed ({} after {took})", failure.outline));
        }
        Outcome::Hook(Some(clip(failure.message)))
    }

    async fn deliver(&self, scene: &Scene, id: &str, container: &Container, hook: &HookAction) -> Result<(), Failure> {
        let whose = format!("for Container {:?} in Pod {:?}", container.name, scene.pod.full_name());
        if let Some(exec) = &hook.exec {
            return self.exec(id, &exec.command).await.map_err(|(error, output, outline)| Failure {
                message: format!(
                    "Exec lifecycle hook ([{}]) {whose} failed - error: {error}, message: {output:?}",
                    exec.command.join(" ")
                ),
                outline,
            });
        }
        if let Some(get) = &hook.http_get {
            return self.http_get(scene, container, get).await.map_err(|error| Failure {
                message: format!("HTTP lifecycle hook ({}) {whose} failed - error: {error}", get.path),
                outline: "no HTTP response".into(),
            });
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
            return Ok(());
        }
        // HOOK-9: tcpSocket passes validation and cannot be run.
        let message = "Cannot run handler: invalid handler: tcpSocket".to_owned();
        Err(Failure { message, outline: "invalid handler".into() })
    }

    /// HOOK-11: ExecSync without a time-out. The error, the output, and the outline for the event.
    async fn exec(&self, id: &str, command: &[String]) -> Result<(), (String, String, String)> {
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: 0 };
        let answer = rpc(self.cri.runtime.clone().exec_sync(request)).await;
        let answer = answer.map_err(|status| (rpc_text(&status), String::new(), "not run".to_owned()))?.into_inner();
        if answer.exit_code == 0 {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&answer.stderr).into_owned();
        let error = format!("command '{}' exited with {}: {stderr}", command.join(" "), answer.exit_code);
        let output = String::from_utf8_lossy(&answer.stdout).into_owned() + &stderr;
        Err((error, output, format!("exit code {}", answer.exit_code)))
    }

    async fn http_get(&self, scene: &Scene, container: &Container, get: &HttpGetAction) -> Result<(), String> {
        let host = match get.host.as_str() {
            "" => self.pod_ips(scene).into_iter().next().ok_or("failed to find networking container")?,
            host => host.to_owned(),
        };
        let port = port(container, &get.port)?;
        http::get(get, &host, port).await
    }

    async fn has_exited(&self, id: &str) -> bool {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        match rpc(self.cri.runtime.clone().container_status(request)).await {
            Ok(answer) => answer
                .into_inner()
                .status
                .is_some_and(|status| status.state == v1::ContainerState::ContainerExited as i32),
            Err(status) => status.code() == tonic::Code::NotFound,
        }
    }
}

/// HOOK-19: a number, the name of one of the container's ports, or a number in words.
fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match container.ports.iter().find(|p| p.name == *name) {
            Some(port) => i64::from(port.container_port),
            None => name.parse().map_err(|_| format!("strconv.Atoi: parsing {name:?}: invalid syntax"))?,
        },
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

fn clip(mut text: String) -> String {
    let mut end = MESSAGE_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
