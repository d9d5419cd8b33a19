//! A node does not start with a configuration of credential plugins that it does not understand (IMG-200). Needs root.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::process::Command;

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
