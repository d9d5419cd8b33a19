//! A client on SPDY: stdin, stdout, stderr, the end (`error`) and the terminal's size (`resize`) are streams, told apart
//! by their header `streamType`.

use std::time::Duration;

use bytes::Bytes;

use super::client::{self, End, From, Gone, Said};
use super::spdy::{Connection, Input, Output, Stream};

/// How long a client may take to open its streams.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);
/// Longest size of a terminal, as text, that is waited for.
const SIZE_BYTES_MAX: usize = 4 << 10;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) name: &'static str,
    /// The end is told as a Status, not as text.
    has_status: bool,
    has_resize: bool,
}

/// What is spoken, the best first.
pub(super) const VERSIONS: [Version; 4] = [
    Version { name: "v4.channel.k8s.io", has_status: true, has_resize: true },
    Version { name: "v3.channel.k8s.io", has_status: false, has_resize: true },
    Version { name: "v2.channel.k8s.io", has_status: false, has_resize: false },
    Version { name: "channel.k8s.io", has_status: false, has_resize: false },
];

/// The streams that a client was promised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

/// Waits until a client has opened its streams. None if it goes, or takes too long.
pub(super) async fn client(mut connection: Connection, version: Version, wanted: Wanted) -> Option<(Ear, Voice)> {
    let gathered = tokio::time::timeout(OPEN_PATIENCE, gather(&mut connection, wanted)).await;
    let Ok(Some(mut streams)) = gathered else {
        tracing::debug!("a client did not open its streams");
        connection.close().await;
        return None;
    };
    let voice = Voice {
        stdout: streams.stdout.take().map(|stream| stream.output),
        stderr: streams.stderr.take().map(|stream| stream.output),
        error: streams.error.take()?.output,
        version,
    };
    // Dropping a stream's output would not end it; the other half lives on.
    let stdin = streams.stdin.take().map(|stream| stream.input);
    let resize = streams.resize.take().map(|stream| stream.input);
    Some((Ear { connection, stdin, resize, size: Vec::new(), version }, voice))
}

#[derive(Default)]
struct Streams {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    error: Option<Stream>,
    resize: Option<Stream>,
}

async fn gather(connection: &mut Connection, wanted: Wanted) -> Option<Streams> {
    let mut streams = Streams::default();
    loop {
        let is_here = |stream: &Option<Stream>, wanted: bool| stream.is_some() || !wanted;
        if is_here(&streams.error, true)
            && is_here(&streams.stdin, wanted.stdin)
            && is_here(&streams.stdout, wanted.stdout)
            && is_here(&streams.stderr, wanted.stderr)
        {
            return Some(streams);
        }
        let stream = connection.accept().await?;
        let place = match stream.headers.get("streamtype").map(String::as_str) {
            Some("stdin") => &mut streams.stdin,
            Some("stdout") => &mut streams.stdout,
            Some("stderr") => &mut streams.stderr,
            Some("error") => &mut streams.error,
            Some("resize") => &mut streams.resize,
            _ => {
                stream.refuse().await;
                continue;
            }
        };
        if place.is_some() {
            stream.refuse().await;
            continue;
        }
        stream.accept().await;
        *place = Some(stream);
    }
}

/// Listens.
pub(super) struct Ear {
    connection: Connection,
    stdin: Option<Input>,
    resize: Option<Input>,
    /// The beginning of a size.
    size: Vec<u8>,
    version: Version,
}

impl client::Ear for Ear {
    async fn hear(&mut self) -> Option<Said> {
        loop {
            if let Some(size) = next_size(&mut self.size) {
                return Some(size);
            }
            tokio::select! {
                input = next(self.stdin.as_mut()) => match input {
                    Some(bytes) => return Some(Said::Input(bytes)),
                    None => {
                        self.stdin = None;
                        return Some(Said::InputEnds);
                    }
                },
                bytes = next(self.resize.as_mut()) => match bytes {
                    Some(bytes) => self.size.extend_from_slice(&bytes),
                    None => self.resize = None,
                },
                // Nobody is made to wait for the stream of sizes, so it may come late.
                stream = self.connection.accept() => {
                    let stream = stream?;
                    let is_resize = stream.headers.get("streamtype").is_some_and(|kind| kind == "resize");
                    if is_resize && self.resize.is_none() && self.version.has_resize {
                        stream.accept().await;
                        self.resize = Some(stream.input);
                    } else {
                        stream.refuse().await;
                    }
                }
            }
        }
    }

    async fn part(mut self) {
        // What is still said is thrown away.
        self.stdin = None;
        self.resize = None;
        self.connection.close().await;
    }
}

async fn next(input: Option<&mut Input>) -> Option<Bytes> {
    match input {
        Some(input) => input.next().await,
        None => std::future::pending().await,
    }
}

/// Takes a whole size out of what came; clients write one after the other without marks.
fn next_size(came: &mut Vec<u8>) -> Option<Said> {
    loop {
        let mut values = serde_json::Deserializer::from_slice(came).into_iter();
        match values.next() {
            Some(Ok(value)) => {
                let end = values.byte_offset();
                came.drain(..end);
                if let Some(size) = client::size(&value) {
                    return Some(size);
                }
            }
            Some(Err(error)) if error.is_eof() && came.len() < SIZE_BYTES_MAX => return None,
            Some(Err(_)) => came.clear(),
            None => return None,
        }
    }
}

/// Speaks.
pub(super) struct Voice {
    stdout: Option<Output>,
    stderr: Option<Output>,
    error: Output,
    version: Version,
}

impl client::Voice for Voice {
    async fn greet(&self) {}

    async fn say(&self, from: From, bytes: Bytes) -> Result<(), Gone> {
        let to = match from {
            From::Stdout => &self.stdout,
            From::Stderr => &self.stderr,
        };
        match to {
            Some(to) => to.write(bytes).await.map_err(|_| Gone),
            None => Ok(()),
        }
    }

    async fn end(&self, end: &End) {
        for output in self.stdout.iter().chain(&self.stderr) {
            output.finish().await;
        }
        let text = if self.version.has_status { end.status() } else { end.plain() };
        let _ = self.error.write(text).await;
        self.error.finish().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_found_however_they_were_cut() {
        let mut came = b"{\"Width\":80,\"Height\":24}\n{\"Width\":9".to_vec();
        assert_eq!(next_size(&mut came), Some(Said::Resize { columns: 80, rows: 24 }));
        assert_eq!(next_size(&mut came), None);
        came.extend_from_slice(b"1,\"Height\":27}\n");
        assert_eq!(next_size(&mut came), Some(Said::Resize { columns: 91, rows: 27 }));
        assert_eq!(next_size(&mut came), None);
    }

    #[test]
    fn garbage_is_thrown_away_and_not_kept() {
        let mut came = b"nonsense".to_vec();
        assert_eq!(next_size(&mut came), None);
        assert!(came.is_empty());
        let mut came = vec![b'['; SIZE_BYTES_MAX];
        assert_eq!(next_size(&mut came), None);
        assert!(came.is_empty());
    }

    /// Opens all streams of a version, says and hears everything that there is.
    async fn conversation(version: Version) -> (Vec<u8>, Vec<u8>) {
        use client::{Ear as _, Voice as _};
        let tasks = tokio_util::task::TaskTracker::new();
        let (mut peer, connection) = super::super::spdy::tests::pair(&tasks);
        for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "nonsense"), (9, "resize")] {
            peer.open(stream, kind).await;
        }
        let wanted = Wanted { stdin: true, stdout: true, stderr: false };
        let (mut ear, voice) = client(connection, version, wanted).await.expect("the streams are there");
        peer.data(3, b"in", true).await;
        peer.data(9, b"{\"Width\":3,\"Height\":4}", false).await;
        let mut said = Vec::new();
        for _ in 0..if version.has_resize { 3 } else { 2 } {
            said.push(ear.hear().await.unwrap());
        }
        assert!(said.contains(&Said::Input("in".into())) && said.contains(&Said::InputEnds));
        assert_eq!(said.contains(&Said::Resize { columns: 3, rows: 4 }), version.has_resize);
        voice.say(From::Stdout, "out".into()).await.unwrap();
        voice.say(From::Stderr, "nowhere".into()).await.unwrap();
        voice.end(&End::Exit(7)).await;
        let heard = (peer.gather(5).await, peer.gather(1).await);
        drop(peer);
        ear.part().await;
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn every_version_carries_its_streams_and_tells_the_end_in_its_way() {
        for version in VERSIONS {
            let (out, end) = conversation(version).await;
            assert_eq!(out, b"out");
            let expected = if version.has_status { End::Exit(7).status() } else { End::Exit(7).plain() };
            assert_eq!(end, expected, "{}", version.name);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_opens_no_streams_is_not_waited_for() {
        let tasks = tokio_util::task::TaskTracker::new();
        let (_peer, connection) = super::super::spdy::tests::pair(&tasks);
        let wanted = Wanted { stdin: false, stdout: true, stderr: true };
        assert!(client(connection, VERSIONS[0], wanted).await.is_none());
        tasks.close();
        tasks.wait().await;
    }
}
