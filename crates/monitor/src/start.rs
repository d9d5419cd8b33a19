//! How a process becomes a monitor: command line, daemon, cgroup, namespaces, socket.
//!
//! Owns the order of these steps and the report to the starter. Everything here runs with one thread.
//! Start with [`main`].

use crate::clock;
use crate::holder::Holder;
use crate::note::Notes;
use crate::nursery;
use crate::sys::{self, Fork};
use crate::wire::Welcome;
use crate::wire::socket::SOCKET_NAME;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the command line says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    id: String,
    directory: PathBuf,
    cgroup: String,
    hostname: String,
    namespaces: String,
    sysctls: Vec<(String, String)>,
}

/// A step that failed, in words for the starter.
#[derive(Debug)]
pub(crate) struct StartError {
    step: String,
    reason: String,
}

impl StartError {
    pub(crate) fn new(step: &str, reason: impl fmt::Display) -> StartError {
        StartError { step: step.into(), reason: reason.to_string() }
    }

    /// Tells the starter, who may be gone.
    pub(crate) fn report(&self, mut report: PipeWriter) {
        let _ = write!(report, "-{}\0{}", self.step, self.reason);
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.reason)
    }
}

trait AtStep<T> {
    fn at(self, step: impl Into<String>) -> Result<T, StartError>;
}

impl<T, E: fmt::Display> AtStep<T> for Result<T, E> {
    fn at(self, step: impl Into<String>) -> Result<T, StartError> {
        self.map_err(|error| StartError { step: step.into(), reason: error.to_string() })
    }
}

/// Runs `sampan monitor` with the arguments after that word. Must be called before anything else is set up:
/// no thread, no open descriptor. Returns when the monitor serves, or cannot; a nursery, when its starter is gone.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    sys::close_inherited();
    sys::keep_memory_small();
    let arguments: Vec<OsString> = arguments.collect();
    if arguments.first().is_some_and(|first| first == nursery::WORD) {
        return nursery::serve(&std::env::args_os().next().unwrap_or_default());
    }
    match start(arguments) {
        Ok(pid) => {
            let _ = writeln!(io::stdout(), "pid={pid}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "sampan monitor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts a monitor as a child that is told to nobody but init.
fn start(arguments: Vec<OsString>) -> Result<u32, StartError> {
    let (reader, writer) = io::pipe().at("pipe")?;
    match sys::fork().at("fork")? {
        Fork::Child => {
            drop(reader);
            let served = become_monitor(arguments, writer);
            sys::exit_now(i32::from(served.is_err()));
        }
        Fork::Parent(_) => {
            drop(writer);
            read_report(reader)
        }
    }
}

/// The child reports `+<pid>`, or `-<step>\0<reason>`; an empty report means that it died.
pub(crate) fn read_report(mut reader: impl Read) -> Result<u32, StartError> {
    let mut report = String::new();
    reader.read_to_string(&mut report).at("report")?;
    if let Some(pid) = report.strip_prefix('+') {
        return pid.parse().at("report");
    }
    let (step, reason) = report.strip_prefix('-').and_then(|it| it.split_once('\0')).unwrap_or(("start", "it died"));
    Err(StartError { step: step.into(), reason: reason.into() })
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options { namespaces: "net,ipc,uts".into(), ..Options::default() };
    while let Some(name) = arguments.next() {
        let name = name.to_string_lossy().into_owned();
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let text = || value.clone().into_string().map_err(|_| format!("{name} is not UTF-8"));
        match name.as_str() {
            "--id" => options.id = text()?,
            "--dir" => options.directory = PathBuf::from(value),
            "--cgroup" => options.cgroup = text()?,
            "--hostname" => options.hostname = text()?,
            "--namespaces" => options.namespaces = text()?,
            "--sysctl" => {
                let text = text()?;
                let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no key=value"))?;
                options.sysctls.push((key.into(), value.into()));
            }
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if options.id.is_empty() || options.directory.as_os_str().is_empty() {
        return Err("--id and --dir are required".into());
    }
    Ok(options)
}

/// Is the monitor until it is told to end. The report is written when it serves, or cannot.
pub(crate) fn become_monitor(arguments: Vec<OsString>, mut report: PipeWriter) -> Result<(), StartError> {
    let ready = parse(arguments.into_iter()).at("command line").and_then(|options| set_up(&options));
    let (mut holder, cgroups) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            error.report(report);
            return Err(error);
        }
    };
    let _ = write!(report, "+{}", std::process::id());
    drop(report);
    // The first move waits for all CPUs, some ten milliseconds: the starter need not wait for it, only the first request.
    for mut cgroup in cgroups {
        if let Err(error) = cgroup.write_all(b"0") {
            holder.note(&format!("the monitor stays in its starter's cgroup: {error}"));
        }
    }
    sys::trim_memory();
    let result = holder.run().at("poll");
    let _ = fs::remove_file(SOCKET_NAME);
    result
}

fn set_up(options: &Options) -> Result<(Holder, Vec<File>), StartError> {
    rustix::process::setsid().at("setsid")?;
    std::env::set_current_dir(&options.directory).at(format!("directory {}", options.directory.display()))?;
    let mut notes = Notes::open().at("log file")?;
    sys::block_endings();
    if let Err(error) = lower_oom_score() {
        notes.put(&format!("OOM score stays as it is: {error}"));
    }
    let cgroups = if options.cgroup.is_empty() { Vec::new() } else { open_cgroups(&options.cgroup)? };
    // Any pid but none means "yes".
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).at("subreaper")?;
    let pause_pid = make_namespaces(options)?;
    for (key, value) in &options.sysctls {
        set_sysctl(key, value).at(format!("sysctl {key}"))?;
    }
    let listener = listen()?;
    let welcome = Welcome {
        version: u32::from(crate::wire::codec::VERSION),
        pid: std::process::id(),
        sandbox: options.id.clone(),
        pause_pid,
        started_at: clock::now(),
    };
    notes.put(&format!("monitor of {} is ready", options.id));
    Ok((Holder::new(welcome, listener, notes), cgroups))
}

/// The kernel refuses this without `CAP_SYS_RESOURCE`; then the score stays that of the starter.
fn lower_oom_score() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-998")
}

/// Makes the namespaces; returns the pid of the pause process, or 0.
fn make_namespaces(options: &Options) -> Result<u32, StartError> {
    let mut flags = UnshareFlags::empty();
    let mut shares_processes = false;
    for name in options.namespaces.split(',').filter(|name| !name.is_empty()) {
        match name {
            "net" => flags |= UnshareFlags::NEWNET,
            "ipc" => flags |= UnshareFlags::NEWIPC,
            "uts" => flags |= UnshareFlags::NEWUTS,
            "pid" => shares_processes = true,
            _ => return Err(name).map_err(|name| format!("unknown namespace {name}")).at("namespaces"),
        }
    }
    if !flags.is_empty() {
        sys::unshare(flags).at("namespaces")?;
    }
    if flags.contains(UnshareFlags::NEWUTS) && !options.hostname.is_empty() {
        rustix::system::sethostname(options.hostname.as_bytes()).at("hostname")?;
    }
    if flags.contains(UnshareFlags::NEWNET) {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).at("loopback socket")?;
        sys::bring_loopback_up(socket.as_fd()).at("loopback")?;
    }
    if shares_processes { start_pause().at("pause process") } else { Ok(0) }
}

/// Starts the first process of a new PID namespace: it reaps, and dies with the monitor.
fn start_pause() -> io::Result<u32> {
    let own = File::open("/proc/self/ns/pid")?;
    sys::unshare(UnshareFlags::NEWPID)?;
    let forked = sys::fork()?;
    if let Fork::Parent(pid) = forked {
        // The OCI runtime's processes are to be in the monitor's own PID namespace again.
        rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        return Ok(u32::try_from(pid).unwrap_or(0));
    }
    // Above all the report to the starter, which is whole when nobody can write to it any more.
    sys::close_inherited();
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    loop {
        // Without a child there is nothing to wait for but time: orphans arrive without notice.
        if rustix::process::wait(rustix::process::WaitOptions::empty()).is_err() {
            let pause = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = rustix::event::poll(&mut [], Some(&pause));
        }
    }
}

/// Opens the doors to the cgroup `path` of the hierarchies by which processes are limited, counted or ended.
fn open_cgroups(path: &str) -> Result<Vec<File>, StartError> {
    let mut doors = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").at("mount table")?;
    for mount in cgroup_mounts(&mounts) {
        let directory = mount.join(path.trim_start_matches('/'));
        let step = || format!("cgroup {}", directory.display());
        fs::create_dir_all(&directory).at(step())?;
        let door = OpenOptions::new().write(true).open(directory.join("cgroup.procs")).at(step())?;
        doors.push(door);
    }
    Ok(doors)
}

/// Mount points of the cgroup hierarchies that matter to a monitor. In the others it stays where its starter is:
/// each move costs milliseconds, because the kernel waits for all CPUs.
fn cgroup_mounts(table: &str) -> Vec<PathBuf> {
    let mut mounts = Vec::new();
    for line in table.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let mut words = kind.split(' ');
        let matters = match words.next() {
            Some("cgroup2") => true,
            Some("cgroup") => {
                let options = words.nth(1).unwrap_or_default();
                options.split(',').any(|it| ["memory", "cpu", "pids"].contains(&it) || it.starts_with("name="))
            }
            _ => false,
        };
        // The fifth word is the mount point. Those of cgroups never contain the blanks that would be escaped.
        if matters && let Some(point) = place.split(' ').nth(4) {
            mounts.push(PathBuf::from(point));
        }
    }
    mounts
}

fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    if key.is_empty() || key.contains("..") || !key.bytes().all(plain) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no name of a sysctl"));
    }
    // Names with slashes keep their dots (interface names).
    let name = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    fs::write(Path::new("/proc/sys").join(name), value)
}

fn listen() -> Result<UnixListener, StartError> {
    // Somebody serves already: never take a living monitor's place.
    if std::os::unix::net::UnixStream::connect(SOCKET_NAME).is_ok() {
        return Err("another monitor serves here").at("socket");
    }
    let _ = fs::remove_file(SOCKET_NAME);
    let former = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(SOCKET_NAME).at("socket");
    rustix::process::umask(former);
    let listener = listener?;
    listener.set_nonblocking(true).at("socket")?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_line_is_read() {
        let options = parsed("--id a --dir /d --cgroup /s/monitors --hostname h --sysctl net.x=1 --namespaces ipc");
        let expected = Options {
            id: "a".into(),
            directory: "/d".into(),
            cgroup: "/s/monitors".into(),
            hostname: "h".into(),
            namespaces: "ipc".into(),
            sysctls: vec![("net.x".into(), "1".into())],
        };
        assert_eq!(options, Ok(expected));
        assert_eq!(parsed("--id a --dir"), Err("--dir needs a value".into()));
        assert_eq!(parsed("--id a --colour red"), Err("unknown option --colour".into()));
        assert_eq!(parsed("--id a"), Err("--id and --dir are required".into()));
    }

    #[test]
    fn cgroup_mounts_are_found_in_the_mount_table() {
        let table = "25 1 0:22 / /proc rw - proc proc rw\n31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                     40 30 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                     41 30 0:37 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";
        let expected = [PathBuf::from("/sys/fs/cgroup/cpu"), PathBuf::from("/sys/fs/cgroup/unified")];
        assert_eq!(cgroup_mounts(table), expected);
    }

    #[test]
    fn a_report_says_what_failed() {
        assert_eq!(read_report(&b"+42"[..]).expect("pid"), 42);
        assert_eq!(read_report(&b"-cgroup\0no"[..]).expect_err("failure").to_string(), "cgroup: no");
        assert_eq!(read_report(&b""[..]).expect_err("failure").to_string(), "start: it died");
    }
}
