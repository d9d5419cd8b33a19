//! Signed tokens: JSON Web Signatures in compact form, ES256 and nothing else.
//!
//! Owns the key and the bytes. What a token says is in `claims`; whether it still holds is judged in `live`. Pure but for
//! the random numbers of a signature. Start at [`Key::sign`] and [`Key::verify`].

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Value, json};

/// No token of ours is nearly as long; more is not even decoded.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// What stands before the point in the DER form of every P-256 public key.
const PUBLIC_KEY_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The key pair that signs and proves.
pub struct Key {
    pair: EcdsaKeyPair,
    id: String,
    head: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a key cannot be used. Never says anything of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not PEM with a PKCS#8 key.
    #[error("it is no private key in PEM form (PKCS#8)")]
    Pem,
    /// Another kind of key.
    #[error("it is no ECDSA key on the curve P-256")]
    Kind,
    /// The machine has no random numbers.
    #[error("no key can be made")]
    Make,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood; none is.
    #[serde(default)]
    crit: Option<Value>,
}

impl Key {
    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyError`] when the text holds no such key.
    pub fn from_pem(pem: &str) -> Result<Key, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem)?;
        Key::from_der(der.secret_pkcs8_der())
    }

    /// Makes a key that nobody keeps.
    ///
    /// # Errors
    /// [`KeyError::Make`] without random numbers.
    pub fn ephemeral() -> Result<Key, KeyError> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        Key::from_der(made.map_err(|_| KeyError::Make)?.as_ref())
    }

    fn from_der(der: &[u8]) -> Result<Key, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
            .map_err(|_| KeyError::Kind)?;
        let public = [&PUBLIC_KEY_HEAD[..], pair.public_key().as_ref()].concat();
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &public));
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": "ES256", "kid": id}).to_string());
        Ok(Key { pair, id, head })
    }

    /// A token with these claims; None when the machine has no random numbers.
    pub fn sign(&self, claims: &[u8]) -> Option<String> {
        let signed = format!("{}.{}", self.head, URL_SAFE_NO_PAD.encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed; None for everything else.
    pub fn verify(&self, token: &str) -> Option<Vec<u8>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let parsed: Head = serde_json::from_slice(&decode(head)?).ok()?;
        // The algorithm is ours to choose, not the token's.
        if parsed.alg != "ES256" || parsed.crit.is_some() || parsed.kid.is_some_and(|id| id != self.id) {
            return None;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(signed.as_bytes(), &decode(signature)?).ok()?;
        decode(claims)
    }

    /// The public half as a JSON Web Key set.
    pub fn public_set(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({"keys": [
            {"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": x, "y": y},
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    #[test]
    fn only_what_this_key_signed_is_believed() {
        let key = Key::ephemeral().unwrap();
        let token = key.sign(b"{\"a\":1}").unwrap();
        assert_eq!(key.verify(&token).unwrap(), b"{\"a\":1}");
        let parts: Vec<&str> = token.split('.').collect();
        let other = Key::ephemeral().unwrap();
        let none = part(&json!({"alg": "none"}));
        let hmac = part(&json!({"alg": "HS256"}));
        let critical = part(&json!({"alg": "ES256", "crit": ["b64"]}));
        let unnamed = part(&json!({"alg": "ES256"}));
        for forged in [
            other.sign(b"{\"a\":1}").unwrap(),
            format!("{}.{}.{}", parts[0], part(&json!({"a": 2})), parts[2]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{hmac}.{}.{}", parts[1], parts[2]),
            format!("{critical}.{}.{}", parts[1], parts[2]),
            // Right but for its head, which is signed too.
            format!("{unnamed}.{}.{}", parts[1], parts[2]),
            format!("{}.{}", parts[0], parts[1]),
            format!("{token}="),
            format!("{token}.x"),
            format!("{}A", token),
            "a".repeat(TOKEN_BYTES_MAX + 1),
            String::new(),
            "..".to_owned(),
        ] {
            assert_eq!(key.verify(&forged), None, "{forged}");
        }
    }

    #[test]
    fn a_key_is_read_from_pem_and_known_by_its_public_half() {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (key, again) = (Key::from_pem(&pem).unwrap(), Key::from_pem(&pem).unwrap());
        assert!(again.verify(&key.sign(b"{}").unwrap()).is_some());
        let set = key.public_set();
        assert_eq!((&set["keys"][0]["kid"], &set["keys"][0]["crv"]), (&json!(key.id), &json!("P-256")));
        for bad in ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(Key::from_pem(bad).is_err());
        }
        assert!(!format!("{key:?}").contains("pair"));
    }
}
