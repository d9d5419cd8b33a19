//! A node does not start with a configuration of credential plugins that it does not understand (IMG-200). Needs root.
#![allow(clippy::disallowed_methods)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use base64::Engine;
use serde_json::Value;
use support::Lab;
use xtask::registry::{PASSWORD, USER};

#[test]
fn up_refuses_a_bad_plugin_configuration_and_names_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("bin")).unwrap();
    let refused = |config: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_sampan"))
            .arg("up")
            .args(
                [at("data").as_os_str(), at("run").as_os_str()]
                    .iter()
                    .zip(["--data-dir", "--run-dir"])
                    .flat_map(|(v, k)| [k.as_ref(), *v]),
            )
            .args(["--listen", "127.0.0.1:0", "--no-merge-kubeconfig", "--image-credential-provider-config"])
            .arg(at(config))
            .arg("--image-credential-provider-bin-dir")
            .arg(at("bin"))
            .output()
            .unwrap();
        assert!(!output.status.success(), "{config} was taken");
        String::from_utf8(output.stderr).unwrap()
    };
    let absent = refused("absent.yaml");
    assert!(absent.contains("absent.yaml"), "{absent}");
    fs::write(
        at("strange.yaml"),
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nprovider: []\n",
    )
    .unwrap();
    let strange = refused("strange.yaml");
    assert!(strange.contains("strange.yaml") && strange.contains("provider"), "{strange}");
    fs::write(at("empty.yaml"), "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n").unwrap();
    let empty = refused("empty.yaml");
    assert!(empty.contains("empty.yaml") && empty.contains("at least 1 item in plugins is required"), "{empty}");
    assert!(!at("data").exists() && !at("run").exists(), "nothing was made before the refusal");
}

/// IMG-207 to IMG-209 with tokens of the API server itself.
#[test]
fn img_207_to_209_a_plugin_gets_a_real_token_of_the_pods_account_and_its_answer_pulls() {
    let lab = Lab::new("plugin-tokens", 83);
    let bin = lab.dir().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let (seen, config, plugin) = (lab.dir().join("seen"), lab.dir().join("plugins.yaml"), bin.join("exchange"));
    let registry = &lab.registry.address;
    let answer = format!(
        r#"{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"1h","auth":{{"{registry}":{{"username":"{USER}","password":"{PASSWORD}"}}}}}}"#
    );
    // One line a run: the request is one.
    let script = format!("#!/bin/sh\ncat >> {seen}\necho '{answer}'\n", seen = seen.display());
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(
        &config,
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: exchange\n  \
             apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['{registry}']\n  \
             defaultCacheDuration: 1h\n  tokenAttributes:\n    serviceAccountTokenAudience: registry.test\n    \
             requireServiceAccount: true\n    cacheType: ServiceAccount\n    \
             requiredServiceAccountAnnotationKeys: [example.com/role]\n"
        ),
    )
    .unwrap();
    let text = |path: &std::path::Path| path.display().to_string();
    lab.up_with(&[
        "--image-credential-provider-config",
        &text(&config),
        "--image-credential-provider-bin-dir",
        &text(&bin),
    ]);
    let account = |name: &str, annotations: &str| {
        lab.apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  annotations: {{{annotations}}}\n"
        ));
    };
    account("puller", "example.com/role: reader");
    account("plain", "");
    let pod = |name: &str, account: &str| {
        lab.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  serviceAccountName: {account}\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: {}\n    \
             imagePullPolicy: Always\n    command: [sh, -c, 'sleep 1000']\n",
            lab.image()
        ));
    };
    let runs = || fs::read_to_string(&seen).unwrap_or_default();
    pod("without", "plain");
    lab.pod_when("without", "refused by the registry", |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        matches!(waiting.as_str(), Some("ErrImagePull" | "ImagePullBackOff"))
    });
    assert_eq!(runs(), "", "without the annotation the plugin is not asked");

    pod("one", "puller");
    let one = lab.ready("one");
    let asked: Value = serde_json::from_str(runs().lines().next().unwrap()).unwrap();
    assert_eq!(asked["serviceAccountAnnotations"], serde_json::json!({"example.com/role": "reader"}));
    let token = asked["serviceAccountToken"].as_str().unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["aud"], serde_json::json!(["registry.test"]));
    assert_eq!(claims["kubernetes.io"]["pod"]["uid"], one["metadata"]["uid"]);
    let review = serde_json::json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["registry.test"]},
    });
    let output = lab.kubectl_with(&["create", "-f", "-", "-o", "json"], &review.to_string());
    assert!(output.status.success(), "{}", support::text(&output.stderr));
    let review: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:puller", "{review}");

    // The answer belongs to the account: another pod of it needs no run.
    pod("two", "puller");
    lab.ready("two");
    assert_eq!(runs().lines().count(), 1, "{}", runs().lines().count());
    let records = fs::read_dir(lab.data_dir().join("image_manager/pulled")).unwrap();
    let records: String = records.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    assert!(records.contains("puller") && !records.contains("nodePodsAccessible\":true"), "{records}");
    let log = fs::read_to_string(lab.data_dir().join("sampan.log")).unwrap();
    assert!(!log.contains(token) && !records.contains(token), "the token was written down");
}
