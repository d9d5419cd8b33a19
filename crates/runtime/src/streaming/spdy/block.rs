//! Header blocks: names and values, compressed with the dictionary that SPDY/3 presets. Pure.
//!
//! One compressor lives as long as its connection, so blocks must be read and written in the order of the wire.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::frame::Garbage;

/// Headers by lower-case name. Several values of one name are joined by NUL, as on the wire.
pub(in super::super) type Headers = BTreeMap<String, String>;

/// Largest block after decompression.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Room that is made for (de)compressed bytes at a time.
const STEP_BYTES: usize = 4 << 10;

/// The dictionary's words, each preceded by its length there (SPDY/3, section 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// What follows them.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
    Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
    Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8\
    charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::new();
    for word in WORDS.split_whitespace() {
        put_text(&mut dictionary, &word.replace('_', " "));
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    to.extend_from_slice(&length(text.len()));
    to.extend_from_slice(text.as_bytes());
}

fn length(of: usize) -> [u8; 4] {
    u32::try_from(of).unwrap_or(u32::MAX).to_be_bytes()
}

/// Writes the blocks of one connection.
pub(super) struct Writer(Compress);

impl Writer {
    pub(super) fn new() -> Writer {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&dictionary()).expect("a new compressor takes a dictionary");
        Writer(compress)
    }

    /// Appends the compressed block.
    pub(super) fn write(&mut self, headers: &Headers, to: &mut Vec<u8>) {
        let mut plain = length(headers.len()).to_vec();
        for (name, value) in headers {
            put_text(&mut plain, name);
            put_text(&mut plain, value);
        }
        let start = self.0.total_in();
        loop {
            to.reserve(STEP_BYTES);
            let done = usize::try_from(self.0.total_in() - start).expect("a block fits in memory");
            let rest = &plain[done..];
            self.0.compress_vec(rest, to, FlushCompress::Sync).expect("a compressor in its ordinary state goes on");
            // Room that is left says that the flush is complete.
            if to.len() < to.capacity() {
                return;
            }
        }
    }
}

/// Reads the blocks of one connection.
pub(super) struct Reader(Decompress);

impl Reader {
    pub(super) fn new() -> Reader {
        Reader(Decompress::new(true))
    }

    /// Reads a whole block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, Garbage> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Garbage> {
        let mut plain = Vec::new();
        loop {
            plain.reserve(STEP_BYTES);
            let before = (self.0.total_in(), plain.len());
            let result = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let read = usize::try_from(self.0.total_in() - before.0).map_err(|_| Garbage("header block"))?;
            block = &block[read..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| Garbage("another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(Garbage("compressed header block")),
                Ok(_) => {}
            }
            if plain.len() > BLOCK_BYTES_MAX {
                return Err(Garbage("header block too long"));
            }
            if read == 0 && plain.len() == before.1 {
                return if block.is_empty() { Ok(plain) } else { Err(Garbage("compressed header block")) };
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, Garbage> {
    let count = take_number(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = take_text(&mut plain)?.to_ascii_lowercase();
        let value = take_text(&mut plain)?;
        if headers.insert(name, value).is_some() {
            return Err(Garbage("a header twice"));
        }
    }
    Ok(headers)
}

fn take_number(from: &mut &[u8]) -> Result<usize, Garbage> {
    let (number, rest) = from.split_first_chunk::<4>().ok_or(Garbage("header block ends early"))?;
    *from = rest;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| Garbage("header block"))
}

fn take_text(from: &mut &[u8]) -> Result<String, Garbage> {
    let length = take_number(from)?;
    let (text, rest) = from.split_at_checked(length).ok_or(Garbage("header block ends early"))?;
    *from = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_that_everybody_presets() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let mut sums = (1_u32, 0_u32);
        for byte in dictionary {
            sums.0 = (sums.0 + u32::from(byte)) % 65521;
            sums.1 = (sums.1 + sums.0) % 65521;
        }
        assert_eq!(sums.1 << 16 | sums.0, 0xe3c6_a7c2, "Adler-32 as every first block names it");
    }

    #[test]
    fn the_blocks_of_a_go_client_are_read_in_their_order() {
        let mut reader = Reader::new();
        // As the library of Kubernetes' clients writes them on one connection.
        for (block, kind) in [
            ("78f9e3c6a7c26260606004a7b392a2d4c45c6851c29a5a54945f04000000ffff", "error"),
            ("c22ac5565c92925f5a02000000ffff", "stdout"),
        ] {
            let headers = reader.read(&hex::decode(block).unwrap());
            assert_eq!(headers, Ok(Headers::from([("streamtype".into(), kind.into())])));
        }
    }

    #[test]
    fn a_bomb_is_no_block() {
        let mut bomb = Vec::new();
        Writer::new().write(&Headers::from([("a".into(), "x".repeat(BLOCK_BYTES_MAX * 20))]), &mut bomb);
        assert!(bomb.len() < BLOCK_BYTES_MAX);
        assert_eq!(Reader::new().read(&bomb), Err(Garbage("header block too long")));
    }
}
