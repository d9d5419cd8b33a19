//! `PinImageDigests` against Debian's docker-registry, with the credentials that the pod brings.

mod support;

use serde_json::{Value, json};
use support::{Lab, text};
use xtask::registry::{PASSWORD, USER};

fn pod(name: &str, image: &str, secrets: &[&str]) -> String {
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0, "imagePullSecrets": secrets,
            "containers": [{"name": "c", "image": image, "command": ["sleep", "3600"]}],
        },
    });
    pod.to_string()
}

/// What kubectl says of a manifest that is not taken.
fn refused(lab: &Lab, manifest: &str) -> String {
    let output = lab.kubectl_with(&["apply", "-f", "-"], manifest);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// The digest that the registry has for a tag, by its own word.
fn digest(lab: &Lab, tag: &str) -> String {
    #[allow(clippy::disallowed_methods)] // Reason: asks the registry beside us.
    let output = std::process::Command::new("curl")
        .args(["-sSI", "-u", &format!("{USER}:{PASSWORD}")])
        .args(["-H", "Accept: application/vnd.oci.image.manifest.v1+json", "-H"])
        .arg("Accept: application/vnd.oci.image.index.v1+json")
        .arg(format!("http://{}/v2/team/box/manifests/{tag}", lab.registry.address))
        .output()
        .expect("curl is installed");
    let head = text(&output.stdout).to_lowercase();
    let line = head.lines().find_map(|line| line.strip_prefix("docker-content-digest: "));
    line.unwrap_or_else(|| panic!("no digest in {head}")).trim().to_owned()
}

#[test]
fn a_tag_becomes_the_digest_that_the_registry_has_now() {
    let lab = Lab::new("pin", 37);
    let flags = ["--enable-admission-plugins", "PinImageDigests", "--pin-image-digests-allow-local"];
    lab.up_with(&flags);
    let server = format!("--docker-server={}", lab.registry.address);
    let (user, password) = (format!("--docker-username={USER}"), format!("--docker-password={PASSWORD}"));
    lab.ask(&["create", "secret", "docker-registry", "reg", &server, &user, &password]);
    let wanted = format!("{}@{}", lab.image(), digest(&lab, "1"));
    lab.apply(&pod("pinned", &lab.image(), &["reg"]));
    assert_eq!(lab.ask(&["get", "pod", "pinned", "-o", "jsonpath={.spec.containers[0].image}"]), wanted);
    // It runs what was pinned, and says so.
    let running = lab.ready("pinned");
    let id = running["status"]["containerStatuses"][0]["imageID"].as_str().unwrap();
    assert!(wanted.ends_with(id.rsplit('@').next().unwrap()), "{id} is not that of {wanted}");
    let nobody = refused(&lab, &pod("nobody", &lab.image(), &[]));
    assert!(nobody.contains("cannot be pinned to a digest") && !nobody.contains(PASSWORD), "{nobody}");
    let absent = refused(&lab, &pod("absent", &lab.image().replace(":1", ":none"), &["reg"]));
    assert!(absent.contains("cannot be pinned to a digest"), "{absent}");
    // Templates too, with the secrets that their pods will take from their account.
    lab.ask(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":[{"name":"reg"}]}"#]);
    let made = ["create", "deployment", "web", &format!("--image={}", lab.image()), "--replicas=0", "-o"];
    let shown = lab.ask(&[&made[..], &["jsonpath={.spec.template.spec.containers[0].image}"]].concat());
    assert_eq!(shown, wanted);
    lab.down(false);
    // Without leave, nobody makes the server talk to its own machine.
    lab.up_with(&["--enable-admission-plugins", "PinImageDigests", "--pin-image-digests-allow-local=false"]);
    let local = refused(&lab, &pod("local", &lab.image(), &["reg"]));
    assert!(local.contains("leads to 127.0.0.1, and loopback and link-local registries are not asked"), "{local}");
    lab.down(true);
}
