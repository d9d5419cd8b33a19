//! Bytes of the monitor's wall: the frame header and tagged fields.
//!
//! Owns the encoding alone and knows no message. It never panics on foreign bytes and never
//! allocates more than `BODY_BYTES_MAX` for a frame. Start with [`Header`] and [`Field`].

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The version that this build writes in the first byte of each frame.
pub const VERSION: u8 = 1;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 12;
/// Longest body that either side accepts.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Most file descriptors that one frame carries.
pub const DESCRIPTORS_MAX: usize = 4;

/// The first twelve bytes of a frame. Integers are little-endian.
///
/// ```text
/// byte  0      1             2..4   4..8         8..12
///       version descriptors  kind   body length  id
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Format of everything that follows; see [`VERSION`].
    pub version: u8,
    /// How many file descriptors were sent with this frame (`SCM_RIGHTS`, on its first byte).
    pub descriptors: u8,
    /// Which message the body is; the ranges are described in `docs/walls/monitor.md`.
    pub kind: u16,
    /// Bytes of body.
    pub length: u32,
    /// Chosen by the client, repeated in the reply. Zero in events.
    pub id: u32,
}

impl Header {
    /// The header as bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.version;
        bytes[1] = self.descriptors;
        bytes[2..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// Reads a header from the start of `bytes`; `None` as long as there are too few.
    ///
    /// # Errors
    /// A version of zero, too long a body or too many descriptors: the stream is garbage and must be closed.
    pub fn decode(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Header {
            version: bytes[0],
            descriptors: bytes[1],
            kind: u16::from_le_bytes([bytes[2], bytes[3]]),
            length: word(4),
            id: word(8),
        };
        // Later versions keep this header and may only add kinds and tags, so any version but zero is read.
        if header.version == 0 {
            return Err(Malformed("frame has version zero"));
        }
        if header.length as usize > BODY_BYTES_MAX {
            return Err(Malformed("frame body is too long"));
        }
        if usize::from(header.descriptors) > DESCRIPTORS_MAX {
            return Err(Malformed("frame has too many descriptors"));
        }
        Ok(Some(header))
    }
}

/// Bytes that are no frame or no message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// A value that can be a tagged field.
pub trait Field {
    /// Appends the field, or nothing when it has its default value.
    fn put(&self, tag: u16, body: &mut Vec<u8>);
    /// Takes one occurrence of the field over into `self`.
    ///
    /// # Errors
    /// The bytes are not of this type.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed>;
}

/// Appends one field: `u16` tag, `u32` length, the bytes.
pub fn put_bytes(tag: u16, bytes: &[u8], body: &mut Vec<u8>) {
    body.extend_from_slice(&tag.to_le_bytes());
    // A field longer than 4 GiB cannot be sent in a body of 1 MiB; `encode` of the frame refuses it.
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    body.extend_from_slice(bytes);
}

/// Splits the next field off: tag, bytes, what follows.
///
/// # Errors
/// The body ends within the field.
pub fn next_field(body: &[u8]) -> Result<(u16, &[u8], &[u8]), Malformed> {
    let (head, rest) = body.split_first_chunk::<6>().ok_or(Malformed("body ends within a field's head"))?;
    let tag = u16::from_le_bytes([head[0], head[1]]);
    let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
    let (bytes, rest) = rest.split_at_checked(length).ok_or(Malformed("body ends within a field"))?;
    Ok((tag, bytes, rest))
}

fn word(bytes: &[u8]) -> Result<[u8; 8], Malformed> {
    <[u8; 8]>::try_from(bytes).map_err(|_| Malformed("number is not eight bytes long"))
}

impl Field for u64 {
    fn put(&self, tag: u16, body: &mut Vec<u8>) {
        if *self != 0 {
            put_bytes(tag, &self.to_le_bytes(), body);
        }
    }
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        *self = u64::from_le_bytes(word(bytes)?);
        Ok(())
    }
}

impl Field for i64 {
    fn put(&self, tag: u16, body: &mut Vec<u8>) {
        if *self != 0 {
            put_bytes(tag, &self.to_le_bytes(), body);
        }
    }
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        *self = i64::from_le_bytes(word(bytes)?);
        Ok(())
    }
}

impl Field for u32 {
    fn put(&self, tag: u16, body: &mut Vec<u8>) {
        u64::from(*self).put(tag, body);
    }
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let wide = u64::from_le_bytes(word(bytes)?);
        *self = u32::try_from(wide).map_err(|_| Malformed("number is too large"))?;
        Ok(())
    }
}

impl Field for i32 {
    fn put(&self, tag: u16, body: &mut Vec<u8>) {
        i64::from(*self).put(tag, body);
    }
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let wide = i64::from_le_bytes(word(bytes)?);
        *self = i32::try_from(wide).map_err(|_| Malformed("number is too large"))?;
        Ok(())
    }
}

impl Field for bool {
    fn put(&self, tag: u16, body: &mut Vec<u8>) {
        u64::from(*self).put(tag, body);
    }
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        *self = u64::from_le_bytes(word(bytes)?) != 0;
        Ok(())
    }
}

impl Field for String {
    fn put(&self, tag: u16, body: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(tag, self.as_bytes(), body);
        }
    }
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("text is not UTF-8"))?;
        text.clone_into(self);
        Ok(())
    }
}

impl Field for PathBuf {
    fn put(&self, tag: u16, body: &mut Vec<u8>) {
        if !self.as_os_str().is_empty() {
            put_bytes(tag, self.as_os_str().as_bytes(), body);
        }
    }
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if bytes.contains(&0) {
            return Err(Malformed("path contains a zero byte"));
        }
        *self = PathBuf::from(OsStr::from_bytes(bytes));
        Ok(())
    }
}

/// A list is its field, repeated; items with their default value are kept (an empty argument counts).
impl<T: Field + Default> Field for Vec<T> {
    fn put(&self, tag: u16, body: &mut Vec<u8>) {
        for item in self {
            let before = body.len();
            item.put(tag, body);
            if body.len() == before {
                put_bytes(tag, &[], body);
            }
        }
    }
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut item = T::default();
        if !bytes.is_empty() {
            item.take(bytes)?;
        }
        self.push(item);
        Ok(())
    }
}

/// Declares a message or part of one: a struct whose fields have tags for ever.
///
/// A missing field has its default, an unknown tag is skipped: so either side may be older.
macro_rules! record {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $tag:literal => $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $name {
            #[allow(unused_variables, clippy::ptr_arg, reason = "a record may have no field yet")]
            pub(crate) fn encode_body(&self, body: &mut Vec<u8>) {
                $($crate::wire::codec::Field::put(&self.$field, $tag, body);)*
            }

            #[allow(unused_mut, reason = "a record may have no field yet")]
            pub(crate) fn decode_body(mut body: &[u8]) -> Result<Self, $crate::wire::codec::Malformed> {
                let mut record = Self::default();
                while !body.is_empty() {
                    let (tag, bytes, rest) = $crate::wire::codec::next_field(body)?;
                    body = rest;
                    match tag {
                        $($tag => $crate::wire::codec::Field::take(&mut record.$field, bytes)?,)*
                        _ => { let _ = bytes; }
                    }
                }
                Ok(record)
            }
        }

        impl $crate::wire::codec::Field for $name {
            fn put(&self, tag: u16, body: &mut Vec<u8>) {
                let mut inner = Vec::new();
                self.encode_body(&mut inner);
                if !inner.is_empty() {
                    $crate::wire::codec::put_bytes(tag, &inner, body);
                }
            }
            fn take(&mut self, bytes: &[u8]) -> Result<(), $crate::wire::codec::Malformed> {
                *self = Self::decode_body(bytes)?;
                Ok(())
            }
        }
    )*};
}
pub(crate) use record;

/// Declares an enum of messages: one record and one number a kind.
macro_rules! messages {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $kind:literal => $variant:ident($type:ident),)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant($type),)* }

        impl $name {
            /// The number of this message in a frame's header.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self { $($name::$variant(_) => $kind,)* }
            }

            pub(crate) fn encode_body(&self, body: &mut Vec<u8>) {
                match self { $($name::$variant(record) => record.encode_body(body),)* }
            }

            /// Reads a body; `None` when this build does not know the kind.
            ///
            /// # Errors
            /// The body is not what its kind says.
            pub fn decode(kind: u16, body: &[u8]) -> Result<Option<Self>, $crate::wire::codec::Malformed> {
                Ok(Some(match kind {
                    $($kind => $name::$variant($type::decode_body(body)?),)*
                    _ => return Ok(None),
                }))
            }
        }
    };
}
pub(crate) use messages;

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// Old.
        pub struct Old { 1 => name: String, 2 => words: Vec<String>, }
        /// New.
        pub struct New { 1 => name: String, 2 => words: Vec<String>, 3 => more: Vec<Old>, 4 => number: i32, }
    }

    #[test]
    fn an_old_reader_skips_the_fields_of_a_new_writer() {
        let mut body = Vec::new();
        let new = New {
            name: "a".into(),
            words: vec!["x".into(), String::new()],
            more: vec![Old { name: "b".into(), words: vec![] }, Old::default()],
            number: -3,
        };
        new.encode_body(&mut body);
        assert_eq!(New::decode_body(&body), Ok(new));
        assert_eq!(Old::decode_body(&body), Ok(Old { name: "a".into(), words: vec!["x".into(), String::new()] }));
    }

    #[test]
    fn a_new_reader_fills_in_what_an_old_writer_leaves_out() {
        let mut body = Vec::new();
        Old { name: "a".into(), words: vec![] }.encode_body(&mut body);
        assert_eq!(New::decode_body(&body), Ok(New { name: "a".into(), ..New::default() }));
    }

    #[test]
    fn every_truncation_of_a_body_is_an_error_or_a_shorter_record() {
        let mut body = Vec::new();
        New { name: "abc".into(), words: vec!["x".into()], more: vec![], number: 7 }.encode_body(&mut body);
        for length in 0..body.len() {
            let _ = New::decode_body(&body[..length]);
        }
        assert!(New::decode_body(&body[..3]).is_err());
    }

    #[test]
    fn headers_of_garbage_are_refused() {
        assert_eq!(Header::decode(b"GET / HTTP"), Ok(None));
        assert!(Header::decode(b"GET / HTTP/1.1\r\n").is_err());
        assert!(Header::decode(&[0; 12]).is_err());
        let header = Header { version: 1, descriptors: 3, kind: 0x8001, length: 17, id: 99 };
        assert_eq!(Header::decode(&header.encode()), Ok(Some(header)));
    }
}
