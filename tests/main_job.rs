//! The main job on real parts: a Pod from its manifest in a private registry to a running container, and nothing left.

mod support;

use support::{Lab, Machine, condition, text, wait};

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 2\n  imagePullSecrets: [{{name: regcred}}]\n  \
         containers:\n  - name: c\n    image: {image}\n    command: [sh, -c, 'echo started; trap \"exit 0\" TERM; while true; do sleep 0.1; done']\n{more}"
    )
}

#[test]
fn a_pod_from_a_private_registry_runs_and_nothing_is_left_behind() {
    let lab = Lab::new("main", 1);
    let before = Machine::look();
    lab.up();
    assert!(std::fs::read_to_string(lab.user_kubeconfig()).unwrap().contains("current-context: sampan"));
    lab.right_secret();
    lab.apply(&pod("web", &lab.image(), ""));
    let running = lab.ready("web");
    let ip = running["status"]["podIP"].as_str().unwrap();
    assert!(ip.starts_with("10.90.1."), "{ip}");
    assert_eq!(running["status"]["phase"], "Running");
    let status = &running["status"]["containerStatuses"][0];
    assert_eq!(status["image"], lab.image());
    assert!(
        status["imageID"].as_str().unwrap().starts_with(&format!("{}/team/box@sha256:", lab.registry.address)),
        "{status}"
    );

    let wide = lab.ask(&["get", "pods", "-o", "wide"]);
    assert!(wide.contains("web") && wide.contains("1/1") && wide.contains("Running") && wide.contains(ip), "{wide}");
    lab.says("web", "started\n");
    let said = lab.kubectl(&["exec", "web", "--", "sh", "-c", "hostname; ip -4 addr show eth0; exit 7"]);
    assert_eq!(said.status.code(), Some(7), "{}", text(&said.stderr));
    assert!(text(&said.stdout).starts_with("web\n") && text(&said.stdout).contains(ip), "{}", text(&said.stdout));
    lab.told("web", "Started", "Container started");
    lab.told("web", "Scheduled", "Successfully assigned default/web");
    let described = lab.ask(&["describe", "pod", "web"]);
    assert!(
        described.contains("Successfully assigned default/web") && described.contains("Successfully pulled image"),
        "{described}"
    );
    // The scheduler tells after it has bound the pod, when the node has begun already.
    let reasons: Vec<String> = lab.events("web").into_iter().map(|(reason, _)| reason).collect();
    let node: Vec<&String> = reasons.iter().filter(|reason| *reason != "Scheduled").collect();
    assert_eq!(node, ["Pulling", "Pulled", "Created", "Started"]);
    assert_eq!(reasons.len(), 5, "{reasons:?}");

    lab.ask(&["delete", "pod", "web"]);
    assert!(lab.get("pod", "web").is_none());
    lab.down(true);
    assert!(!lab.user_kubeconfig().exists(), "the user's kubeconfig was not there before");
    before.assert_back();
}

#[test]
fn pods_survive_the_end_of_sampan_and_their_logs_have_no_gap() {
    let lab = Lab::new("survive", 2);
    lab.up();
    lab.right_secret();
    let count = "    command: [sh, -c, 'i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done']\n";
    lab.apply(&pod("counter", &lab.image(), "").replace(
        "    command: [sh, -c, 'echo started; trap \"exit 0\" TERM; while true; do sleep 0.1; done']\n",
        count,
    ));
    let before = lab.ready("counter");
    lab.kill();
    let lines = || lab.ask(&["logs", "counter"]).lines().count();
    lab.up();
    let seen = lines();
    wait("the log grows after the restart", || lines() > seen + 10);
    let numbers: Vec<u64> = lab.ask(&["logs", "counter"]).lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(at, number)| at as u64 == *number), "the log has a gap");
    let after = lab.ready("counter");
    assert_eq!(
        before["status"]["containerStatuses"][0]["containerID"],
        after["status"]["containerStatuses"][0]["containerID"]
    );
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    lab.down(false);
    lab.up();
    let again = lab.ready("counter");
    assert_eq!(again["metadata"]["uid"], before["metadata"]["uid"], "down keeps what the API holds");
}

#[test]
fn a_pod_that_cannot_get_its_image_waits_with_the_right_reason() {
    let lab = Lab::new("bad-image", 3);
    lab.up();
    lab.secret("wrong");
    lab.apply(&pod("denied", &lab.image(), ""));
    lab.right_secret();
    let waiting = |pod: &serde_json::Value, reasons: &[&str]| {
        let state = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        reasons.contains(&state["reason"].as_str().unwrap_or_default())
    };
    lab.apply(&pod("unknown", &format!("{}/team/none:1", lab.registry.address), ""));
    lab.apply(&pod("odd", "UPPER/Bad Name", ""));
    let never = pod("never", &lab.image(), "").replace("    command", "    imagePullPolicy: Never\n    command");
    lab.apply(&never);
    lab.pod_when("unknown", "waiting for its image", |pod| waiting(pod, &["ErrImagePull", "ImagePullBackOff"]));
    lab.pod_when("odd", "refused for its name", |pod| waiting(pod, &["InvalidImageName"]));
    wait("the event tells the reason", || {
        lab.events("unknown").iter().any(|(reason, message)| {
            reason == "Failed" && message.contains("Failed to pull image") && message.contains("not found")
        })
    });
    lab.told("odd", "InspectFailed", "");
}

#[test]
fn restarts_init_containers_and_completion_follow_the_policy() {
    let lab = Lab::new("policy", 4);
    lab.up();
    lab.right_secret();
    let image = lab.image();
    let task = |name: &str, policy: &str, command: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  imagePullSecrets: [{{name: regcred}}]\n{more}  \
             containers:\n  - name: c\n    image: {image}\n    command: [sh, -c, '{command}']\n"
        )
    };
    let init = format!(
        "  initContainers:\n  - name: i\n    image: {image}\n    command: [sh, -c, 'echo one > /w/a']\n    volumeMounts: [{{name: w, mountPath: /w}}]\n  volumes: [{{name: w, emptyDir: {{}}}}]\n"
    );
    lab.apply(&task("done", "Never", "exit 0", ""));
    lab.apply(&task("failed", "Never", "exit 3", ""));
    lab.apply(&task("crash", "Always", "exit 1", ""));
    lab.apply(
        &task("staged", "Never", "cat /w/a", &init)
            .replace("'cat /w/a']\n", "'cat /w/a']\n    volumeMounts: [{name: w, mountPath: /w}]\n"),
    );
    let phase =
        |name: &str, wanted: &'static str| lab.pod_when(name, wanted, move |pod| pod["status"]["phase"] == wanted);
    assert_eq!(
        phase("done", "Succeeded")["status"]["containerStatuses"][0]["state"]["terminated"]["reason"],
        "Completed"
    );
    assert_eq!(phase("failed", "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    phase("staged", "Succeeded");
    assert_eq!(lab.ask(&["logs", "staged"]).trim(), "one");
    let crashing = lab.pod_when("crash", "backing off", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert_eq!(crashing["status"]["phase"], "Running");
    assert_eq!(condition(&crashing, "Ready"), Some("False"));
    assert!(crashing["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap() >= 1);
}

#[test]
fn up_refuses_what_cannot_work_and_changes_nothing() {
    let lab = Lab::new("refuse", 5);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = lab.sampan(&["up", "--detach", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--listen"), "{}", text(&output.stderr));
    assert!(!lab.data_dir().exists() && !lab.run_dir().exists(), "directories were made");
    lab.up();
    let second = lab.sampan(&["up", "--detach"]);
    assert!(second.status.success() && text(&second.stdout).contains("runs already"), "{}", text(&second.stdout));
}
