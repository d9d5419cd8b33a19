//! A process that makes monitors by forking itself.
//!
//! Owns what starter and nursery say to each other: both are the same binary at the same time, so this is no wall.
//! A forked monitor loads and relocates nothing, and shares the memory in which that was done: it starts in a fraction
//! of the time and is a third of the size. Start with [`ask`] (the starter) and [`serve`] (the nursery).

use crate::start::{self, StartError};
use crate::sys::{self, Fork};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, PipeWriter, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

/// The word after `monitor` that makes a nursery.
pub const WORD: &str = "nursery";
/// Longest request.
const REQUEST_BYTES_MAX: usize = 32 * 1024;
/// Room for the command line that a monitor shows.
const TITLE_BYTES: usize = 1024;

/// The arguments of a nursery; its standard input is the other end of a `SOCK_SEQPACKET` pair.
pub fn arguments() -> [OsString; 2] {
    [WORD.into(), ".".repeat(TITLE_BYTES).into()]
}

/// Why no monitor came of a request.
#[derive(Debug)]
pub enum Refusal {
    /// The nursery is gone, and nothing was begun.
    Gone(io::Error),
    /// The monitor said why it could not start.
    Failed(String),
}

/// Asks the nursery at the other end of `socket` for a monitor with these arguments. Returns its pid once it serves.
///
/// # Errors
/// [`Refusal`]; nothing is left of the monitor then.
pub fn ask(socket: impl AsFd, arguments: &[OsString]) -> Result<u32, Refusal> {
    let (reader, writer) = io::pipe().map_err(|error| Refusal::Failed(format!("pipe: {error}")))?;
    let request = arguments.join(OsStr::new("\0"));
    if request.len() > REQUEST_BYTES_MAX {
        return Err(Refusal::Failed("the arguments are too long".into()));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let passed = [writer.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&passed));
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(request.as_bytes())], &mut control, SendFlags::NOSIGNAL)
    });
    sent.map_err(|error| Refusal::Gone(error.into()))?;
    drop(writer);
    start::read_report(reader).map_err(|error| Refusal::Failed(error.to_string()))
}

/// Forks a monitor for each request until the starter is gone.
pub(crate) fn serve(program: &OsStr) -> ExitCode {
    set_title(&[program, OsStr::new("monitor"), OsStr::new(WORD)]);
    let _ = rustix::thread::set_name(c"sampan-nursery");
    // It ends when its starter is gone and at nothing else: what ends the starter's whole process group is not for it.
    let _ = rustix::process::setsid();
    sys::block_endings();
    loop {
        match receive() {
            Ok(Some((request, report))) => beget(program, &request, report),
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "sampan monitor nursery: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
}

fn receive() -> io::Result<Option<(Vec<u8>, PipeWriter)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut request = vec![0; REQUEST_BYTES_MAX];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let (stdin, mut parts) = (io::stdin(), [IoSliceMut::new(&mut request)]);
        let received = rustix::net::recvmsg(stdin.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
        let received = match received {
            Ok(received) if received.bytes == 0 => return Ok(None),
            Ok(received) => received,
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let report = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        // Without a report nobody waits for an answer; a request that was cut is none.
        if let Some(report) = report.filter(|_| !received.flags.contains(ReturnFlags::TRUNC)) {
            request.truncate(received.bytes);
            return Ok(Some((request, PipeWriter::from(report))));
        }
    }
}

/// The monitor is a grandchild: nobody needs to wait for it.
fn beget(program: &OsStr, request: &[u8], report: PipeWriter) {
    match sys::fork() {
        Ok(Fork::Parent(child)) => {
            drop(report);
            let child = rustix::process::Pid::from_raw(child);
            let _ =
                rustix::io::retry_on_intr(|| rustix::process::waitpid(child, rustix::process::WaitOptions::empty()));
        }
        Ok(Fork::Child) => match sys::fork() {
            Ok(Fork::Child) => {
                let words: Vec<OsString> =
                    request.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.into())).collect();
                show(program, &words);
                let served = start::become_monitor(words, report);
                sys::exit_now(i32::from(served.is_err()));
            }
            Ok(Fork::Parent(_)) => sys::exit_now(0),
            Err(error) => {
                StartError::new("fork", error).report(report);
                sys::exit_now(1);
            }
        },
        Err(error) => StartError::new("fork", error).report(report),
    }
}

/// What process lists show of a monitor: what it would have been started with.
fn show(program: &OsStr, words: &[OsString]) {
    let mut title = vec![program, OsStr::new("monitor")];
    title.extend(words.iter().map(OsString::as_os_str));
    set_title(&title);
    let _ = rustix::thread::set_name(c"sampan-monitor");
}

/// Writes over the command line that the kernel shows, as far as there is room. Failures do no harm.
fn set_title(words: &[&OsStr]) {
    let written = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| title_place(&stat)).map(|(start, end)| {
        let mut title = words.join(OsStr::new("\0")).into_vec();
        title.resize(usize::try_from(end - start).unwrap_or(0), 0);
        if let Some(last) = title.last_mut() {
            *last = 0;
        }
        let mut memory: File = File::options().write(true).open("/proc/self/mem")?;
        memory.seek(SeekFrom::Start(start))?;
        memory.write_all(&title)
    });
    drop(written);
}

/// Where the command line lies: fields 48 and 49 of `/proc/self/stat`. The second field may hold anything.
fn title_place(stat: &str) -> Option<(u64, u64)> {
    let mut rest = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(45);
    let (start, end) = (rest.next()?.parse().ok()?, rest.next()?.parse().ok()?);
    (start > 0 && end > start).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_command_line_is_found_whatever_the_program_is_called() {
        let fields: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let stat = format!("1 (a) b)) S {}", fields.join(" "));
        assert_eq!(title_place(&stat), Some((48, 49)));
        assert_eq!(title_place("1 (x) S 2 3"), None);
    }
}
