//! A disk that can lose power: it keeps what was flushed, and of the rest whatever chance leaves.
//!
//! Owns the disk's memory and its door to the emulator, a server of the NBD protocol on a Unix socket. Written sectors
//! stay in the disk's volatile cache until a flush or a forced write ends. [`Disk::cut`] empties that cache: each write
//! in it is lost, kept, or torn between two sectors, as the seed says. Nothing is answered after the cut, so whatever the
//! guest calls durable was flushed before. [`Disk::arm`] lets a cut fall between two writes. Start at [`Disk::serve`].

use std::io::{self, BufWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The emulator's name of the drive.
pub(super) const DRIVE: &str = "disk";
const SECTOR: usize = 512;
/// Largest request; qemu splits what is larger than its own bound of 32 MiB.
const REQUEST_MAX: u32 = 32 << 20;

/// What the protocol's messages begin with.
mod magic {
    pub const GREETING: u64 = 0x4e42_444d_4147_4943;
    pub const OPTION: u64 = 0x4948_4156_454f_5054;
    pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
    pub const REQUEST: u32 = 0x2560_9513;
    pub const REPLY: u32 = 0x6744_6698;
}

/// A disk of a size; it outlives the machines that use it.
#[derive(Debug, Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    cut: Arc<Condvar>,
}

#[derive(Debug)]
struct State {
    /// What survives.
    platter: Vec<u8>,
    /// Written, answered, and not flushed yet: in order.
    cache: Vec<(usize, Vec<u8>)>,
    /// Counts the cuts; a server of an earlier one is dead.
    life: u64,
    /// Writes until the cut, and its seed.
    armed: Option<(u64, u64)>,
    /// What the cut did that nobody was told of yet.
    loss: Option<Loss>,
}

/// What a cut did to the writes that were not flushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loss {
    /// Gone.
    pub lost: usize,
    /// Kept although nobody asked for it.
    pub kept: usize,
    /// Kept in part.
    pub torn: usize,
}

/// A request, as far as this disk offers any.
#[derive(Debug)]
enum Request {
    Read { offset: usize, length: usize },
    Write { offset: usize, data: Vec<u8>, is_forced: bool },
    Flush,
}

impl Disk {
    /// An empty disk.
    pub fn new(megabytes: usize) -> Disk {
        let state = State { platter: vec![0; megabytes << 20], cache: Vec::new(), life: 0, armed: None, loss: None };
        Disk { state: Arc::new(Mutex::new(state)), cut: Arc::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Cuts the power, unless an armed cut was first.
    pub fn cut(&self, seed: u64) -> Loss {
        self.with(|state| state.loss.take().unwrap_or_else(|| state.cut(seed)))
    }

    /// Lets the power fail by itself, right after so many writes from now.
    pub fn arm(&self, writes: u64, seed: u64) {
        self.with(|state| state.armed = Some((writes.max(1), seed)));
    }

    /// Waits until the armed cut has come; false if it has not within the limit.
    pub fn await_cut(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.loss.is_none() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            state = self.cut.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.armed = None;
        state.loss.is_some()
    }

    /// Serves the disk at a socket to one emulator, until that ends or the power is cut.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve(&self, socket: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(socket)?;
        let (disk, life) = (self.clone(), self.with(|state| state.life));
        std::thread::spawn(move || {
            // The emulator's end is an ordinary end: what it had not flushed stays in the cache until the cut.
            if let Ok((stream, _)) = listener.accept() {
                let _ended = disk.converse(&stream, life);
            }
        });
        Ok(())
    }

    fn converse(&self, stream: &UnixStream, life: u64) -> io::Result<()> {
        let mut input = io::BufReader::new(stream);
        let mut output = BufWriter::new(stream);
        greet(&mut input, &mut output, self.with(|state| state.platter.len()) as u64)?;
        loop {
            let (cookie, request) = read_request(&mut input)?;
            let answer = self.with(|state| (state.life == life).then(|| state.carry_out(request)));
            let Some(answer) = answer.filter(|_| self.with(|state| state.life == life)) else {
                self.cut.notify_all();
                // After the cut there is nobody who could answer, and the guest is not told that.
                return io::copy(&mut input, &mut io::sink()).map(|_| ());
            };
            output.write_all(&magic::REPLY.to_be_bytes())?;
            output.write_all(&[0; 4])?;
            output.write_all(&cookie.to_be_bytes())?;
            output.write_all(&answer)?;
            output.flush()?;
        }
    }
}

impl State {
    fn carry_out(&mut self, request: Request) -> Vec<u8> {
        match request {
            Request::Read { offset, length } => return self.read(offset, length),
            Request::Write { offset, data, is_forced: true } => {
                self.put(offset, &data);
                self.renew(offset, &data);
            }
            Request::Write { offset, data, is_forced: false } => self.cache.push((offset, data)),
            Request::Flush => {
                self.flush();
                return Vec::new();
            }
        }
        self.armed = self.armed.map(|(writes, seed)| (writes - 1, seed));
        if let Some((0, seed)) = self.armed {
            self.armed = None;
            self.loss = Some(self.cut(seed));
        }
        Vec::new()
    }

    /// The newest bytes, cached ones included.
    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut out = self.platter[offset..offset + length].to_vec();
        for (at, data) in &self.cache {
            let (from, to) = ((*at).max(offset), (at + data.len()).min(offset + length));
            if from < to {
                out[from - offset..to - offset].copy_from_slice(&data[from - at..to - at]);
            }
        }
        out
    }

    /// Cached writes of the same sectors are older than these bytes and must not undo them.
    fn renew(&mut self, offset: usize, data: &[u8]) {
        for (at, cached) in &mut self.cache {
            let (from, to) = ((*at).max(offset), (*at + cached.len()).min(offset + data.len()));
            if from < to {
                cached[from - *at..to - *at].copy_from_slice(&data[from - offset..to - offset]);
            }
        }
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        self.platter[offset..offset + data.len()].copy_from_slice(data);
    }

    fn flush(&mut self) {
        for (offset, data) in std::mem::take(&mut self.cache) {
            self.put(offset, &data);
        }
    }

    fn cut(&mut self, seed: u64) -> Loss {
        self.life += 1;
        let mut dice = Dice(seed);
        let mut loss = Loss::default();
        for (offset, data) in std::mem::take(&mut self.cache) {
            let sectors = (data.len() / SECTOR) as u64;
            match dice.roll(8) {
                0..=3 => loss.lost += 1,
                4..=5 => {
                    self.put(offset, &data);
                    loss.kept += 1;
                }
                _ => {
                    let kept = dice.roll(sectors + 1) as usize * SECTOR;
                    self.put(offset, &data[..kept]);
                    loss.torn += 1;
                }
            }
        }
        loss
    }
}

/// Chance that repeats itself: Knuth's linear congruential generator.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides.max(1)
    }
}

fn word<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The "fixed newstyle" handshake: every option is refused but the one that starts the transmission.
fn greet(input: &mut impl Read, output: &mut impl Write, size: u64) -> io::Result<()> {
    const GO: u32 = 7;
    const REPLY_ACK: u32 = 1;
    const REPLY_INFO: u32 = 3;
    const REPLY_UNSUPPORTED: u32 = 0x8000_0001;
    // Has flags, takes flushes, takes forced writes.
    const FLAGS: u16 = 1 | 4 | 8;
    output.write_all(&magic::GREETING.to_be_bytes())?;
    output.write_all(&magic::OPTION.to_be_bytes())?;
    output.write_all(&1u16.to_be_bytes())?;
    output.flush()?;
    let _client_flags: [u8; 4] = word(input)?;
    loop {
        if u64::from_be_bytes(word(input)?) != magic::OPTION {
            return Err(odd("no option"));
        }
        let option = u32::from_be_bytes(word(input)?);
        let length = u32::from_be_bytes(word(input)?);
        let mut data = vec![0; length.min(REQUEST_MAX) as usize];
        input.read_exact(&mut data)?;
        let mut reply = |kind: u32, data: &[u8]| -> io::Result<()> {
            output.write_all(&magic::OPTION_REPLY.to_be_bytes())?;
            output.write_all(&option.to_be_bytes())?;
            output.write_all(&kind.to_be_bytes())?;
            output.write_all(&(data.len() as u32).to_be_bytes())?;
            output.write_all(data)?;
            output.flush()
        };
        if option != GO {
            reply(REPLY_UNSUPPORTED, &[])?;
            continue;
        }
        let export = [&0u16.to_be_bytes()[..], &size.to_be_bytes(), &FLAGS.to_be_bytes()].concat();
        reply(REPLY_INFO, &export)?;
        return reply(REPLY_ACK, &[]);
    }
}

fn read_request(input: &mut impl Read) -> io::Result<(u64, Request)> {
    if u32::from_be_bytes(word(input)?) != magic::REQUEST {
        return Err(odd("no request"));
    }
    let flags = u16::from_be_bytes(word(input)?);
    let kind = u16::from_be_bytes(word(input)?);
    let cookie = u64::from_be_bytes(word(input)?);
    let offset = u64::from_be_bytes(word(input)?) as usize;
    let length = u32::from_be_bytes(word(input)?);
    if length > REQUEST_MAX {
        return Err(odd("a request larger than any"));
    }
    let length = length as usize;
    let request = match kind {
        0 => Request::Read { offset, length },
        1 => {
            let mut data = vec![0; length];
            input.read_exact(&mut data)?;
            Request::Write { offset, data, is_forced: flags & 1 != 0 }
        }
        3 => Request::Flush,
        // Two is the emulator's good-bye.
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    Ok((cookie, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &Disk, sector: usize, byte: u8, count: usize) {
        let (offset, data) = (sector * SECTOR, vec![byte; count * SECTOR]);
        disk.with(|state| state.carry_out(Request::Write { offset, data, is_forced: false }));
    }

    fn byte(disk: &Disk, sector: usize) -> u8 {
        disk.with(|state| state.read(sector * SECTOR, SECTOR))[0]
    }

    #[test]
    fn what_was_flushed_survives_every_cut_and_the_rest_only_some() {
        let mut total = Loss::default();
        for seed in 0..200 {
            let disk = Disk::new(1);
            write(&disk, 0, 1, 4);
            disk.with(|state| state.carry_out(Request::Flush));
            write(&disk, 2, 2, 4);
            assert_eq!([1, 2, 3, 5].map(|sector| byte(&disk, sector)), [1, 2, 2, 2], "reads see the cache");
            let loss = disk.cut(seed);
            assert_eq!([0, 1].map(|sector| byte(&disk, sector)), [1, 1], "seed {seed}");
            let rest = [2, 3, 4, 5].map(|sector| byte(&disk, sector));
            assert!(rest.windows(2).all(|pair| pair[0] == 2 || pair[1] != 2), "torn once, from the front: {rest:?}");
            match loss {
                Loss { lost: 1, .. } => assert_eq!(rest, [1, 1, 0, 0]),
                Loss { kept: 1, .. } => assert_eq!(rest, [2; 4]),
                _ => {}
            }
            total = Loss { lost: total.lost + loss.lost, kept: total.kept + loss.kept, torn: total.torn + loss.torn };
        }
        assert!(total.lost > 50 && total.kept > 20 && total.torn > 20, "{total:?}");
    }

    #[test]
    fn an_armed_cut_falls_after_its_number_of_writes() {
        let disk = Disk::new(1);
        disk.arm(3, 9);
        assert!(!disk.await_cut(Duration::ZERO), "nothing was written yet");
        disk.arm(3, 9);
        write(&disk, 0, 1, 1);
        disk.with(|state| state.carry_out(Request::Flush));
        write(&disk, 1, 1, 1);
        assert!(disk.with(|state| state.loss.is_none()));
        write(&disk, 2, 1, 1);
        assert!(disk.await_cut(Duration::ZERO));
        let loss = disk.cut(0);
        assert_eq!(loss.lost + loss.kept + loss.torn, 2, "{loss:?}");
    }

    #[test]
    fn a_forced_write_survives_and_nothing_is_answered_after_the_cut() {
        let disk = Disk::new(1);
        write(&disk, 0, 6, 2);
        let forced = Request::Write { offset: 0, data: vec![7; SECTOR], is_forced: true };
        disk.with(|state| state.carry_out(forced));
        let dir = std::env::temp_dir().join(format!("sampan-disk-{}", std::process::id()));
        let _ = std::fs::remove_file(&dir);
        disk.serve(&dir).unwrap();
        let mut stream = UnixStream::connect(&dir).unwrap();
        let greeting: [u8; 18] = word(&mut stream).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        disk.cut(1);
        assert_eq!(byte(&disk, 0), 7);
        let go = [&1u32.to_be_bytes()[..], b"IHAVEOPT", &7u32.to_be_bytes(), &6u32.to_be_bytes(), &[0; 6]].concat();
        stream.write_all(&go).unwrap();
        // Two replies of 20 bytes; the first carries 12 more.
        let _reply: [u8; 52] = word(&mut stream).unwrap();
        let flush = [&magic::REQUEST.to_be_bytes()[..], &[0, 0, 0, 3], &[0; 20]].concat();
        stream.write_all(&flush).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(word::<1>(&mut stream).is_err(), "a dead disk answered");
        std::fs::remove_file(&dir).unwrap();
    }
}
