//! Running a program that answers with a credential: bounded in time and output, and nothing of it outlives the call.
//!
//! Owns the process and its group. Must not read meaning into what the program says. No message holds its output but
//! the end of standard error, which IMG-203 wants in the error. Start at [`Program::run`].

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::{
    ffi::OsStr,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Interest, unix::AsyncFd},
    process::{Child, Command},
};

/// An answer may have so many bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// So many bytes of standard error are kept.
const WORDS_BYTES_MAX: usize = 2048;

/// What is to be run.
pub(super) struct Program {
    /// A path, or a name that is looked up in `PATH`.
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Over the environment of this process; the later of two wins.
    pub(super) environment: Vec<(String, String)>,
    pub(super) input: Vec<u8>,
    /// When it is killed.
    pub(super) limit: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The program could not be started.
    #[error("cannot be started: {0}")]
    Start(std::io::ErrorKind),
    /// It took too long and was killed.
    #[error("was killed after {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It ended badly.
    #[error("{status}: {words}")]
    Ended {
        /// The exit status in words.
        status: String,
        /// The end of standard error.
        words: String,
    },
    /// It says more than any credential needs.
    #[error("answers with more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

/// How a program ended.
pub(super) struct Finished {
    /// Its standard output.
    pub(super) answer: Vec<u8>,
    /// The end of its standard error.
    words: String,
    status: ExitStatus,
}

impl Finished {
    /// The answer of a program that ended well.
    pub(super) fn well(self) -> Result<Vec<u8>, Failure> {
        match self.status.success() {
            true => Ok(self.answer),
            false => Err(Failure::Ended { status: self.status.to_string(), words: self.words }),
        }
    }
}

impl Program {
    /// Runs it to its end.
    pub(super) async fn run(self) -> Result<Finished, Failure> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(k, v)| (OsStr::new(k), OsStr::new(v))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that what the program started ends with it.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| Failure::Start(error.kind()))?;
        let mut group = Group::of(&child).map_err(|error| Failure::Start(error.kind()))?;
        let ended = tokio::time::timeout(self.limit, talk(&mut child, &mut group, self.input)).await;
        match ended {
            Ok(Ok(finished)) if finished.answer.len() as u64 > ANSWER_BYTES_MAX => Err(Failure::TooLong),
            Ok(Ok(finished)) => Ok(finished),
            Ok(Err(error)) => Err(Failure::Start(error.kind())),
            Err(_) => {
                let _ = group.end(&mut child).await;
                Err(Failure::TimedOut(self.limit))
            }
        }
    }
}

/// Gives the input, takes both outputs and waits for the end. Children that the program leaves behind would hold the
/// outputs open: they end with it.
async fn talk(child: &mut Child, group: &mut Group, input: Vec<u8>) -> std::io::Result<Finished> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let give = async move {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input may be right all the same.
            let _ = stdin.write_all(&input).await;
        }
    };
    let (mut answer, mut words) = (Vec::new(), Vec::new());
    {
        let hear = async {
            tokio::join!(give, take(stdout, &mut answer, ANSWER_BYTES_MAX + 1), last(stderr, &mut words));
        };
        let mut hear = pin!(hear);
        tokio::select! {
            () = &mut hear => group.leader_ended().await?,
            ended = group.leader_ended() => {
                ended?;
                group.kill();
                hear.await;
            }
        }
    }
    let status = group.end(child).await?;
    Ok(Finished { answer, words: String::from_utf8_lossy(&words).trim().to_owned(), status })
}

/// Keeps the first bytes and reads the rest away, so that the writer is not stopped.
async fn take(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, limit: u64) {
    let Some(mut from) = from else { return };
    let _ = (&mut from).take(limit).read_to_end(into).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
}

/// Keeps the last bytes.
async fn last(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        into.extend_from_slice(&piece[..length]);
        into.drain(..into.len().saturating_sub(WORDS_BYTES_MAX));
    }
}

/// The process group of a child, named after its leader; what is left of it is killed on drop. Once the leader is reaped
/// its number may be another's, so nothing is sent any more then.
struct Group {
    leader: Option<Pid>,
    /// Tells the leader's end without reaping it.
    end: AsyncFd<OwnedFd>,
}

impl Group {
    fn of(child: &Child) -> std::io::Result<Group> {
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let leader = leader.ok_or(std::io::ErrorKind::NotFound)?;
        let end = pidfd_open(leader, PidfdFlags::NONBLOCK)?;
        // The replacement is unsafe because a descriptor could be closed behind its back; an `OwnedFd` cannot.
        #[allow(deprecated)]
        let end = AsyncFd::with_interest(end, Interest::READABLE)?;
        Ok(Group { leader: Some(leader), end })
    }

    /// Returns when the leader has ended; it is not reaped.
    async fn leader_ended(&self) -> std::io::Result<()> {
        self.end.readable().await.map(|mut ready| ready.retain_ready())
    }

    fn kill(&self) {
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }

    /// Kills what is left of it and reaps the leader.
    async fn end(&mut self, child: &mut Child) -> std::io::Result<ExitStatus> {
        self.kill();
        self.leader_ended().await?;
        self.leader = None;
        child.wait().await
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Program {
        Program {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("A".into(), "first".into()), ("A".into(), "second".into())],
            input: b"question".to_vec(),
            limit,
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    async fn answer(script: &str, limit: Duration) -> Result<Vec<u8>, Failure> {
        shell(script, limit).run().await?.well()
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_the_later_of_two_variables() {
        assert_eq!(answer("cat; printf ' %s' \"$A\"", LONG).await.unwrap(), b"question second");
    }

    #[tokio::test]
    async fn a_failure_carries_the_status_and_the_end_of_standard_error() {
        let error = answer("echo out; echo why >&2; exit 3", LONG).await.unwrap_err();
        assert_eq!(error, Failure::Ended { status: "exit status: 3".into(), words: "why".into() });
        let error = answer("i=0; while [ $i -lt 3000 ]; do echo $i >&2; i=$((i+1)); done; exit 1", LONG).await;
        let Err(Failure::Ended { words, .. }) = error else { panic!("{error:?}") };
        assert!(words.len() <= WORDS_BYTES_MAX && words.ends_with("2999"));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let error = answer(&script, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error, Failure::TimedOut(Duration::from_secs(5)));
        let pid = std::fs::read_to_string(&file).unwrap();
        assert!(is_gone(pid.trim()));
    }

    #[tokio::test]
    async fn a_child_that_is_left_behind_neither_delays_the_answer_nor_survives_it() {
        let found = answer("sleep 1000 & echo $!", LONG).await.unwrap();
        assert!(is_gone(String::from_utf8(found).unwrap().trim()));
    }

    #[tokio::test]
    async fn a_group_is_signalled_until_its_leader_is_reaped_and_never_after() {
        let mut command = Command::new("/bin/sh");
        let mut child = command.args(["-c", "exit 3"]).process_group(0).spawn().unwrap();
        let mut group = Group::of(&child).unwrap();
        group.leader_ended().await.unwrap();
        let leader = group.leader.unwrap();
        assert!(rustix::process::test_kill_process_group(leader).is_ok(), "nobody else can have its number yet");
        assert_eq!(group.end(&mut child).await.unwrap().code(), Some(3));
        assert!(group.leader.is_none());
        assert!(rustix::process::test_kill_process_group(leader).is_err());
    }

    /// Whether a process that is killed, and may be about to end, has ended.
    fn is_gone(pid: &str) -> bool {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            return true;
        };
        let ended = rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN);
        let patience = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        rustix::event::poll(&mut [ended], Some(&patience)).unwrap() == 1
    }

    #[tokio::test]
    async fn too_long_an_answer_and_a_missing_program_are_refused() {
        assert_eq!(answer("head -c 3000000 /dev/zero", LONG).await.unwrap_err(), Failure::TooLong);
        let missing = Program { program: "/nonexistent/plugin".into(), ..shell("", LONG) };
        assert_eq!(missing.run().await.map(|_| ()).unwrap_err(), Failure::Start(std::io::ErrorKind::NotFound));
    }
}
