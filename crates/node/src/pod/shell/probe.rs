//! The pod's probes: which containers are to be probed, and what their results do to the facts.

use super::Task;
use crate::{
    pod::{decide::termination, view::RecordState},
    probes::{Kind, Report, Subject},
};

impl Task {
    /// Tells the probes which containers run; idempotent.
    pub(super) fn sync_probes(&mut self) {
        let view = &self.view;
        // HOOK-58: however it came that the pod ends.
        let stopping = termination(view).is_some();
        let ip = self.view.observed.newest_sandbox().and_then(|sandbox| sandbox.ips.first().cloned());
        let ip = ip.or_else(|| view.host_ips.first().cloned()).unwrap_or_default();
        let mut running = Vec::new();
        for (_, container) in view.containers() {
            let Some(record) = view.observed.newest(&container.name) else { continue };
            let RecordState::Running { started_at } = record.state else { continue };
            // HOOK-34: no probe before postStart has ended.
            if view.post_start_done(record) {
                running.push(Subject {
                    container: container.name.clone(),
                    id: record.id.clone(),
                    started_at,
                    started: view.is_started(container, record),
                });
            }
        }
        self.probes.sync(&view.pod, &ip, stopping, &running);
    }

    pub(super) fn take_probe(&mut self, report: Report) {
        let Some(record) = self.view.observed.containers.get(&report.container_id) else { return };
        let container = self.view.pod.container(&record.name).map(|(_, container)| container);
        let probed = self.view.observed.probes.entry(report.container_id.clone()).or_default();
        let own_grace = |probe: Option<&crate::object::Probe>| probe.and_then(|p| p.termination_grace_period_seconds);
        match (report.kind, report.healthy) {
            (Kind::Readiness, ready) => probed.ready = ready,
            (Kind::Startup, true) => probed.started = true,
            (Kind::Liveness, true) => probed.failed = None,
            (Kind::Startup, false) => {
                let grace = own_grace(container.and_then(|c| c.startup_probe.as_ref()));
                probed.failed = Some(("startup".into(), grace));
            }
            (Kind::Liveness, false) => {
                let grace = own_grace(container.and_then(|c| c.liveness_probe.as_ref()));
                probed.failed = Some(("liveness".into(), grace));
            }
        }
    }
}
