//! Hashing bytes into a digest of any algorithm a descriptor may name.

use reference::{Algorithm, Digest};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// A running hash.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha384 => Hasher::Sha384(Sha384::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::Sha384(hash) => hash.update(bytes),
            Hasher::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let (algorithm, hex) = match self {
            Hasher::Sha256(hash) => (Algorithm::Sha256, hex::encode(hash.finalize())),
            Hasher::Sha384(hash) => (Algorithm::Sha384, hex::encode(hash.finalize())),
            Hasher::Sha512(hash) => (Algorithm::Sha512, hex::encode(hash.finalize())),
        };
        Digest::from_hex(algorithm, &hex).expect("a hash prints as lower-case hex of its algorithm's length")
    }
}

/// The digest of bytes at hand.
pub(crate) fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}
