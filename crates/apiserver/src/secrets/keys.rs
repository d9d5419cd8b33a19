//! Keys of values at rest: sealing and opening with AES-256-GCM, and the text of the key file. Pure but for randomness.
//!
//! A sealed value is `enc:aes256gcm:v1:<key id>:`, a random nonce of 12 bytes, and the ciphertext with its tag. The place
//! of the value (its key in the store) is authenticated with it. No key may get into a log, an error or a Debug output.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// What every sealed value begins with, of this format and of those to come. A plain value is JSON and begins otherwise.
const SEALED: &[u8] = b"enc:";
const FORMAT: &[u8] = b"enc:aes256gcm:v1:";
const ID_CHARS: usize = 8;
const KEY_BYTES: usize = 32;
const PENDING: &str = "rewriting";

const HEAD: &str = "# Keys of Secrets at rest, newest first. Who has this file and the store reads them; without it\n\
    # nobody does: keep a copy with each copy of the store.\n";

/// Why the text of a key file says no keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A line that is none.
    #[error("line {0} is not a key: write eight hexadecimal digits and 32 bytes in base64")]
    Line(usize),
    /// Two keys of one name.
    #[error("line {0} names a key that was named before")]
    Twice(usize),
    /// None at all.
    #[error("there is no key in it")]
    Empty,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Why a value cannot be opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A format of a later version.
    #[error("it is encrypted in a format that this version does not know")]
    Format,
    /// The key is not among ours.
    #[error("its key {0} is not in the key file")]
    Key(String),
    /// It was changed, or written for another place.
    #[error("it was changed, or belongs to another object")]
    Forged,
    /// No nonce could be drawn.
    #[error("the system gives no random bytes")]
    Random,
}

struct Key {
    id: String,
    bytes: [u8; KEY_BYTES],
    aead: LessSafeKey,
}

impl Key {
    fn new(id: String, bytes: [u8; KEY_BYTES]) -> Key {
        let unbound = UnboundKey::new(&AES_256_GCM, &bytes).expect("32 bytes are a key of AES-256");
        Key { id, bytes, aead: LessSafeKey::new(unbound) }
    }

    fn random() -> Result<Key, KeysError> {
        let random = SystemRandom::new();
        let (mut id, mut bytes) = ([0; ID_CHARS / 2], [0; KEY_BYTES]);
        random.fill(&mut id).map_err(|_| KeysError::Random)?;
        random.fill(&mut bytes).map_err(|_| KeysError::Random)?;
        Ok(Key::new(id.iter().map(|byte| format!("{byte:02x}")).collect(), bytes))
    }

    fn parse(line: &str) -> Option<Key> {
        let (id, text) = line.split_once(' ')?;
        let is_id = id.len() == ID_CHARS && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let bytes = STANDARD.decode(text.trim()).ok()?.try_into().ok()?;
        is_id.then(|| Key::new(id.to_owned(), bytes))
    }
}

/// The keys of one moment.
#[derive(Clone)]
pub struct Keys {
    /// Those of the file, newest first; never empty.
    kept: Vec<Arc<Key>>,
    /// Those that the file has no more, for who still reads what was there before.
    retired: Vec<Arc<Key>>,
    /// Whether values may lie on the disk that are not sealed with the newest key.
    pub is_pending: bool,
}

impl Keys {
    /// One key that nothing is sealed with yet; `is_pending` if there may be plain values.
    pub fn fresh(is_pending: bool) -> Result<Keys, KeysError> {
        Ok(Keys { kept: vec![Arc::new(Key::random()?)], retired: Vec::new(), is_pending })
    }

    /// Reads the text of a key file.
    pub fn parse(text: &str) -> Result<Keys, KeysError> {
        let mut keys = Keys { kept: Vec::new(), retired: Vec::new(), is_pending: false };
        for (nth, line) in text.lines().enumerate() {
            match line.trim() {
                "" => {}
                PENDING => keys.is_pending = true,
                comment if comment.starts_with('#') => {}
                line => {
                    let key = Key::parse(line).ok_or(KeysError::Line(nth + 1))?;
                    if keys.kept.iter().any(|known| known.id == key.id) {
                        return Err(KeysError::Twice(nth + 1));
                    }
                    keys.kept.push(Arc::new(key));
                }
            }
        }
        if keys.kept.is_empty() { Err(KeysError::Empty) } else { Ok(keys) }
    }

    /// The text of the key file.
    pub fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        if self.is_pending {
            text.push_str(&format!("{PENDING}\n"));
        }
        for key in &self.kept {
            text.push_str(&format!("{} {}\n", key.id, STANDARD.encode(key.bytes)));
        }
        text
    }

    /// The same with a new key before them.
    pub fn with_new(&self) -> Result<Keys, KeysError> {
        let mut kept = vec![Arc::new(Key::random()?)];
        kept.extend(self.kept.iter().cloned());
        Ok(Keys { kept, retired: self.retired.clone(), is_pending: true })
    }

    /// The newest alone; the others are still believed, but not kept.
    pub fn newest_alone(&self) -> Keys {
        let mut retired = self.retired.clone();
        retired.extend(self.kept[1..].iter().cloned());
        Keys { kept: self.kept[..1].to_vec(), retired, is_pending: false }
    }

    /// The same, with values on the disk that are not sealed with the newest.
    pub fn pending(&self) -> Keys {
        Keys { is_pending: true, ..self.clone() }
    }

    /// How many are in the file.
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// Name of the newest.
    pub fn newest(&self) -> &str {
        &self.kept[0].id
    }

    /// Seals a value for its place with the newest key.
    pub fn seal(&self, place: &str, plain: &[u8]) -> Result<Bytes, OpenError> {
        let key = &self.kept[0];
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| OpenError::Random)?;
        let mut out = Vec::with_capacity(FORMAT.len() + ID_CHARS + 1 + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(FORMAT);
        out.extend_from_slice(key.id.as_bytes());
        out.push(b':');
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.aead.seal_in_place_separate_tag(nonce, Aad::from(place.as_bytes()), &mut out[start..]);
        out.extend_from_slice(tag.map_err(|_| OpenError::Forged)?.as_ref());
        Ok(Bytes::from(out))
    }

    /// Opens what is stored at a place; a plain value is itself.
    pub fn open(&self, place: &str, stored: &Bytes) -> Result<Bytes, OpenError> {
        if !stored.starts_with(SEALED) {
            return Ok(stored.clone());
        }
        let (id, sealed) = parts(stored).ok_or(OpenError::Format)?;
        let key = self.kept.iter().chain(&self.retired).find(|key| key.id.as_bytes() == id);
        let key = key.ok_or_else(|| OpenError::Key(String::from_utf8_lossy(id).into_owned()))?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(OpenError::Forged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Forged)?;
        let mut plain = sealed.to_vec();
        let opened = key.aead.open_in_place(nonce, Aad::from(place.as_bytes()), &mut plain);
        let length = opened.map_err(|_| OpenError::Forged)?.len();
        plain.truncate(length);
        Ok(Bytes::from(plain))
    }

    /// Whether a stored value is sealed with the newest key.
    pub fn is_current(&self, stored: &[u8]) -> bool {
        parts(stored).is_some_and(|(id, _)| id == self.newest().as_bytes())
    }
}

/// Key id and sealed bytes of a value in our format.
fn parts(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    let (id, rest) = stored.strip_prefix(FORMAT)?.split_at_checked(ID_CHARS)?;
    Some((id, rest.strip_prefix(b":")?))
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("newest", &self.newest()).field("count", &self.count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "/registry/core/secrets/a/s";

    #[test]
    fn what_is_sealed_for_one_place_opens_there_alone() {
        let keys = Keys::fresh(true).unwrap();
        let sealed = keys.seal(PLACE, b"{\"k\":\"hidden\"}").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"hidden"));
        assert_eq!(keys.open(PLACE, &sealed).unwrap(), &b"{\"k\":\"hidden\"}"[..]);
        assert_eq!(keys.open("/registry/core/secrets/b/s", &sealed), Err(OpenError::Forged));
        assert_ne!(keys.seal(PLACE, b"x").unwrap(), keys.seal(PLACE, b"x").unwrap(), "each has a nonce of its own");
    }

    #[test]
    fn any_changed_byte_and_any_cut_is_refused() {
        let keys = Keys::fresh(true).unwrap();
        let sealed = keys.seal(PLACE, b"{}").unwrap();
        for nth in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[nth] ^= 1;
            let opened = keys.open(PLACE, &Bytes::from(changed.clone()));
            // A value that does not begin as sealed ones do is a plain one, and no JSON.
            assert!(opened.is_err() || opened.unwrap() == changed && nth < SEALED.len(), "byte {nth}");
            assert!(nth < SEALED.len() || keys.open(PLACE, &sealed.slice(..nth)).is_err(), "cut at {nth}");
        }
    }

    #[test]
    fn a_key_file_is_read_back_and_says_nothing_of_its_keys_elsewhere() {
        let keys = Keys::fresh(true).unwrap().with_new().unwrap();
        let read = Keys::parse(&keys.text()).unwrap();
        assert_eq!((read.count(), read.newest(), read.is_pending), (2, keys.newest(), true));
        let old = read.newest_alone();
        assert_eq!((old.count(), old.is_pending), (1, false));
        let secret = STANDARD.encode(keys.kept[0].bytes);
        assert!(!format!("{keys:?}").contains(&secret) && keys.text().contains(&secret));
        assert_eq!(Keys::parse("# none\n").unwrap_err(), KeysError::Empty);
        assert_eq!(Keys::parse("0123abcd short").unwrap_err(), KeysError::Line(1));
        let twice = format!("{0}{0}", old.text());
        assert!(matches!(Keys::parse(&twice).unwrap_err(), KeysError::Twice(_)));
    }

    #[test]
    fn a_value_of_a_key_that_is_not_there_names_it() {
        let (ours, other) = (Keys::fresh(true).unwrap(), Keys::fresh(true).unwrap());
        let sealed = other.seal(PLACE, b"{}").unwrap();
        assert_eq!(ours.open(PLACE, &sealed), Err(OpenError::Key(other.newest().to_owned())));
        assert_eq!(ours.open(PLACE, &Bytes::from_static(b"enc:new:")), Err(OpenError::Format));
    }
}
