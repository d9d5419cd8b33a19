//! One connection: a task that reads it, a task that writes it, and the streams between.
//!
//! Start with [`Connection::start`]. Both tasks end when the connection is over: the client hung up, sent garbage, or the
//! [`Connection`] was dropped or closed.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::frame::{Decoder, Encoder, Frame, Garbage, goodbye, reset};
use super::stream::{Input, Output, Piece, Post, Stream};
use super::window::{INITIAL, Windows};
use crate::state::lock;

/// Frames that may wait for a slow client; who has more to say then waits too.
const WAITING_MAX: usize = 16;
/// Streams at a time; more are refused.
const STREAMS_MAX: usize = 1024;
/// Pieces that may wait for the reader of one stream.
const PIECES_MAX: usize = 64;
/// Bytes that may wait for all readers of a connection.
const BYTES_MAX: usize = 1 << 20;
/// Bytes that are read at a time.
const READ_BYTES: usize = 32 << 10;
/// How long a client is given to hang up after everything was said, and to take what was said last.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where bytes go out: the connection itself, or a WebSocket around it.
pub(in super::super) enum Outlet<W> {
    Plain(W),
    Tunnel(SplitSink<WebSocket, Message>),
}

impl<W: AsyncWrite + Unpin> Outlet<W> {
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Outlet::Plain(to) => to.write_all(&bytes).await,
            Outlet::Tunnel(to) => to.send(Message::Binary(bytes.into())).await.map_err(io::Error::other),
        }
    }

    async fn end(&mut self) {
        // The client may have hung up before.
        match self {
            Outlet::Plain(to) => drop(to.shutdown().await),
            Outlet::Tunnel(to) => {
                let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
                let _ = to.send(Message::Close(Some(frame))).await;
                let _ = to.close().await;
            }
        }
    }
}

/// A client's connection. Dropping it ends the connection at once.
pub(in super::super) struct Connection {
    opened: mpsc::Receiver<Stream>,
    post: Arc<Post>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    over: CancellationToken,
    _end: DropGuard,
}

impl Connection {
    /// Begins to read and write. `cancel` ends the connection.
    pub(in super::super) fn start<R, W>(
        from: R,
        to: Outlet<W>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Connection
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let over = cancel.child_token();
        let (frames, waiting) = mpsc::channel(WAITING_MAX);
        let post = Arc::new(Post { frames, windows: Mutex::new(Windows::new()), opened: Notify::new() });
        let (to_user, opened) = mpsc::channel(WAITING_MAX);
        let desk = Desk {
            post: post.clone(),
            to_user,
            over: over.clone(),
            room: Arc::new(Semaphore::new(BYTES_MAX)),
            streams: BTreeMap::new(),
            last: 0,
            owed: 0,
        };
        let reader = tasks.spawn(read(from, desk));
        let writer = tasks.spawn(write(to, waiting, over.clone()));
        Connection { opened, post, reader, writer, over: over.clone(), _end: over.drop_guard() }
    }

    /// The next stream that the client opens; None when the connection is over.
    pub(in super::super) async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Ends after everything was said: the client is given time to hang up first, since some lose what they have not
    /// read yet when their connection ends.
    pub(in super::super) async fn close(mut self) {
        self.opened.close();
        while self.opened.try_recv().is_ok() {}
        let _ = tokio::time::timeout(PATIENCE, &mut self.reader).await;
        let _ = self.post.frames.try_send(Frame::GoAway { last: 0, status: goodbye::OK });
        self.over.cancel();
        let _ = self.writer.await;
    }
}

/// Writes what is posted; at the end also what is still waiting. A frame is never cut short, but by a client that takes
/// nothing for a while after the end.
async fn write<W: AsyncWrite + Unpin>(mut to: Outlet<W>, mut waiting: mpsc::Receiver<Frame>, over: CancellationToken) {
    let all = async {
        let mut encoder = Encoder::new();
        while let Some(Some(frame)) = over.run_until_cancelled(waiting.recv()).await {
            write_with_followers(frame, &mut waiting, &mut encoder, &mut to).await?;
        }
        if let Ok(frame) = waiting.try_recv() {
            write_with_followers(frame, &mut waiting, &mut encoder, &mut to).await?;
        }
        to.end().await;
        io::Result::Ok(())
    };
    let too_late = async {
        over.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! { _ = all => {}, () = too_late => {} }
    over.cancel();
}

/// Writes a frame and those that wait already in one go.
async fn write_with_followers<W: AsyncWrite + Unpin>(
    frame: Frame,
    waiting: &mut mpsc::Receiver<Frame>,
    encoder: &mut Encoder,
    to: &mut Outlet<W>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    encoder.encode(&frame, &mut bytes);
    while let Ok(frame) = waiting.try_recv() {
        encoder.encode(&frame, &mut bytes);
    }
    to.write(bytes).await
}

/// Reads until the connection is over, whoever ends it.
async fn read<R: AsyncRead + Unpin>(mut from: R, mut desk: Desk) {
    let over = desk.over.clone();
    let carried = over.run_until_cancelled(carry(&mut from, &mut desk)).await;
    if let Some(Err(garbage)) = carried {
        tracing::debug!(%garbage, "a streaming connection ends");
        let goodbye = Frame::GoAway { last: desk.last, status: goodbye::PROTOCOL_ERROR };
        let _ = desk.post.frames.try_send(goodbye);
    }
    over.cancel();
}

async fn carry<R: AsyncRead + Unpin>(from: &mut R, desk: &mut Desk) -> Result<(), Garbage> {
    let mut decoder = Decoder::new();
    loop {
        while let Some(frame) = decoder.next()? {
            if !desk.take(frame).await? {
                return Ok(());
            }
        }
        decoder.buffer().reserve(READ_BYTES);
        // An error of the connection is its end.
        if from.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
            return Ok(());
        }
    }
}

/// The reader's state: who gets what comes.
struct Desk {
    post: Arc<Post>,
    to_user: mpsc::Sender<Stream>,
    over: CancellationToken,
    room: Arc<Semaphore>,
    streams: BTreeMap<u32, Line>,
    /// The newest stream.
    last: u32,
    /// Bytes of all streams that came and were not credited. Credit is given as soon as there is room: that is what
    /// bounds the memory, also of clients that know no windows.
    owed: i64,
}

/// The reader's end of a stream.
struct Line {
    /// Until the client has said its last word here.
    to: Option<mpsc::Sender<Piece>>,
    gone: CancellationToken,
    /// Whether somebody holds the input or the output still.
    held: Weak<()>,
}

impl Desk {
    /// Takes a frame; false when the client says goodbye.
    async fn take(&mut self, frame: Frame) -> Result<bool, Garbage> {
        match frame {
            Frame::Open { stream, is_last, one_way: _, headers } => self.open(stream, is_last, headers).await?,
            Frame::Data { stream, is_last, bytes } => self.data(stream, is_last, bytes).await?,
            Frame::Reset { stream, .. } => self.forget(stream),
            Frame::More { stream, is_last: true, .. } | Frame::Reply { stream, is_last: true, .. } => self.ends(stream),
            Frame::More { .. } | Frame::Reply { .. } => {}
            Frame::Settings { initial_window: None } => {}
            Frame::Settings { initial_window: Some(bytes) } => {
                lock(&self.post.windows).set_initial(bytes);
                self.post.opened.notify_waiters();
            }
            Frame::Credit { stream, bytes } => {
                lock(&self.post.windows).credit(stream, bytes);
                self.post.opened.notify_waiters();
            }
            // Even numbers would be answers to pings of ours, and we send none.
            Frame::Ping(id) if !id.is_multiple_of(2) => {
                let _ = self.post.send(Frame::Ping(id)).await;
            }
            Frame::Ping(_) => {}
            Frame::GoAway { .. } => return Ok(false),
        }
        Ok(true)
    }

    async fn open(&mut self, id: u32, is_last: bool, headers: super::Headers) -> Result<(), Garbage> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Garbage("number of a stream"));
        }
        self.last = id;
        self.sweep();
        if self.streams.len() >= STREAMS_MAX {
            let _ = self.post.send(Frame::Reset { stream: id, status: reset::REFUSED_STREAM }).await;
            return Ok(());
        }
        let (to, pieces) = mpsc::channel(PIECES_MAX);
        let gone = self.over.child_token();
        lock(&self.post.windows).open(id);
        let held = Arc::new(());
        let line = Line { to: (!is_last).then_some(to), gone: gone.clone(), held: Arc::downgrade(&held) };
        self.streams.insert(id, line);
        let input = Input { stream: id, pieces, owed: 0, post: self.post.clone(), _held: held.clone() };
        let output =
            Output { stream: id, post: self.post.clone(), is_finished: AtomicBool::new(false), gone, _held: held };
        if let Err(refused) = self.to_user.send(Stream { id, headers, input, output }).await {
            refused.0.refuse().await;
            self.forget(id);
        }
        Ok(())
    }

    async fn data(&mut self, id: u32, is_last: bool, bytes: bytes::Bytes) -> Result<(), Garbage> {
        if id > self.last {
            return Err(Garbage("data without a stream"));
        }
        let to = self.streams.get(&id).and_then(|line| line.to.as_ref());
        self.owed += i64::try_from(bytes.len()).unwrap_or(INITIAL);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some(to) = to.filter(|_| length > 0)
            && let Ok(room) = self.room.clone().acquire_many_owned(length).await
        {
            // Nobody reads it any more: thrown away.
            let _ = to.send(Piece { bytes, _room: room }).await;
        }
        if self.owed >= INITIAL / 2 {
            let bytes = u32::try_from(self.owed).unwrap_or(u32::MAX);
            let _ = self.post.send(Frame::Credit { stream: 0, bytes }).await;
            self.owed = 0;
        }
        if is_last {
            self.ends(id);
        }
        Ok(())
    }

    /// The client has said its last word on a stream.
    fn ends(&mut self, id: u32) {
        if let Some(line) = self.streams.get_mut(&id) {
            line.to = None;
        }
    }

    fn forget(&mut self, id: u32) {
        if let Some(line) = self.streams.remove(&id) {
            line.gone.cancel();
        }
        lock(&self.post.windows).close(id);
    }

    /// Forgets the streams that nobody holds any more.
    fn sweep(&mut self) {
        let over: Vec<u32> =
            self.streams.iter().filter(|(_, line)| line.held.strong_count() == 0).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.forget(id));
    }
}

#[cfg(test)]
pub(in super::super) mod tests {
    use super::*;
    use crate::streaming::spdy::Headers;
    use bytes::Bytes;
    use tokio::io::DuplexStream;

    /// A client that says frames and hears them.
    pub(in super::super::super) struct Client {
        socket: DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
    }

    impl Client {
        pub(in super::super::super) async fn open(&mut self, stream: u32, kind: &str) {
            let headers = Headers::from([("streamtype".into(), kind.into())]);
            self.say(Frame::Open { stream, is_last: false, one_way: false, headers }).await;
        }

        pub(in super::super::super) async fn data(&mut self, stream: u32, bytes: &'static [u8], is_last: bool) {
            self.say(Frame::Data { stream, is_last, bytes: Bytes::from_static(bytes) }).await;
        }

        async fn say(&mut self, frame: Frame) {
            let mut bytes = Vec::new();
            self.encoder.encode(&frame, &mut bytes);
            self.socket.write_all(&bytes).await.unwrap();
        }

        /// The next frame; None at the end.
        async fn hear(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.decoder.next().unwrap() {
                    return Some(frame);
                }
                if self.socket.read_buf(self.decoder.buffer()).await.unwrap() == 0 {
                    return None;
                }
            }
        }

        /// Hears so many bytes of data, in however many pieces.
        async fn exactly(&mut self, mut bytes_left: usize) {
            while bytes_left > 0 {
                let Some(Frame::Data { bytes, .. }) = self.hear().await else { panic!("no data") };
                bytes_left = bytes_left.checked_sub(bytes.len()).expect("not more than is allowed");
            }
        }

        /// What comes on a stream until its end.
        pub(in super::super::super) async fn gather(&mut self, of: u32) -> Vec<u8> {
            let mut all = Vec::new();
            while let Some(frame) = self.hear().await {
                if let Frame::Data { stream, is_last, bytes } = frame
                    && stream == of
                {
                    all.extend_from_slice(&bytes);
                    if is_last {
                        break;
                    }
                }
            }
            all
        }
    }

    pub(in super::super::super) fn pair(tasks: &TaskTracker) -> (Client, Connection) {
        let (socket, server) = tokio::io::duplex(64 << 10);
        let (from, to) = tokio::io::split(server);
        let connection = Connection::start(from, Outlet::Plain(to), tasks, &CancellationToken::new());
        (Client { socket, encoder: Encoder::new(), decoder: Decoder::new() }, connection)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_opened_carries_both_ways_and_ends() {
        let tasks = TaskTracker::new();
        let (mut client, mut connection) = pair(&tasks);
        client.open(1, "data").await;
        client.data(1, b"hello", true).await;
        let mut stream = connection.accept().await.unwrap();
        assert_eq!(stream.headers["streamtype"], "data");
        stream.accept().await;
        assert_eq!(client.hear().await, Some(Frame::Reply { stream: 1, is_last: false, headers: Headers::new() }));
        assert_eq!(stream.input.next().await.unwrap(), "hello");
        assert_eq!(stream.input.next().await, None);
        stream.output.write(Bytes::from_static(b"back")).await.unwrap();
        stream.output.finish().await;
        assert_eq!(client.gather(1).await, b"back");
        drop(client);
        assert!(connection.accept().await.is_none(), "who hangs up is gone");
        stream.output.gone().await;
        connection.close().await;
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn pings_come_back_and_garbage_ends_the_connection() {
        let tasks = TaskTracker::new();
        let (mut client, mut connection) = pair(&tasks);
        client.say(Frame::Ping(7)).await;
        assert_eq!(client.hear().await, Some(Frame::Ping(7)));
        client.socket.write_all(b"\x80\x02garbage").await.unwrap();
        assert!(connection.accept().await.is_none());
        let status = goodbye::PROTOCOL_ERROR;
        assert_eq!(client.hear().await, Some(Frame::GoAway { last: 0, status }));
        assert_eq!(client.hear().await, None);
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_bounded_and_stops_the_client() {
        let tasks = TaskTracker::new();
        let (mut client, mut connection) = pair(&tasks);
        client.open(1, "data").await;
        let mut stream = connection.accept().await.unwrap();
        let piece = vec![1_u8; 32 << 10];
        let mut sent = 0;
        let flood = async {
            loop {
                client.say(Frame::Data { stream: 1, is_last: false, bytes: piece.clone().into() }).await;
                sent += piece.len();
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(60), flood).await.is_err());
        assert!(sent <= BYTES_MAX + (256 << 10), "{sent} bytes were taken");
        let mut read = 0;
        while read < sent {
            read += stream.input.next().await.unwrap().len();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_windows_is_credited_and_not_sent_more_than_it_allows() {
        let tasks = TaskTracker::new();
        let (mut client, mut connection) = pair(&tasks);
        client.say(Frame::Settings { initial_window: Some(1000) }).await;
        client.open(1, "data").await;
        let mut stream = connection.accept().await.unwrap();
        let write = stream.output.write(vec![5; 1500].into());
        assert!(tokio::time::timeout(Duration::from_secs(60), write).await.is_err(), "it waits for the window");
        client.exactly(1000).await;
        client.say(Frame::Credit { stream: 1, bytes: 500 }).await;
        stream.output.write(vec![5; 500].into()).await.unwrap();
        client.exactly(500).await;
        client.say(Frame::Data { stream: 1, is_last: false, bytes: vec![6; 40_000].into() }).await;
        let mut credits = Vec::new();
        let reading = async { while stream.input.next().await.is_some() {} };
        let hearing = async {
            while credits.len() < 2 {
                if let Some(Frame::Credit { stream, .. }) = client.hear().await {
                    credits.push(stream);
                }
            }
        };
        tokio::select! { () = reading => panic!("no end"), () = hearing => {} }
        credits.sort_unstable();
        assert_eq!(credits, [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_ends_a_stream_and_too_many_are_refused() {
        let tasks = TaskTracker::new();
        let (mut client, mut connection) = pair(&tasks);
        client.open(1, "data").await;
        let mut stream = connection.accept().await.unwrap();
        client.say(Frame::Reset { stream: 1, status: 5 }).await;
        stream.output.gone().await;
        assert!(stream.output.write(Bytes::from_static(b"x")).await.is_err());
        assert_eq!(stream.input.next().await, None);
        let mut held = Vec::new();
        for number in 0..STREAMS_MAX {
            client.open(u32::try_from(number * 2 + 3).unwrap(), "data").await;
            held.push(connection.accept().await.unwrap());
        }
        client.open(9001, "data").await;
        let status = reset::REFUSED_STREAM;
        assert_eq!(client.hear().await, Some(Frame::Reset { stream: 9001, status }));
        drop(held);
        client.open(9003, "data").await;
        assert!(connection.accept().await.is_some(), "what was let go makes room");
    }
}
