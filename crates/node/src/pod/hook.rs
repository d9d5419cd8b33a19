//! Delivering one lifecycle hook: exec in the container, HTTP from the node, or sleep (HOOK-11 … HOOK-31).
//!
//! Owns the calls, their repetition where annotations ask for it, and the words of a failure. Each call is written into
//! the journal before it is made. What a hook printed goes into the journal and, as upstream has it, into the container's
//! status; never into an event or a log. Must not decide when a hook runs. Start at [`Actor::run_hook`].

use super::act::{Actor, Outcome, Scene, rpc, rpc_text};
use crate::{
    hooks::run::{Begun, Ended, HEAD_BYTES_MAX, Handler, Moment, Output, Result as Ran, TAIL_BYTES_MAX},
    image::go_duration,
    object::{Container, HookAction, HttpGetAction, IntOrString},
};
use api::hook::Settings;
use cri::v1;
use jiff::SignedDuration;
use std::time::Duration;
use tonic::metadata::{MetadataMap, MetadataValue};

mod http;

/// A message about a hook is at most this long (overrides: HOOK-13, 14, 39).
const MESSAGE_BYTES_MAX: usize = 1024;
/// The pause before the second attempt; it doubles.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);
const PAUSE_MAX: SignedDuration = SignedDuration::from_secs(10);
/// A runtime that ends a command at its time-out gets so much longer to say so.
const EXEC_PATIENCE: Duration = Duration::from_secs(15);

/// A hook that failed: what the status says in full, and what the event may say.
struct Failure {
    message: String,
    outline: String,
}

/// One hook of one container.
struct Call<'a> {
    scene: &'a Scene,
    id: &'a str,
    container: &'a Container,
    hook: &'a HookAction,
    moment: Moment,
    settings: Settings,
}

impl Actor {
    /// Runs postStart or preStop of a running container: once, or as often as the pod's annotations say.
    pub(super) async fn run_hook(&self, scene: &Scene, id: &str, name: &str, moment: Moment) -> Outcome {
        let pod = &*scene.pod;
        let container = pod.container(name).map(|(_, container)| container);
        let lifecycle = container.and_then(|container| container.lifecycle.as_ref());
        let is_start = moment == Moment::PostStart;
        let hook = lifecycle.and_then(|l| if is_start { l.post_start.as_ref() } else { l.pre_stop.as_ref() });
        let (Some(container), Some(hook)) = (container, hook) else { return Outcome::Hook(None) };
        let words = if is_start { "post-start" } else { "pre-stop" };
        let (settings, complaints) = api::hook::settings(|key| pod.annotation(key), words, name);
        for complaint in complaints {
            self.warn(pod, name, "InvalidHookAnnotation", complaint);
        }
        let call = Call { scene, id, container, hook, moment, settings };
        let begun = self.clock.now();
        let (failure, attempts) = match self.attempt(&call).await {
            Ok(()) => return Outcome::Hook(None),
            Err(failed) => failed,
        };
        let took = go_duration(self.clock.now().duration_since(begun));
        let (reason, word) =
            if is_start { ("FailedPostStartHook", "PostStartHook") } else { ("FailedPreStopHook", "PreStopHook") };
        let attempts = if attempts > 1 { format!(", {attempts} attempts") } else { String::new() };
        let ignored = if settings.is_failure_ignored { "; the container runs on" } else { "" };
        // HOOK-53: nobody is told that a hook missed a container which had just ended.
        if is_start || !self.has_exited(id).await {
            let outline = failure.outline;
            self.warn(pod, name, reason, format!("{word} failed ({outline} after {took}{attempts}){ignored}"));
        }
        if settings.is_failure_ignored {
            return Outcome::Hook(None);
        }
        if is_start {
            self.pulls.metrics.start_failed("PostStartHookError");
        }
        Outcome::Hook(Some(clip(failure.message)))
    }

    /// Calls until it goes well, or the attempts are used up, or there is nobody left to be called.
    async fn attempt(&self, call: &Call<'_>) -> Result<(), (Failure, u32)> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let Err(failure) = self.call_once(call).await else { return Ok(()) };
            if attempt > call.settings.retries || self.has_exited(call.id).await {
                return Err((failure, attempt));
            }
            tokio::time::sleep(pause.unsigned_abs()).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(())
    }

    /// One call, written down before and after.
    async fn call_once(&self, call: &Call<'_>) -> Result<(), Failure> {
        let (moment, started_at) = (call.moment, self.clock.now());
        let deadline = call.scene.deadline.filter(|_| moment == Moment::PreStop);
        let (handler, target) = described(call);
        let begun = Begun {
            container: call.container.name.clone(),
            container_id: call.id.to_owned(),
            restart: call.scene.restart,
            hook: moment,
            handler,
            target: clip(target),
            attempt: 0,
            started_at,
            grace_seconds_left: deadline.map(|at| at.duration_since(started_at).as_secs_f64().max(0.0)),
        };
        // HOOK-65: on disk before it is called. Files are written where that may take its time.
        let (hooks, pod) = (self.hooks.clone(), call.scene.pod.clone());
        let running = tokio::task::spawn_blocking(move || hooks.begin(&pod, begun, deadline)).await;
        let mut ended = Ended::with(Ran::Succeeded);
        // A runtime kills its command itself, and needs a while for it.
        let patience = if handler == Handler::Exec { EXEC_PATIENCE } else { Duration::ZERO };
        let result = match call.settings.timeout {
            None => self.deliver(call, &mut ended).await,
            Some(limit) => match tokio::time::timeout(limit + patience, self.deliver(call, &mut ended)).await {
                Ok(result) => result,
                Err(_) => {
                    ended.result = Ran::TimedOut;
                    Err(self.late(call, limit))
                }
            },
        };
        if let Err(failure) = &result {
            if ended.result == Ran::Succeeded {
                ended.result = Ran::Failed;
            }
            ended.reason = clip(failure.outline.clone());
        }
        if let Ok(running) = running {
            let _ = tokio::task::spawn_blocking(move || running.end(ended)).await;
        }
        result
    }

    fn late(&self, call: &Call<'_>, limit: Duration) -> Failure {
        let outline = format!("timed out after {}s", limit.as_secs());
        Failure {
            message: format!("{} lifecycle hook {} failed - error: {outline}", call.moment.label(), whose(call)),
            outline,
        }
    }

    async fn deliver(&self, call: &Call<'_>, ended: &mut Ended) -> Result<(), Failure> {
        let hook = call.hook;
        if let Some(exec) = &hook.exec {
            return self.exec(call, &exec.command, ended).await;
        }
        if let Some(get) = &hook.http_get {
            return self.http_get(call, get, ended).await.map_err(|error| Failure {
                message: format!("HTTP lifecycle hook ({}) {} failed - error: {}", get.path, whose(call), error.text),
                outline: error.outline,
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

    /// HOOK-11: ExecSync, without a time-out unless one was asked for.
    async fn exec(&self, call: &Call<'_>, command: &[String], ended: &mut Ended) -> Result<(), Failure> {
        let timeout = call.settings.timeout.map_or(0, |limit| i64::try_from(limit.as_secs()).unwrap_or(0));
        let message = v1::ExecSyncRequest { container_id: call.id.to_owned(), cmd: command.to_vec(), timeout };
        let mut request = tonic::Request::new(message);
        // HOOK-15: no more than is kept is ever held; other runtimes ignore this.
        for (name, bytes) in [("sampan-output-head", HEAD_BYTES_MAX), ("sampan-output-tail", TAIL_BYTES_MAX)] {
            request.metadata_mut().insert(name, MetadataValue::from(u64::try_from(bytes).unwrap_or(u64::MAX)));
        }
        let failed = |error: &str, output: &str, outline: String| Failure {
            message: format!(
                "Exec lifecycle hook ([{}]) {} failed - error: {error}, message: {output:?}",
                command.join(" "),
                whose(call)
            ),
            outline,
        };
        let answer = match rpc(self.cri.runtime.clone().exec_sync(request)).await {
            Ok(answer) => answer,
            Err(status) => {
                let late = call.settings.timeout.filter(|_| status.code() == tonic::Code::DeadlineExceeded);
                let outline = late.map_or("not run".into(), |limit| format!("timed out after {}s", limit.as_secs()));
                ended.result = if late.is_some() { Ran::TimedOut } else { Ran::Failed };
                return Err(failed(&rpc_text(&status), "", outline));
            }
        };
        let written = |name| written(answer.metadata(), name);
        let (stdout_bytes, stderr_bytes) = (written("sampan-stdout-bytes"), written("sampan-stderr-bytes"));
        let answer = answer.into_inner();
        ended.exit_code = Some(answer.exit_code);
        ended.stdout = Some(Output::of(&answer.stdout, stdout_bytes));
        ended.stderr = Some(Output::of(&answer.stderr, stderr_bytes));
        if answer.exit_code == 0 {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&answer.stderr);
        let error = format!("command '{}' exited with {}: {stderr}", command.join(" "), answer.exit_code);
        let output = format!("{}{stderr}", String::from_utf8_lossy(&answer.stdout));
        Err(failed(&error, &output, format!("exit code {}", answer.exit_code)))
    }

    async fn http_get(&self, call: &Call<'_>, get: &HttpGetAction, ended: &mut Ended) -> Result<(), http::Error> {
        let host = match get.host.as_str() {
            "" => self
                .pod_ips(call.scene)
                .into_iter()
                .next()
                .ok_or_else(|| http::Error::new("failed to find networking container", "the pod has no address"))?,
            host => host.to_owned(),
        };
        let port = port(call.container, &get.port).map_err(|error| http::Error::new(&error, "no such port"))?;
        let answer = http::get(get, &host, port).await?;
        ended.http_status = Some(answer.status.as_u16());
        if let Some(authority) = answer.plain_instead_of_tls {
            self.hooks.metrics.fell_back();
            let text =
                format!("request to HTTPS lifecycle hook {authority} got HTTP response, retry with HTTP succeeded");
            self.warn(&call.scene.pod, "", "LifecycleHTTPFallback", text);
        }
        // HOOK-25, HOOK-64: only who asks for it has a status fail a hook.
        if call.settings.is_http_strict && answer.status.as_u16() >= 400 {
            let outline = format!("HTTP status {}", answer.status.as_u16());
            return Err(http::Error::new(&outline, &outline));
        }
        Ok(())
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

fn whose(call: &Call<'_>) -> String {
    format!("for Container {:?} in Pod {:?}", call.container.name, call.scene.pod.full_name())
}

/// What the journal says of the handler. An address goes without its query, which may be a secret.
fn described(call: &Call<'_>) -> (Handler, String) {
    let hook = call.hook;
    if let Some(exec) = &hook.exec {
        return (Handler::Exec, exec.command.join(" "));
    }
    if let Some(get) = &hook.http_get {
        let host = if get.host.is_empty() { "POD" } else { &get.host };
        let port = match &get.port {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name.clone(),
        };
        let path = get.path.split('?').next().unwrap_or_default();
        return (Handler::HttpGet, format!("{}://{host}:{port}{path}", get.scheme.to_ascii_lowercase()));
    }
    match &hook.sleep {
        Some(sleep) => (Handler::Sleep, format!("{}s", sleep.seconds)),
        None => (Handler::TcpSocket, String::new()),
    }
}

/// How much a command wrote, where the runtime tells it.
fn written(metadata: &MetadataMap, name: &str) -> u64 {
    metadata.get(name).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
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

#[cfg(test)]
mod tests;
