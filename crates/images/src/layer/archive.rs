//! Reads a tar stream and hands each entry to the tree.
//!
//! Owns the format: ustar, GNU long names, pax records. Numbers in headers are only believed as far as bytes follow
//! them; nothing is allocated by an announced size.

use super::tree::{Content, Kind, Node};
use super::{Place, UnpackError};
use rustix::fs::Timespec;
use std::io::{BufRead, Read};
use tar::{EntryType, Header};

const BLOCK: usize = 512;
const NAME_BYTES_MAX: u64 = 64 * 1024;
const PAX_BYTES_MAX: u64 = 1024 * 1024;

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timespec>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Unpacks a whole archive and reads the stream to its end.
pub(crate) fn unpack(stream: &mut impl BufRead, tree: &mut impl Place) -> Result<(), UnpackError> {
    let mut extended = Extended::default();
    while let Some(header) = next_header(stream)? {
        let kind = header.entry_type();
        let announced = number(&header.as_old().size, header.entry_size(), "size")?;
        match kind {
            EntryType::XGlobalHeader => skip(stream, padded(announced)?)?,
            EntryType::XHeader => {
                // A header replaces the one before, so that many in a row take no more memory than one.
                extended.xattrs.clear();
                read_pax(&read_small(stream, announced, PAX_BYTES_MAX)?, &mut extended)?;
            }
            EntryType::GNULongName => extended.path = Some(read_name(stream, announced)?),
            EntryType::GNULongLink => extended.link = Some(read_name(stream, announced)?),
            EntryType::GNUSparse => return Err(invalid("sparse files are not supported")),
            _ => unpack_entry(stream, tree, &header, std::mem::take(&mut extended))?,
        }
    }
    tree.finish()?;
    drain(stream)
}

fn unpack_entry(
    stream: &mut impl BufRead,
    tree: &mut impl Place,
    header: &Header,
    extended: Extended,
) -> Result<(), UnpackError> {
    let kind = header.entry_type();
    let fields = header.as_old();
    let size = match extended.size {
        Some(size) => size,
        None => number(&fields.size, header.entry_size(), "size")?,
    };
    let link = || match &extended.link {
        Some(link) => link.clone(),
        None => header.link_name_bytes().unwrap_or_default().into_owned(),
    };
    let path = match extended.path {
        Some(path) => path,
        None => header.path_bytes().into_owned(),
    };
    let device = || {
        let part = |value: std::io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
        rustix::fs::makedev(part(header.device_major()), part(header.device_minor()))
    };
    // Only files carry content; a size in any other header is noise.
    let (node_kind, content_bytes) = match kind {
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => (Kind::Directory, 0),
        EntryType::Regular | EntryType::Continuous => (Kind::File, size),
        EntryType::Directory => (Kind::Directory, 0),
        EntryType::Symlink => (Kind::Symlink(link()), 0),
        EntryType::Link => (Kind::HardLink(link()), 0),
        EntryType::Char => (Kind::CharDevice(device()), 0),
        EntryType::Block => (Kind::BlockDevice(device()), 0),
        EntryType::Fifo => (Kind::Fifo, 0),
        // Unknown types are passed over, as others do.
        _ => return skip(stream, padded(size)?),
    };
    let id = |own: Option<u64>, field: &[u8], value, what: &str| {
        let id = own.map_or_else(|| number(field, value, what), Ok)?;
        u32::try_from(id).map_err(|_| invalid(&format!("bad {what} in a header")))
    };
    let seconds = || number(&fields.mtime, header.mtime(), "time").ok().and_then(|seconds| i64::try_from(seconds).ok());
    let node = Node {
        path,
        kind: node_kind,
        mode: number(&fields.mode, header.mode(), "mode")? & 0o7777,
        uid: id(extended.uid, &fields.uid, header.uid(), "owner")?,
        gid: id(extended.gid, &fields.gid, header.gid(), "group")?,
        mtime: extended.mtime.unwrap_or_else(|| Timespec { tv_sec: seconds().unwrap_or(0), tv_nsec: 0 }),
        xattrs: extended.xattrs,
    };
    let total = padded(content_bytes)?;
    let mut content = Content { stream, remaining: content_bytes };
    tree.place(&node, &mut content)?;
    let rest = content.remaining + (total - content_bytes);
    skip(stream, rest)
}

/// A number of a header; a field left blank is zero.
fn number<N: Default>(field: &[u8], value: std::io::Result<N>, what: &str) -> Result<N, UnpackError> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(N::default());
    }
    value.map_err(|_| invalid(&format!("bad {what} in a header")))
}

/// The next header that is not a block of zeros; `None` at the archive's end.
fn next_header(stream: &mut impl BufRead) -> Result<Option<Header>, UnpackError> {
    let mut header = Header::new_old();
    let block = header.as_mut_bytes();
    if !read_block(stream, block)? {
        return Ok(None);
    }
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum: u32 =
        block.iter().enumerate().map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) }).sum();
    if header.cksum().ok() != Some(sum) {
        return Err(invalid("not a tar archive: a header's checksum is wrong"));
    }
    Ok(Some(header))
}

/// Reads a block; false at a clean end of the stream.
fn read_block(stream: &mut impl BufRead, block: &mut [u8; BLOCK]) -> Result<bool, UnpackError> {
    let mut filled = 0;
    while filled < BLOCK {
        match stream.read(&mut block[filled..]).map_err(|error| read_failed(&error))? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(invalid("the archive ends inside a header")),
            count => filled += count,
        }
    }
    Ok(true)
}

fn read_small(stream: &mut impl BufRead, size: u64, limit: u64) -> Result<Vec<u8>, UnpackError> {
    if size > limit {
        return Err(invalid(&format!("an extended header of {size} bytes, at most {limit} are accepted")));
    }
    let mut bytes = Vec::new();
    stream.take(size).read_to_end(&mut bytes).map_err(|error| read_failed(&error))?;
    if bytes.len() as u64 != size {
        return Err(invalid("the archive ends inside an extended header"));
    }
    skip(stream, padded(size)? - size)?;
    Ok(bytes)
}

fn read_name(stream: &mut impl BufRead, size: u64) -> Result<Vec<u8>, UnpackError> {
    let mut name = read_small(stream, size, NAME_BYTES_MAX)?;
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    Ok(name)
}

/// Reads `length key=value\n` records. Values may hold any byte.
fn read_pax(mut rest: &[u8], extended: &mut Extended) -> Result<(), UnpackError> {
    let bad = || invalid("a pax record is malformed");
    while !rest.is_empty() && rest[0] != 0 {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&rest[..space]).ok().and_then(|t| t.parse().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &rest[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        apply_pax(&record[..equals], &record[equals + 1..], extended)?;
        rest = &rest[length..];
    }
    Ok(())
}

fn apply_pax(key: &[u8], value: &[u8], extended: &mut Extended) -> Result<(), UnpackError> {
    let number = || -> Result<u64, UnpackError> {
        let text = std::str::from_utf8(value).ok();
        text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("a pax record's number is malformed"))
    };
    match key {
        b"path" if !value.is_empty() => extended.path = Some(value.to_vec()),
        b"linkpath" if !value.is_empty() => extended.link = Some(value.to_vec()),
        b"size" => extended.size = Some(number()?),
        b"uid" => extended.uid = Some(number()?),
        b"gid" => extended.gid = Some(number()?),
        b"mtime" => extended.mtime = parse_time(value),
        _ if key.starts_with(b"GNU.sparse.") => return Err(invalid("sparse files are not supported")),
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                extended.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// Decimal seconds with an optional fraction.
fn parse_time(value: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (mut tv_sec, mut tv_nsec) = (seconds.parse::<i64>().ok()?, digits.parse::<i64>().ok()?);
    if seconds.starts_with('-') && tv_nsec > 0 {
        (tv_sec, tv_nsec) = (tv_sec.checked_sub(1)?, 1_000_000_000 - tv_nsec);
    }
    Some(Timespec { tv_sec, tv_nsec })
}

fn padded(size: u64) -> Result<u64, UnpackError> {
    size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| invalid("an absurd size in a header"))
}

fn skip(stream: &mut impl BufRead, mut count: u64) -> Result<(), UnpackError> {
    while count > 0 {
        let available = stream.fill_buf().map_err(|error| read_failed(&error))?.len();
        if available == 0 {
            return Err(invalid("the archive ends inside an entry"));
        }
        let step = (available as u64).min(count);
        stream.consume(step as usize);
        count -= step;
    }
    Ok(())
}

/// Reads what follows the archive: padding belongs to the layer's digest.
fn drain(stream: &mut impl BufRead) -> Result<(), UnpackError> {
    loop {
        let available = stream.fill_buf().map_err(|error| read_failed(&error))?.len();
        if available == 0 {
            return Ok(());
        }
        stream.consume(available);
    }
}

fn read_failed(error: &std::io::Error) -> UnpackError {
    invalid(&format!("the archive cannot be read: {error}"))
}

fn invalid(text: &str) -> UnpackError {
    UnpackError::Invalid(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pax_values_may_hold_newlines_and_zeros() {
        let mut extended = Extended::default();
        let value = b"\x01\n\x00=";
        let body = [b"SCHILY.xattr.user.x=".as_slice(), value, b"\n"].concat();
        let record = [format!("{} ", body.len() + 3).into_bytes(), body].concat();
        read_pax(&record, &mut extended).map_err(|_| ()).unwrap();
        assert_eq!(extended.xattrs, [(b"user.x".to_vec(), value.to_vec())]);
    }

    #[test]
    fn times_have_fractions_and_may_lie_before_1970() {
        let time = |text: &str| parse_time(text.as_bytes()).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time("1350244992.023960108"), Some((1_350_244_992, 23_960_108)));
        assert_eq!(time("5"), Some((5, 0)));
        assert_eq!(time("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time("x"), None);
    }

    proptest! {
        #[test]
        fn no_pax_record_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_pax(&bytes, &mut Extended::default());
        }
    }
}
