//! What a Pod may ask of its node, on real parts: environment, volumes, security, resources, probes, hooks, network.
//!
//! Each test takes one group through kubectl and looks at it from inside the container and from the host. Findings are
//! collected, so that one run shows everything that is wrong.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Lab, condition, text, wait};

/// Collects what is not as it should be.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn same(&mut self, what: &str, seen: impl AsRef<str>, wanted: impl AsRef<str>) {
        if seen.as_ref() != wanted.as_ref() {
            self.0.push(format!("{what}: {:?}, not {:?}", seen.as_ref(), wanted.as_ref()));
        }
    }

    fn holds(&mut self, what: &str, is: bool, seen: impl std::fmt::Debug) {
        if !is {
            self.0.push(format!("{what}: {seen:?}"));
        }
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

/// Makes an object from its kind, its name and the lines of what it holds.
fn object(lab: &Lab, kind: &str, name: &str, rest: &str) {
    lab.apply(&format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n{rest}\n"));
}

/// What a container printed as `key=value` lines.
struct Said(String);

impl Said {
    fn of(lab: &Lab, pod: &str) -> Said {
        Said(lab.ask(&["logs", pod, "-c", "c"]))
    }

    fn get(&self, key: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or("<not said>")
    }
}

/// A pod of one container `c`: lines of its spec, and lines of the container, with `IMAGE` and indentation filled in.
fn pod(lab: &Lab, name: &str, spec: &str, container: &str) -> String {
    let indent = |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    let head = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{x: one, app: e}}, annotations: {{note: hello}}}}\n"
    );
    format!(
        "---\n{head}spec:\n  terminationGracePeriodSeconds: 1\n  imagePullSecrets: [{{name: regcred}}]\n{}  containers:\n  - name: c\n    image: IMAGE\n{}",
        indent(spec, "  "),
        indent(container, "    ")
    )
    .replace("IMAGE", &lab.image())
}

const SLEEP: &str = "command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.1; done']\n";

/// A container that runs a script, one line a statement, and ends.
fn script(lines: &[&str]) -> String {
    format!("command:\n- sh\n- -c\n- |\n{}", lines.iter().map(|line| format!("  {line}\n")).collect::<String>())
}

fn ended(lab: &Lab, name: &str) -> Value {
    lab.pod_when(name, "ended", |pod| {
        ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default())
    })
}

fn waits(lab: &Lab, name: &str, reason: &str) -> String {
    let pod =
        lab.pod_when(name, reason, |pod| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason);
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap_or_default().into()
}

fn event(lab: &Lab, pod: &str, reason: &str, part: &str) -> bool {
    lab.events(pod).iter().any(|(seen, message)| seen == reason && message.contains(part))
}

/// Deletes the pods and finds nothing of any pod below the lab's directories.
fn nothing_is_left(lab: &Lab) {
    lab.ask(&["delete", "pods", "--all", "--wait=true"]);
    // An ended pod leaves the API at once; its traces follow.
    wait("nothing is left of the pods", || left(lab).is_empty());
}

/// What the pods have below the lab's directories: mounts and records.
fn left(lab: &Lab) -> Vec<PathBuf> {
    let (data, run) = (lab.data_dir(), lab.run_dir());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut left: Vec<PathBuf> = mounts.filter(|at| at.starts_with(&data) || at.starts_with(&run)).collect();
    let places = [
        data.join("pods"),
        data.join("node/pods"),
        data.join("log/pods"),
        data.join("runtime/containers"),
        data.join("runtime/sandboxes"),
    ];
    for place in places.into_iter().chain([run.join("sandboxes"), run.join("containers")]) {
        left.extend(std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    left
}

/// Every cgroup directory of a pod, in all controllers.
fn cgroups(uid: &str) -> Vec<PathBuf> {
    let found = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("pod{uid}")])
        .output()
        .unwrap();
    text(&found.stdout).lines().map(PathBuf::from).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path)
        .map_or_else(|error| format!("{}: {error}", path.display()), |text| text.trim().to_string())
}

#[test]
fn the_environment_is_what_the_pod_and_its_objects_say() {
    let lab = Lab::new("features-environment", 70);
    let mut found = Findings::default();
    lab.up();
    lab.right_secret();
    object(&lab, "ConfigMap", "map", "data: {a: alpha, b: beta}");
    object(&lab, "Secret", "hidden", "stringData: {s: hush}");
    let container = "command: [sh, -c]\n\
        args: ['env; echo \"dir=$(pwd)\"; echo \"zero=$0\"; echo \"one=$1\"; echo \"two=$2\"', $(PLAIN), $$(PLAIN), $(NONE)]\n\
        workingDir: /tmp\n\
        resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}\n\
        envFrom:\n\
        - {prefix: P_, configMapRef: {name: map}}\n\
        - {secretRef: {name: hidden}}\n\
        - {configMapRef: {name: absent, optional: true}}\n\
        env:\n\
        - {name: PLAIN, value: plain}\n\
        - {name: P_b, value: mine}\n\
        - {name: EXPANDED, value: '$(PLAIN) $$(PLAIN) $(NONE) $(P_a)'}\n\
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n\
        - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}\n\
        - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}\n\
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}\n\
        - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}\n\
        - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n\
        - {name: SPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}\n\
        - {name: ID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}\n\
        - {name: LABEL, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['x']\"}}}\n\
        - {name: NOTE, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['note']\"}}}\n\
        - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}\n\
        - {name: CPU_MILLI, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}\n\
        - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}\n\
        - {name: MEMORY_MI, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}\n\
        - {name: KEY, valueFrom: {configMapKeyRef: {name: map, key: a}}}\n\
        - {name: SECRET, valueFrom: {secretKeyRef: {name: hidden, key: s}}}\n\
        - {name: GONE, valueFrom: {configMapKeyRef: {name: absent, key: a, optional: true}}}\n\
        - {name: GONE_KEY, valueFrom: {secretKeyRef: {name: hidden, key: none, optional: true}}}\n";
    let late = |name: &str, source: &str| {
        pod(
            &lab,
            name,
            "restartPolicy: Never",
            &format!("command: [env]\nenv: [{{name: V, valueFrom: {{{source}}}}}]\n"),
        )
    };
    lab.apply(&pod(&lab, "env", "restartPolicy: Never", container));
    lab.apply(&late("late", "configMapKeyRef: {name: late, key: v}"));
    lab.apply(&late("late-secret", "secretKeyRef: {name: late-secret, key: v}"));
    lab.apply(&late("late-key", "configMapKeyRef: {name: map, key: v}"));
    let status = ended(&lab, "env");
    let said = Said::of(&lab, "env");
    let of = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string();
    let (ip, host_ip, node, uid) =
        (of("/status/podIP"), of("/status/hostIP"), of("/spec/nodeName"), of("/metadata/uid"));
    for (key, wanted) in [
        ("PLAIN", "plain"),
        ("EXPANDED", "plain $(PLAIN) $(NONE) alpha"),
        ("P_a", "alpha"),
        ("P_b", "mine"),
        ("s", "hush"),
        ("IP", &ip),
        ("IPS", &ip),
        ("HOST_IP", &host_ip),
        ("NODE", &node),
        ("ACCOUNT", "default"),
        ("NAME", "env"),
        ("SPACE", "default"),
        ("ID", &uid),
        ("LABEL", "one"),
        ("NOTE", "hello"),
        ("CPU", "1"),
        ("CPU_MILLI", "250"),
        ("MEMORY", "67108864"),
        ("MEMORY_MI", "32"),
        ("KEY", "alpha"),
        ("SECRET", "hush"),
        ("GONE", "<not said>"),
        ("GONE_KEY", "<not said>"),
        ("HOSTNAME", "env"),
        ("PATH", "/bin"),
        ("dir", "/tmp"),
        ("zero", "plain"),
        ("one", "$(PLAIN)"),
        ("two", "$(NONE)"),
    ] {
        found.same(key, said.get(key), wanted);
    }
    found.same("late", waits(&lab, "late", "CreateContainerConfigError"), "configmap \"late\" not found");
    found.same(
        "late-secret",
        waits(&lab, "late-secret", "CreateContainerConfigError"),
        "secret \"late-secret\" not found",
    );
    found.same(
        "late-key",
        waits(&lab, "late-key", "CreateContainerConfigError"),
        "couldn't find key v in ConfigMap default/map",
    );
    lab.told("late", "Failed", "Error: configmap \"late\" not found");
    object(&lab, "ConfigMap", "late", "data: {v: came}");
    object(&lab, "Secret", "late-secret", "stringData: {v: came}");
    lab.ask(&["patch", "configmap", "map", "-p", r#"{"data":{"v":"came"}}"#]);
    for name in ["late", "late-secret", "late-key"] {
        ended(&lab, name);
        found.same(name, Said::of(&lab, name).get("V"), "came");
    }
    nothing_is_left(&lab);
    found.none();
}

#[test]
fn volumes_hold_what_their_sources_say() {
    let lab = Lab::new("features-volumes", 71);
    let mut found = Findings::default();
    lab.up();
    lab.right_secret();
    let host = lab.data_dir().with_file_name("host");
    std::fs::create_dir_all(host.join("dir")).unwrap();
    std::fs::write(host.join("file"), "from the host").unwrap();
    let at = |name: &str| host.join(name).display().to_string();
    object(&lab, "ConfigMap", "map", "data: {a: alpha, b: beta}\nbinaryData: {bin: AAEC}");
    object(&lab, "Secret", "hidden", "stringData: {s: hush}");
    let mounts = "volumeMounts:\n\
        - {name: disk, mountPath: /v/disk}\n- {name: memory, mountPath: /v/memory}\n\
        - {name: dir, mountPath: /v/dir}\n- {name: file, mountPath: /v/file, readOnly: true}\n- {name: made, mountPath: /v/made}\n- {name: made-file, mountPath: /v/made-file}\n\
        - {name: map, mountPath: /v/map}\n- {name: items, mountPath: /v/items}\n- {name: hidden, mountPath: /v/hidden}\n\
        - {name: down, mountPath: /v/down}\n- {name: all, mountPath: /v/all}\n- {name: none, mountPath: /v/none}\n\
        - {name: map, mountPath: /v/one, subPath: a}\n- {name: disk, mountPath: /v/sub, subPath: x/y}\n- {name: disk, mountPath: /v/named, subPathExpr: for-$(NAME)}\n\
        env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n\
        resources: {limits: {memory: 64Mi, cpu: 100m}}\n";
    let volumes = format!(
        "volumes:\n- {{name: disk, emptyDir: {{}}}}\n- {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 2Mi}}}}\n\
         - {{name: dir, hostPath: {{path: {}, type: Directory}}}}\n- {{name: file, hostPath: {{path: {}, type: File}}}}\n\
         - {{name: made, hostPath: {{path: {}, type: DirectoryOrCreate}}}}\n- {{name: made-file, hostPath: {{path: {}, type: FileOrCreate}}}}\n\
         - {{name: map, configMap: {{name: map}}}}\n- {{name: items, configMap: {{name: map, defaultMode: 0640, items: [{{key: a, path: deep/er, mode: 0400}}, {{key: bin, path: bin}}]}}}}\n\
         - {{name: hidden, secret: {{secretName: hidden, defaultMode: 256}}}}\n- {{name: none, configMap: {{name: absent, optional: true}}}}\n\
         - {{name: down, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}, {{path: memory, resourceFieldRef: {{containerName: c, resource: limits.memory, divisor: 1Mi}}}}]}}}}\n\
         - {{name: all, projected: {{sources: [{{configMap: {{name: map, items: [{{key: b, path: m/b}}]}}}}, {{secret: {{name: hidden}}}}, {{downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}}}]}}}}\n",
        at("dir"),
        at("file"),
        at("made/deep"),
        at("made-file")
    );
    let lines = [
        "echo disk=$(touch /v/disk/x && echo ok)",
        "echo disk_mode=$(stat -c %a /v/disk)",
        "echo memory=$(df -k /v/memory | tail -n 1 | tr -s ' ' | cat)",
        "echo memory_type=$(grep ' /v/memory ' /proc/mounts)",
        "echo dir=$(echo in > /v/dir/in && echo ok)",
        "echo file=$(cat /v/file)",
        "echo file_write=$(echo x 2>&1 > /v/file)",
        "echo made=$(stat -c %F-%a /v/made)",
        "echo made_file=$(stat -c %a /v/made-file)",
        "echo map=$(ls /v/map | tr '\\n' ' ')",
        "echo map_mode=$(stat -L -c %a /v/map/a)",
        "echo map_write=$(echo x 2>&1 > /v/map/new)",
        "echo items=$(cat /v/items/deep/er)",
        "echo items_mode=$(stat -L -c %a /v/items/deep/er)",
        "echo bin=$(stat -L -c %s-%a /v/items/bin)",
        "echo hidden=$(cat /v/hidden/s)",
        "echo hidden_mode=$(stat -L -c %a /v/hidden/s)",
        "echo hidden_type=$(grep ' /v/hidden ' /proc/mounts)",
        "echo labels=$(cat /v/down/labels | tr '\\n' ' ')",
        "echo limit=$(cat /v/down/memory)",
        "echo all=$(cat /v/all/m/b /v/all/s /v/all/name)",
        "echo none=$(ls /v/none | wc -l)",
        "echo one=$(cat /v/one)",
        "echo sub=$(touch /v/sub/z && ls /v/disk/x/y 2>&1)",
        "echo named=$(ls -d /v/disk/for-*)",
        "trap 'exit 0' TERM; while true; do sleep 0.1; done",
    ];
    let lines: Vec<String> = lines.iter().map(|line| line.replace("/v/disk/x &&", "/v/disk/t &&")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lab.apply(&pod(&lab, "volumes", &volumes, &(script(&lines) + mounts)));
    let bad = |name: &str, kind: &str, path: &str| {
        lab.apply(&pod(
            &lab,
            name,
            &format!("volumes: [{{name: v, hostPath: {{path: {path}, type: {kind}}}}}]"),
            &format!("{SLEEP}volumeMounts: [{{name: v, mountPath: /v}}]"),
        ));
    };
    bad("no-dir", "Directory", &at("none"));
    bad("no-file", "File", &at("dir"));
    bad("no-socket", "Socket", &at("file"));
    lab.apply(&pod(
        &lab,
        "no-map",
        "volumes: [{name: v, configMap: {name: late}}]",
        &format!("{SLEEP}volumeMounts: [{{name: v, mountPath: /v}}]"),
    ));
    lab.ready("volumes");
    wait("the script ends", || lab.ask(&["logs", "volumes"]).contains("named="));
    let said = Said::of(&lab, "volumes");
    for (key, wanted) in [
        ("disk", "ok"),
        ("disk_mode", "777"),
        ("dir", "ok"),
        ("file", "from the host"),
        ("made", "directory-755"),
        ("made_file", "644"),
        ("map", "a b bin "),
        ("map_mode", "644"),
        ("items", "alpha"),
        ("items_mode", "400"),
        ("bin", "3-640"),
        ("hidden", "hush"),
        ("hidden_mode", "400"),
        ("labels", "app=\"e\" x=\"one\" "),
        ("limit", "64"),
        ("all", "betahushvolumes"),
        ("none", "0"),
        ("one", "alpha"),
        ("sub", "z"),
        ("named", "/v/disk/for-volumes"),
    ] {
        found.same(key, said.get(key).trim_end(), wanted.trim_end());
    }
    found.holds("size of the memory volume", said.get("memory").contains(" 2048 "), said.get("memory"));
    found.holds("kind of the memory volume", said.get("memory_type").contains("tmpfs"), said.get("memory_type"));
    found.holds("secrets are in memory", said.get("hidden_type").contains("tmpfs"), said.get("hidden_type"));
    found.holds("a read-only mount", said.0.contains("can't create /v/file: Read-only file system"), &said.0);
    found.holds("a map is read-only", said.0.contains("can't create /v/map/new: Read-only file system"), &said.0);
    found.same("written to the host", read(&host.join("dir/in")), "in");

    lab.ask(&["patch", "configmap", "map", "-p", r#"{"data":{"a":"changed"}}"#]);
    lab.ask(&["label", "pod", "volumes", "y=two"]); // A pod that changed is looked through at once.
    let inside = |path: &str| lab.ask(&["exec", "volumes", "--", "cat", path]);
    wait("the volume follows its ConfigMap", || inside("/v/map/a") == "changed");
    found.holds("labels follow", inside("/v/down/labels").contains("y=\"two\""), inside("/v/down/labels"));
    found.same("items follow", inside("/v/items/deep/er"), "changed");
    found.same("a subPath does not follow", inside("/v/one"), "alpha");
    for (name, part) in [
        ("no-dir", "hostPath type check failed"),
        ("no-file", "is not a file"),
        ("no-socket", "is not a socket file"),
        ("no-map", "configmap \"late\" not found"),
    ] {
        wait("the mount fails with an event", || {
            event(&lab, name, "FailedMount", "MountVolume.SetUp failed for volume \"v\"")
        });
        found.holds(name, event(&lab, name, "FailedMount", part), lab.events(name));
        let status = &lab.get("pod", name).unwrap()["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        found.same(name, status.as_str().unwrap_or_default(), "ContainerCreating");
    }
    object(&lab, "ConfigMap", "late", "data: {v: came}");
    lab.ready("no-map");
    nothing_is_left(&lab);
    found.same("hostPath keeps its files", read(&host.join("dir/in")), "in");
    found.none();
}

#[test]
fn security_contexts_bind_the_process() {
    let lab = Lab::new("features-security", 72);
    let mut found = Findings::default();
    lab.up();
    lab.right_secret();
    let profiles = lab.data_dir().join("seccomp");
    std::fs::create_dir_all(&profiles).unwrap();
    let profile =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(profiles.join("no-mkdir.json"), profile).unwrap();
    let look = script(&[
        "echo id=$(id -u) $(id -g) $(id -G)",
        "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t' | tr ':' '='",
        "echo root=$(touch /new 2>&1 && echo ok)",
        "echo volume=$(touch /v/new && stat -c '%u %g' /v/new; stat -c %a /v)",
        "echo mkdir=$(mkdir /tmp/x 2>&1 && echo ok)",
        "echo sys=$(mount -t tmpfs x /tmp 2>&1 && echo ok)",
        "echo dev=$(ls /dev | wc -l)",
    ]);
    let run = |name: &str, of_pod: &str, of_container: &str| {
        let spec =
            format!("restartPolicy: Never\nsecurityContext: {{{of_pod}}}\nvolumes: [{{name: v, emptyDir: {{}}}}]");
        lab.apply(&pod(
            &lab,
            name,
            &spec,
            &format!("{look}securityContext: {{{of_container}}}\nvolumeMounts: [{{name: v, mountPath: /v}}]"),
        ));
    };
    run("plain", "", "");
    run("users", "runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567]", "runAsUser: 1235");
    run("caps", "", "capabilities: {drop: [ALL], add: [NET_ADMIN, CAP_SYS_TIME]}");
    run("fewer", "", "capabilities: {drop: [NET_RAW, CHOWN]}");
    run("privileged", "", "privileged: true");
    run("read-only", "", "readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, runAsUser: 1000");
    run("default-profile", "seccompProfile: {type: RuntimeDefault}", "");
    run("own-profile", "", "seccompProfile: {type: Localhost, localhostProfile: no-mkdir.json}");
    run("no-profile", "seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}");
    run("not-root", "runAsNonRoot: true", "");
    run("not-zero", "runAsNonRoot: true, runAsUser: 0", "");
    run("lost-profile", "", "seccompProfile: {type: Localhost, localhostProfile: none.json}");
    let said = |name: &str| {
        ended(&lab, name);
        Said::of(&lab, name)
    };
    let plain = said("plain");
    for (key, wanted) in [
        ("id", "0 0 0"),
        ("CapEff", "00000000a80425fb"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "0"),
        ("root", "ok"),
        ("mkdir", "ok"),
    ] {
        found.same(&format!("plain {key}"), plain.get(key), wanted);
    }
    found.holds("mount is refused", plain.get("sys").contains("ermission denied"), plain.get("sys"));
    let users = said("users");
    found.same("users", users.get("id"), "1235 2345 2345 3456 4567");
    found.same("fsGroup", users.get("volume"), "1235 3456 2777");
    found.same("no capabilities for users", users.get("CapEff"), "0000000000000000");
    found.same("caps", said("caps").get("CapEff"), "0000000002001000");
    found.same("fewer", said("fewer").get("CapEff"), "00000000a80405fa");
    let privileged = said("privileged");
    let all = read(Path::new("/proc/self/status"))
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:\t").map(String::from))
        .unwrap();
    found.same("privileged", privileged.get("CapEff"), all);
    found.same("privileged may mount", privileged.get("sys"), "ok");
    found.holds(
        "privileged has devices",
        privileged.get("dev").parse::<u32>().unwrap() > plain.get("dev").parse::<u32>().unwrap(),
        privileged.get("dev"),
    );
    let fixed = said("read-only");
    found.holds("the root is read-only", fixed.get("root").contains("Read-only file system"), fixed.get("root"));
    found.same("no new privileges", fixed.get("NoNewPrivs"), "1");
    found.same("RuntimeDefault", said("default-profile").get("Seccomp"), "2");
    let own = said("own-profile");
    found.same("Localhost", own.get("Seccomp"), "2");
    found.holds("the profile binds", own.get("mkdir").contains("not permitted"), own.get("mkdir"));
    found.same("Unconfined", said("no-profile").get("Seccomp"), "0");
    let refused = |name: &str, text: &str| {
        let uid = lab.get("pod", name).unwrap()["metadata"]["uid"].as_str().unwrap().to_string();
        format!("{text} (pod: \"{name}_default({uid})\", container: c)")
    };
    found.same(
        "not-root",
        waits(&lab, "not-root", "CreateContainerConfigError"),
        refused("not-root", "container has runAsNonRoot and image will run as root"),
    );
    found.same(
        "not-zero",
        waits(&lab, "not-zero", "CreateContainerConfigError"),
        refused("not-zero", "container's runAsUser breaks non-root policy"),
    );
    let lost = waits(&lab, "lost-profile", "CreateContainerError");
    found.holds("lost-profile", lost.contains("none.json"), lost);
    nothing_is_left(&lab);
    found.none();
}

#[test]
fn requests_and_limits_are_cgroups_and_ends_have_reasons() {
    let lab = Lab::new("features-resources", 73);
    let mut found = Findings::default();
    lab.up();
    lab.right_secret();
    let with = |name: &str, resources: &str, command: &str| {
        lab.apply(&pod(&lab, name, "restartPolicy: Never", &format!("{command}resources: {{{resources}}}\n")));
    };
    with("guaranteed", "limits: {cpu: 200m, memory: 64Mi}", SLEEP);
    with("burstable", "requests: {cpu: 250m, memory: 16Mi}, limits: {memory: 48Mi}", SLEEP);
    with("effort", "", SLEEP);
    with(
        "eater",
        "limits: {memory: 24Mi}",
        &script(&["echo eats", "head -c 64m /dev/zero | tail -c 60m | wc -c", "exec tail -c 200m /dev/zero"]),
    );
    let words = |name: &str, policy: &str, line: &str| {
        lab.apply(&pod(
            &lab,
            name,
            "restartPolicy: Never",
            &format!("{}terminationMessagePolicy: {policy}\n", script(&[line])),
        ));
    };
    words("file-words", "File", "echo logged; echo -n last words > /dev/termination-log; exit 3");
    words("log-words", "FallbackToLogsOnError", "echo one; echo two; exit 4");
    words("no-words", "File", "echo logged; exit 5");
    words("calm-words", "FallbackToLogsOnError", "echo logged");
    lab.apply(&pod(
        &lab,
        "path-words",
        "restartPolicy: Never",
        &format!("{}terminationMessagePath: /tmp/last", script(&["echo there > /tmp/last"])),
    ));
    lab.apply(&pod(&lab, "no-program", "restartPolicy: Never", "command: [/none]"));

    for (name, class, tree, values) in [
        (
            "guaranteed",
            "Guaranteed",
            "kubepods/pod",
            [
                ("cpu", "cpu.shares", "204"),
                ("cpu", "cpu.cfs_quota_us", "20000"),
                ("memory", "memory.limit_in_bytes", "67108864"),
            ],
        ),
        (
            "burstable",
            "Burstable",
            "kubepods/burstable/pod",
            [
                ("cpu", "cpu.shares", "256"),
                ("cpu", "cpu.cfs_quota_us", "-1"),
                ("memory", "memory.limit_in_bytes", "50331648"),
            ],
        ),
        (
            "effort",
            "BestEffort",
            "kubepods/besteffort/pod",
            [
                ("cpu", "cpu.shares", "2"),
                ("cpu", "cpu.cfs_quota_us", "-1"),
                ("memory", "memory.limit_in_bytes", "9223372036854771712"),
            ],
        ),
    ] {
        let status = lab.ready(name);
        found.same(name, status["status"]["qosClass"].as_str().unwrap_or_default(), class);
        let dirs = cgroups(status["metadata"]["uid"].as_str().unwrap());
        found.holds(name, dirs.iter().all(|dir| dir.to_string_lossy().contains(tree)), &dirs);
        let id = status["status"]["containerStatuses"][0]["containerID"]
            .as_str()
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap()
            .to_string();
        for (controller, file, value) in values {
            let Some(dir) = dirs.iter().find(|dir| dir.starts_with(Path::new("/sys/fs/cgroup").join(controller)))
            else {
                found.holds(name, false, format!("no cgroup of {controller} in {dirs:?}"));
                continue;
            };
            found.same(&format!("{name}: pod {file}"), read(&dir.join(file)), value);
            let own: Vec<PathBuf> = std::fs::read_dir(dir)
                .unwrap()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.is_dir())
                .collect();
            let own = own.iter().find(|path| path.to_string_lossy().contains(&id));
            found.holds(&format!("{name}: the container's cgroup"), own.is_some(), dir);
            found.same(
                &format!("{name}: container {file}"),
                own.map(|own| read(&own.join(file))).unwrap_or_default(),
                value,
            );
        }
    }
    let node = lab.get("pod", "effort").unwrap()["spec"]["nodeName"].as_str().unwrap().to_string();
    let greedy = format!("{SLEEP}resources: {{requests: {{cpu: 5k}}}}\n");
    lab.apply(&pod(&lab, "greedy", &format!("nodeName: {node}"), &greedy));
    let status = ended(&lab, "greedy")["status"].clone();
    found.same("greedy", status["reason"].as_str().unwrap_or_default(), "OutOfcpu");
    let message = status["message"].as_str().unwrap_or_default();
    let words = "Pod was rejected: Node didn't have enough resource: cpu, requested: 5000000, used: 450, capacity: ";
    found.holds("greedy", message.starts_with(words), message);
    let end = |name: &str| ended(&lab, name)["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    let eaten = end("eater");
    found.same("eater", format!("{} {}", eaten["reason"], eaten["exitCode"]), "\"OOMKilled\" 137");
    for (name, reason, code, message) in [
        ("file-words", "Error", 3, "last words"),
        ("log-words", "Error", 4, "one\ntwo\n"),
        ("no-words", "Error", 5, ""),
        ("calm-words", "Completed", 0, ""),
        ("path-words", "Completed", 0, "there\n"),
    ] {
        let end = end(name);
        let seen = format!(
            "{} {} {}",
            end["reason"].as_str().unwrap_or_default(),
            end["exitCode"],
            end["message"].as_str().unwrap_or_default()
        );
        found.same(name, seen, format!("{reason} {code} {message}"));
        found.holds("times", end["startedAt"].is_string() && end["finishedAt"].is_string(), &end);
    }
    let none = end("no-program");
    found.same("no-program", format!("{} {}", none["reason"], none["exitCode"]), "\"StartError\" 128");
    found.holds(
        "no-program",
        none["message"].as_str().is_some_and(|message| message.contains("/none") && message.contains("no such file")),
        &none,
    );
    let table = lab.ask(&["get", "pods"]);
    for (name, columns) in [
        ("eater", "0/1 OOMKilled 0"),
        ("calm-words", "0/1 Completed 0"),
        ("file-words", "0/1 Error 0"),
        ("no-program", "0/1 StartError 0"),
        ("effort", "1/1 Running 0"),
    ] {
        let line = table.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default();
        let seen: Vec<&str> = line.split_whitespace().skip(1).take(3).collect();
        found.same(name, seen.join(" "), columns);
    }
    let uids: Vec<String> = ["guaranteed", "burstable", "effort", "eater"]
        .iter()
        .map(|name| lab.get("pod", name).unwrap()["metadata"]["uid"].as_str().unwrap().into())
        .collect();
    nothing_is_left(&lab);
    found.holds(
        "cgroups are left",
        uids.iter().all(|uid| cgroups(uid).is_empty()),
        uids.iter().flat_map(|uid| cgroups(uid)).collect::<Vec<_>>(),
    );
    found.none();
}

#[test]
fn probes_restarts_and_hooks_follow_the_life_of_a_container() {
    let lab = Lab::new("features-life", 74);
    let mut found = Findings::default();
    lab.up();
    lab.right_secret();
    let host = lab.data_dir().with_file_name("host");
    std::fs::create_dir_all(&host).unwrap();
    let volumes =
        format!("volumes: [{{name: v, emptyDir: {{}}}}, {{name: h, hostPath: {{path: {}}}}}]\n", host.display());
    let make = |name: &str, spec: &str, first: &str, more: &str| {
        let run = script(&[
            first,
            "httpd -p 8080 -h /www",
            "trap 'test -e /h/pre && echo ordered > /h/term; exit 0' TERM",
            "while true; do sleep 0.1; done",
        ]);
        let mounts = "ports: [{name: web, containerPort: 8080}]\nvolumeMounts: [{name: v, mountPath: /v}, {name: h, mountPath: /h}]\n";
        lab.apply(&pod(&lab, name, &format!("{volumes}{spec}"), &format!("{run}{mounts}{more}")));
    };
    let quick = "periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1";
    make(
        "healthy",
        "",
        "touch /v/up",
        &format!(
            "readinessProbe: {{httpGet: {{port: web, path: /index.html}}, {quick}}}\nlivenessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\nstartupProbe: {{exec: {{command: [test, -e, /v/up]}}, periodSeconds: 1, failureThreshold: 20}}\n"
        ),
    );
    make("lost-page", "", "true", &format!("readinessProbe: {{httpGet: {{port: 8080, path: /none}}, {quick}}}\n"));
    make("deaf", "", "true", &format!("readinessProbe: {{tcpSocket: {{port: 7}}, {quick}}}\n"));
    make(
        "toggles",
        "",
        "true",
        &format!("readinessProbe: {{exec: {{command: [sh, -c, 'echo no; test -e /v/ready']}}, {quick}}}\n"),
    );
    make(
        "sick",
        "",
        "rm -f /v/sick; echo start >> /v/starts",
        &format!("livenessProbe: {{exec: {{command: [sh, -c, 'echo bad; test ! -e /v/sick']}}, {quick}}}\n"),
    );
    make("slow", "", "true", &format!("startupProbe: {{exec: {{command: [\"false\"]}}, {quick}}}\n"));
    make(
        "hooks",
        "",
        "true",
        "lifecycle: {postStart: {exec: {command: [touch, /h/post]}}, preStop: {exec: {command: [sh, -c, 'sleep 0.3; touch /h/pre']}}}\n",
    );
    make("bad-hook", "", "true", "lifecycle: {postStart: {exec: {command: [sh, -c, 'echo oops; exit 9']}}}\n");
    make("again", "restartPolicy: OnFailure", "test -e /v/f && exit 0; touch /v/f; exit 1", "");
    let stubborn = script(&["trap '' TERM; echo up; while true; do sleep 0.1; done"]);
    lab.apply(&pod(&lab, "stubborn", "", &stubborn).replace("annotations:", "finalizers: [test/keep], annotations:"));
    let side = "initContainers:\n- {name: before, image: IMAGE, command: [sh, -c, 'echo before >> /v/order'], volumeMounts: [{name: v, mountPath: /v}]}\n\
        - name: side\n  image: IMAGE\n  restartPolicy: Always\n  command: [sh, -c, 'echo side >> /v/order; sleep 0.5; touch /v/side; trap \"exit 0\" TERM; while true; do sleep 0.1; done']\n  \
        volumeMounts: [{name: v, mountPath: /v}]\n  startupProbe: {exec: {command: [test, -e, /v/side]}, periodSeconds: 1, failureThreshold: 20}\n\
        - {name: after, image: IMAGE, command: [sh, -c, 'test -e /v/side && echo after >> /v/order'], volumeMounts: [{name: v, mountPath: /v}]}\n\
        volumes: [{name: v, emptyDir: {}}]\n";
    let main = "command: [sh, -c, 'echo main >> /v/order; echo $(cat /v/order); until test -e /v/end; do sleep 0.1; done']\nvolumeMounts: [{name: v, mountPath: /v}]";
    lab.apply(&pod(&lab, "sidecar", &format!("restartPolicy: Never\n{side}"), main));

    lab.ready("healthy");
    found.same(
        "healthy",
        lab.get("pod", "healthy").unwrap()["status"]["containerStatuses"][0]["restartCount"].to_string(),
        "0",
    );
    let deaf = lab.pod_when("deaf", "given an address", |pod| pod["status"]["podIP"].is_string());
    let ip = deaf["status"]["podIP"].as_str().unwrap().to_string();
    for (name, words) in [
        ("lost-page", "Readiness probe failed: HTTP probe failed with statuscode: 404".to_string()),
        ("deaf", format!("Readiness probe failed: dial tcp {ip}:7: connect: connection refused")),
        ("toggles", "Readiness probe failed: no\n".into()),
        ("slow", "Startup probe failed: ".into()),
    ] {
        wait(&words, || lab.events(name).iter().any(|event| *event == ("Unhealthy".to_string(), words.clone())));
        found.same(name, condition(&lab.get("pod", name).unwrap(), "Ready").unwrap_or_default(), "False");
    }
    lab.ask(&["exec", "toggles", "--", "touch", "/v/ready"]);
    lab.ready("toggles");
    lab.ask(&["exec", "toggles", "--", "rm", "/v/ready"]);
    lab.pod_when("toggles", "unready", |pod| {
        condition(pod, "Ready") == Some("False") && condition(pod, "ContainersReady") == Some("False")
    });
    lab.ready("sick");
    lab.ask(&["exec", "sick", "--", "touch", "/v/sick"]);
    let cured = lab.pod_when("sick", "restarted", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    found.same(
        "the last end",
        cured["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"].to_string(),
        "0",
    );
    found.same("an emptyDir lives on", lab.ask(&["exec", "sick", "--", "cat", "/v/starts"]), "start\nstart\n");
    found.same("the log before", lab.ask(&["logs", "sick", "-p"]), "");
    for (name, reason, words) in [
        ("sick", "Unhealthy", "Liveness probe failed: bad\n"),
        ("sick", "Killing", "Container c failed liveness probe, will be restarted"),
        ("slow", "Killing", "Container c failed startup probe, will be restarted"),
    ] {
        wait(words, || event(&lab, name, reason, words));
    }
    lab.pod_when("slow", "restarted", |pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1));

    let again = ended(&lab, "again");
    let status = &again["status"]["containerStatuses"][0];
    found.same(
        "again",
        format!(
            "{} {} {}",
            again["status"]["phase"], status["restartCount"], status["lastState"]["terminated"]["exitCode"]
        ),
        "\"Succeeded\" 1 1",
    );
    lab.told("bad-hook", "FailedPostStartHook", "PostStartHook failed");
    // The container is killed for it.
    lab.told("bad-hook", "Killing", "FailedPostStartHook");
    lab.ready("hooks");
    found.holds("postStart ran", host.join("post").exists(), "no file");
    lab.ask(&["delete", "pod", "hooks", "--grace-period=5"]);
    found.same("preStop, then TERM", read(&host.join("term")), "ordered");

    let running = lab.ready("sidecar");
    found.same("order", lab.ask(&["logs", "sidecar", "-c", "c"]).trim(), "before side after main");
    found.same("sidecar is started", running["status"]["initContainerStatuses"][1]["started"].to_string(), "true");
    let line = lab.ask(&["get", "pod", "sidecar", "--no-headers"]);
    found.holds("columns of a sidecar", line.split_whitespace().take(4).eq(["sidecar", "2/2", "Running", "0"]), line);
    lab.ask(&["exec", "sidecar", "-c", "c", "--", "touch", "/v/end"]);
    let over = ended(&lab, "sidecar");
    found.same("a sidecar ends last", over["status"]["phase"].as_str().unwrap_or_default(), "Succeeded");
    found.holds(
        "the sidecar ended",
        over["status"]["initContainerStatuses"][1]["state"]["terminated"].is_object(),
        &over["status"]["initContainerStatuses"][1],
    );

    lab.ready("stubborn");
    let began = jiff::Timestamp::now();
    lab.ask(&["delete", "pod", "stubborn", "--grace-period=2", "--wait=false"]);
    let killed = lab
        .pod_when("stubborn", "killed", |pod| pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object());
    let took = jiff::Timestamp::now().duration_since(began).as_millis();
    found.holds("KILL comes after the grace", took >= 1900, took);
    let end = &killed["status"]["containerStatuses"][0]["state"]["terminated"];
    found.same("KILL", format!("{} {}", end["exitCode"], end["reason"]), "137 \"Error\"");
    lab.ask(&["patch", "pod", "stubborn", "--type=json", "-p", r#"[{"op":"remove","path":"/metadata/finalizers"}]"#]);
    nothing_is_left(&lab);
    found.none();
}

#[test]
fn pods_have_the_names_addresses_and_processes_they_ask_for() {
    let lab = Lab::new("features-network", 75);
    let mut found = Findings::default();
    lab.up();
    lab.right_secret();
    let port = support::free_port();
    let serve = "command: [httpd, -f, -p, '8080', -h, /www]\n";
    let look = script(&[
        "echo name=$(hostname)",
        "echo ip=$(ip -4 -o addr show dev eth0 2>&1 | tr -s ' ')",
        "cat /etc/hosts | tr '\\t' ' '",
        "cat /etc/resolv.conf",
        "trap 'exit 0' TERM; while true; do sleep 0.1; done",
    ]);
    lab.apply(&pod(&lab, "serves", "", &format!("{serve}ports: [{{containerPort: 8080, hostPort: {port}}}]\n")));
    lab.apply(&pod(&lab, "named", "hostname: apple\nsubdomain: tree\nhostAliases: [{ip: 10.1.2.3, hostnames: [foo.local, bar.local]}]\ndnsPolicy: None\ndnsConfig: {nameservers: [192.0.2.53], searches: [one.example, two.example], options: [{name: ndots, value: '3'}, {name: edns0}]}", &look));
    lab.apply(&pod(&lab, "host", "hostNetwork: true", &look));
    let beside = "shareProcessNamespace: true\ninitContainers: [{name: side, image: IMAGE, restartPolicy: Always, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.15; done']}]\n";
    lab.apply(&pod(&lab, "shares", beside, SLEEP));
    lab.apply(&pod(&lab, "alone", "", SLEEP));

    let ip = lab.ready("serves")["status"]["podIP"].as_str().unwrap().to_string();
    lab.ready("alone");
    let page = "Hello from a Pod";
    let fetch = ["exec", "alone", "--", "wget", "-qO-", &format!("http://{ip}:8080/")];
    // Running is not yet listening.
    wait("pod to pod", || text(&lab.kubectl(&fetch).stdout).contains(page));
    let node_ip = lab.get("pod", "serves").unwrap()["status"]["hostIP"].as_str().unwrap().to_string();
    for place in [format!("{ip}:8080"), format!("127.0.0.1:{port}"), format!("{node_ip}:{port}")] {
        let answer = get(&place);
        found.holds(&format!("node to pod by {place}"), answer.contains(page), answer);
    }
    let fetched = lab.kubectl(&["exec", "alone", "--", "wget", "-qO-", &format!("http://{node_ip}:{port}/")]);
    found.holds("pod to host port", text(&fetched.stdout).contains(page), text(&fetched.stderr));

    let named = lab.ready("named");
    let own = named["status"]["podIP"].as_str().unwrap();
    wait("it looked", || lab.ask(&["logs", "named"]).contains("edns0"));
    let said = Said::of(&lab, "named");
    found.same("hostname", said.get("name"), "apple");
    found.holds("address", said.get("ip").contains(&format!(" {own}/24 ")), said.get("ip"));
    for line in [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1 localhost",
        &format!("{own} apple.tree.default.svc.cluster.local apple"),
        "# Entries added by HostAliases.",
        "10.1.2.3 foo.local bar.local",
        "nameserver 192.0.2.53",
        "search one.example two.example",
        "options ndots:3 edns0",
    ] {
        found.holds(line, said.0.lines().any(|seen| seen == line), &said.0);
    }
    let status = lab.ready("host")["status"].clone();
    found.same("host address", status["podIP"].to_string(), status["hostIP"].to_string());
    wait("it looked", || lab.ask(&["logs", "host"]).contains("nameserver"));
    let said = Said::of(&lab, "host");
    found.same("host's name", said.get("name"), read(Path::new("/proc/sys/kernel/hostname")));
    found.holds("host's hosts", said.0.contains("# Kubernetes-managed hosts file (host network)."), &said.0);

    lab.ready("shares");
    let processes = lab.ask(&["exec", "shares", "-c", "c", "--", "ps"]);
    found.holds("processes are shared", processes.contains("sleep 0.15") || processes.contains("0.15;"), &processes);
    let processes = lab.ask(&["exec", "alone", "--", "ps"]);
    found.holds(
        "processes are apart",
        processes.lines().any(|line| line.trim_start().starts_with("1 ")) && !processes.contains("0.15"),
        &processes,
    );
    nothing_is_left(&lab);
    found.holds("the host port is closed", std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), port);
    found.none();
}

/// The answer to a GET of `/`.
fn get(place: &str) -> String {
    use std::io::{Read as _, Write as _};
    let answer = || -> std::io::Result<String> {
        let mut stream =
            std::net::TcpStream::connect_timeout(&place.parse().unwrap(), std::time::Duration::from_secs(3))?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(3)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    answer().unwrap_or_else(|error| error.to_string())
}
