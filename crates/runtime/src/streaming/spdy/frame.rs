//! Frames to bytes and back. Pure.
//!
//! Start with [`Decoder`]: bytes go in as they come, frames come out; the payload of data frames comes in pieces, so that
//! a frame's length costs no memory. What is no frame is [`Garbage`], after which the connection has no sense any more.

use bytes::{Buf as _, Bytes, BytesMut};

use super::block::{self, Headers};

/// Longest control frame that is read.
const CONTROL_BYTES_MAX: usize = 64 << 10;
/// Longest piece of a data frame.
pub(super) const PIECE_BYTES_MAX: usize = 32 << 10;
const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const STREAM_MASK: u32 = 0x7fff_ffff;
/// The setting of a stream's first window.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// Types of control frames.
mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const SETTINGS: u16 = 4;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
    pub(super) const WINDOW_UPDATE: u16 = 9;
}

/// Why a stream is reset.
pub(super) mod reset {
    pub(in super::super) const REFUSED_STREAM: u32 = 3;
}

/// Why a connection ends.
pub(super) mod goodbye {
    pub(in super::super) const OK: u32 = 0;
    pub(in super::super) const PROTOCOL_ERROR: u32 = 1;
}

/// What is no SPDY/3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no SPDY/3.1: {0}")]
pub(super) struct Garbage(pub(super) &'static str);

/// A frame, or a piece of a data frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// SYN_STREAM. `one_way`: the one who did not open it has nothing to say.
    Open { stream: u32, is_last: bool, one_way: bool, headers: Headers },
    /// SYN_REPLY.
    Reply { stream: u32, is_last: bool, headers: Headers },
    /// RST_STREAM.
    Reset { stream: u32, status: u32 },
    /// SETTINGS, of which one matters.
    Settings { initial_window: Option<u32> },
    /// PING; the answer is the same.
    Ping(u32),
    /// GOAWAY.
    GoAway { last: u32, status: u32 },
    /// HEADERS.
    More { stream: u32, is_last: bool, headers: Headers },
    /// WINDOW_UPDATE; stream 0 is all together.
    Credit { stream: u32, bytes: u32 },
    /// DATA.
    Data { stream: u32, is_last: bool, bytes: Bytes },
}

/// Reads frames.
pub(super) struct Decoder {
    buffer: BytesMut,
    blocks: block::Reader,
    /// The data frame whose payload is being read.
    open: Option<Open>,
}

struct Open {
    stream: u32,
    is_last: bool,
    left: usize,
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder { buffer: BytesMut::new(), blocks: block::Reader::new(), open: None }
    }

    /// Where to append what came. Not longer than a control frame if `next` is called until it says None.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame, or None until more bytes come.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Garbage> {
        loop {
            if self.open.is_some() {
                return Ok(self.piece());
            }
            let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
            let [a, b, c, d, flags, lengths @ ..] = *head;
            let length = u32::from_be_bytes([0, lengths[0], lengths[1], lengths[2]]) as usize;
            if a & 0x80 == 0 {
                let stream = u32::from_be_bytes([a, b, c, d]);
                self.buffer.advance(HEAD_BYTES);
                self.open = Some(Open { stream, is_last: flags & FIN != 0, left: length });
                continue;
            }
            if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
                return Err(Garbage("another version"));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(Garbage("control frame too long"));
            }
            if self.buffer.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            self.buffer.advance(HEAD_BYTES);
            let payload = self.buffer.split_to(length);
            if let Some(frame) = control(u16::from_be_bytes([c, d]), flags, &payload, &mut self.blocks)? {
                return Ok(Some(frame));
            }
        }
    }

    /// The next piece of the open data frame. An empty frame is one empty piece.
    fn piece(&mut self) -> Option<Frame> {
        let open = self.open.as_mut()?;
        let length = open.left.min(self.buffer.len()).min(PIECE_BYTES_MAX);
        if length == 0 && open.left > 0 {
            return None;
        }
        open.left -= length;
        let (stream, is_end) = (open.stream, open.left == 0);
        let is_last = open.is_last && is_end;
        if is_end {
            self.open = None;
        }
        Some(Frame::Data { stream, is_last, bytes: self.buffer.split_to(length).freeze() })
    }
}

/// A control frame; None for a type that nobody knows, which is to be passed over.
fn control(kind: u16, flags: u8, payload: &[u8], blocks: &mut block::Reader) -> Result<Option<Frame>, Garbage> {
    let is_last = flags & FIN != 0;
    let frame = match kind {
        kind::SYN_STREAM => {
            let (stream, rest) = stream_id(payload)?;
            let block = rest.get(6..).ok_or(Garbage("SYN_STREAM ends early"))?;
            let one_way = flags & UNIDIRECTIONAL != 0;
            Frame::Open { stream, is_last, one_way, headers: blocks.read(block)? }
        }
        kind::SYN_REPLY => {
            let (stream, block) = stream_id(payload)?;
            Frame::Reply { stream, is_last, headers: blocks.read(block)? }
        }
        kind::HEADERS => {
            let (stream, block) = stream_id(payload)?;
            Frame::More { stream, is_last, headers: blocks.read(block)? }
        }
        kind::RST_STREAM => two(payload).map(|(stream, status)| Frame::Reset { stream, status })?,
        kind::GOAWAY => two(payload).map(|(last, status)| Frame::GoAway { last, status })?,
        kind::WINDOW_UPDATE => {
            two(payload).map(|(stream, bytes)| Frame::Credit { stream, bytes: bytes & STREAM_MASK })?
        }
        kind::PING => Frame::Ping(u32::from_be_bytes(payload.try_into().map_err(|_| Garbage("length of PING"))?)),
        kind::SETTINGS => Frame::Settings { initial_window: settings(payload)? },
        _ => return Ok(None),
    };
    Ok(Some(frame))
}

fn stream_id(payload: &[u8]) -> Result<(u32, &[u8]), Garbage> {
    let (id, rest) = payload.split_first_chunk::<4>().ok_or(Garbage("a control frame ends early"))?;
    Ok((u32::from_be_bytes(*id) & STREAM_MASK, rest))
}

/// A frame of a stream's id and a number.
fn two(payload: &[u8]) -> Result<(u32, u32), Garbage> {
    let (stream, rest) = stream_id(payload)?;
    let number = rest.try_into().map_err(|_| Garbage("length of a control frame"))?;
    Ok((stream, u32::from_be_bytes(number)))
}

fn settings(payload: &[u8]) -> Result<Option<u32>, Garbage> {
    let (count, rest) = payload.split_first_chunk::<4>().ok_or(Garbage("SETTINGS ends early"))?;
    let (entries, left) = rest.as_chunks::<8>();
    if !left.is_empty() || u32::try_from(entries.len()) != Ok(u32::from_be_bytes(*count)) {
        return Err(Garbage("length of SETTINGS"));
    }
    let mut values = entries.iter().filter_map(|[_flags, a, b, c, value @ ..]| {
        (u32::from_be_bytes([0, *a, *b, *c]) == INITIAL_WINDOW_SIZE).then_some(u32::from_be_bytes(*value))
    });
    Ok(values.next_back())
}

/// Writes frames.
pub(super) struct Encoder {
    blocks: block::Writer,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder { blocks: block::Writer::new() }
    }

    /// Appends a frame. Data is at most a piece long.
    pub(super) fn encode(&mut self, frame: &Frame, to: &mut Vec<u8>) {
        match frame {
            Frame::Data { stream, is_last, bytes } => {
                to.extend_from_slice(&(stream & STREAM_MASK).to_be_bytes());
                put_length(to, if *is_last { FIN } else { 0 }, bytes.len());
                to.extend_from_slice(bytes);
            }
            Frame::Open { stream, is_last, one_way, headers } => {
                let flags = if *is_last { FIN } else { 0 } | if *one_way { UNIDIRECTIONAL } else { 0 };
                let mut payload = stream.to_be_bytes().to_vec();
                // No associated stream, highest priority, no credential slot.
                payload.extend_from_slice(&[0; 6]);
                self.blocks.write(headers, &mut payload);
                put_control(to, kind::SYN_STREAM, flags, &payload);
            }
            Frame::Reply { stream, is_last, headers } => {
                let payload = self.with_block(*stream, headers);
                put_control(to, kind::SYN_REPLY, if *is_last { FIN } else { 0 }, &payload);
            }
            Frame::More { stream, is_last, headers } => {
                let payload = self.with_block(*stream, headers);
                put_control(to, kind::HEADERS, if *is_last { FIN } else { 0 }, &payload);
            }
            Frame::Reset { stream, status } => put_control(to, kind::RST_STREAM, 0, &pair(*stream, *status)),
            Frame::GoAway { last, status } => put_control(to, kind::GOAWAY, 0, &pair(*last, *status)),
            Frame::Credit { stream, bytes } => put_control(to, kind::WINDOW_UPDATE, 0, &pair(*stream, *bytes)),
            Frame::Ping(id) => put_control(to, kind::PING, 0, &id.to_be_bytes()),
            Frame::Settings { initial_window } => {
                let mut payload = u32::from(initial_window.is_some()).to_be_bytes().to_vec();
                payload.extend(initial_window.iter().flat_map(|bytes| pair(INITIAL_WINDOW_SIZE, *bytes)));
                put_control(to, kind::SETTINGS, 0, &payload);
            }
        }
    }

    fn with_block(&mut self, stream: u32, headers: &Headers) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        self.blocks.write(headers, &mut payload);
        payload
    }
}

fn pair(stream: u32, number: u32) -> Vec<u8> {
    [stream.to_be_bytes(), number.to_be_bytes()].concat()
}

fn put_control(to: &mut Vec<u8>, kind: u16, flags: u8, payload: &[u8]) {
    to.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    to.extend_from_slice(&kind.to_be_bytes());
    put_length(to, flags, payload.len());
    to.extend_from_slice(payload);
}

fn put_length(to: &mut Vec<u8>, flags: u8, length: usize) {
    let length = u32::try_from(length).ok().filter(|length| *length < 1 << 24).expect("frames of ours are short");
    to.extend_from_slice(&((u32::from(flags) << 24) | length).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = Headers> {
        prop::collection::btree_map("[a-z-]{1,20}", "[ -~]{0,40}", 0..5)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let stream = || 0..=STREAM_MASK;
        let data = prop::collection::vec(any::<u8>(), 0..5000).prop_map(Bytes::from);
        prop_oneof![
            (stream(), any::<bool>(), any::<bool>(), headers())
                .prop_map(|(stream, is_last, one_way, headers)| Frame::Open { stream, is_last, one_way, headers }),
            (stream(), any::<bool>(), headers()).prop_map(|(stream, is_last, headers)| Frame::Reply {
                stream,
                is_last,
                headers
            }),
            (stream(), any::<bool>(), headers()).prop_map(|(stream, is_last, headers)| Frame::More {
                stream,
                is_last,
                headers
            }),
            (stream(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
            (stream(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (stream(), stream()).prop_map(|(stream, bytes)| Frame::Credit { stream, bytes }),
            any::<Option<u32>>().prop_map(|initial_window| Frame::Settings { initial_window }),
            any::<u32>().prop_map(Frame::Ping),
            (stream(), any::<bool>(), data).prop_map(|(stream, is_last, bytes)| Frame::Data { stream, is_last, bytes }),
        ]
    }

    /// Joins the pieces of data frames: how they are cut depends on how the bytes came.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut all: Vec<Frame> = Vec::new();
        for frame in frames {
            match (all.last_mut(), frame) {
                (
                    Some(Frame::Data { stream, is_last: is_last @ false, bytes }),
                    Frame::Data { stream: same, is_last: ends, bytes: more },
                ) if *stream == same => {
                    *bytes = [bytes.clone(), more].concat().into();
                    *is_last = ends;
                }
                (_, frame) => all.push(frame),
            }
        }
        all
    }

    fn decode(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, Garbage> {
        let mut decoder = Decoder::new();
        let (mut frames, mut rest, mut cuts) = (Vec::new(), bytes, cuts.iter().cycle());
        while !rest.is_empty() {
            let (some, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            decoder.buffer().extend_from_slice(some);
            rest = more;
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
            assert!(decoder.buffer().len() <= HEAD_BYTES + CONTROL_BYTES_MAX, "what is kept is bounded");
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            frames in prop::collection::vec(frame(), 0..20),
            cuts in prop::collection::vec(1_usize..3000, 1..10),
        ) {
            let (mut encoder, mut bytes) = (Encoder::new(), Vec::new());
            for frame in &frames {
                encoder.encode(frame, &mut bytes);
            }
            prop_assert_eq!(joined(decode(&bytes, &cuts).unwrap()), joined(frames));
        }

        #[test]
        fn garbage_is_refused_or_passed_over_and_kept_small(
            bytes in prop::collection::vec(any::<u8>(), 0..4000),
            cuts in prop::collection::vec(1_usize..100, 1..4),
        ) {
            let _ = decode(&bytes, &cuts);
        }

        #[test]
        fn garbage_within_a_control_frame_is_refused_or_passed_over(
            kind in 0_u16..12, flags in any::<u8>(), payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = Vec::new();
            put_control(&mut bytes, kind, flags, &payload);
            let _ = decode(&bytes, &[7]);
        }
    }

    #[test]
    fn what_cannot_be_a_frame_ends_the_reading() {
        let cases: [(&[u8], &str); 4] = [
            (&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], "another version"),
            (&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], "control frame too long"),
            (&[0x80, 3, 0, 6, 0, 0, 0, 3, 0, 0, 1], "length of PING"),
            (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 9], "length of SETTINGS"),
        ];
        for (bytes, why) in cases {
            assert_eq!(decode(bytes, &[1]), Err(Garbage(why)));
        }
    }

    #[test]
    fn a_long_data_frame_comes_in_pieces() {
        let mut bytes = 5_u32.to_be_bytes().to_vec();
        put_length(&mut bytes, FIN, 100_000);
        bytes.extend(vec![7; 100_000]);
        let frames = decode(&bytes, &[60_000]).unwrap();
        assert!(frames.len() >= 4);
        let Frame::Data { stream: 5, is_last: true, bytes } = &joined(frames)[0] else { panic!("no data") };
        assert_eq!(bytes.len(), 100_000);
    }
}
