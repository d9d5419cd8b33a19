//! Digests: algorithm and lower-case hex, validated once and for good (IMG-4).
//!
//! Owns the syntax only; hashing happens where the bytes are.

use std::fmt;

/// A hash algorithm that a digest may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// `sha256`, 64 hex digits.
    Sha256,
    /// `sha384`, 96 hex digits.
    Sha384,
    /// `sha512`, 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// How many hex digits a digest of this algorithm has.
    pub fn hex_digits(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha384 => 96,
            Algorithm::Sha512 => 128,
        }
    }

    fn find(name: &str) -> Option<Algorithm> {
        [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512].into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Why a text is not a digest. The texts are upstream's (IMG-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not of the shape `algorithm:hex`, or the hex part has other characters than `0-9a-f`.
    #[error("invalid checksum digest format")]
    Format,
    /// The algorithm is none of sha256, sha384 and sha512.
    #[error("unsupported digest algorithm")]
    Unsupported,
    /// The number of hex digits is not the algorithm's.
    #[error("invalid checksum digest length")]
    Length,
}

/// A validated digest such as `sha256:` followed by 64 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    text: String,
    algorithm: Algorithm,
}

impl Digest {
    /// Parses `algorithm:hex`; anything but the exact length in lower case is refused (IMG-4).
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        if name.is_empty() || hex.is_empty() {
            return Err(DigestError::Format);
        }
        let algorithm = Algorithm::find(name).ok_or(DigestError::Unsupported)?;
        Digest::from_hex(algorithm, hex)
    }

    /// Builds a digest from its parts; the hex digits are validated.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Digest, DigestError> {
        if hex.len() != algorithm.hex_digits() {
            return Err(DigestError::Length);
        }
        if !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Format);
        }
        Ok(Digest { text: format!("{}:{hex}", algorithm.name()), algorithm })
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hex digits after the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        Digest::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_an_algorithm_and_its_exact_number_of_lower_case_digits() {
        let hex = "a".repeat(64);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        assert_eq!((digest.algorithm(), digest.hex()), (Algorithm::Sha256, hex.as_str()));
        assert!(Digest::parse(&format!("sha512:{}", "0".repeat(128))).is_ok());
        assert_eq!(Digest::parse(&format!("sha256:{}", "a".repeat(63))), Err(DigestError::Length));
        assert_eq!(Digest::parse(&format!("sha256:{}", "A".repeat(64))), Err(DigestError::Format));
        assert_eq!(Digest::parse(&format!("md5:{}", "a".repeat(32))), Err(DigestError::Unsupported));
        assert_eq!(Digest::parse("sha256"), Err(DigestError::Format));
        assert_eq!(Digest::parse("sha256:"), Err(DigestError::Format));
    }
}
