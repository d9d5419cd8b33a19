//! Two tenants on one node, each with a private registry and rights in one namespace. Needs root.
#![allow(clippy::disallowed_methods)]

mod support;

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{Lab, free_port, text, wait};
use xtask::registry::{PASSWORD, Registry, USER};
use xtask::{image, shell};

/// Who works in a namespace: with a kubeconfig of his own.
struct Tenant {
    namespace: &'static str,
    /// What only his registry gives.
    image: String,
    kubeconfig: PathBuf,
}

impl Tenant {
    fn kubectl(&self, lab: &Lab, words: &[&str]) -> Output {
        Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(words)
            .env("HOME", lab.dir())
            .output()
            .unwrap()
    }

    fn apply(&self, lab: &Lab, pod: &Value) {
        let file = lab.dir().join(format!("{}-pod.json", self.namespace));
        std::fs::write(&file, pod.to_string()).unwrap();
        let output = self.kubectl(lab, &["create", "-n", self.namespace, "-f", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", says(&output));
    }

    fn pod(&self, lab: &Lab, name: &str) -> Value {
        let output = self.kubectl(lab, &["get", "pod", name, "-n", self.namespace, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", says(&output)))
    }
}

fn says(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn pod(name: &str, image: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0, "imagePullSecrets": [{"name": "regcred"}],
            "containers": [{"name": "c", "image": image, "imagePullPolicy": policy, "command": ["sleep", "3600"]}],
        },
    })
}

/// A namespace with the credentials of its registry, and `edit` in it for one subject.
fn namespace(lab: &Lab, name: &str, (registry, user, password): (&Registry, &str, &str), subject: &str) {
    lab.ask(&["create", "namespace", name]);
    let words = ["create", "secret", "docker-registry", "regcred", "-n", name];
    let server = format!("--docker-server={}", registry.address);
    let (user, password) = (format!("--docker-username={user}"), format!("--docker-password={password}"));
    lab.ask(&[&words[..], &[&server, &user, &password]].concat());
    lab.ask(&["create", "rolebinding", "editors", "-n", name, "--clusterrole=edit", subject]);
}

fn kubeconfig(lab: &Lab, name: &str, user: &Value) -> PathBuf {
    let mut config: Value = serde_json::from_str(&lab.ask(&["config", "view", "--raw", "-o", "json"])).unwrap();
    config["users"][0]["user"] = user.clone();
    let file = lab.dir().join(format!("{name}.kubeconfig"));
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

/// A client certificate of the cluster's authority, made by openssl.
fn certificate(lab: &Lab, name: &str, group: &str) -> Value {
    let (pki, dir) = (lab.data_dir().join("pki"), lab.dir());
    let (key, request, certificate) = (dir.join("user.key"), dir.join("user.csr"), dir.join("user.crt"));
    let path = |path: &PathBuf| path.display().to_string();
    let subject = format!("/O={group}/CN={name}");
    let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", &subject];
    let files = ["-keyout", &path(&key), "-out", &path(&request)].map(str::to_owned);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    shell::output("openssl", &[&new[..], &files].concat(), "").unwrap();
    let (ca, ca_key) = (path(&pki.join("ca.crt")), path(&pki.join("ca.key")));
    let (request, made) = (path(&request), path(&certificate));
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-CAserial"];
    let (serial, extensions) = (path(&dir.join("serial")), path(&dir.join("extensions")));
    std::fs::write(&extensions, "extendedKeyUsage=clientAuth\n").unwrap();
    shell::output(
        "openssl",
        &[&sign[..], &[&serial, "-extfile", &extensions, "-days", "1", "-out", &made]].concat(),
        "",
    )
    .unwrap();
    json!({"client-certificate": made, "client-key": path(&key)})
}

/// A token of the namespace's account `builder`, from the API's own door for it.
fn token(lab: &Lab, namespace: &str) -> Value {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}).to_string();
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/builder/token");
    let output = lab.kubectl_with(&["create", "--raw", &path, "-f", "-"], &request);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", says(&output)));
    json!({"token": answer["status"]["token"]})
}

/// `red` works with a client certificate, `blue` with a token of a service account; each has a registry of its own.
fn tenants(lab: &Lab, other: &Registry) -> [Tenant; 2] {
    namespace(lab, "red", (&lab.registry, USER, PASSWORD), "--user=rita");
    namespace(lab, "blue", (other, "bert", "blue-planks"), "--serviceaccount=blue:builder");
    lab.ask(&["create", "serviceaccount", "builder", "-n", "blue"]);
    let rita = kubeconfig(lab, "red", &certificate(lab, "rita", "team-red"));
    let bert = kubeconfig(lab, "blue", &token(lab, "blue"));
    [
        Tenant { namespace: "red", image: lab.image(), kubeconfig: rita },
        Tenant { namespace: "blue", image: format!("{}/team/box:1", other.address), kubeconfig: bert },
    ]
}

#[test]
fn tenants_run_their_own_private_images_alone_and_read_nothing_of_each_other() {
    let lab = Lab::new("tenants", 84);
    let other = Registry::new(&lab.dir().join("other"), free_port()).with_user("bert", "blue-planks");
    other.ensure().unwrap();
    let _stop = Stop(&other);
    let layout = lab.dir().join("blue-image");
    image::layout_with_page(&layout, "blue\n").unwrap();
    other.push(&layout, "team/box:1").unwrap();
    lab.up_with(&["--enable-admission-plugins", "AlwaysPullImages"]);
    let tenants = tenants(&lab, &other);
    for tenant in &tenants {
        tenant.apply(&lab, &pod("own", &tenant.image, "IfNotPresent"));
    }
    for tenant in &tenants {
        wait("each runs its own image", || support::condition(&tenant.pod(&lab, "own"), "Ready") == Some("True"));
    }
    let [red, blue] = &tenants;
    for (tenant, neighbour) in [(red, blue), (blue, red)] {
        an_image_of_the_neighbour_is_refused(&lab, tenant, neighbour);
        the_neighbours_namespace_is_closed(&lab, tenant, neighbour);
    }
    lab.down(true);
}

/// IMG-220: both images are on the node, and the pod asks for no pull.
fn an_image_of_the_neighbour_is_refused(lab: &Lab, tenant: &Tenant, neighbour: &Tenant) {
    let here = lab.sampan(&["images", "ls"]);
    assert!(text(&here.stdout).contains(neighbour.image.rsplit_once(':').unwrap().0), "{}", says(&here));
    for (name, policy) in [("lent", "IfNotPresent"), ("stolen", "Never")] {
        tenant.apply(lab, &pod(name, &neighbour.image, policy));
        wait("the pull is refused", || {
            let pod = tenant.pod(lab, name);
            assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
            let status = &pod["status"]["containerStatuses"][0];
            assert!(status["state"]["running"].is_null(), "{status}");
            let reason = status["state"]["waiting"]["reason"].as_str().unwrap_or_default();
            ["ErrImagePull", "ImagePullBackOff"].contains(&reason)
        });
    }
}

/// What `edit` gives in one namespace, it gives in no other.
fn the_neighbours_namespace_is_closed(lab: &Lab, tenant: &Tenant, neighbour: &Tenant) {
    let (ours, theirs) = (tenant.namespace, neighbour.namespace);
    for words in
        [&["get", "secret", "regcred", "-n", ours][..], &["get", "pods", "-n", ours], &["logs", "own", "-n", ours]]
    {
        let output = tenant.kubectl(lab, words);
        assert!(output.status.success(), "{words:?}: {}", says(&output));
    }
    for words in [
        &["get", "secret", "regcred", "-n", theirs][..],
        &["get", "secrets", "-n", theirs],
        &["get", "secrets", "-A"],
        &["get", "pods", "-n", theirs],
        &["get", "pods", "-A"],
        &["get", "pod", "own", "-n", theirs, "-o", "json"],
        &["logs", "own", "-n", theirs],
        &["exec", "own", "-n", theirs, "--", "id"],
        &["delete", "pod", "own", "-n", theirs],
        &["create", "serviceaccount", "mine", "-n", theirs],
        &["create", "rolebinding", "mine", "-n", theirs, "--clusterrole=edit", "--user=rita"],
        &["get", "secret", "regcred", "-n", theirs, "--as", "system:admin"],
    ] {
        let output = tenant.kubectl(lab, words);
        let said = says(&output);
        assert!(!output.status.success() && said.contains("orbidden"), "{ours} {words:?}: {said}");
        assert!(!said.contains("dockerconfigjson"), "{said}");
    }
}

struct Stop<'a>(&'a Registry);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let _ = self.0.stop();
    }
}
