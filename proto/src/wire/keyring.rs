//! Cluster keys and the ring of those that a node accepts.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{digest, hkdf};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A cluster key: 32 secret bytes, for people in base64. `Debug` shows its id only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

/// A short name of a key that tells nothing about it. Shown as 8 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub u32);

/// The keys a node accepts; the first one seals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyring {
    keys: Vec<Key>,
}

/// Text that is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a cluster key: 32 bytes in base64 are wanted")]
pub struct ParseKeyError;

impl Key {
    /// The key of those bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads base64.
    ///
    /// # Errors
    /// If it is not 32 bytes.
    pub fn parse(text: &str) -> Result<Self, ParseKeyError> {
        let bytes = STANDARD
            .decode(text.trim())
            .map_err(|_detail_may_hold_secrets| ParseKeyError)?;
        Ok(Self(
            bytes.try_into().map_err(|_wrong_length| ParseKeyError)?,
        ))
    }

    /// The key for people and files.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Its short name.
    pub fn id(&self) -> KeyId {
        let hash = digest::digest(&digest::SHA256, &self.derive(b"kith key id"));
        let b = hash.as_ref();
        KeyId(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// 32 bytes for another use, from which the key cannot be found.
    pub fn derive(&self, label: &[u8]) -> [u8; 32] {
        let mut bytes = [0; 32];
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"kith");
        let info = [label];
        let prk = salt.extract(&self.0);
        if let Ok(okm) = prk.expand(&info, hkdf::HKDF_SHA256) {
            okm.fill(&mut bytes).unwrap_or_default();
        }
        bytes
    }
}

impl Keyring {
    /// A ring of one key.
    pub fn new(primary: Key) -> Self {
        Self {
            keys: vec![primary],
        }
    }

    /// The key that seals.
    pub fn primary(&self) -> &Key {
        &self.keys[0]
    }

    /// The key of that name.
    pub fn get(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// All keys, the one that seals first.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// Accepts one more key.
    pub fn add(&mut self, key: Key) {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
