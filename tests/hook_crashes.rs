//! `kill -9` of sampan at each step of start and stop of containers with hooks: a hook runs at least once, one that ended
//! is not repeated, no grace period begins anew, and the journal tells all of it (HOOK-59, HOOK-60, HOOK-63, HOOK-77).
//!
//! One lab: each pod is held at its step by a handler or a hook that waits, and then the agent is killed under all of them.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;
use support::{Lab, Machine, wait};

/// Seconds of grace of the pods that use all of it.
const GRACE: f64 = 25.0;
/// What a stop may take beyond its grace: the two seconds that a stop signal always gets (HOOK-81), and those of a busy
/// machine.
const SLACK: f64 = 5.0;
/// Seconds of grace of the pods that need not all of it.
const AMPLE: f64 = 120.0;

/// runc, but one that is held after `start` and one that is held before `exec`, until the agent has been killed. Each
/// leaves a mark when it is there.
const WRAPPERS: &[(&str, &str)] = &[
    ("slow-start", "if [ \"$verb\" = start ]; then runc \"$@\"; end=$?; touch \"$0.there\"; held; exit $end; fi"),
    ("slow-exec", "if [ \"$verb\" = exec ]; then touch \"$0.there\"; held; fi"),
];

/// Says that it lives, ten times a second, and takes each stop signal down without heeding it.
const STUBBORN: &str = "trap \"echo >> /v/term\" TERM; while true; do read now rest < /proc/uptime; echo $now >> /v/alive; sleep 0.1; done";
/// Ends at its first stop signal.
const GOOD: &str = "trap \"exit 0\" TERM; while true; do sleep 0.1; done";
/// A hook that is over at once.
const QUICK: &str = "echo >> /v/begun";
/// A hook that ends when it is told to.
const WAITS: &str = "echo >> /v/begun; while [ ! -e /v/go ]; do sleep 0.1; done; echo >> /v/ended";

fn wrappers(lab: &Lab) -> PathBuf {
    let mut handlers = String::new();
    for (name, body) in WRAPPERS {
        let script = lab.dir().join(name);
        let text = format!(
            "#!/bin/sh\nheld() {{ until [ -e \"$0.go\" ]; do sleep 0.1; done; }}\nverb=\nfor word; do case $word in create|start|run|exec|kill|delete|state) verb=${{verb:-$word}};; \
             esac; done\n{body}\nexec runc \"$@\"\n"
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        handlers += &format!("  {name}: {{binary: {}}}\n", script.display());
    }
    let path = lab.dir().join("config.yaml");
    fs::write(&path, format!("apiVersion: sampan.dev/v1\nkind: Config\nhandlers:\n{handlers}")).unwrap();
    path
}

/// A pod whose container and hooks leave their marks on the host.
struct Case {
    name: &'static str,
    class: &'static str,
    grace: f64,
    main: &'static str,
    hook: (&'static str, &'static str),
}

const CASES: &[Case] = &[
    Case { name: "start-lost", class: "slow-start", grace: 1.0, main: GOOD, hook: ("postStart", QUICK) },
    Case { name: "start-during", class: "", grace: 1.0, main: GOOD, hook: ("postStart", WAITS) },
    Case { name: "start-after", class: "", grace: 1.0, main: GOOD, hook: ("postStart", QUICK) },
    Case { name: "stop-before", class: "slow-exec", grace: AMPLE, main: GOOD, hook: ("preStop", QUICK) },
    Case { name: "stop-during", class: "", grace: AMPLE, main: GOOD, hook: ("preStop", WAITS) },
    Case { name: "stop-endless", class: "", grace: GRACE, main: STUBBORN, hook: ("preStop", WAITS) },
    Case { name: "stop-signalled", class: "", grace: GRACE, main: STUBBORN, hook: ("preStop", QUICK) },
];

impl Case {
    fn manifest(&self, lab: &Lab) -> String {
        let class = if self.class.is_empty() { String::new() } else { format!("  runtimeClassName: {}\n", self.class) };
        let (moment, script) = self.hook;
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}}}\nspec:\n  terminationGracePeriodSeconds: {}\n{class}  \
             imagePullSecrets: [{{name: regcred}}]\n  containers:\n  - name: c\n    image: {}\n    command: [sh, -c, '{}']\n    \
             lifecycle: {{{moment}: {{exec: {{command: [sh, -c, '{script}']}}}}}}\n    \
             volumeMounts: [{{name: v, mountPath: /v}}]\n  \
             volumes: [{{name: v, hostPath: {{path: {}, type: DirectoryOrCreate}}}}]\n---\n",
            self.name,
            self.grace,
            lab.image(),
            self.main,
            mark(lab, self.name, "").display()
        )
    }
}

fn mark(lab: &Lab, pod: &str, what: &str) -> PathBuf {
    lab.dir().join("marks").join(pod).join(what)
}

/// How many lines of one kind a pod has left.
fn count(lab: &Lab, pod: &str, what: &str) -> usize {
    fs::read_to_string(mark(lab, pod, what)).map_or(0, |text| text.lines().count())
}

fn counted(lab: &Lab, pod: &str, what: &str, number: usize) {
    wait(&format!("{pod}: {what} {number} times"), || count(lab, pod, what) >= number);
}

fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Results of the recorded runs, with the number of each delivery.
fn journal(lab: &Lab, pod: &str) -> Vec<(String, u64)> {
    let run = |run: &Value| (run["result"].as_str().unwrap().to_owned(), run["attempt"].as_u64().unwrap());
    lab.hook_runs(pod).iter().map(run).collect()
}

fn runs(results: &[&str]) -> Vec<(String, u64)> {
    results.iter().zip(1..).map(|(result, attempt)| ((*result).to_owned(), attempt)).collect()
}

fn crash(lab: &Lab) {
    lab.kill();
    lab.up();
}

#[test]
fn a_kill_at_any_step_of_a_hook_delivers_it_again_and_prolongs_nothing() {
    let lab = Lab::new("hook-crashes", 92);
    let before = Machine::look();
    let config = wrappers(&lab);
    lab.up_with(&["--config", config.to_str().unwrap()]);
    lab.right_secret();
    let class = |name: &str| {
        format!("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {name}\n---\n")
    };
    let (starts, stops): (Vec<&Case>, Vec<&Case>) = CASES.iter().partition(|case| case.name.starts_with("start"));
    let classes: String = WRAPPERS.iter().map(|(name, _)| class(name)).collect();
    lab.apply(&(classes + &stops.iter().map(|case| case.manifest(&lab)).collect::<String>()));
    stops.iter().for_each(|case| drop(lab.ready(case.name)));

    // Each is held at its step.
    lab.apply(&starts.iter().map(|case| case.manifest(&lab)).collect::<String>());
    let names: Vec<&str> = stops.iter().map(|case| case.name).collect();
    lab.ready("start-after");
    counted(&lab, "start-during", "begun", 1);
    let asked = uptime();
    lab.ask(&[&["delete", "pod", "--wait=false"], &names[..]].concat());
    let deleted = uptime();
    for (name, _) in WRAPPERS {
        wait(&format!("{name} is at its step"), || lab.dir().join(format!("{name}.there")).exists());
    }
    counted(&lab, "stop-signalled", "term", 1);
    counted(&lab, "stop-during", "begun", 1);
    counted(&lab, "stop-endless", "begun", 1);
    assert_eq!((count(&lab, "start-lost", "begun"), count(&lab, "stop-before", "begun")), (0, 0));
    lab.kill();
    WRAPPERS.iter().for_each(|(name, _)| fs::write(lab.dir().join(format!("{name}.go")), "").unwrap());
    lab.up();

    // HOOK-59, HOOK-63: what had not ended is called again; and once more.
    for name in ["start-during", "stop-during", "stop-endless"] {
        counted(&lab, name, "begun", 2);
    }
    counted(&lab, "start-lost", "begun", 1);
    counted(&lab, "stop-before", "begun", 1);
    crash(&lab);
    for name in ["start-during", "stop-during", "stop-endless"] {
        counted(&lab, name, "begun", 3);
    }
    fs::write(mark(&lab, "start-during", "go"), "").unwrap();
    fs::write(mark(&lab, "stop-during", "go"), "").unwrap();
    for case in &starts {
        assert_eq!(lab.ready(case.name)["status"]["containerStatuses"][0]["restartCount"], 0, "{}", case.name);
    }
    lab.gone("stop-before");
    lab.gone("stop-during");
    assert!(uptime() < asked + AMPLE, "nobody waited for the end of the grace");
    lab.gone("stop-endless");
    lab.gone("stop-signalled");

    // HOOK-60, HOOK-77: one deadline, whatever happened to the agent.
    for name in ["stop-endless", "stop-signalled"] {
        let alive = fs::read_to_string(mark(&lab, name, "alive")).unwrap();
        let last: f64 = alive.lines().last().unwrap().parse().unwrap();
        assert!(last > asked + GRACE - 1.0, "{name} was killed after {:.1} s", last - asked);
        assert!(last < deleted + GRACE + SLACK, "{name} was killed after {:.1} s", last - deleted);
    }
    assert_eq!(count(&lab, "stop-signalled", "begun"), 1, "a hook that ended is not repeated");
    assert_eq!(count(&lab, "stop-signalled", "term"), 1, "the stop signal is sent once");
    assert_eq!(count(&lab, "start-after", "begun"), 1);

    assert_eq!(journal(&lab, "start-lost"), runs(&["succeeded"]));
    assert_eq!(journal(&lab, "start-during"), runs(&["interrupted", "interrupted", "succeeded"]));
    assert_eq!(journal(&lab, "start-after"), runs(&["succeeded"]));
    assert_eq!(journal(&lab, "stop-during"), runs(&["interrupted", "interrupted", "succeeded"]));
    assert_eq!(journal(&lab, "stop-endless"), runs(&["interrupted", "interrupted", "graceExceeded"]));
    assert_eq!(journal(&lab, "stop-signalled"), runs(&["succeeded"]));
    let before_exec = journal(&lab, "stop-before");
    assert_eq!((&*before_exec[0].0, &*before_exec.last().unwrap().0), ("interrupted", "succeeded"), "{before_exec:?}");
    let left: Vec<f64> =
        lab.hook_runs("stop-endless").iter().map(|run| run["graceSecondsLeft"].as_f64().unwrap()).collect();
    assert!(left.is_sorted_by(|earlier, later| earlier > later), "{left:?}");
    lab.down(true);
    before.assert_back();
}
