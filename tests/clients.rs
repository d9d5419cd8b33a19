//! Clients that others wrote against the whole program: Python's and JavaScript's own, and kubectl old and new. Their
//! scripts are in `tests/clients`; versions are pinned there and fetched by `cargo xtask setup`.

#![allow(clippy::disallowed_methods, reason = "tests start programs")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::json;
use support::{Lab, text, wait};
use xtask::{shell, tools};

/// A command of another language's client, as the lab's administrator.
fn foreign(lab: &Lab, program: &Path) -> Command {
    assert!(program.exists(), "{} is missing: run cargo xtask setup", program.display());
    let mut command = Command::new(program);
    command
        .env("KUBECONFIG", lab.data_dir().join("admin.kubeconfig"))
        .env("IMAGE", lab.image())
        .env("PYTHONPYCACHEPREFIX", tools::clients().join("pycache"))
        .env("HOME", lab.dir())
        .current_dir(lab.dir());
    command
}

/// Runs a script to its end, which must be good.
fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complained}", output.status);
}

fn python(lab: &Lab, script: &str) {
    let mut command = foreign(lab, &tools::python());
    command.arg(shell::root().join("tests/clients").join(script));
    succeeds(command);
}

#[test]
fn pythons_client_makes_reads_watches_and_runs() {
    let lab = Lab::new("clients-python", 53);
    lab.up();
    lab.right_secret();
    std::thread::scope(|scope| {
        // Each has names of its own; two at a time, as the machine has processors.
        scope.spawn(|| ["typed.py", "generic.py"].map(|script| python(&lab, script)));
        scope.spawn(|| ["streams.py", "watching.py"].map(|script| python(&lab, script)));
    });
    lab.down(true);
}

/// A script of Node.js. It finds its package above itself, so it lies where that is.
fn node(lab: &Lab, script: &str) -> Command {
    let mut command = foreign(lab, &tools::node());
    command.arg(lab.dir().join(script));
    command
}

#[test]
fn javascripts_client_patches_informs_and_streams_over_a_crash() {
    let lab = Lab::new("clients-node", 54);
    std::os::unix::fs::symlink(tools::clients().join("node_modules"), lab.dir().join("node_modules")).unwrap();
    for script in ["kube.mjs", "objects.mjs", "streams.mjs"] {
        std::fs::copy(shell::root().join("tests/clients").join(script), lab.dir().join(script)).unwrap();
    }
    lab.up();
    lab.right_secret();
    succeeds(node(&lab, "streams.mjs"));
    an_informer_outlives_a_crash(&lab);
    lab.down(true);
}

/// The script says when the server may be killed, and is told when it is there again.
fn an_informer_outlives_a_crash(lab: &Lab) {
    let mut command = node(lab, "objects.mjs");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line == "crash\n" {
        lab.kill();
        lab.up();
        child.stdin.take().unwrap().write_all(b"done\n").unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && line == "crash\n", "{line}{}", text(&output.stderr));
}

/// A kubectl of some age.
struct Kubectl<'a> {
    lab: &'a Lab,
    program: PathBuf,
}

impl Kubectl<'_> {
    fn command(&self, words: &[&str]) -> Command {
        assert!(self.program.is_file() || self.program.components().count() == 1, "run cargo xtask setup");
        let mut command = self.lab.client(&self.program);
        command.args(words).current_dir(self.lab.dir()).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn ask(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// What it says when something is not to be had.
    fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?} succeeded: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Each row of a table, its columns.
    fn table(&self, words: &[&str]) -> Vec<Vec<String>> {
        let lines = self.ask(words);
        lines.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }
}

/// Writes a manifest into the lab's directory and names it.
fn manifest(lab: &Lab, name: &str, objects: &[serde_json::Value]) -> String {
    let path = lab.dir().join(name);
    let all: Vec<String> = objects.iter().map(ToString::to_string).collect();
    std::fs::write(&path, all.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A Deployment of a pod that says a line and waits for its end.
fn deployment(lab: &Lab, name: &str, replicas: u32) -> serde_json::Value {
    let script = "echo hello; trap 'exit 0' TERM; while true; do sleep 0.05; done";
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 1, "imagePullSecrets": [{"name": "regcred"}],
            "containers": [{"name": "c", "image": lab.image(), "command": ["sh", "-c", script]}],
        }},
    }})
}

/// Debian's kubectl is of 2021: what it knows works as it did then. Streams are in `streaming.rs`.
#[test]
fn an_old_kubectl_does_what_it_did_when_it_was_new() {
    let lab = Lab::new("clients-old", 55);
    lab.up();
    lab.right_secret();
    let old = Kubectl { lab: &lab, program: tools::old_kubectl() };
    old_objects_are_applied_shown_and_changed(&old);
    old_rollouts_go_on_and_back(&old);
    old_documents_are_read(&old);
    what_came_later_is_refused_in_plain_words(&old);
    an_old_drain_keeps_to_the_budget(&old);
    lab.down(true);
}

fn old_objects_are_applied_shown_and_changed(old: &Kubectl<'_>) {
    let file = manifest(old.lab, "web.yaml", &[deployment(old.lab, "web", 2)]);
    assert_eq!(old.ask(&["apply", "-f", &file]), "deployment.apps/web created\n");
    assert_eq!(old.ask(&["apply", "-f", &file]), "deployment.apps/web unchanged\n");
    assert!(old.ask(&["rollout", "status", "deploy/web", "--timeout=60s"]).contains("successfully rolled out"));
    let shown = old.table(&["get", "deploy", "-o", "wide"]);
    assert_eq!(shown[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]);
    assert_eq!(shown[1][..4], ["web", "2/2", "2", "2"]);
    let shown = old.table(&["get", "pods", "-l", "app=web"]);
    assert_eq!(shown[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert!(shown[1..].iter().all(|row| row[1..4] == ["1/1", "Running", "0"]), "{shown:?}");
    let shown = old.table(&["get", "nodes"]);
    assert_eq!(
        (&shown[0][..], &shown[1][1][..]),
        (&["NAME", "STATUS", "ROLES", "AGE", "VERSION"].map(String::from)[..], "Ready")
    );
    for (what, told) in [("deploy/web", "2 desired | 2 updated | 2 total | 2 available"), ("nodes", "KubeletReady")] {
        assert!(old.ask(&["describe", what]).contains(told), "{what}");
    }
    assert!(old.ask(&["describe", "pods", "-l", "app=web"]).contains("Started"));
    assert_eq!(old.ask(&["logs", "-l", "app=web"]), "hello\nhello\n");
    assert_eq!(old.ask(&["label", "deploy", "web", "tier=front"]), "deployment.apps/web labeled\n");
    assert_eq!(old.ask(&["annotate", "deploy", "web", "a=b"]), "deployment.apps/web annotated\n");
    assert_eq!(old.ask(&["get", "deploy", "-l", "tier in (front)", "-o", "name"]), "deployment.apps/web\n");
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"B","value":"c"}]}]}}}}"#;
    assert_eq!(old.ask(&["patch", "deploy", "web", "-p", patch]), "deployment.apps/web patched\n");
    let env = "jsonpath={.spec.template.spec.containers[0].env[0].name}";
    assert_eq!(old.ask(&["get", "deploy", "web", "-o", env]), "B");
}

fn old_rollouts_go_on_and_back(old: &Kubectl<'_>) {
    let settled = || assert!(old.ask(&["rollout", "status", "deploy/web", "--timeout=60s"]).contains("rolled out"));
    old.ask(&["rollout", "pause", "deploy/web"]);
    old.ask(&["set", "env", "deploy/web", "A=b"]);
    old.ask(&["rollout", "resume", "deploy/web"]);
    settled();
    let history = old.table(&["rollout", "history", "deploy/web"]);
    let revisions: Vec<&str> = history[2..].iter().filter_map(|row| row.first().map(String::as_str)).collect();
    assert_eq!(revisions, ["1", "2", "3"]);
    assert!(old.ask(&["rollout", "history", "deploy/web", "--revision=3"]).contains("A:\tb"));
    assert_eq!(old.ask(&["rollout", "undo", "deploy/web", "--to-revision=2"]), "deployment.apps/web rolled back\n");
    assert_eq!(old.ask(&["rollout", "restart", "deploy/web"]), "deployment.apps/web restarted\n");
    assert_eq!(old.ask(&["scale", "deploy/web", "--replicas=1"]), "deployment.apps/web scaled\n");
    settled();
    old.ask(&["wait", "--for=condition=available", "deploy/web", "--timeout=20s"]);
}

/// All that reads OpenAPI, which this kubectl wants as version 2 in protobuf.
fn old_documents_are_read(old: &Kubectl<'_>) {
    let lab = old.lab;
    let explained = old.ask(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"]);
    assert!(
        explained.starts_with("KIND:     Deployment\nVERSION:  apps/v1\n\nFIELD:    maxSurge <string>\n"),
        "{explained}"
    );
    assert!(explained.contains("The maximum number of pods"), "{explained}");
    assert!(old.ask(&["explain", "cronjob.spec", "--recursive"]).contains("   concurrencyPolicy\t<string>\n"));
    let changed = manifest(lab, "three.yaml", &[deployment(lab, "web", 3)]);
    let dry = old.ask(&["apply", "-f", &changed, "--dry-run=server"]);
    assert_eq!(dry, "deployment.apps/web configured (server dry run)\n");
    let different = old.run(&["diff", "-f", &changed]);
    let shown = text(&different.stdout);
    assert_eq!(different.status.code(), Some(1), "{}", text(&different.stderr));
    assert!(shown.contains("\n-  replicas: 1\n+  replicas: 3\n"), "{shown}");
    let mut odd = deployment(lab, "web", 1);
    odd["spec"]["replicaz"] = 3.into();
    let refused = old.fails(&["apply", "-f", &manifest(lab, "odd.yaml", &[odd])]);
    let told = "ValidationError(Deployment.spec): unknown field \"replicaz\" in io.k8s.api.apps.v1.DeploymentSpec";
    assert!(refused.contains(told), "{refused}");
    let mut edit = old.command(&["edit", "deploy", "web"]);
    let edited = edit.env("KUBE_EDITOR", "sed -i s/tier:.front/tier:\\ back/").output().unwrap();
    assert_eq!(text(&edited.stdout), "deployment.apps/web edited\n", "{}", text(&edited.stderr));
    assert_eq!(old.ask(&["get", "deploy", "-l", "tier=back", "-o", "name"]), "deployment.apps/web\n");
}

/// CronJobs and budgets were v1beta1 when this kubectl was new: Kubernetes of today does not serve them to it either.
fn what_came_later_is_refused_in_plain_words(old: &Kubectl<'_>) {
    let lab = old.lab;
    let job =
        json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": lab.image()}]}}});
    let later = manifest(
        lab,
        "later.yaml",
        &[
            json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
            "spec": {"schedule": "@yearly", "jobTemplate": {"spec": job}}}),
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guard"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
        ],
    );
    // As kinds that it does not know they are applied, shown and deleted.
    assert_eq!(
        old.ask(&["apply", "-f", &later]),
        "cronjob.batch/tick created\npoddisruptionbudget.policy/guard created\n"
    );
    assert_eq!(old.table(&["get", "cronjobs"])[1][..2], ["tick", "@yearly"]);
    assert_eq!(old.table(&["get", "pdb"])[1][..3], ["guard", "1", "N/A"]);
    for (words, told) in [
        (
            &["create", "cronjob", "c", "--image=x", "--schedule=@yearly"][..],
            "the server could not find the requested resource",
        ),
        (&["describe", "cronjob", "tick"], "the server could not find the requested resource"),
        (&["create", "pdb", "p", "--selector=a=b", "--min-available=1"], "no matches for kind \"PodDisruptionBudget\""),
        (&["expose", "deploy", "web", "--port=80"], "no matches for kind \"Service\""),
        (&["autoscale", "deploy", "web", "--max=3"], "the server could not find the requested resource"),
        (&["top", "pods"], "Metrics API not available"),
    ] {
        let said = old.fails(words);
        assert!(said.contains(told), "{words:?}: {said}");
    }
    assert_eq!(old.ask(&["auth", "can-i", "create", "cronjobs.batch"]), "yes\n");
    assert!(old.table(&["api-resources"]).iter().any(|row| row == &["cronjobs", "cj", "batch/v1", "true", "CronJob"]));
}

/// This kubectl sends evictions as policy/v1beta1, which Kubernetes still takes.
fn an_old_drain_keeps_to_the_budget(old: &Kubectl<'_>) {
    let node = old.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    wait("the budget counts", || old.ask(&["get", "pdb", "guard", "-o", "jsonpath={.status.currentHealthy}"]) == "1");
    assert_eq!(old.ask(&["taint", "node", &node, "a=b:PreferNoSchedule"]), format!("node/{node} tainted\n"));
    assert_eq!(old.ask(&["cordon", &node]), format!("node/{node} cordoned\n"));
    let held = old.fails(&["drain", &node, "--pod-selector=app=web", "--timeout=4s"]);
    assert!(held.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{held}");
    assert_eq!(old.ask(&["delete", "pdb", "guard"]), "poddisruptionbudget.policy \"guard\" deleted\n");
    let drained = old.ask(&["drain", &node, "--pod-selector=app=web", "--timeout=30s"]);
    assert!(drained.ends_with(&format!("evicted\nnode/{node} evicted\n")), "{drained}");
    assert_eq!(old.ask(&["uncordon", &node]), format!("node/{node} uncordoned\n"));
    assert_eq!(old.ask(&["delete", "deploy", "web"]), "deployment.apps \"web\" deleted\n");
    wait("its pods go", || old.ask(&["get", "pods", "-l", "app=web", "-o", "name"]).is_empty());
}

/// What the other tests of today's kubectl leave out.
#[test]
fn todays_kubectl_does_the_rest() {
    let lab = Lab::new("clients-new", 56);
    lab.up();
    lab.right_secret();
    let kubectl = Kubectl { lab: &lab, program: "kubectl".into() };
    things_are_waited_for(&kubectl);
    containers_are_debugged(&kubectl);
    objects_are_made_and_set_by_commands(&kubectl);
    lists_are_shown_as_asked(&kubectl);
    sets_of_objects_are_pruned_and_replaced(&kubectl);
    what_is_not_served_is_said(&kubectl);
    lab.down(true);
}

fn things_are_waited_for(kubectl: &Kubectl<'_>) {
    let lab = kubectl.lab;
    let begin = |words: &[&str]| kubectl.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let created = begin(&["wait", "--for=create", "deploy/web", "--timeout=30s"]);
    let mut watched = begin(&[
        "get",
        "deploy",
        "-w",
        "-o",
        "custom-columns=N:.metadata.name,R:.status.readyReplicas",
        "--no-headers",
    ]);
    let file = manifest(lab, "web.yaml", &[deployment(lab, "web", 1)]);
    kubectl.ask(&["apply", "-f", &file]);
    let created = created.wait_with_output().unwrap();
    assert_eq!(text(&created.stdout), "deployment.apps/web condition met\n", "{}", text(&created.stderr));
    for condition in
        ["condition=Available", "jsonpath={.status.readyReplicas}=1", "jsonpath={.status.observedGeneration}"]
    {
        let waited = kubectl.ask(&["wait", &format!("--for={condition}"), "deploy/web", "--timeout=30s"]);
        assert_eq!(waited, "deployment.apps/web condition met\n", "{condition}");
    }
    let ready =
        BufReader::new(watched.stdout.take().unwrap()).lines().map(Result::unwrap).find(|line| line.ends_with('1'));
    assert_eq!(ready.unwrap().split_whitespace().collect::<Vec<_>>(), ["web", "1"]);
    watched.kill().unwrap();
    watched.wait().unwrap();
    let gone = begin(&["wait", "--for=delete", "pod", "-l", "app=web", "--timeout=30s"]);
    kubectl.ask(&["delete", "deploy", "web", "--cascade=foreground"]);
    let gone = gone.wait_with_output().unwrap();
    assert!(gone.status.success(), "{}", text(&gone.stderr));
    assert!(kubectl.fails(&["wait", "--for=create", "deploy/never", "--timeout=0.2s"]).contains("timed out"));
}

fn containers_are_debugged(kubectl: &Kubectl<'_>) {
    let lab = kubectl.lab;
    // No set of pods owns it: one would take the copy, which keeps its labels, for a pod too many.
    let mut pod = deployment(lab, "box", 1)["spec"]["template"].take();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "box".into();
    let file = manifest(lab, "box.yaml", &[pod]);
    kubectl.ask(&["apply", "-f", &file]);
    let pod = "pod/box";
    kubectl.ask(&["wait", "--for=condition=Ready", pod, "--timeout=30s"]);
    let image = format!("--image={}", lab.image());
    let words = [
        "debug",
        pod,
        &image,
        "--profile=general",
        "--container=dbg",
        "--attach=false",
        "--",
        "sh",
        "-c",
        "echo seen from $0",
    ];
    kubectl.ask(&words);
    let ended = r#"jsonpath={.status.ephemeralContainerStatuses[?(@.name=="dbg")].state.terminated.exitCode}=0"#;
    kubectl.ask(&["wait", &format!("--for={ended}"), pod, "--timeout=30s"]);
    assert_eq!(kubectl.ask(&["logs", pod, "-c", "dbg"]), "seen from sh\n");
    let copied =
        ["debug", pod, "--copy-to=copy", "--set-image=*=none", "--profile=general", "--same-node", "--attach=false"];
    kubectl.ask(&copied);
    let shown = "jsonpath={.spec.containers[0].image} {.spec.nodeName}";
    let node = kubectl.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    assert_eq!(kubectl.ask(&["get", "pod", "copy", "-o", shown]), format!("none {node}"));
    kubectl.ask(&["delete", "pod", "copy", "--now"]);
    let events = kubectl.ask(&["events", "--for", pod, "--types=Normal", "-o", "jsonpath={.items[*].reason}"]);
    assert!(events.contains("Started"), "{events}");
    kubectl.ask(&["delete", pod, "--now"]);
}

fn objects_are_made_and_set_by_commands(kubectl: &Kubectl<'_>) {
    let lab = kubectl.lab;
    let file = manifest(lab, "idle.yaml", &[deployment(lab, "idle", 0)]);
    kubectl.ask(&["apply", "-f", &file]);
    for (words, shown, expected) in [
        (&["set", "image", "deploy/idle", "c=other"][..], "image", "other"),
        (
            &["set", "resources", "deploy/idle", "--limits=cpu=1500m,memory=1024Mi"],
            "resources.limits",
            r#"{"cpu":"1500m","memory":"1Gi"}"#,
        ),
        (&["set", "env", "deploy/idle", "A=b", "C-"], "env", r#"[{"name":"A","value":"b"}]"#),
    ] {
        kubectl.ask(words);
        let path = format!("jsonpath={{.spec.template.spec.containers[0].{shown}}}");
        assert_eq!(kubectl.ask(&["get", "deploy", "idle", "-o", &path]), expected);
    }
    kubectl.ask(&["create", "sa", "robot"]);
    kubectl.ask(&["set", "serviceaccount", "deploy/idle", "robot"]);
    let account = "jsonpath={.spec.template.spec.serviceAccountName}";
    assert_eq!(kubectl.ask(&["get", "deploy", "idle", "-o", account]), "robot");
    for (words, told) in [
        (&["create", "quota", "few", "--hard=pods=90,count/jobs.batch=9", "--scopes=NotTerminating"][..], "pods: 0/90"),
        (&["create", "priorityclass", "low", "--value=5", "--preemption-policy=Never"], "5"),
        (&["create", "pdb", "guard", "--selector=app=web", "--max-unavailable=1"], "guard"),
        (&["create", "cronjob", "tick", "--image=x", "--schedule=@yearly"], "@yearly"),
        (&["create", "job", "now", "--from=cronjob/tick"], "now"),
        (&["create", "configmap", "files", "--from-file=idle.yaml", "--from-literal=a=b"], "2"),
        (&["create", "secret", "generic", "hidden", "--type=a/b", "--from-literal=a=b"], "a/b"),
    ] {
        assert!(kubectl.ask(words).ends_with(" created\n"), "{words:?}");
        let name = words[if words[1] == "secret" { 3 } else { 2 }];
        wait("the table shows it", || kubectl.ask(&["get", words[1], name, "--no-headers"]).contains(told));
    }
    assert_eq!(
        kubectl.ask(&["get", "job", "now", "-o", "jsonpath={.metadata.annotations}"]),
        r#"{"cronjob.kubernetes.io/instantiate":"manual"}"#
    );
    kubectl.ask(&["delete", "quota/few", "pdb/guard", "cronjob/tick", "priorityclass/low", "deploy/idle"]);
}

fn lists_are_shown_as_asked(kubectl: &Kubectl<'_>) {
    let lab = kubectl.lab;
    let maps: Vec<serde_json::Value> = (0..7)
        .map(|n| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n}"), "labels": {"n": (n % 2).to_string()}},
            "data": {"rank": format!("{}", 9 - n)}}))
        .collect();
    kubectl.ask(&["create", "-f", &manifest(lab, "maps.yaml", &maps)]);
    let names = |more: &[&str]| {
        let words = [&["get", "cm", "-l", "n", "-o", "jsonpath={.items[*].metadata.name}"], more].concat();
        kubectl.ask(&words)
    };
    assert_eq!(names(&["--chunk-size=2"]), "m0 m1 m2 m3 m4 m5 m6");
    assert_eq!(names(&["--sort-by=.data.rank"]), "m6 m5 m4 m3 m2 m1 m0");
    assert_eq!(names(&["-l", "n!=0,n in (0,1)"]), "m1 m3 m5");
    assert_eq!(names(&["--field-selector=metadata.name=m4"]), "m4");
    let columns = ["get", "cm", "-l", "n=1", "-o", "custom-columns=NAME:.metadata.name,RANK:.data.rank"];
    assert_eq!(kubectl.table(&columns), [["NAME", "RANK"], ["m1", "8"], ["m3", "6"], ["m5", "4"]]);
    let template = "go-template={{range .items}}{{.metadata.name}};{{end}}";
    assert_eq!(kubectl.ask(&["get", "cm", "-l", "n=1", "-o", template]), "m1;m3;m5;");
    let shown = kubectl.ask(&["get", "cm", "m1", "-L", "n", "--show-labels", "--no-headers"]);
    assert!(shown.starts_with("m1 ") && shown.ends_with(" 1     n=1\n"), "{shown}");
    for (selector, expected) in
        [("reason=SuccessfulCreate,involvedObject.kind=ReplicaSet", true), ("type=Nothing", false)]
    {
        assert_eq!(
            !kubectl.ask(&["get", "events", "--field-selector", selector, "-o", "name"]).is_empty(),
            expected,
            "{selector}"
        );
    }
    let raw: serde_json::Value =
        serde_json::from_str(&kubectl.ask(&["get", "--raw", "/api/v1/namespaces/default/configmaps/m1"])).unwrap();
    assert_eq!(raw["data"]["rank"], "8");
    assert!(kubectl.ask(&["api-versions"]).lines().any(|line| line == "batch/v1"));
    let explained = kubectl.ask(&["explain", "job.spec.podFailurePolicy", "--recursive"]);
    assert!(
        explained.contains("\n  rules\t<[]PodFailurePolicyRule> -required-\n    action\t<string> -required-\n"),
        "{explained}"
    );
    assert!(kubectl.ask(&["explain", "job.spec", "--output=plaintext-openapiv2"]).contains("backoffLimit\t<integer>"));
    kubectl.ask(&["delete", "cm", "-l", "n"]);
}

fn sets_of_objects_are_pruned_and_replaced(kubectl: &Kubectl<'_>) {
    let lab = kubectl.lab;
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"set": "mine"}}});
    let two = manifest(lab, "two.yaml", &[map("one"), map("two")]);
    let one = manifest(lab, "one.yaml", &[map("one")]);
    let prune = |file: &str| {
        kubectl.ask(&["apply", "-f", file, "-l", "set=mine", "--prune", "--prune-allowlist=core/v1/ConfigMap"])
    };
    assert_eq!(prune(&two), "configmap/one created\nconfigmap/two created\n");
    assert_eq!(prune(&one), "configmap/one unchanged\nconfigmap/two pruned\n");
    let before = kubectl.ask(&["get", "cm", "one", "-o", "jsonpath={.metadata.uid}"]);
    assert_eq!(kubectl.ask(&["replace", "--force", "-f", &one]), "configmap \"one\" deleted\nconfigmap/one replaced\n");
    assert_ne!(kubectl.ask(&["get", "cm", "one", "-o", "jsonpath={.metadata.uid}"]), before);
    kubectl.ask(&["delete", "cm", "one"]);
    let apply_set = |file: &str| {
        let mut command = kubectl.command(&["apply", "-n", "default", "-f", file, "--prune", "--applyset=set"]);
        let output = command.env("KUBECTL_APPLYSET", "true").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(apply_set(&two), "configmap/one created\nconfigmap/two created\n");
    assert_eq!(apply_set(&one), "configmap/one unchanged\nconfigmap/two pruned\n");
    kubectl.ask(&["delete", "cm/one", "secret/set"]);
}

fn what_is_not_served_is_said(kubectl: &Kubectl<'_>) {
    for (words, told) in [
        (&["create", "ingress", "i", "--rule=a/b=c:80"][..], "the server could not find the requested resource"),
        (&["create", "service", "clusterip", "s", "--tcp=80"], "the server could not find the requested resource"),
        (&["get", "svc"], "the server doesn't have a resource type \"svc\""),
        (&["top", "nodes"], "Metrics API not available"),
        (&["cluster-info"], "the server doesn't have a resource type \"services\""),
    ] {
        let said = kubectl.fails(words);
        assert!(said.contains(told), "{words:?}: {said}");
    }
}
