//! When probes run, on virtual time.

use super::*;
use cri::fake::{ExecOutcome, Fake};
use serde_json::json;
use tokio::time::Instant;

const ORIGIN: i64 = 1_700_000_000;

/// Probes of containers whose every command is noted with its container and when it came, in milliseconds.
struct Bench {
    probes: Probes,
    pod: Arc<Pod>,
    calls: Arc<Mutex<Vec<(u128, String, String)>>>,
    fake: Fake,
    _reports: mpsc::Receiver<Report>,
}

fn bench(names: &[String], probe: serde_json::Value) -> Bench {
    let fake = Fake::new();
    let calls = Arc::<Mutex<Vec<_>>>::default();
    let (noted, began) = (calls.clone(), Instant::now());
    fake.on_exec(move |exec| {
        let at = began.elapsed().as_millis();
        noted.lock().unwrap().push((at, exec.container.clone(), exec.command.concat()));
        ExecOutcome::exits(0)
    });
    let (recorder, _) = Recorder::new("n");
    let clock = Clock::virtual_from(Timestamp::from_second(ORIGIN).unwrap());
    let (probes, reports) = Probes::new(fake.client(), clock, recorder);
    let containers: Vec<_> = names.iter().map(|name| json!({"name": name, "readinessProbe": probe})).collect();
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": containers}});
    Bench { probes, pod: Arc::new(serde_json::from_value(pod).unwrap()), calls, fake, _reports: reports }
}

impl Bench {
    /// Containers that run since then, made in the runtime.
    async fn subjects(&self, since: i64) -> Vec<Subject> {
        let mut client = self.fake.client();
        let sandbox = cri::v1::PodSandboxConfig {
            metadata: Some(cri::v1::PodSandboxMetadata { name: format!("p{since}"), ..Default::default() }),
            ..Default::default()
        };
        let request = cri::v1::RunPodSandboxRequest { config: Some(sandbox), ..Default::default() };
        let sandbox = client.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        self.fake.add_image("img");
        let mut subjects = Vec::new();
        for container in &self.pod.spec.containers {
            let config = cri::v1::ContainerConfig {
                metadata: Some(cri::v1::ContainerMetadata { name: container.name.clone(), attempt: 0 }),
                image: Some(cri::v1::ImageSpec { image: "img".into(), ..Default::default() }),
                ..Default::default()
            };
            let request = cri::v1::CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(config),
                sandbox_config: None,
            };
            let id = client.runtime.create_container(request).await.unwrap().into_inner().container_id;
            let request = cri::v1::StartContainerRequest { container_id: id.clone() };
            client.runtime.start_container(request).await.unwrap();
            let started_at = Timestamp::from_second(ORIGIN + since).unwrap();
            subjects.push(Subject { container: container.name.clone(), id, started_at, started: true });
        }
        subjects
    }

    fn first_calls(&self) -> Vec<u128> {
        let mut first = BTreeMap::new();
        for (at, container, _) in self.calls.lock().unwrap().iter() {
            first.entry(container.clone()).or_insert(*at);
        }
        first.into_values().collect()
    }
}

fn many() -> Vec<String> {
    (0..200).map(|n| format!("c{n}")).collect()
}

#[tokio::test(start_paused = true)]
async fn pod_55_after_the_start_of_the_agent_first_probes_are_spread_over_a_period() {
    let bench = bench(&many(), json!({"exec": {"command": ["x"]}, "periodSeconds": 10}));
    let subjects = bench.subjects(-100).await;
    bench.probes.sync(&bench.pod, "10.0.0.1", false, &[]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.calls.lock().unwrap().is_empty(), "no probe of what does not run");
    bench.probes.sync(&bench.pod, "10.0.0.1", false, &subjects);
    // Syncing anew begins nothing anew.
    bench.probes.sync(&bench.pod, "10.0.0.1", false, &subjects);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let first = bench.first_calls();
    assert_eq!(first.len(), 200);
    for second in 5..15_u128 {
        let of_second = first.iter().filter(|at| **at / 1000 == second).count();
        assert!((1..=60).contains(&of_second), "{of_second} in second {second}");
    }
    assert!(first.iter().all(|at| (5000..=15_000).contains(at)));
}

#[tokio::test(start_paused = true)]
async fn pod_55_otherwise_they_come_at_once() {
    for (since, sync_at) in [(1, 2), (-100, 20)] {
        let bench = bench(&many(), json!({"exec": {"command": ["x"]}, "periodSeconds": 10}));
        let subjects = bench.subjects(since).await;
        tokio::time::sleep(Duration::from_secs(sync_at)).await;
        bench.probes.sync(&bench.pod, "10.0.0.1", false, &subjects);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let first = bench.first_calls();
        let at = u128::from(sync_at) * 1000;
        assert!(first.len() == 200 && first.iter().all(|call| (at..at + 50).contains(call)), "{first:?}");
    }
}

#[test]
fn pod_56_what_holds_before_the_first_result() {
    let probe = Probe::default();
    let initial = |kind| Count::new(kind, &probe).result();
    assert_eq!([Kind::Liveness, Kind::Readiness, Kind::Startup].map(initial), ["success", "failure", "unknown"]);
}

#[test]
fn pod_57_62_which_probes_apply_when() {
    let probe = json!({"exec": {"command": ["x"]}});
    let with = json!({"name": "c", "startupProbe": probe, "livenessProbe": probe, "readinessProbe": probe});
    let without = json!({"name": "c", "livenessProbe": probe, "readinessProbe": probe});
    let kinds = [Kind::Startup, Kind::Liveness, Kind::Readiness];
    for (container, started, is_stopping, expected) in [
        (&with, false, false, &[Kind::Startup][..]),
        (&with, true, false, &[Kind::Liveness, Kind::Readiness]),
        (&without, false, false, &[Kind::Liveness, Kind::Readiness]),
        (&with, false, true, &[]),
        (&with, true, true, &[Kind::Readiness]),
        (&without, false, true, &[Kind::Readiness]),
    ] {
        let parsed: Container = serde_json::from_value(container.clone()).unwrap();
        let started_at = Timestamp::UNIX_EPOCH;
        let subject = Subject { container: "c".into(), id: "1".into(), started_at, started };
        let seen: Vec<Kind> = kinds.into_iter().filter(|kind| applies(*kind, &parsed, &subject, is_stopping)).collect();
        let has_startup = parsed.startup_probe.is_some();
        let seen: Vec<Kind> = seen.into_iter().filter(|kind| has_startup || *kind != Kind::Startup).collect();
        assert_eq!(seen, expected, "{container} {started} {is_stopping}");
    }
}
