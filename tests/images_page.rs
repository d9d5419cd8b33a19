//! The page "Images" from its top to its end, as one story on real parts (registries, runc, kubectl).

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Lab, free_port, text};
use xtask::image;
use xtask::registry::{PASSWORD, Registry, USER};

fn pod(name: &str, image: &str, policy: Option<&str>, secrets: &[&str]) -> Value {
    let secrets: Vec<_> = secrets.iter().map(|name| json!({"name": name})).collect();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0, "imagePullSecrets": secrets,
            "containers": [{"name": "c", "image": image, "command": ["sleep", "3600"]}],
        },
    });
    if let Some(policy) = policy {
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
    }
    pod
}

fn waiting(pod: &Value) -> (String, String) {
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let field = |name: &str| waiting[name].as_str().unwrap_or_default().to_owned();
    (field("reason"), field("message"))
}

/// The instance, a private registry and an open one.
struct Story {
    lab: Lab,
    open: Registry,
}

impl Story {
    fn begin() -> Story {
        let lab = Lab::new("page", 32);
        let open = Registry::open(&lab.dir().join("open"), free_port());
        open.ensure().unwrap();
        lab.up();
        Story { lab, open }
    }

    fn push(&self, name: &str, page: &str) {
        let layout = self.lab.dir().join("made");
        image::layout_with_page(&layout, page).unwrap();
        self.open.push(&layout, name).unwrap();
    }

    fn run(&self, pod: &Value) -> Value {
        self.lab.apply(&pod.to_string());
        self.lab.ready(pod["metadata"]["name"].as_str().unwrap())
    }

    fn page(&self, name: &str) -> String {
        self.lab.ask(&["exec", name, "--", "cat", "/www/index.html"])
    }

    fn refused(&self, pod: &Value, reason: &str) -> String {
        self.lab.apply(&pod.to_string());
        let name = pod["metadata"]["name"].as_str().unwrap();
        // It is told for seconds only, and then in the words of the back-off.
        let backs_off = |pod: &Value| reason == "ErrImagePull" && waiting(pod).0 == "ImagePullBackOff";
        let waits = |pod: &Value| waiting(pod).0 == reason || backs_off(pod);
        waiting(&self.lab.pod_when(name, reason, waits)).1
    }

    fn remove(&self, names: &[&str]) {
        self.lab.ask(&[&["delete", "pod", "--now"], names].concat());
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let _ = self.open.stop();
    }
}

#[test]
fn the_page_images_from_its_top_to_its_end() {
    let story = Story::begin();
    a_public_image_is_pulled_and_pinned_by_its_digest(&story);
    the_policy_comes_from_the_tag(&story);
    private_images_need_one_of_three_credentials(&story);
    globs_and_several_credentials_for_one_registry(&story);
    images_that_are_there_run_without_a_registry(&story);
    failed_pulls_back_off(&story);
    an_index_holds_the_image_of_each_architecture(&story);
    a_forced_pull_keeps_tenants_apart(&story);
    story.lab.down(true);
}

/// IMG-16, IMG-42: the tag moves, the digest does not.
fn a_public_image_is_pulled_and_pinned_by_its_digest(story: &Story) {
    story.push("open/app:1", "one\n");
    let name = format!("{}/open/app:1", story.open.address);
    let first = story.run(&pod("public", &name, None, &[]));
    let id = first["status"]["containerStatuses"][0]["imageID"].as_str().unwrap().to_owned();
    assert!(id.starts_with(&format!("{}/open/app@sha256:", story.open.address)), "{id}");
    story.push("open/app:1", "two\n");
    story.run(&pod("pinned", &id, None, &[]));
    story.run(&pod("moved", &name, Some("Always"), &[]));
    assert_eq!((story.page("pinned"), story.page("moved")), ("one\n".into(), "two\n".into()));
    story.remove(&["public", "pinned", "moved"]);
}

/// IMG-20, IMG-25, IMG-45.
fn the_policy_comes_from_the_tag(story: &Story) {
    let base = format!("{}/open/app", story.open.address);
    let made = |name: &str, image: &str| {
        story.lab.apply(&pod(name, image, None, &[]).to_string());
        story.lab.get("pod", name).unwrap()["spec"]["containers"][0]["imagePullPolicy"].as_str().unwrap().to_owned()
    };
    assert_eq!(made("none", &base), "Always");
    assert_eq!(made("latest", &format!("{base}:latest")), "Always");
    assert_eq!(made("tagged", &format!("{base}:1")), "IfNotPresent");
    let patch = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": format!("{base}:latest")}]);
    story.lab.ask(&["patch", "pod", "tagged", "--type=json", "-p", &patch.to_string()]);
    let kept = story.lab.get("pod", "tagged").unwrap();
    assert_eq!(kept["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent", "set once, at creation");
    let absent = format!("{base}:absent");
    let message = story.refused(&pod("never", &absent, Some("Never"), &[]), "ErrImageNeverPull");
    assert_eq!(message, format!("Container image \"{absent}\" is not present with pull policy of Never"));
    story.remove(&["none", "latest", "tagged", "never"]);
}

/// The three ways of the page: the node's file, a Secret of the pod, a Secret of its ServiceAccount.
fn private_images_need_one_of_three_credentials(story: &Story) {
    let lab = &story.lab;
    let always = |name: &str, secrets: &[&str]| pod(name, &lab.image(), Some("Always"), secrets);
    story.refused(&always("nobody", &[]), "ErrImagePull");
    story.remove(&["nobody"]);

    node_file(lab, &[(lab.registry.address.clone(), PASSWORD)]);
    story.run(&always("by-file", &[]));
    std::fs::remove_file(lab.data_dir().join("config.json")).unwrap();

    lab.right_secret();
    story.run(&always("by-secret", &["regcred"]));

    story.refused(&always("before", &[]), "ErrImagePull");
    lab.ask(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets": [{"name": "regcred"}]}"#]);
    let given = story.run(&always("by-account", &[]));
    assert_eq!(given["spec"]["imagePullSecrets"], json!([{"name": "regcred"}]));
    lab.ask(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets": null}"#]);
    story.remove(&["by-file", "by-secret", "before", "by-account"]);
}

/// Writes the node's `config.json`: keys with passwords of the one user.
fn node_file(lab: &Lab, keys: &[(String, &str)]) {
    use base64::Engine as _;
    let entry = |(key, password): &(String, &str)| {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
        (key.clone(), json!({"auth": auth}))
    };
    let auths: serde_json::Map<String, Value> = keys.iter().map(entry).collect();
    std::fs::write(lab.data_dir().join("config.json"), json!({"auths": auths}).to_string()).unwrap();
}

/// IMG-172 … IMG-180: every match is tried, the more specific one first.
fn globs_and_several_credentials_for_one_registry(story: &Story) {
    let lab = &story.lab;
    let port = lab.registry.address.rsplit(':').next().unwrap();
    node_file(lab, &[(format!("127.0.*.1:{port}"), PASSWORD)]);
    story.run(&pod("by-glob", &lab.image(), Some("Always"), &[]));
    node_file(lab, &[(format!("{}/team", lab.registry.address), "wrong"), (lab.registry.address.clone(), PASSWORD)]);
    story.run(&pod("second", &lab.image(), Some("Always"), &[]));
    node_file(lab, &[(format!("{}/other", lab.registry.address), PASSWORD)]);
    story.refused(&pod("elsewhere", &lab.image(), Some("Always"), &[]), "ErrImagePull");
    std::fs::remove_file(lab.data_dir().join("config.json")).unwrap();
    story.remove(&["by-glob", "second", "elsewhere"]);
}

/// IMG-230, IMG-43, IMG-32: what is on the node is used, but each way of forcing a pull asks all the same.
fn images_that_are_there_run_without_a_registry(story: &Story) {
    let base = format!("{}/open/app", story.open.address);
    let name = format!("{base}:1");
    story.push("open/app:latest", "latest\n");
    story.run(&pod("cached", &base, None, &[]));
    stop(&story.open);
    story.run(&pod("present", &name, Some("IfNotPresent"), &[]));
    story.run(&pod("only", &format!("{base}:latest"), Some("Never"), &[]));
    let forced =
        [("always", &name, Some("Always")), ("latest", &format!("{base}:latest"), None), ("bare", &base, None)];
    for (pod_name, image, policy) in forced {
        story.refused(&pod(pod_name, image, policy, &[]), "RegistryUnavailable");
    }
    story.open.ensure().unwrap();
    forced.iter().for_each(|(name, ..)| drop(story.lab.ready(name)));
    story.remove(&["cached", "present", "only", "always", "latest", "bare"]);
}

fn stop(registry: &Registry) {
    registry.stop().unwrap();
    support::wait("the registry is gone", || std::net::TcpStream::connect(&registry.address).is_err());
}

/// IMG-50, IMG-52, IMG-70: the first delay is ten seconds.
fn failed_pulls_back_off(story: &Story) {
    let name = format!("{}/open/missing:1", story.open.address);
    let began = Instant::now();
    let message = story.refused(&pod("missing", &name, None, &[]), "ImagePullBackOff");
    assert!(message.contains(&format!("Back-off pulling image \"{name}\"")), "{message}");
    story.push("open/missing:1", "found\n");
    story.lab.ready("missing");
    assert!(began.elapsed() < Duration::from_secs(29), "woken when the delay is over: {:?}", began.elapsed());
    story.lab.told("missing", "Failed", &format!("Failed to pull image \"{name}\": "));
    story.lab.told("missing", "BackOff", &format!("Back-off pulling image \"{name}\""));
    story.remove(&["missing"]);
}

/// IMG-90, IMG-104.
fn an_index_holds_the_image_of_each_architecture(story: &Story) {
    let (ours, other) = match image::architecture() {
        "amd64" => ("amd64", "arm64"),
        ours => (ours, "amd64"),
    };
    let layout = story.lab.dir().join("made");
    image::index_layout(&layout, &[other, ours]).unwrap();
    story.open.push(&layout, "open/many:1").unwrap();
    story.run(&pod("many", &format!("{}/open/many:1", story.open.address), None, &[]));
    assert_eq!(story.page("many"), format!("made for {ours}\n"));
    image::layout(&layout, other).unwrap();
    story.open.push(&layout, "open/foreign:1").unwrap();
    let message =
        story.refused(&pod("foreign", &format!("{}/open/foreign:1", story.open.address), None, &[]), "ErrImagePull");
    assert!(message.contains(&format!("image offers linux/{other} only; node is linux/{ours}")), "{message}");
    story.remove(&["many", "foreign"]);
}

/// IMG-220, IMG-227: with the plugin a cached private image is of no use without a credential.
fn a_forced_pull_keeps_tenants_apart(story: &Story) {
    let lab = &story.lab;
    lab.down(false);
    lab.up_with(&["--enable-admission-plugins", "AlwaysPullImages"]);
    stop(&story.open);
    let here = format!("{}/open/app:1", story.open.address);
    story.refused(&pod("plugin", &here, Some("IfNotPresent"), &[]), "RegistryUnavailable");
    story.open.ensure().unwrap();
    story.lab.ready("plugin");
    let first = story.run(&pod("tenant", &lab.image(), Some("IfNotPresent"), &["regcred"]));
    assert_eq!(first["spec"]["containers"][0]["imagePullPolicy"], "Always");
    lab.ask(&["create", "namespace", "other"]);
    let other = pod("guest", &lab.image(), Some("Never"), &[]).to_string();
    let output = lab.kubectl_with(&["apply", "-n", "other", "-f", "-"], &other);
    assert!(output.status.success(), "{}", text(&output.stderr));
    support::wait("the guest is refused", || {
        let pod: Value = serde_json::from_str(&lab.ask(&["get", "pod", "guest", "-n", "other", "-o", "json"])).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
        ["ErrImagePull", "ImagePullBackOff"].contains(&waiting(&pod).0.as_str())
    });
}
