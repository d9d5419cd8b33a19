//! Static pods with the whole program: a manifest dropped into the directory runs, is shown by a mirror, outlives the
//! mirror and the agent, follows its file, and ends with it.

mod support;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;
use support::{Lab, Machine, condition, text, wait};
use xtask::registry::{PASSWORD, USER};

const KEY: &str = "kubernetes.io/config.mirror";

struct Statics {
    lab: Lab,
    manifests: PathBuf,
}

impl Statics {
    fn up(&self) {
        let path = self.manifests.to_str().unwrap();
        self.lab.up_with(&[
            "--node-name",
            "n1",
            "--static-pod-path",
            path,
            "--enable-admission-plugins",
            "AlwaysPullImages",
        ]);
    }

    /// Writes the manifest of `web` as an editor does, in place.
    fn put(&self, words: &str) {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{says: {words}}}}}\nspec:\n  terminationGracePeriodSeconds: 10\n  \
             priorityClassName: system-node-critical\n  containers:\n  - name: c\n    image: {}\n    \
             command: [sh, -c, 'trap \"echo bye; sleep 1; exit 0\" TERM; echo {words}; while true; do sleep 0.1; done']\n",
            self.lab.image()
        );
        std::fs::write(self.manifests.join("web.yaml"), manifest).unwrap();
    }

    /// The mirror once it is Ready and as wanted.
    fn ready(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.lab.pod_when("web-n1", what, |pod| is(pod) && condition(pod, "Ready") == Some("True"))
    }
}

fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn container(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned()
}

#[test]
#[allow(clippy::disallowed_methods)] // How long people wait is measured.
fn a_manifest_in_the_directory_is_a_pod_for_as_long_as_it_is_there() {
    let lab = Lab::new("static", 21);
    let before = Machine::look();
    let statics = Statics { manifests: lab.dir().join("manifests"), lab };
    let lab = &statics.lab;
    std::fs::create_dir(&statics.manifests).unwrap();
    std::fs::create_dir_all(lab.data_dir()).unwrap();
    let server = &lab.registry.address;
    let login = format!("{{\"auths\": {{\"{server}\": {{\"username\": \"{USER}\", \"password\": \"{PASSWORD}\"}}}}}}");
    std::fs::write(lab.data_dir().join("config.json"), login).unwrap();
    statics.up();

    // Warm the image, so that what is measured is the way from the file to the process.
    let login = format!("{USER}:{PASSWORD}");
    let pulled = lab.sampan(&["images", "pull", "--creds", &login, &lab.image()]);
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let began = Instant::now();
    statics.put("one");
    let first = statics.ready("the first", |_| true);
    eprintln!("from the file to a ready pod in kubectl: {:?}", began.elapsed());
    assert_eq!(first["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent", "IMG-24, IMG-225");
    assert_eq!(first["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    assert_eq!(first["spec"]["priority"], 2_000_001_000);
    lab.says("web-n1", "one\n");
    assert_eq!(lab.ask(&["exec", "web-n1", "--", "echo", "inside"]), "inside\n");
    lab.told("web-n1", "Started", "Container started");
    let told = lab.ask(&["describe", "pod", "web-n1"]);
    assert!(told.contains("Controlled By:  Node/n1") && told.contains("Container started"), "{told}");

    // Deleting the mirror deletes the mirror.
    lab.ask(&["delete", "pod", "web-n1", "--wait=false"]);
    let second = statics.ready("made anew", |pod| uid(pod) != uid(&first));
    assert_eq!(
        (container(&second), &second["metadata"]["annotations"][KEY]),
        (container(&first), &first["metadata"]["annotations"][KEY])
    );

    // The agent is killed and the container runs on, under the same mirror.
    lab.kill();
    statics.up();
    let third = statics.ready("taken over", |_| true);
    assert_eq!((uid(&third), container(&third)), (uid(&second), container(&second)));
    assert_eq!(third["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(third["status"]["startTime"], first["status"]["startTime"]);

    // A broken edit changes nothing, and the log says what is wrong; a good one replaces the pod.
    std::fs::write(statics.manifests.join("web.yaml"), "kind: [").unwrap();
    let log = lab.data_dir().join("sampan.log");
    wait("the log tells of the broken file", || {
        std::fs::read_to_string(&log).unwrap().contains("no static pod can be made of this file")
    });
    assert_eq!(container(&lab.get("pod", "web-n1").unwrap()), container(&third));
    statics.put("two");
    let fourth = statics.ready("the edited one", |pod| pod["metadata"]["labels"]["says"] == "two");
    assert_ne!(fourth["metadata"]["annotations"][KEY], first["metadata"]["annotations"][KEY]);
    lab.says("web-n1", "two\n");

    // Killed while the manifest goes: the next agent ends it, with its grace.
    lab.kill();
    std::fs::remove_file(statics.manifests.join("web.yaml")).unwrap();
    statics.up();
    wait("the mirror goes when the pod has ended", || lab.get("pod", "web-n1").is_none());
    let left = lab.data_dir().join("node/static");
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0);

    // `down` stops a static pod too, and the next `up` starts it again.
    statics.put("three");
    statics.ready("the third", |pod| pod["metadata"]["labels"]["says"] == "three");
    lab.down(false);
    statics.up();
    let last = statics.ready("started again", |pod| condition(pod, "Ready") == Some("True"));
    assert_eq!(last["metadata"]["labels"]["says"], "three");
    lab.down(true);
    before.assert_back();
}
