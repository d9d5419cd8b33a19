//! Pods and people with tokens of service accounts, against a whole instance. Needs root.
#![allow(clippy::disallowed_methods)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Lab, text, wait};

const AT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn pod(lab: &Lab, name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         imagePullSecrets: [{{name: regcred}}]\n{more}  containers:\n  - name: c\n    image: {}\n    \
         command: [sh, -c, 'sleep 1000']\n",
        lab.image()
    )
}

/// What a command prints inside a pod; it must succeed.
fn inside(lab: &Lab, pod: &str, script: &str) -> String {
    lab.ask(&["exec", pod, "--", "sh", "-c", script]).trim().to_owned()
}

/// Status code and document of a GET from within the pod's network, with this machine's curl: to the address that the
/// pod's environment names, verified by the certificate from a pod's volume.
fn get(lab: &Lab, pod: &str, path: &str, token: &str) -> (String, Value) {
    let host = inside(lab, pod, "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT");
    let found = lab.get("pod", pod).unwrap();
    let id = found["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().rsplit('/').next().unwrap();
    let output = std::process::Command::new("nsenter")
        .arg(format!("--net={}", network_of(id)))
        .args(["curl", "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}", "--cacert"])
        .arg(lab.dir().join("pod-ca.crt"))
        .args(["-H", &format!("Authorization: Bearer {token}"), &format!("https://{host}{path}")])
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said} {}", text(&output.stderr));
    let (body, code) = said.rsplit_once('\n').unwrap_or(("", &said));
    (code.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// The network namespace of a container, by its process.
fn network_of(id: &str) -> String {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroup.contains(id) && Path::new(&entry.path()).join("ns/net").exists() {
            return entry.path().join("ns/net").display().to_string();
        }
    }
    panic!("no process of container {id}");
}

#[test]
fn a_pod_reads_the_api_with_its_token_and_is_denied_what_it_may_not() {
    let lab = Lab::new("accounts", 81);
    lab.up();
    lab.right_secret();
    lab.apply(&pod(&lab, "app", ""));
    lab.apply(&pod(&lab, "bare", "  automountServiceAccountToken: false\n"));
    let made = lab.ready("app");
    lab.ready("bare");
    let volume = &made["spec"]["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"), "{volume}");
    assert_eq!(made["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], AT);
    assert!(lab.get("pod", "bare").unwrap()["spec"]["volumes"].is_null());
    assert_eq!(inside(&lab, "app", &format!("cat {AT}/namespace")), "default");
    assert!(lab.kubectl(&["exec", "bare", "--", "ls", AT]).status.code() != Some(0));

    std::fs::write(lab.dir().join("pod-ca.crt"), inside(&lab, "app", &format!("cat {AT}/ca.crt"))).unwrap();
    let token = inside(&lab, "app", &format!("cat {AT}/token"));
    let (code, version) = get(&lab, "app", "/version", &token);
    assert_eq!((code.as_str(), version["major"].as_str()), ("200", Some("1")), "{version}");
    let (code, groups) = get(&lab, "app", "/apis", &token);
    assert_eq!((code.as_str(), groups["kind"].as_str()), ("200", Some("APIGroupList")));
    let (code, denied) = get(&lab, "app", "/api/v1/namespaces/default/pods", &token);
    assert_eq!(code, "403", "{denied}");
    assert!(denied["message"].as_str().unwrap().contains("system:serviceaccount:default:default"), "{denied}");
    let (code, denied) = get(&lab, "app", "/apis", &format!("{token}x"));
    assert_eq!((code.as_str(), denied["reason"].as_str()), ("401", Some("Unauthorized")));

    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}).to_string();
    let answered = lab.kubectl_with(&["create", "-f", "-", "-o", "json"], &review);
    assert!(answered.status.success(), "{}", text(&answered.stderr));
    let status = serde_json::from_slice::<Value>(&answered.stdout).unwrap()["status"].take();
    let uid = &made["metadata"]["uid"];
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-uid"], json!([uid]), "{status}");

    lab.ask(&["delete", "pod", "app", "--now"]);
    let (code, refused) = get(&lab, "bare", "/apis", &token);
    assert_eq!((code.as_str(), refused["reason"].as_str()), ("401", Some("Unauthorized")), "the pod is gone");
    let log = std::fs::read_to_string(lab.data_dir().join("sampan.log")).unwrap();
    assert!(!log.contains(&token), "the token is in the log");
}

#[test]
fn kubectl_makes_a_token_and_asks_who_it_is() {
    let lab = Lab::new("whoami", 82);
    lab.up();
    wait("the account is there", || lab.get("serviceaccount", "default").is_some());
    let token = lab.ask(&["create", "token", "default", "--duration", "20m"]).trim().to_owned();
    let refused = lab.kubectl(&["create", "token", "default", "--duration", "1m"]);
    assert!(text(&refused.stderr).contains("may not specify a duration less than 10 minutes"), "{refused:?}");
    let me = lab.ask(&["auth", "whoami"]);
    assert!(me.contains("kubernetes-admin"), "{me}");
    assert_eq!(lab.ask(&["auth", "can-i", "list", "pods"]).trim(), "yes");

    let read = |name: &str| std::fs::read_to_string(lab.data_dir().join(name)).unwrap();
    let mut config: Value = serde_json::from_str(&lab.ask(&["config", "view", "--raw", "-o", "json"])).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    let file = lab.dir().join("robot.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let robot = |words: &[&str]| {
        let mut command = std::process::Command::new("kubectl");
        command.arg("--kubeconfig").arg(&file).args(words).env("HOME", lab.dir()).output().unwrap()
    };
    let me = robot(&["auth", "whoami"]);
    assert!(text(&me.stdout).contains("system:serviceaccount:default:default"), "{me:?}");
    assert!(text(&me.stdout).contains("system:serviceaccounts:default"), "{me:?}");
    let denied = robot(&["get", "pods"]);
    assert!(text(&denied.stderr).contains("pods is forbidden"), "{denied:?}");
    assert_eq!(text(&robot(&["auth", "can-i", "list", "pods"]).stdout).trim(), "no");

    let key = std::fs::metadata(lab.data_dir().join("pki/sa.key")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
    // Tokens outlive the instance: the key is kept.
    lab.kill();
    lab.up();
    assert!(robot(&["auth", "whoami"]).status.success());
    assert!(!read("sampan.log").contains(&token), "the token is in the log");
}
