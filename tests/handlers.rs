//! Handlers as another runtime's configuration names them, on real parts: runc, crun and gVisor's runsc side by side.

mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::{Lab, Machine, text, wait};
use xtask::shell;

/// containerd's file as the page shows it, with gVisor's own file beside it, and a handler that only a shim can run.
fn write_configuration(directory: &Path, more: &str) -> PathBuf {
    let gvisor = directory.join("runsc.toml");
    std::fs::write(&gvisor, "[runsc_config]\nplatform = \"ptrace\"\nnetwork = \"host\"\n").unwrap();
    let table = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes";
    let path = directory.join("containerd.toml");
    let text = format!(
        "version = 2\n\
         [{table}.classic]\n  runtime_type = \"io.containerd.runc.v2\"\n  pod_annotations = [\"example.dev/*\"]\n\
         [{table}.classic.options]\n    BinaryName = \"runc\"\n    SystemdCgroup = true\n\
         [{table}.swift]\n  runtime_type = \"io.containerd.runc.v2\"\n\
         [{table}.swift.options]\n    BinaryName = \"/usr/bin/crun\"\n\
         [{table}.gvisor]\n  runtime_type = \"io.containerd.runsc.v1\"\n\
         [{table}.gvisor.options]\n    TypeUrl = \"io.containerd.runsc.v1.options\"\n    ConfigPath = \"{}\"\n\
         [{table}.kata]\n  runtime_type = \"io.containerd.kata.v2\"\n{more}",
        gvisor.display()
    );
    // As an editor does it: whole or not at all.
    std::fs::write(path.with_extension("new"), text).unwrap();
    std::fs::rename(path.with_extension("new"), &path).unwrap();
    path
}

/// A further handler of runc's kind.
fn late(binary: &Path) -> String {
    format!(
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.late.options]\nBinaryName = \"{}\"\n",
        binary.display()
    )
}

fn class_text(name: &str) -> String {
    format!("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: {name}\nhandler: {name}\n")
}

fn class(lab: &Lab, name: &str) {
    lab.apply(&class_text(name));
}

fn pod(lab: &Lab, name: &str, class: &str) {
    lab.apply(&pod_text(lab, name, class));
}

fn pod_text(lab: &Lab, name: &str, class: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{example.dev/mode: fast, other.dev/mode: slow}}}}\n\
         spec:\n  runtimeClassName: {class}\n  terminationGracePeriodSeconds: 0\n  imagePullSecrets: [{{name: regcred}}]\n  \
         containers:\n  - {{name: c, image: {}, command: [sleep, '3600']}}\n",
        lab.image()
    )
}

fn says(lab: &Lab, pod: &str, command: &str) -> String {
    lab.ask(&["exec", pod, "--", "sh", "-c", command])
}

/// What the Node says that it offers.
fn offered(lab: &Lab) -> Vec<String> {
    let nodes: serde_json::Value = serde_json::from_str(&lab.ask(&["get", "nodes", "-o", "json"])).unwrap();
    let handlers = nodes["items"][0]["status"]["runtimeHandlers"].as_array().cloned().unwrap_or_default();
    handlers.iter().map(|handler| handler["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The binary in a pod's sandbox record, which every call for the sandbox goes by.
fn recorded(lab: &Lab, pod: &str) -> serde_json::Value {
    let uid = lab.get("pod", pod).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let records = std::fs::read_dir(lab.data_dir().join("runtime/sandboxes")).unwrap().flatten();
    let mut all = records.filter_map(|entry| {
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(entry.path().join("record.json")).ok()?).ok()?;
        let config = STANDARD.decode(record["config"].as_str()?).ok()?;
        text(&config).contains(&uid).then_some(record)
    });
    all.next().unwrap_or_else(|| panic!("no record of {pod}"))
}

fn log(lab: &Lab) -> String {
    std::fs::read_to_string(lab.data_dir().join("sampan.log")).unwrap_or_default()
}

/// State directories of a handler's OCI runtime that hold a file.
fn states(lab: &Lab, handler: &str, file: &str) -> usize {
    let entries = std::fs::read_dir(lab.run_dir().join("oci").join(handler)).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().join(file).exists()).count()
}

#[test]
fn a_containerd_configuration_is_served_by_runc_crun_and_gvisor_side_by_side() {
    let lab = Lab::new("handlers", 45);
    let before = Machine::look();
    let config = write_configuration(&lab.dir(), "");
    let config = config.to_str().unwrap();

    let checked = text(&lab.sampan(&["check", "--containerd-config", config]).stdout);
    let line = |name: &str| checked.lines().find(|line| line.contains(&format!(" {name} (from "))).unwrap_or("nothing");
    for (name, version) in [("classic", "runc version"), ("swift", "crun version"), ("gvisor", "runsc version")] {
        let line = line(name);
        assert!(line.starts_with("ok") && line.contains(version) && line.contains("ran a container in "), "{checked}");
    }
    assert!(line("classic").contains("SystemdCgroup has no effect"), "{checked}");
    assert!(line("kata").contains("cannot be served here: \"kata\" is run by a containerd shim"), "{checked}");
    assert!(line("kata").contains("containerd.toml:17"), "{checked}");

    lab.up_with(&["--containerd-config", config]);
    lab.right_secret();
    // One file with all of it, as the page writes its parts.
    let parts = ["classic", "swift", "gvisor"].map(|name| class_text(name) + "---\n" + &pod_text(&lab, name, name));
    let file = lab.dir().join("three.yaml");
    std::fs::write(&file, parts.join("---\n")).unwrap();
    lab.ask(&["apply", "-f", file.to_str().unwrap()]);
    for name in ["classic", "swift", "gvisor"] {
        lab.ready(name);
    }
    let host = shell::output("uname", &["-rv"], "").unwrap().trim().to_owned();
    assert_eq!(says(&lab, "classic", "uname -rv").trim(), host);
    assert_eq!(says(&lab, "swift", "uname -rv").trim(), host);
    assert_ne!(says(&lab, "gvisor", "uname -rv").trim(), host);
    let dmesg = says(&lab, "gvisor", "dmesg");
    assert!(dmesg.contains("Starting gVisor"), "{dmesg}");
    // Each of the other two keeps its own kind of state.
    assert_eq!((states(&lab, "classic", "state.json"), states(&lab, "swift", "status")), (1, 1));
    let seen = offered(&lab);
    for name in ["", "classic", "swift", "gvisor"] {
        assert!(seen.iter().any(|offered| offered == name), "{name:?} is not among {seen:?}");
    }
    assert!(!seen.contains(&"kata".to_owned()), "{seen:?}");

    let own = |name: &str| recorded(&lab, name)["binary"].as_str().unwrap().to_owned();
    assert!(own("classic").ends_with("/runc") && own("swift") == "/usr/bin/crun" && own("gvisor").ends_with("/runsc"));
    figures_are_known(&lab);

    // The handler that asked for them is told the pod's annotations, and no others.
    let told = annotations(&lab);
    assert_eq!(told.iter().filter(|text| text.contains("example.dev/mode")).count(), 1, "{told:?}");
    assert!(told.iter().all(|text| !text.contains("other.dev/mode")), "{told:?}");

    lab.ask(&["delete", "pod", "classic", "swift", "gvisor"]);
    lab.down(true);
    before.assert_back();
}

/// What the node has found out stands on its Node, in wide tables and in warnings.
fn figures_are_known(lab: &Lab) {
    let mut known = serde_json::Value::Null;
    wait("the Node tells what it measured", || {
        let nodes: serde_json::Value = serde_json::from_str(&lab.ask(&["get", "nodes", "-o", "json"])).unwrap();
        let text =
            nodes["items"][0]["metadata"]["annotations"]["sampan.dev/handlers"].as_str().unwrap_or("{}").to_owned();
        known = serde_json::from_str(&text).unwrap();
        ["classic", "swift", "gvisor"].iter().all(|name| known[name]["pods"] == 1)
    });
    for (name, version) in [("classic", "runc version"), ("swift", "crun version"), ("gvisor", "runsc version")] {
        let figures = &known[name];
        assert_eq!(figures["works"], true, "{known}");
        assert!(figures["version"].as_str().unwrap().starts_with(version), "{known}");
        assert!(figures["coldStartMs"].as_u64().unwrap() > 0, "{known}");
        assert!(figures["sandboxMemoryBytes"].as_u64().unwrap() > 100 << 10, "{known}");
    }
    let memory = |name: &str| known[name]["sandboxMemoryBytes"].as_u64().unwrap();
    // A kernel in user space takes more than a process that waits.
    assert!(memory("gvisor") > 4 * memory("classic"), "{known}");

    let narrow = lab.ask(&["get", "runtimeclass"]);
    assert_eq!(words(&narrow, 0), ["NAME", "HANDLER", "AGE"]);
    let wide = lab.ask(&["get", "runtimeclass", "-o", "wide"]);
    assert_eq!(words(&wide, 0)[3..], ["WORKS", "COLD", "START", "DECLARED", "MEASURED"]);
    let row = words(wide.lines().find(|line| line.starts_with("gvisor")).unwrap(), 0);
    assert!(row[3] == "1/1" && row[4].ends_with("ms") && row[5] == "<none>" && row[6].ends_with("Mi"), "{wide}");

    let warned = |name: &str, more: &str| {
        let output = lab.kubectl_with(&["apply", "-f", "-"], &(class_text(name) + more));
        assert!(output.status.success());
        text(&output.stderr)
    };
    let far = warned("classic", "overhead: {podFixed: {memory: 120Mi}}\n");
    assert!(
        far.contains(
            "Warning: overhead.podFixed[memory]: 120Mi is declared, but sandboxes of handler \"classic\" take"
        ),
        "{far}"
    );
    assert_eq!(warned("swift", "overhead: {podFixed: {memory: 4Mi}}\n"), "");
    let unknown = warned("kata", "");
    assert!(unknown.contains("Warning: handler: no node offers \"kata\"; offered are: "), "{unknown}");
    assert!(unknown.contains("classic, crun, docker, gvisor, runc, swift"), "{unknown}");
}

/// The words of a line.
fn words(text: &str, line: usize) -> Vec<&str> {
    text.lines().nth(line).unwrap_or_default().split_whitespace().collect()
}

/// The annotations in every container's document.
fn annotations(lab: &Lab) -> Vec<String> {
    let bundles = std::fs::read_dir(lab.run_dir().join("containers")).unwrap().flatten();
    let texts = bundles.map(|entry| std::fs::read(entry.path().join("config.json")).unwrap());
    texts
        .map(|text| {
            let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
            document["annotations"].to_string()
        })
        .collect()
}

#[test]
fn handlers_come_and_go_with_their_files_and_a_sandbox_keeps_its_own() {
    let lab = Lab::new("handlers-reload", 46);
    let (first, second) = (lab.dir().join("first"), lab.dir().join("second"));
    let config = write_configuration(&lab.dir(), "");
    lab.up_with(&["--containerd-config", config.to_str().unwrap()]);
    lab.right_secret();
    class(&lab, "late");

    // The file names it, its binary is not there: it is not offered until it is.
    write_configuration(&lab.dir(), &late(&first));
    wait("the file is read", || log(&lab).contains("late, runc"));
    assert!(!offered(&lab).contains(&"late".to_owned()));
    symlink("/usr/sbin/runc", &first).unwrap();
    wait("the Node offers it", || offered(&lab).contains(&"late".to_owned()));
    pod(&lab, "old", "late");
    lab.ready("old");
    assert_eq!(recorded(&lab, "old")["binary"], first.to_str().unwrap());

    // Another binary by the same name, read on SIGHUP: for new sandboxes only.
    symlink("/usr/sbin/runc", &second).unwrap();
    write_configuration(&lab.dir(), &late(&second));
    shell::run("kill", &["-HUP", &lab.pid().to_string()]).unwrap();
    wait("SIGHUP is heard", || log(&lab).contains("SIGHUP"));
    let mut tries = 0;
    wait("new sandboxes have the other binary", || {
        tries += 1;
        let name = format!("new-{tries}");
        pod(&lab, &name, "late");
        lab.ready(&name);
        recorded(&lab, &name)["binary"] == second.to_str().unwrap()
    });
    for nth in 1..=tries {
        lab.ask(&["delete", "pod", &format!("new-{nth}")]);
    }
    std::fs::remove_file(&second).unwrap();
    wait("a handler without its binary is not offered", || !offered(&lab).contains(&"late".to_owned()));
    assert_eq!(recorded(&lab, "old")["binary"], first.to_str().unwrap());
    assert_eq!(says(&lab, "old", "echo still"), "still\n");

    // A mistake leaves everything as it is, and is said with its line.
    std::fs::write(&config, "version = 2\n[plugins\n").unwrap();
    wait("the mistake is said", || log(&lab).contains("containerd.toml:2: "));
    assert!(offered(&lab).contains(&"classic".to_owned()));

    // The next start refuses it; the old sandbox outlives the process and needs no handler of that name.
    lab.kill();
    let refused = lab.sampan(&[
        "up",
        "--detach",
        "--containerd-config",
        config.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--pod-cidr",
        "10.90.46.0/24",
    ]);
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("containerd.toml:2: "), "{}", text(&refused.stderr));
    write_configuration(&lab.dir(), "");
    lab.up_with(&["--containerd-config", config.to_str().unwrap()]);
    assert_eq!(says(&lab, "old", "echo still"), "still\n");
    lab.ask(&["delete", "pod", "old"]);
    lab.down(true);
}
