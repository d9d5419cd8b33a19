//! Waiting for images on real parts: repaired Secrets, registries that come back, slow pulls, image volumes, collection.
#![allow(clippy::disallowed_methods)]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Lab, free_port, text, wait};
use xtask::registry::{PASSWORD, Registry, USER};

fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0, "imagePullSecrets": [{"name": "regcred"}],
            "containers": [{"name": "c", "image": image, "imagePullPolicy": "Always", "command": ["sleep", "3600"]}],
        },
    })
}

fn waiting(pod: &Value, container: usize) -> (String, String) {
    let waiting = &pod["status"]["containerStatuses"][container]["state"]["waiting"];
    let field = |name: &str| waiting[name].as_str().unwrap_or_default().to_owned();
    (field("reason"), field("message"))
}

/// When the container's process began.
fn started(pod: &Value) -> jiff::Timestamp {
    pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_repaired_secret_and_a_registry_that_comes_back_end_the_wait_at_once() {
    let lab = Lab::new("pulls-causes", 141);
    lab.up();
    lab.secret("wrong");
    lab.apply(&pod("private", &lab.image()).to_string());
    // The second failure waits for twenty seconds.
    let refused = lab.pod_when("private", "waiting", |pod| waiting(pod, 0).1.contains("next try in 20s"));
    let (reason, message) = waiting(&refused, 0);
    assert_eq!(reason, "ImagePullBackOff");
    let wanted = format!("waiting for credentials that {} accepts, next try in 20s", lab.registry.address);
    assert!(message.ends_with(&wanted), "{message}");
    let repaired = jiff::Timestamp::now();
    lab.right_secret();
    let running = lab.ready("private");
    let took = started(&running).duration_since(repaired);
    assert!(took.as_secs() < 10, "Running {took:?} after the Secret was repaired, not after its twenty seconds");

    // A Secret that appears.
    lab.ask(&["delete", "secret", "regcred"]);
    lab.apply(&pod("early", &lab.image()).to_string());
    lab.pod_when("early", "waiting", |pod| waiting(pod, 0).0 == "ImagePullBackOff");
    let created = Instant::now();
    lab.right_secret();
    lab.ready("early");
    assert!(created.elapsed() < Duration::from_secs(7), "not after its ten seconds: {:?}", created.elapsed());

    // A registry that was away.
    lab.registry.stop().unwrap();
    wait("the registry is gone", || TcpStream::connect(&lab.registry.address).is_err());
    lab.apply(&pod("cut-off", &lab.image()).to_string());
    let refused = lab.pod_when("cut-off", "waiting", |pod| waiting(pod, 0).1.contains("next try in 20s"));
    let wanted = format!("waiting for {} to accept connections, next try in 20s", lab.registry.address);
    assert!(waiting(&refused, 0).1.ends_with(&wanted), "{:?}", waiting(&refused, 0));
    lab.registry.ensure().unwrap();
    let back = Instant::now();
    lab.ready("cut-off");
    assert!(back.elapsed() < Duration::from_secs(14), "asked every five seconds: {:?}", back.elapsed());
}

/// A door to the registry that lets so many bytes a second through.
fn slow_door(to: &str, bytes_per_second: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let to = to.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else { continue };
            let (mut up, mut down) = (client.try_clone().unwrap(), client);
            let (mut there, mut back) = (server.try_clone().unwrap(), server);
            std::thread::spawn(move || std::io::copy(&mut up, &mut there));
            std::thread::spawn(move || {
                let mut block = vec![0; bytes_per_second / 20];
                while let Ok(read @ 1..) = back.read(&mut block) {
                    if down.write_all(&block[..read]).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
    });
    address
}

#[test]
fn a_slow_pull_tells_how_far_it_is_in_the_pod_and_at_the_node_port() {
    let lab = Lab::new("pulls-progress", 142);
    lab.up();
    let slow = slow_door(&lab.registry.address, 200_000);
    let (server, user, password) = (
        format!("--docker-server={slow}"),
        format!("--docker-username={USER}"),
        format!("--docker-password={PASSWORD}"),
    );
    lab.ask(&["create", "secret", "docker-registry", "regcred", &server, &user, &password]);
    let node = lab.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let path = format!("/api/v1/nodes/{node}/proxy/pulls");
    let mut watch = Command::new("kubectl")
        .args(["--kubeconfig", lab.data_dir().join("admin.kubeconfig").to_str().unwrap()])
        .args(["get", "--raw", &format!("{path}?watch=true")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let mut lists: Vec<Value> = Vec::new();
        for line in lines.map_while(Result::ok) {
            let list: Value = serde_json::from_str(&line).unwrap();
            let is_over =
                list["items"] == json!([]) && !lists.is_empty() && lists.last().unwrap()["items"] != json!([]);
            lists.push(list);
            if is_over {
                break;
            }
        }
        lists
    });

    let image = format!("{slow}/team/box:1");
    lab.apply(&pod("slow", &image).to_string());
    let head = format!("Pulling image {image:?}: ");
    let far = lab.pod_when("slow", "under way", |pod| waiting(pod, 0).1.contains(" left, "));
    let (reason, message) = waiting(&far, 0);
    assert_eq!(reason, "ContainerCreating");
    let rest = message.strip_prefix(&head).unwrap_or_else(|| panic!("{message}"));
    let parts: Vec<&str> = rest.split(", ").collect();
    assert_eq!(parts.len(), 4, "{rest}");
    let (percent, amount) = parts[0].split_once("% ").unwrap();
    assert!(percent.parse::<u8>().is_ok_and(|percent| percent < 100), "{rest}");
    assert!(amount.contains('/') && (amount.ends_with(" MB") || amount.ends_with(" kB")), "{rest}");
    assert!(parts[1].ends_with("kB/s") && parts[2].ends_with(" s left") && parts[3] == "0/1 layers", "{rest}");
    let list: Value = serde_json::from_str(&lab.ask(&["get", "--raw", &path])).unwrap();
    assert_eq!(list["items"][0]["pods"], json!(["default/slow"]), "{list}");
    assert_eq!((&list["items"][0]["image"], &list["items"][0]["state"]), (&json!(image), &json!("pulling")));
    lab.ready("slow");
    let lists = reader.join().unwrap();
    watch.kill().unwrap();
    watch.wait().unwrap();
    let fetched: Vec<u64> = lists.iter().filter_map(|list| list["items"][0]["fetchedBytes"].as_u64()).collect();
    assert!(fetched.len() >= 4 && fetched.is_sorted() && fetched.first() < fetched.last(), "{fetched:?} {lists:?}");
    let metrics = lab.ask(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]);
    let line =
        "ensure_image_requests_total{present_locally=\"unknown\",pull_policy=\"always\",pull_required=\"true\"} 1";
    assert!(metrics.contains(line) && metrics.contains("kubelet_image_pull_duration_seconds_count"), "{metrics}");
}

/// A first process that a signal can end.
const UNTIL_TERM: &str = "trap 'exit 0' TERM; while true; do sleep 0.05; done";

#[test]
fn image_volumes_are_pulled_mounted_reported_kept_and_collected() {
    let lab = Lab::new("pulls-volumes", 143);
    let open = Registry::open(&lab.dir().join("open"), free_port());
    open.ensure().unwrap();
    xtask::image::layout_with_page(&lab.dir().join("volume-layout"), "one\n").unwrap();
    lab.registry.push(&lab.dir().join("volume-layout"), "team/data:1").unwrap();
    lab.up_with(&["--image-minimum-gc-age", "0"]);
    lab.right_secret();
    let data = format!("{}/team/data:1", lab.registry.address);
    let mut with = pod("with", &lab.image());
    with["spec"]["volumes"] = json!([
        {"name": "data", "image": {"reference": data, "pullPolicy": "Always"}},
        {"name": "gone", "image": {"reference": format!("{}/open/gone:1", open.address), "pullPolicy": "IfNotPresent"}},
    ]);
    let container = |name: &str, mounts: Value| json!({"name": name, "image": lab.image(), "command": ["sh", "-c", UNTIL_TERM], "volumeMounts": mounts});
    with["spec"]["containers"] = json!([
        container(
            "c",
            json!([{"name": "data", "mountPath": "/all"}, {"name": "data", "mountPath": "/page", "subPath": "www"}])
        ),
        container("d", json!([{"name": "gone", "mountPath": "/x"}])),
        container("e", json!([{"name": "data", "mountPath": "/x", "subPath": "nowhere"}])),
    ]);
    lab.apply(&with.to_string());
    let state = |pod: &Value, name: &str| -> Value {
        let all = pod["status"]["containerStatuses"].as_array().unwrap();
        all.iter().find(|status| status["name"] == name).unwrap().clone()
    };
    let seen = lab.pod_when("with", "partly up", |pod| {
        pod["status"]["containerStatuses"].is_array()
            && state(pod, "c")["state"]["running"].is_object()
            && state(pod, "d")["state"]["waiting"]["reason"] == "ImagePullBackOff"
            && state(pod, "e")["state"]["waiting"]["reason"] == "CreateContainerError"
    });
    let volume = &state(&seen, "c")["volumeMounts"][0];
    assert_eq!((&volume["name"], &volume["mountPath"]), (&json!("data"), &json!("/all")));
    let digest = volume["volumeStatus"]["image"]["imageRef"].as_str().unwrap();
    assert!(digest.starts_with(&format!("{}/team/data@sha256:", lab.registry.address)), "{digest}");
    let text_of = |name: &str| state(&seen, name)["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(text_of("e").contains("ImageVolumeMountFailed: subPath nowhere"), "{}", text_of("e"));
    assert!(text_of("d").contains("waiting for the image to appear at"), "{}", text_of("d"));
    let run = |script: &str| lab.kubectl(&["exec", "with", "-c", "c", "--", "sh", "-c", script]);
    assert_eq!(text(&run("cat /all/www/index.html /page/index.html").stdout), "one\none\n");
    let refused = run("echo x > /page/index.html");
    assert!(!refused.status.success() && text(&refused.stderr).contains("Read-only"), "{}", text(&refused.stderr));
    lab.told("with", "Pulling", &format!("Pulling image {data:?}"));
    lab.told("with", "Failed", "Error: ImagePullBackOff");

    // IMG-306: the content is the pod's for its life, whatever the tag does and whoever restarts.
    xtask::image::layout_with_page(&lab.dir().join("volume-layout"), "two\n").unwrap();
    lab.registry.push(&lab.dir().join("volume-layout"), "team/data:1").unwrap();
    run("kill 1");
    lab.kill();
    lab.up_with(&["--image-minimum-gc-age", "0"]);
    lab.pod_when("with", "restarted", |pod| {
        let status = state(pod, "c");
        status["restartCount"].as_u64().is_some_and(|count| count > 0) && status["state"]["running"].is_object()
    });
    assert_eq!(text(&run("cat /all/www/index.html").stdout), "one\n");

    // IMG-307: in use, and why, until the pod is gone.
    let node = lab.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let plan = || -> Value {
        let path = format!("/api/v1/nodes/{node}/proxy/images/collection");
        serde_json::from_str(&lab.ask(&["get", "--raw", &path])).unwrap()
    };
    let reason = |plan: &Value| -> Value {
        let all = plan["items"].as_array().unwrap();
        let names = |item: &Value| item["names"].to_string().contains("/team/data");
        all.iter().find(|item| names(item)).map_or(Value::Null, |item| item["reason"].clone())
    };
    assert_eq!(reason(&plan()), "in use");
    lab.ask(&["delete", "pod", "with", "--now"]);
    wait("the image is free", || reason(&plan()) != "in use");
    open.stop().unwrap();
}
