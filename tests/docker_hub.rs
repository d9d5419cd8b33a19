//! Docker Hub as users have it: no host in the name, nothing configured. In a network of the test's own, in which the
//! Hub's names lead to doubles over verified TLS.

mod support;

use serde_json::json;
use support::Lab;
use support::hub::{Hub, PASSWORD, USER};

fn pod(name: &str, image: &str, secrets: &[&str]) -> String {
    let secrets: Vec<_> = secrets.iter().map(|name| json!({"name": name})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0, "imagePullSecrets": secrets,
            "containers": [{"name": "c", "image": image, "command": ["sleep", "3600"]}],
        },
    })
    .to_string()
}

#[test]
fn short_names_come_from_docker_hub_and_its_credentials_go_to_its_token_server_alone() {
    let mut lab = Lab::new("hub", 31);
    let hub = Hub::start("hub", &lab.dir(), lab.layout());
    lab.enter = hub.enter();
    lab.environment.push(("SSL_CERT_FILE".into(), hub.authority.clone().into()));
    lab.up_with(&["--node-ip", "127.0.0.1"]);

    lab.apply(&pod("public", "busybox", &[]));
    let status = lab.ready("public")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["image"], "docker.io/library/busybox:latest");
    assert!(status["imageID"].as_str().unwrap().starts_with("docker.io/library/busybox@sha256:"), "{status}");

    lab.apply(&pod("refused", "someone/private:1", &[]));
    let message = |pod: &serde_json::Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned()
    };
    let told = |pod: &serde_json::Value| message(pod).contains("access denied");
    lab.pod_when("refused", "told that access is denied", told);

    let words = ["create", "secret", "docker-registry", "hub", "--docker-email=x@y"];
    let account = [format!("--docker-username={USER}"), format!("--docker-password={PASSWORD}")];
    lab.ask(&[&words[..], &[&account[0], &account[1]]].concat());
    lab.apply(&pod("private", "someone/private:1", &["hub"]));
    lab.ready("private");

    let seen = hub.seen();
    let registry: Vec<_> = seen.iter().filter(|seen| seen.host == "registry-1.docker.io").collect();
    assert!(registry.iter().all(|seen| !seen.authorization.starts_with("Basic")), "{registry:#?}");
    let asked = seen.iter().find(|seen| seen.host == "auth.docker.io").expect("the token server was asked");
    assert_eq!(asked.authorization, "", "nothing is configured, so nothing is sent");
    assert!(asked.query.contains("service=registry.docker.io"), "{asked:?}");
    assert!(asked.query.contains("scope=repository:library/busybox:pull"), "{asked:?}");
    lab.down(true);
}
