//! A sandbox on this machine for the tests: directories, a monitor, bundles of busybox.
#![allow(clippy::disallowed_methods, dead_code, reason = "tests start processes; not every file uses everything")]

use monitor::client::Client;
use monitor::exit::Record;
use monitor::wire::{Create, Delete, Event, Exec, Reply, Request, Shutdown, Signal, Start};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub struct World {
    pub directory: tempfile::TempDir,
    pub runtime: &'static str,
    pub cgroup: String,
    pub pid: u32,
    pub client: Client,
}

pub fn start(directory: &Path, extra: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sampan-monitor"));
    command.args(["--id", "sandbox", "--dir"]).arg(directory.join("s")).args(extra);
    command.output().expect("the monitor's executable")
}

/// Where the kernel counts a cgroup's memory: version 2 has one hierarchy for everything.
fn memory_cgroup(cgroup: &str) -> PathBuf {
    let is_version_2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let hierarchy = if is_version_2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
    format!("{hierarchy}{cgroup}").into()
}

/// crun looks for a hugetlb hierarchy of version 1 that some machines do not mount.
fn mount_hugetlb() {
    let target = Path::new("/sys/fs/cgroup/hugetlb");
    let version_1 = Path::new("/sys/fs/cgroup/memory").is_dir();
    if version_1 && !target.join("cgroup.procs").exists() {
        fs::create_dir_all(target).expect("mount point");
        let arguments = ["-t", "cgroup", "-o", "hugetlb", "none", "/sys/fs/cgroup/hugetlb"];
        // Two tests may try at once; what counts is that it is there.
        let _ = Command::new("mount").args(arguments).output();
    }
}

impl World {
    pub fn new(runtime: &'static str) -> World {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        if runtime == "crun" {
            mount_hugetlb();
        }
        let directory = tempfile::tempdir().expect("tempdir");
        let name = directory.path().file_name().expect("name").to_string_lossy().replace('.', "");
        let cgroup = format!("/sampan-test-{name}");
        for child in ["s", "c", "exit"] {
            fs::create_dir(directory.path().join(child)).expect("directory");
        }
        let output = start(directory.path(), &["--hostname", "pod", "--cgroup", &format!("{cgroup}/monitors")]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        let pid = text.trim().strip_prefix("pid=").expect("pid").parse().expect("number");
        let client = Client::connect(&directory.path().join("s")).expect("connect");
        assert_eq!(client.welcome.pid, pid);
        World { directory, runtime, cgroup, pid, client }
    }

    pub fn path(&self, rest: &str) -> PathBuf {
        self.directory.path().join(rest)
    }

    pub fn reconnect(&self) -> Client {
        Client::connect(&self.path("s")).expect("connect")
    }

    /// Makes a bundle that runs `script` in busybox's shell.
    pub fn bundle(&self, id: &str, script: &str, terminal: bool) -> PathBuf {
        let bundle = self.path(&format!("c/{id}"));
        let rootfs = bundle.join("rootfs");
        for child in ["bin", "proc", "dev", "tmp", "sys"] {
            fs::create_dir_all(rootfs.join(child)).expect("rootfs");
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static");
        for name in ["sh", "sleep", "cat", "echo", "true", "hostname", "dd", "tty", "stty", "ip", "head", "tail", "seq"]
        {
            let _ = std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name));
        }
        let config = CONFIG
            .replace("@PROCESS@", &process(script, terminal))
            .replace("@MONITOR@", &self.pid.to_string())
            .replace("@CGROUP@", &format!("{}/{id}", self.cgroup));
        fs::write(bundle.join("config.json"), config).expect("config.json");
        bundle
    }

    pub fn request(&self, id: &str, script: &str, terminal: bool) -> Create {
        Create {
            container: id.into(),
            bundle: self.bundle(id, script, terminal),
            binary: self.runtime.into(),
            root: self.path("oci"),
            log_path: self.path(&format!("{id}.log")),
            terminal,
            exit_path: self.path(&format!("exit/{id}")),
            memory_cgroup: memory_cgroup(&format!("{}/{id}", self.cgroup)),
            ..Create::default()
        }
    }

    pub fn create(&mut self, request: Create) -> u32 {
        match self.client.ask(&Request::Create(request)) {
            Ok(Reply::Created(created)) => created.pid,
            other => panic!("{other:?}"),
        }
    }

    pub fn start(&mut self, id: &str) {
        self.done(&Request::Start(Start { container: id.into(), ..Start::default() }));
    }

    pub fn run(&mut self, id: &str, script: &str) -> u32 {
        let pid = self.create(self.request(id, script, false));
        self.start(id);
        pid
    }

    pub fn done(&mut self, request: &Request) {
        assert!(matches!(self.client.ask(request), Ok(Reply::Done(_))), "{request:?}");
    }

    pub fn subscribe(&mut self) {
        assert!(matches!(self.client.ask(&Request::Subscribe(monitor::wire::Subscribe {})), Ok(Reply::State(_))));
    }

    pub fn kill(&mut self, id: &str, signal: u32) {
        self.done(&Request::Signal(Signal { container: id.into(), signal, ..Signal::default() }));
    }

    pub fn delete(&mut self, id: &str) {
        self.done(&Request::Delete(Delete { container: id.into(), ..Delete::default() }));
    }

    /// Waits for the exit of a container; a subscription is needed.
    pub fn exited(&mut self) -> monitor::wire::Exited {
        loop {
            if let Event::Exited(exited) = self.client.event().expect("event") {
                return exited;
            }
        }
    }

    pub fn record(&self, id: &str) -> Record {
        Record::read(&self.path(&format!("exit/{id}"))).expect("record").expect("written before the event")
    }

    /// Log lines without their time stamps.
    pub fn log(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(&format!("{id}.log"))).expect("log");
        text.lines().map(|line| line.split_once(' ').expect("time stamp").1.to_owned()).collect()
    }

    /// Runs `script` in a container: exit code, stdout, stderr.
    pub fn exec(&mut self, container: &str, name: &str, script: &str) -> (i32, String, String) {
        let path = self.path(&format!("{name}.json"));
        fs::write(&path, process(script, false)).expect("process.json");
        let (out_read, out_write) = std::io::pipe().expect("pipe");
        let (error_read, error_write) = std::io::pipe().expect("pipe");
        let null = fs::File::open("/dev/null").expect("null");
        let request =
            Request::Exec(Exec { exec: name.into(), container: container.into(), process: path, ..Exec::default() });
        let (reply, _) =
            self.client.call(&request, &[null.as_fd(), out_write.as_fd(), error_write.as_fd()]).expect("connection");
        assert!(matches!(reply, Ok(Reply::Exec(_))), "{reply:?}");
        drop((out_write, error_write));
        let out = std::io::read_to_string(out_read).expect("stdout");
        let error = std::io::read_to_string(error_read).expect("stderr");
        loop {
            match self.client.event().expect("event") {
                Event::ExecExited(exited) if exited.exec == name => return (exited.exit_code, out, error),
                _ => {}
            }
        }
    }

    /// Ends the monitor and checks that it is gone.
    pub fn shut_down(mut self) {
        self.done(&Request::Shutdown(Shutdown { force: true }));
        let end = loop {
            match self.client.event() {
                Ok(_) => {}
                Err(end) => break end,
            }
        };
        assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(!self.path("s/monitor.sock").exists());
        let left: Vec<_> =
            fs::read_dir(self.path("s")).expect("directory").flatten().map(|it| it.file_name()).collect();
        assert_eq!(left, ["monitor.log"], "scratch files are left");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.path("s")) {
            let _ = client.ask(&Request::Shutdown(Shutdown { force: true }));
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
            remove_cgroup(&hierarchy.path().join(self.cgroup.trim_start_matches('/')));
        }
    }
}

fn remove_cgroup(directory: &Path) {
    for child in fs::read_dir(directory).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    // The monitor leaves its cgroup a moment after it has closed its connections.
    for _ in 0..200_000 {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(16) => std::thread::yield_now(),
            _ => return,
        }
    }
}

/// Reads all of a terminal's master until it hangs up.
pub fn read_terminal(master: OwnedFd) -> String {
    use std::io::Read;
    let (mut file, mut bytes, mut chunk) = (fs::File::from(master), Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = file.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8(bytes).expect("text")
}

/// An OCI process that runs `script` in a shell.
pub fn process(script: &str, terminal: bool) -> String {
    let capabilities = r#"["CAP_KILL","CAP_CHOWN","CAP_NET_RAW"]"#;
    let script = script.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        r#"{{"terminal":{terminal},"user":{{"uid":0,"gid":0}},"args":["/bin/sh","-c","{script}"],"env":["PATH=/bin","TERM=xterm"],
        "cwd":"/","capabilities":{{"bounding":{capabilities},"effective":{capabilities},"permitted":{capabilities}}}}}"#
    )
}

const CONFIG: &str = r#"{"ociVersion":"1.0.2","process":@PROCESS@,"root":{"path":"rootfs"},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},
 {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755"]},
 {"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"]}],
"linux":{"cgroupsPath":"@CGROUP@","namespaces":[{"type":"pid"},{"type":"mount"},
 {"type":"network","path":"/proc/@MONITOR@/ns/net"},{"type":"ipc","path":"/proc/@MONITOR@/ns/ipc"},{"type":"uts","path":"/proc/@MONITOR@/ns/uts"}],
 "resources":{"memory":{"limit":67108864}}}}"#;
