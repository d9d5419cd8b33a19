//! `kill -9` of sampan at seeded points of a pull, a create, a running pod and a delete: nothing is lost, nothing leaks.
//!
//! `SAMPAN_KILLS` sets how many points each stage gets; the short run is for every commit, 100 for a release.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Lab, Machine, wait};
use xtask::shell;

/// Points of a stage's span, the same for the same seed.
struct Points(u64);

impl Points {
    fn next(&mut self, span: Duration) -> Duration {
        // Knuth's linear congruential generator: the test needs spread, not secrecy.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        span.mul_f64((self.0 >> 40) as f64 / (1u64 << 24) as f64)
    }
}

fn kills() -> u32 {
    std::env::var("SAMPAN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

fn manifest(lab: &Lab, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  imagePullSecrets: [{{name: regcred}}]\n  \
         containers:\n  - name: c\n    image: {}\n    command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.1; done']\n    \
         volumeMounts: [{{name: v, mountPath: /v}}]\n  volumes: [{{name: v, emptyDir: {{medium: Memory}}}}]\n",
        lab.image()
    )
}

fn container(pod: &Value) -> (&str, u64) {
    let status = &pod["status"]["containerStatuses"][0];
    (status["containerID"].as_str().unwrap_or_default(), status["restartCount"].as_u64().unwrap_or(0))
}

/// Counts of what live pods have on the machine: mounts of root file systems and monitors.
fn held(lab: &Lab) -> (usize, usize) {
    let run = lab.run_dir().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let rootfs = mounts.lines().filter(|line| line.contains(&run) && line.contains("/rootfs ")).count();
    let monitors = shell::output(
        "sh",
        &["-c", &format!("grep -lsz '^monitor$' /proc/[0-9]*/cmdline | xargs -r grep -lsz '{run}/' | wc -l")],
        "",
    )
    .unwrap();
    (rootfs, monitors.trim().parse().unwrap())
}

fn crash_and_return(lab: &Lab, after: Duration) {
    std::thread::sleep(after);
    lab.kill();
    lab.up();
}

fn gone(lab: &Lab, name: &str) {
    lab.gone(name);
    wait("nothing of it is left", || held(lab) == (0, 0));
}

#[test]
fn a_kill_at_any_point_loses_nothing_and_leaks_nothing() {
    let lab = Lab::new("kill", 6);
    let before = Machine::look();
    let mut points = Points(20_260_101);
    lab.up();
    lab.right_secret();
    let spans = [("pull", 250), ("create", 120), ("running", 20), ("delete", 400)];
    for (stage, span) in spans {
        for nth in 0..kills() {
            let name = format!("{stage}-{nth}");
            let at = points.next(Duration::from_millis(span));
            eprintln!("{name}: kill after {at:?}");
            if stage == "pull" {
                let _ = lab.sampan(&["images", "rm", &lab.image()]);
            }
            lab.apply(&manifest(&lab, &name));
            if matches!(stage, "pull" | "create") {
                crash_and_return(&lab, at);
            }
            let first = lab.ready(&name);
            wait(&format!("{name}: one root file system, one monitor"), || held(&lab) == (1, 1));
            if stage == "running" {
                crash_and_return(&lab, at);
                let again = lab.ready(&name);
                assert_eq!(container(&first), container(&again), "{name}: the container ran on");
            }
            assert_eq!(container(&first).1, 0, "{name}: no restart");
            lab.ask(&["delete", "pod", &name, "--wait=false"]);
            if stage == "delete" {
                crash_and_return(&lab, at);
            }
            gone(&lab, &name);
        }
    }
    let partial = lab.data_dir().join("images/partial");
    let left = std::fs::read_dir(partial).map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "partial layers are left after whole pulls");
    lab.down(true);
    before.assert_back();
}
