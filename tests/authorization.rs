//! Who may do what, against a whole instance: with kubectl, client certificates' groups and tokens of pods. Needs root.
#![allow(clippy::disallowed_methods)]

mod support;

use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{Lab, text};

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

fn pod(lab: &Lab, name: &str, account: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         serviceAccountName: {account}\n  imagePullSecrets: [{{name: regcred}}]\n  containers:\n  - name: c\n    \
         image: {}\n    command: [sh, -c, 'sleep 1000']\n",
        lab.image()
    )
}

/// kubectl with nothing but a bearer token.
fn with_token(lab: &Lab, token: &str, words: &[&str]) -> Output {
    let mut config: Value = serde_json::from_str(&lab.ask(&["config", "view", "--raw", "-o", "json"])).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    let file = lab.dir().join("token.json");
    std::fs::write(&file, config.to_string()).unwrap();
    Command::new("kubectl").arg("--kubeconfig").arg(&file).args(words).env("HOME", lab.dir()).output().unwrap()
}

fn says(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn an_account_that_is_bound_to_view_lists_pods_and_no_secrets_from_inside_its_pod() {
    let lab = Lab::new("rbac", 64);
    lab.up();
    lab.right_secret();
    lab.ask(&["create", "serviceaccount", "robot"]);
    lab.apply(&pod(&lab, "app", "robot"));
    lab.ready("app");
    let token = lab.ask(&["exec", "app", "--", "cat", TOKEN]).trim().to_owned();
    let robot = |words: &[&str]| with_token(&lab, &token, words);
    assert!(says(&robot(&["auth", "whoami"])).contains("system:serviceaccount:default:robot"));
    let denied = robot(&["get", "pods"]);
    assert!(!denied.status.success() && says(&denied).contains("pods is forbidden"), "{}", says(&denied));

    lab.ask(&["create", "rolebinding", "robot", "--clusterrole=view", "--serviceaccount=default:robot"]);
    let listed = robot(&["get", "pods", "-o", "name"]);
    assert_eq!(says(&listed).trim(), "pod/app");
    for words in
        [&["get", "secrets"][..], &["get", "secret", "regcred"], &["get", "pods", "-A"], &["exec", "app", "--", "ls"]]
    {
        let denied = robot(words);
        assert!(!denied.status.success() && says(&denied).contains("is forbidden"), "{words:?}: {}", says(&denied));
    }
    assert!(robot(&["logs", "app"]).status.success());
    assert_eq!(text(&robot(&["auth", "can-i", "list", "pods"]).stdout).trim(), "yes");
    assert_eq!(text(&robot(&["auth", "can-i", "get", "secrets"]).stdout).trim(), "no");
    let list = says(&robot(&["auth", "can-i", "--list"]));
    assert!(list.contains("pods/log") && !list.contains("secrets"), "{list}");
    let grab = robot(&["create", "rolebinding", "x", "--clusterrole=edit", "--serviceaccount=default:robot"]);
    assert!(!grab.status.success() && says(&grab).contains("is forbidden"), "{}", says(&grab));

    // Who may write bindings gives away what he has and no more.
    lab.ask(&["create", "rolebinding", "ann", "--clusterrole=admin", "--user=ann"]);
    let refused =
        lab.kubectl(&["create", "rolebinding", "y", "--clusterrole=cluster-admin", "--user=ann", "--as", "ann"]);
    assert!(says(&refused).contains("attempting to grant RBAC permissions not currently held"), "{}", says(&refused));
    let other = robot(&["get", "pods", "--as", "kubernetes-admin"]);
    assert!(says(&other).contains("cannot impersonate resource \"users\""), "{}", says(&other));

    // It is kept, and it ends with the binding.
    lab.kill();
    lab.up();
    assert_eq!(says(&robot(&["get", "pods", "-o", "name"])).trim(), "pod/app");
    lab.ask(&["delete", "rolebinding", "robot"]);
    assert!(says(&robot(&["get", "pods"])).contains("pods is forbidden"));
    assert!(lab.ask(&["get", "clusterrole", "admin", "-o", "yaml"]).contains("- rolebindings"));
}

/// curl at the node port: what it answers, and the status after it.
fn at_node(lab: &Lab, words: &[&str], path: &str) -> (String, u16) {
    let of = |path: &str| lab.ask(&["get", "nodes", "-o", &format!("jsonpath={{.items[0].status.{path}}}")]);
    let (address, port) =
        (of("addresses[?(@.type=='InternalIP')].address"), of("daemonEndpoints.kubeletEndpoint.Port"));
    let url = format!("https://{address}:{port}{path}");
    let output = Command::new("curl").args(["-sk", "-w", "\n%{http_code}", &url]).args(words).output().unwrap();
    let said = text(&output.stdout).to_string();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (body.to_owned(), status.parse().unwrap())
}

#[test]
fn the_node_port_takes_whom_the_api_vouches_for_and_gives_him_what_he_may() {
    let lab = Lab::new("nodeport", 85);
    let audit = lab.dir().join("audit.log");
    lab.up_with(&[
        "--audit-log-path",
        audit.to_str().unwrap(),
        "--audit-log-maxsize",
        "1",
        "--audit-log-maxbackup",
        "2",
    ]);
    lab.ask(&["create", "serviceaccount", "scraper"]);
    lab.ask(&["create", "clusterrole", "scrape", "--verb=get", "--resource=nodes/metrics"]);
    lab.ask(&["create", "clusterrolebinding", "scrape", "--clusterrole=scrape", "--serviceaccount=default:scraper"]);
    let token = lab.ask(&["create", "token", "scraper"]).trim().to_owned();
    let bearer = format!("Authorization: Bearer {token}");
    let (metrics, status) = at_node(&lab, &["-H", &bearer], "/metrics");
    assert!(status == 200 && metrics.contains("kubelet_running_pods"), "{status} {metrics}");
    for path in ["/pods", "/pulls", "/healthz", "/exec/default/p/c?command=id", "/metricsx", "/metrics/../pods"] {
        let (words, status) = at_node(&lab, &["-H", &bearer, "--path-as-is"], path);
        let known = if path.contains("..") { 404 } else { 403 };
        assert_eq!(status, known, "{path}: {words}");
        assert!(known == 404 || words.contains("user=system:serviceaccount:default:scraper, verb=get"), "{words}");
    }
    assert_eq!(at_node(&lab, &["-H", &bearer, "-X", "POST"], "/metrics").1, 403);
    assert_eq!(at_node(&lab, &[], "/metrics"), ("Unauthorized".to_owned(), 401));
    assert_eq!(at_node(&lab, &["-H", "Authorization: Bearer wrong"], "/metrics").1, 401);
    // Through the API server he is somebody without `nodes/proxy`.
    let node = lab.ask(&["get", "nodes", "-o", "name"]).trim().replace("node/", "");
    let proxied = with_token(&lab, &token, &["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]);
    assert!(says(&proxied).contains("forbidden"), "{}", says(&proxied));
    // The administrator's own certificate, and another token, whose account is deleted before it is shown.
    let (cert, key) = (lab.data_dir().join("pki/admin.crt"), lab.data_dir().join("pki/admin.key"));
    let admin = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    assert!(at_node(&lab, &admin, "/pods").0.contains("PodList"));
    let other = format!("Authorization: Bearer {}", lab.ask(&["create", "token", "scraper"]).trim());
    lab.ask(&["delete", "serviceaccount", "scraper"]);
    assert_eq!(at_node(&lab, &["-H", &other], "/metrics").1, 401);
    // Who asked for what is written down, and no token.
    let told = || std::fs::read_to_string(&audit).unwrap();
    let is_told = |user: &str, verb: &str, resource: &str| {
        let events = told();
        let mut events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.any(|event| {
            event["user"]["username"] == user && event["verb"] == verb && event["objectRef"]["resource"] == resource
        })
    };
    support::wait("it is written down", || is_told("kubernetes-admin", "delete", "serviceaccounts"));
    assert!(is_told("kubernetes-admin", "create", "clusterroles"));
    assert!(is_told(&format!("system:node:{node}"), "create", "subjectaccessreviews"));
    assert!(!told().contains(token.split('.').nth(2).unwrap()), "no signature of a token");
    assert!(std::fs::metadata(&audit).unwrap().len() <= 1 << 20, "it is not larger than it may be");
}
