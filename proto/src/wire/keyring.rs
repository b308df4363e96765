//! Cluster keys and the ring of those that a node accepts.
//!
//! One [`Key`] is all the secret that a cluster has. It is never used as it is: each purpose
//! gets a secret of its own, derived with HKDF-SHA256 (RFC 5869) from the key and a label, so
//! that what one purpose gives away tells nothing about another.
//!
//! ```text
//!                    +-- "kith key id"                       -> KeyId (4 bytes, public)
//! key -- extract ----+-- "kith datagram" ‖ node id ‖ salt    -> AES-256-GCM key of one life (seal)
//!                    +-- "kith derived " ‖ label             -> Key::derive, for hosts
//! ```
//!
//! A [`Keyring`] holds what a node accepts, and its first key, the *primary*, is what it
//! seals with. Rotation is three changes of the ring, each done on every member before the
//! next: `add` (all can open), `set_primary` (all seal with it), `remove` (the old one is
//! worth nothing any more).

use std::{fmt, hint::black_box, str::FromStr};

use base64::{
    DecodeError, Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ring::hkdf;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a cluster key.
pub const KEY_LEN: usize = 32;
/// The most keys that a ring holds. A rotation needs two; the rest is room for operators who
/// start another before they ended the last.
pub const MAX_KEYS: usize = 8;

/// Separates these derivations from those of other programs that were given the same bytes.
const EXTRACT_SALT: &[u8] = b"kith";

/// Written with padding, and read with or without: people lose it when they copy.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A cluster key: 32 secret bytes, for people in base64. `Debug` shows its id only, equality
/// takes the same time whatever differs, and the bytes are wiped when it is dropped.
#[derive(Clone)]
pub struct Key {
    /// Boxed, so that a move of the key leaves no copy of it behind.
    secret: Box<[u8; KEY_LEN]>,
    /// Kept, since every datagram is looked up by it.
    id: KeyId,
}

/// A short name of a key that tells nothing about it. Shown as 8 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

/// The keys a node accepts, 1 to [`MAX_KEYS`]; the first one, the primary, seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<Key>,
}

/// Text that is no cluster key. Nothing of the text is repeated: most of it may be the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is nothing but white space.
    #[error("the cluster key is empty; `kith keygen` makes one")]
    Empty,
    /// Not base64.
    #[error(
        "the cluster key is not base64 (character {position} cannot be part of it); it is a line \
         of 44 characters as printed by `kith keygen`"
    )]
    NotBase64 {
        /// The first wrong character, counted from 1.
        position: usize,
    },
    /// Base64 of which something at the end is missing or changed.
    #[error(
        "the cluster key is cut off or mistyped at its end; it is a line of 44 characters as \
         printed by `kith keygen`"
    )]
    Truncated,
    /// Proper base64, but not of 32 bytes.
    #[error(
        "a cluster key is {KEY_LEN} bytes in base64 (44 characters), but this one is {found} \
         bytes; `kith keygen` makes one"
    )]
    Length {
        /// How many bytes it is.
        found: usize,
    },
}

/// Text that is not 8 hexadecimal digits was given where the id of a key was wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the id of a key: 8 hexadecimal digits, as `kith keys` lists them")]
pub struct ParseKeyIdError(String);

/// A ring could not be changed, and was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The ring does not hold that key.
    #[error("key {id} is not known here; add it first")]
    Unknown {
        /// The key asked for.
        id: KeyId,
    },
    /// The key still seals.
    #[error("key {id} is in use; switch to another before it is removed")]
    Primary {
        /// The key asked for.
        id: KeyId,
    },
    /// The ring holds [`MAX_KEYS`] keys already.
    #[error("{MAX_KEYS} keys are held already; remove one that is not used any more")]
    Full,
    /// Another key has the same id (once in four thousand million).
    #[error("another key happens to have the id {id}; make a new one with `kith keygen`")]
    Clash {
        /// The id of both.
        id: KeyId,
    },
}

impl Key {
    /// Takes 32 secret bytes, which must come from a good random source.
    pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
        let secret = Box::new(bytes);
        bytes.zeroize();
        let mut id = [0; 4];
        let okm = expand(&prk(&*secret), &[b"kith key id"]);
        id.copy_from_slice(&okm[..4]);
        Self {
            secret,
            id: KeyId(u32::from_be_bytes(id)),
        }
    }

    /// Reads what [`Key::to_base64`] or `kith keygen` wrote; white space around it is ignored,
    /// and padding may be missing.
    ///
    /// # Errors
    ///
    /// See [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let bytes = Zeroizing::new(BASE64.decode(text).map_err(|error| match error {
            DecodeError::InvalidByte(offset, _) => KeyError::NotBase64 {
                position: offset + 1,
            },
            DecodeError::InvalidLength(_)
            | DecodeError::InvalidLastSymbol { .. }
            | DecodeError::InvalidPadding => KeyError::Truncated,
        })?);
        match <[u8; KEY_LEN]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Ok(Self::from_bytes(bytes)),
            Err(_) => Err(KeyError::Length { found: bytes.len() }),
        }
    }

    /// The key of a cluster that has none: derived from its name, so that two such clusters on
    /// one machine keep apart. It keeps nothing secret, and is meant for loopback only.
    pub fn derived_from_name(cluster: &str) -> Self {
        Self::from_bytes(*expand(
            &prk(cluster.as_bytes()),
            &[b"kith keyless cluster"],
        ))
    }

    /// The key for people and files, 44 characters. This is the secret itself.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.secret.as_slice()))
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// A secret of its own for each `label`, that tells nothing about the key or about other
    /// labels; always the same for the same key and label.
    pub fn derive(&self, label: &[u8]) -> [u8; 32] {
        *expand(&self.prk(), &[b"kith derived ", label])
    }

    /// What the other derivations of [`super`] start from.
    pub(super) fn prk(&self) -> hkdf::Prk {
        prk(&*self.secret)
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

    /// The key with that id, if the ring holds it.
    pub fn get(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// All keys, the primary first, the others as they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.keys.iter()
    }

    /// The ids of all keys, the primary's first.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = KeyId> {
        self.keys.iter().map(Key::id)
    }

    /// Accepts a further key from now on, without sealing with it. Returns false if the ring
    /// holds it already.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Full`] and [`KeyringError::Clash`]; the ring is as before.
    pub fn add(&mut self, key: Key) -> Result<bool, KeyringError> {
        match self.get(key.id) {
            Some(held) if *held == key => Ok(false),
            Some(_) => Err(KeyringError::Clash { id: key.id }),
            None if self.keys.len() >= MAX_KEYS => Err(KeyringError::Full),
            None => {
                self.keys.push(key);
                Ok(true)
            }
        }
    }

    /// Seals with that key from now on. Returns false if it did already.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Unknown`]; the ring is as before.
    pub fn set_primary(&mut self, id: KeyId) -> Result<bool, KeyringError> {
        let at = self.position(id)?;
        self.keys[..=at].rotate_right(1);
        Ok(at != 0)
    }

    /// Does not accept that key any more.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Unknown`] and [`KeyringError::Primary`]; the ring is as before.
    pub fn remove(&mut self, id: KeyId) -> Result<(), KeyringError> {
        match self.position(id)? {
            0 => Err(KeyringError::Primary { id }),
            at => {
                self.keys.remove(at);
                Ok(())
            }
        }
    }

    fn position(&self, id: KeyId) -> Result<usize, KeyringError> {
        let at = self.keys.iter().position(|key| key.id == id);
        at.ok_or(KeyringError::Unknown { id })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.secret.iter().zip(other.secret.iter());
        black_box(pairs.fold(0, |differences, (a, b)| differences | (a ^ b))) == 0
    }
}

impl Eq for Key {}

impl Drop for Key {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl ZeroizeOnDrop for Key {}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for KeyId {
    type Err = ParseKeyIdError;

    fn from_str(text: &str) -> Result<Self, ParseKeyIdError> {
        if text.len() != 8 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseKeyIdError(text.to_owned()));
        }
        match u32::from_str_radix(text, 16) {
            Ok(id) => Ok(Self(id)),
            Err(_) => Err(ParseKeyIdError(text.to_owned())),
        }
    }
}

// Text where people read, fixed bytes on the wire: both are random, so that integers of
// variable length would be longer.

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.to_be_bytes().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(de::Error::custom)
        } else {
            <[u8; 4]>::deserialize(deserializer).map(|b| Self(u32::from_be_bytes(b)))
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.to_base64())
        } else {
            self.secret.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = Zeroizing::new(String::deserialize(deserializer)?);
            Self::parse(&text).map_err(de::Error::custom)
        } else {
            <[u8; KEY_LEN]>::deserialize(deserializer).map(Self::from_bytes)
        }
    }
}

impl Serialize for Keyring {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.keys.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Keyring {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(KeyringVisitor)
    }
}

/// Reads a ring as it is written, and stops at the first key too many.
struct KeyringVisitor;

impl<'de> Visitor<'de> for KeyringVisitor {
    type Value = Keyring;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 to {MAX_KEYS} cluster keys")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut keys: A) -> Result<Keyring, A::Error> {
        let Some(primary) = keys.next_element()? else {
            return Err(de::Error::invalid_length(0, &self));
        };
        let mut ring = Keyring::new(primary);
        while let Some(key) = keys.next_element()? {
            ring.add(key).map_err(de::Error::custom)?;
        }
        Ok(ring)
    }
}

fn prk(secret: &[u8]) -> hkdf::Prk {
    hkdf::Salt::new(hkdf::HKDF_SHA256, EXTRACT_SALT).extract(secret)
}

fn expand(prk: &hkdf::Prk, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    prk.expand(info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *out))
        .expect("one block of the hash is always to be had");
    out
}

#[cfg(test)]
mod tests;
