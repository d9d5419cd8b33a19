//! Making, stopping and removing sandboxes; the way from a RuntimeClass to a handler (RTC-36 … RTC-52).

use super::{API_TIMEOUT, Actor, CRI_TIMEOUT, Outcome, SANDBOX_TIMEOUT, Scene, absent_is_done, limited, rpc, rpc_text};
use crate::{
    config,
    object::{Pod, RuntimeClass},
    pod::{checkpoint::Verdict, view::Sandbox},
};
use cri::v1;
use kube::Api;

/// How runtimes without a handler list say that they do not know one.
const UNKNOWN_HANDLER: [&str; 4] =
    ["no runtime for", "failed to find runtime handler", "unknown runtime handler", "runtime handler not found"];

/// Why a class gives no handler.
pub(super) enum ClassError {
    Absent(String),
    Unreadable(String),
}

impl Actor {
    pub(super) async fn create_sandbox(&self, scene: &Scene, attempt: u32) -> Outcome {
        let pod = &*scene.pod;
        let problem = self.runtime_state.borrow().network_problem.clone().filter(|_| !pod.spec.host_network);
        if let Some(problem) = problem {
            let text = format!("network is not ready: {problem}");
            self.warn(pod, "", "NetworkNotReady", text.clone());
            return Outcome::NetworkNotReady(text);
        }
        let handler = match self.handler(scene).await {
            Ok(handler) => handler,
            Err(ClassError::Absent(text)) => return self.sandbox_failed(scene, text, true),
            Err(ClassError::Unreadable(text)) => return self.sandbox_failed(scene, text, false),
        };
        if let Some(unfit) = self.unfit(pod, &handler).await {
            return self.sandbox_failed(scene, unfit.text, unfit.is_unknown);
        }
        let logs = config::pod_log_directory(&self.ctx.log_dir, pod);
        if let Err(error) = tokio::fs::create_dir_all(&logs).await {
            return self.sandbox_failed(scene, format!("make the log directory {}: {error}", logs.display()), false);
        }
        let mut wanted = config::sandbox(pod, &self.ctx);
        if let Some(metadata) = &mut wanted.metadata {
            metadata.attempt = attempt;
        }
        let request = limited(
            v1::RunPodSandboxRequest { config: Some(wanted), runtime_handler: handler.clone() },
            SANDBOX_TIMEOUT,
        );
        match rpc(self.cri.runtime.clone().run_pod_sandbox(request)).await {
            Ok(answer) => self.made(scene, answer.into_inner().pod_sandbox_id, handler).await,
            Err(status) => {
                let terminal = !handler.is_empty() && self.is_unknown_handler(&handler, &status).await;
                self.sandbox_failed(scene, in_full(&status), terminal)
            }
        }
    }

    async fn made(&self, scene: &Scene, id: String, handler: String) -> Outcome {
        if id.is_empty() {
            return self.sandbox_failed(scene, "the runtime answered with an empty sandbox id".into(), false);
        }
        let request = limited(v1::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false }, CRI_TIMEOUT);
        match rpc(self.cri.runtime.clone().pod_sandbox_status(request)).await.map(|answer| answer.into_inner().status) {
            Ok(Some(status)) => Outcome::Sandbox(Sandbox::from_cri(&status), handler),
            Ok(None) => Outcome::Failed("the runtime answered without a status".into()),
            Err(status) => {
                let text = rpc_text(&status);
                self.warn(
                    &scene.pod,
                    "",
                    "FailedPodSandBoxStatus",
                    format!("Unable to get pod sandbox status: {text}"),
                );
                Outcome::Failed(text)
            }
        }
    }

    fn sandbox_failed(&self, scene: &Scene, text: String, terminal: bool) -> Outcome {
        let message = format!("Failed to create pod sandbox: {text}");
        // RTC-43: nobody is told about a pod that is being deleted.
        if !scene.deletion.is_cancelled() {
            self.warn(&scene.pod, "", "FailedCreatePodSandBox", message.clone());
        }
        if terminal && self.runtime_class_fails_pod {
            let reason = "RuntimeClassUnavailable".to_owned();
            return Outcome::Verdict(Verdict {
                reason,
                message,
                at: self.clock.now(),
                grace_seconds: 1,
                is_disruption: false,
            });
        }
        Outcome::Failed(message)
    }

    /// RTC-44: the handler of an earlier sandbox holds; else the class is read live, so that it is never stale (RTC-39).
    pub(super) async fn handler(&self, scene: &Scene) -> Result<String, ClassError> {
        let class = scene.pod.spec.runtime_class_name.as_deref().unwrap_or_default();
        if class.is_empty() {
            return Ok(String::new());
        }
        if let Some(handler) = &scene.handler {
            return Ok(handler.clone());
        }
        let api: Api<RuntimeClass> = Api::all(self.client.clone());
        match tokio::time::timeout(API_TIMEOUT, api.get_opt(class)).await {
            Ok(Ok(Some(found))) => Ok(found.handler),
            Ok(Ok(None)) => Err(ClassError::Absent(format!("runtimeclass.node.k8s.io {class:?} not found"))),
            Ok(Err(error)) => Err(ClassError::Unreadable(error.to_string())),
            Err(_) => {
                Err(ClassError::Unreadable(format!("runtimeclass.node.k8s.io {class:?}: the API did not answer")))
            }
        }
    }

    /// By the runtime's own list where it has one, else by the texts that runtimes are known to use (RTC-38).
    async fn is_unknown_handler(&self, handler: &str, failure: &tonic::Status) -> bool {
        let listed = self.offered().await;
        if !listed.is_empty() {
            return listed.iter().all(|known| known.name != handler);
        }
        UNKNOWN_HANDLER.iter().any(|text| failure.message().contains(text))
    }

    pub(super) async fn stop_sandbox(&self, pod: &Pod, id: &str) -> Outcome {
        let request = limited(v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }, CRI_TIMEOUT);
        let outcome = absent_is_done(rpc(self.cri.runtime.clone().stop_pod_sandbox(request)).await);
        if let Outcome::Failed(text) = &outcome {
            self.warn(pod, "", "FailedKillPod", format!("error killing pod: {text}"));
        }
        outcome
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Outcome {
        let request = limited(v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }, CRI_TIMEOUT);
        absent_is_done(rpc(self.cri.runtime.clone().remove_pod_sandbox(request)).await)
    }
}

/// A runtime's refusal of a sandbox as Kubernetes tells it: with its code, whichever it is (RTC-41).
fn in_full(status: &tonic::Status) -> String {
    match status.code() {
        tonic::Code::Unknown => format!("rpc error: code = Unknown desc = {}", status.message()),
        _ => rpc_text(status),
    }
}
