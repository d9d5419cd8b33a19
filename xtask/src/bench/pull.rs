//! Cold pulls of made-up images from one registry: ours beside containerd, podman, and skopeo with umoci.
//!
//! What is not installed is skipped and said so. CPU time and memory count every process that takes part: daemon,
//! client and children. The floor is the time to inflate the same bytes and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use xtask::registry::{PASSWORD, Registry, USER};
use xtask::shell;

const ROUNDS: usize = 3;
const REGISTRY_PORT: u16 = 15052;
const LOOK: Duration = Duration::from_millis(10);
/// Ticks of the kernel's clock a second, as /proc counts CPU time.
const TICKS: f64 = 100.0;

/// The images: kind, and what it is for people.
const KINDS: [(&str, &str); 4] = [
    ("mixed", "500 MB in 8 gzip layers"),
    ("single", "200 MB in 1 gzip layer"),
    ("small", "10,000 small files, gzip"),
    ("zstd", "200 MB in 1 zstd layer"),
];

/// Measures everything and prints it.
pub fn run() -> anyhow::Result<()> {
    shell::run("cargo", &["build", "--release", "--quiet", "--package", "images", "--example", "bench"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from);
    let own = target.join("release/examples/bench");
    let cache = target.join("bench-pull");
    let registry = Registry::new(&cache.join("registry"), REGISTRY_PORT);
    registry.ensure()?;
    let result = KINDS.iter().try_for_each(|(kind, title)| {
        let layout = cache.join(kind);
        if !layout.join("index.json").exists() {
            println!("making {title}");
            shell::run(text(&own)?, &["make", kind, text(&layout)?])?;
        }
        registry.push(&layout, &format!("bench/{kind}:1"))?;
        measure(&own, &registry, &layout, (kind, title))
    });
    registry.stop()?;
    result
}

fn measure(own: &Path, registry: &Registry, layout: &Path, (kind, title): (&str, &str)) -> anyhow::Result<()> {
    let image = format!("{}/bench/{kind}:1", registry.address);
    println!("\n{title}");
    let floor = median((0..ROUNDS).map(|_| {
        let mut command = Command::new(own);
        command.arg("floor").arg(layout);
        watched(command, None)
    }))?;
    println!("  {:<14} {}", "inflate alone", floor.text());
    let ours = median((0..ROUNDS).map(|_| Scratch::new()?.sampan(own, &image)))?;
    println!("  {:<14} {}", "sampan", ours.text());
    type Peer = fn(&Scratch, &str) -> anyhow::Result<Cost>;
    let peers: [(&str, &[&str], Peer); 3] = [
        ("containerd", &["containerd", "ctr"], Scratch::containerd),
        ("podman", &["podman"], Scratch::podman),
        ("skopeo+umoci", &["skopeo", "umoci"], Scratch::umoci),
    ];
    for (name, programs, pull) in peers {
        if let Some(missing) = programs.iter().find(|program| shell::find(program).is_none()) {
            println!("  {name:<14} skipped: {missing} is not installed");
            continue;
        }
        match median((0..ROUNDS).map(|_| pull(&Scratch::new()?, &image))) {
            Ok(cost) => println!("  {name:<14} {}   sampan takes {}", cost.text(), ours.beside(&cost)),
            Err(error) => println!("  {name:<14} skipped: {error:#}"),
        }
    }
    Ok(())
}

/// What a pull costs.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
    megabytes: f64,
}

impl Cost {
    fn text(&self) -> String {
        format!("{:>6.2} s wall  {:>6.2} s CPU  {:>4.0} MB peak", self.wall, self.cpu, self.megabytes)
    }

    /// Our cost as a multiple of another's.
    fn beside(&self, other: &Cost) -> String {
        format!(
            "{:.2} x wall, {:.2} x CPU, {:.2} x memory",
            self.wall / other.wall,
            self.cpu / other.cpu,
            self.megabytes / other.megabytes
        )
    }
}

/// The median of each figure by itself.
fn median(rounds: impl Iterator<Item = anyhow::Result<Cost>>) -> anyhow::Result<Cost> {
    let costs = rounds.collect::<anyhow::Result<Vec<_>>>()?;
    let middle = |of: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(Cost { wall: middle(|c| c.wall), cpu: middle(|c| c.cpu), megabytes: middle(|c| c.megabytes) })
}

/// An empty directory for one cold pull, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        let directory = PathBuf::from(format!("/var/tmp/sampan-bench-pull-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory)?;
        Ok(Scratch(directory))
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn sampan(&self, own: &Path, image: &str) -> anyhow::Result<Cost> {
        let mut command = Command::new(own);
        command.args(["pull", &self.at("store"), image, USER, PASSWORD]);
        watched(command, None)
    }

    fn containerd(&self, image: &str) -> anyhow::Result<Cost> {
        let socket = self.at("containerd.sock");
        std::fs::write(self.at("config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
        let mut command = Command::new("containerd");
        command.args(["--config", &self.at("config.toml"), "--root", &self.at("root"), "--state", &self.at("state")]);
        command.args(["--address", &socket, "--log-level", "error"]).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Daemon(command.spawn().context("start containerd")?);
        let began = Instant::now();
        while shell::output("ctr", &["--address", &socket, "version"], "").is_err() {
            if began.elapsed() > Duration::from_secs(20) {
                bail!("containerd does not answer");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut command = Command::new("ctr");
        command.args([
            "--address",
            &socket,
            "images",
            "pull",
            "--plain-http",
            "--user",
            &format!("{USER}:{PASSWORD}"),
            image,
        ]);
        watched(command, Some(daemon.0.id()))
    }

    fn podman(&self, image: &str) -> anyhow::Result<Cost> {
        let mut command = Command::new("podman");
        command.args([
            "--root",
            &self.at("root"),
            "--runroot",
            &self.at("run"),
            "--storage-driver",
            "overlay",
            "pull",
            "--quiet",
        ]);
        command.args(["--tls-verify=false", "--creds", &format!("{USER}:{PASSWORD}"), image]);
        let cost = watched(command, None);
        let _ = Command::new("umount").args(["-l", &self.at("root/overlay")]).stderr(Stdio::null()).status();
        cost
    }

    fn umoci(&self, image: &str) -> anyhow::Result<Cost> {
        let mut command = Command::new("sh");
        let script = format!(
            "skopeo copy --quiet --insecure-policy --src-tls-verify=false --src-creds {USER}:{PASSWORD} docker://{image} oci:{layout}:1 && \
             umoci unpack --image {layout}:1 {bundle}",
            layout = self.at("layout"),
            bundle = self.at("bundle")
        );
        command.args(["-c", &script]);
        watched(command, None)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A daemon that ends with this value.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command to its end and looks at it, its children and a daemon meanwhile.
fn watched(mut command: Command, daemon: Option<u32>) -> anyhow::Result<Cost> {
    let before = children_ticks()? + daemon.map_or(0, |daemon| own_ticks(daemon).unwrap_or(0));
    let began = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
    let mut peak = 0;
    let status = loop {
        let roots = [Some(child.id()), daemon];
        peak = peak.max(resident_kilobytes(&roots.into_iter().flatten().collect::<Vec<_>>()));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK);
    };
    let wall = began.elapsed();
    if !status.success() {
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut said)?;
        }
        bail!("{:?} ended with {status}: {}", command.get_program(), said.lines().last().unwrap_or_default());
    }
    let after = children_ticks()? + daemon.map_or(0, |daemon| own_ticks(daemon).unwrap_or(0));
    let cpu = (after - before) as f64 / TICKS;
    Ok(Cost { wall: wall.as_secs_f64(), cpu, megabytes: peak as f64 / 1000.0 })
}

/// Fields of /proc/PID/stat after the name, counted from the third.
fn stat(pid: &str) -> Option<Vec<u64>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    Some(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

/// CPU time of the children that have ended, theirs included.
fn children_ticks() -> anyhow::Result<u64> {
    let fields = stat("self").context("read /proc/self/stat")?;
    Ok(fields[13] + fields[14])
}

/// CPU time of a process and of its children that have ended.
fn own_ticks(pid: u32) -> Option<u64> {
    stat(&pid.to_string()).map(|fields| fields[11..15].iter().sum())
}

/// Memory of processes and all that descend from them.
fn resident_kilobytes(roots: &[u32]) -> u64 {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(fields) = stat(&pid.to_string()) {
            parents.insert(pid, (u32::try_from(fields[1]).unwrap_or(0), fields[21] * 4));
        }
    }
    let descends = |mut pid: u32| loop {
        if roots.contains(&pid) {
            return true;
        }
        match parents.get(&pid) {
            Some((parent, _)) if *parent != 0 => pid = *parent,
            _ => return false,
        }
    };
    parents.iter().filter(|(pid, _)| descends(**pid)).map(|(_, (_, kilobytes))| kilobytes).sum()
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("odd path")
}
