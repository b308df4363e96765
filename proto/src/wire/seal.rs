//! The envelope of a datagram: what keeps strangers out of the gossip.
//!
//! ```text
//!    1      4          8           8          6        1            n           16   bytes
//! ┌─────┬────────┬───────────┬───────────┬─────────┬╌╌╌╌╌╌┬╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌┬─────────┐
//! │ ver │ key id │  node id  │   salt    │ counter │ kind ┆    payload     │   tag   │
//! └─────┴────────┴───────────┴───────────┴─────────┴╌╌╌╌╌╌┴╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌┴─────────┘
//!  0     1        5           13          21        27     28               28 + n
//!  └──────────── header, in the clear ────────────┘└────── encrypted ──────┘
//! ```
//!
//! All integers are big-endian. The cipher is AES-256-GCM:
//!
//! - **Key**: HKDF-SHA256 of the cluster key with `"kith datagram" ‖ node id ‖ salt`. The salt
//!   is drawn at random once per life, so that each life of each node has a key of its own.
//! - **Nonce**: six zero bytes and the counter, which starts at 0, grows by one with every
//!   packet of the life, and goes on when the cluster key changes. No nonce is ever used twice
//!   with the same key, and the core needs no random source. 2⁴⁸ packets are nine years at a
//!   million a second.
//! - **Associated data**: the header, then the cluster's name. Packets of another cluster that
//!   was given the same key are refused like forged ones.
//!
//! What an envelope proves: somebody who holds the cluster key made it, as this node, in this
//! life, and this [`Opener`] has not seen it before. What it does **not** prove, and what the
//! layers above check:
//!
//! - that it was meant for the receiver: a recorded packet can be sent to another member;
//! - that it is recent: a receiver that has just started, or has forgotten a sender (see
//!   [`MAX_PEERS`]), takes each recorded packet once, which is why lives and incarnations are
//!   compared before anything is believed;
//! - which member made it: all members hold the same key.

pub mod replay;

use std::collections::BTreeMap;

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
};

use self::replay::ReplayWindow;
use super::keyring::{Key, KeyId, Keyring};
use crate::id::NodeId;

/// The version of the envelope, its first byte.
pub const VERSION: u8 = 1;
/// Bytes that a sealed datagram is longer than its payload.
pub const OVERHEAD: usize = HEADER + KIND + TAG;
/// The most lives of senders that an [`Opener`] remembers, under each key (about 0.8 KiB
/// each). Beyond it the one not heard for the longest time is forgotten, and with it which of
/// its packets were seen. More costs memory only; fewer than twice the members would forget
/// living ones during a key rotation.
pub const MAX_PEERS: usize = 4096;

const HEADER: usize = 27;
const KIND: usize = 1;
const TAG: usize = 16;
/// Counters end here: they have six bytes.
const COUNTER_END: u64 = 1 << 48;

/// Where the fields of the header are.
mod at {
    use std::ops::Range;

    pub(super) const VERSION: usize = 0;
    pub(super) const KEY: Range<usize> = 1..5;
    pub(super) const NODE: Range<usize> = 5..13;
    pub(super) const SALT: Range<usize> = 13..21;
    pub(super) const COUNTER: Range<usize> = 21..27;
}

/// Seals the datagrams of one life of a node.
///
/// Not `Clone`: two sealers with the same salt would use the same nonces.
pub struct Sealer {
    node: NodeId,
    salt: u64,
    /// Of the next packet.
    counter: u64,
    /// The associated data, header first, of the last packet; only its key id and counter
    /// change.
    associated: Vec<u8>,
    /// The key derived from the primary that was used last.
    derived: Option<(KeyId, LessSafeKey)>,
}

/// Opens the datagrams of others, and remembers which it has seen.
pub struct Opener {
    /// The associated data, header first: the cluster's name stays, the header is that of the
    /// last packet.
    associated: Vec<u8>,
    /// Boxed, so that the map itself, which is searched with every packet, is small.
    peers: BTreeMap<PeerKey, Box<Peer>>,
    /// Of those, at most this many: [`MAX_PEERS`].
    max_peers: usize,
    /// Packets accepted so far, the clock of [`Peer::used`].
    accepted: u64,
}

/// An authentic datagram, decrypted in its own buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// The node that it says it is from.
    pub sender: NodeId,
    /// Which of its lives: what it drew at its start.
    pub salt: u64,
    /// Its number among the packets of that life, from 0.
    pub counter: u64,
    /// The key it was sealed with.
    pub key: KeyId,
    /// What was given to [`Sealer::seal`].
    pub kind: u8,
    /// What was given to [`Sealer::seal`], all parts in one.
    pub payload: &'a [u8],
}

/// A datagram was not accepted. Nothing is remembered of it; its bytes may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not even an envelope.
    #[error("{length} bytes are too few for a datagram ({OVERHEAD} at least)")]
    TooShort {
        /// How many there are.
        length: usize,
    },
    /// Made by another version of the software, or no datagram of ours at all.
    #[error("version {found} of the envelope is not spoken here (version {VERSION} is)")]
    Version {
        /// Its first byte.
        found: u8,
    },
    /// Sealed with a key that is not in the ring.
    #[error("sealed with key {id}, which is not held here")]
    UnknownKey {
        /// The key that it names.
        id: KeyId,
    },
    /// It was changed on its way, made by somebody without the key, or belongs to a cluster
    /// with another name.
    #[error("not authentic: forged, damaged, or from a cluster of another name")]
    Forged,
    /// Authentic, but it was seen before, or is so old that this cannot be told.
    #[error("packet {counter} of node {sender} was seen before, or is too old")]
    Replayed {
        /// The node that it is from.
        sender: NodeId,
        /// Its number in the life of that node.
        counter: u64,
    },
}

impl Sealer {
    /// A sealer for one life of `node`. The `salt` must be drawn anew, from a good random
    /// source, whenever the process starts: it is what keeps nonces from being used twice.
    pub fn new(cluster_name: &str, node: NodeId, salt: u64) -> Self {
        let mut associated = associated(cluster_name);
        associated[at::VERSION] = VERSION;
        associated[at::NODE].copy_from_slice(&node.0.to_be_bytes());
        associated[at::SALT].copy_from_slice(&salt.to_be_bytes());
        Self {
            node,
            salt,
            counter: 0,
            associated,
            derived: None,
        }
    }

    /// A sealed datagram of the `parts` in one, with the ring's primary key. It is
    /// [`OVERHEAD`] bytes longer than they are. The `kind` is for the layer above, and is
    /// encrypted like the rest.
    ///
    /// # Panics
    ///
    /// After 2⁴⁸ packets: to go on would give the key away.
    pub fn seal(&mut self, ring: &Keyring, kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        assert!(
            self.counter < COUNTER_END,
            "this life has used up its nonces"
        );
        let counter = self.counter;
        self.counter += 1;

        let primary = ring.primary();
        let (_, key) = match &mut self.derived {
            Some(derived) if derived.0 == primary.id() => derived,
            outdated => {
                outdated.insert((primary.id(), datagram_key(primary, self.node, self.salt)))
            }
        };
        self.associated[at::KEY].copy_from_slice(&primary.id().0.to_be_bytes());
        self.associated[at::COUNTER].copy_from_slice(&counter.to_be_bytes()[2..]);

        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let mut datagram = Vec::with_capacity(OVERHEAD + payload);
        datagram.extend_from_slice(&self.associated[..HEADER]);
        datagram.push(kind);
        for part in parts {
            datagram.extend_from_slice(part);
        }
        let tag = key
            .seal_in_place_separate_tag(
                nonce(counter),
                Aad::from(&self.associated),
                &mut datagram[HEADER..],
            )
            .expect("AES-GCM seals anything shorter than 64 GiB");
        datagram.extend_from_slice(tag.as_ref());
        datagram
    }
}

impl Opener {
    /// An opener that has seen nothing yet.
    pub fn new(cluster_name: &str) -> Self {
        Self {
            associated: associated(cluster_name),
            peers: BTreeMap::new(),
            max_peers: MAX_PEERS,
            accepted: 0,
        }
    }

    /// Opens a datagram in place, if it was sealed with a key of the ring and was not opened
    /// before. Without a right key nobody can make this remember, or forget, anything.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open<'a>(
        &mut self,
        ring: &Keyring,
        datagram: &'a mut [u8],
    ) -> Result<Opened<'a>, OpenError> {
        let length = datagram.len();
        // Before the length, which may be another in another version.
        match datagram.first() {
            Some(&VERSION) | None => {}
            Some(&found) => return Err(OpenError::Version { found }),
        }
        let Some((header, sealed)) = datagram.split_first_chunk_mut::<HEADER>() else {
            return Err(OpenError::TooShort { length });
        };
        if sealed.len() < KIND + TAG {
            return Err(OpenError::TooShort { length });
        }
        let id = KeyId(number(&header[at::KEY]) as u32);
        let key = ring.get(id).ok_or(OpenError::UnknownKey { id })?;
        let peer = PeerKey {
            node: NodeId(number(&header[at::NODE])),
            salt: number(&header[at::SALT]),
            key: id,
        };
        let counter = number(&header[at::COUNTER]);
        self.associated[..HEADER].copy_from_slice(header);

        let associated = Aad::from(&self.associated);
        let plaintext = if let Some(known) = self.peers.get_mut(&peer) {
            let plaintext = decrypt(&known.key, counter, associated, sealed)?;
            if !known.window.accept(counter) {
                return Err(OpenError::Replayed {
                    sender: peer.node,
                    counter,
                });
            }
            known.used = self.accepted;
            plaintext
        } else {
            let derived = datagram_key(key, peer.node, peer.salt);
            let plaintext = decrypt(&derived, counter, associated, sealed)?;
            self.remember(peer, derived, counter);
            plaintext
        };
        self.accepted += 1;

        let (kind, payload) = plaintext
            .split_first()
            .expect("the length was checked above");
        Ok(Opened {
            sender: peer.node,
            salt: peer.salt,
            counter,
            key: id,
            kind: *kind,
            payload,
        })
    }

    /// Forgets what was derived from keys that are not in the ring any more. They open nothing
    /// anyway; this is to hold no secret longer than needed.
    pub fn forget_removed_keys(&mut self, ring: &Keyring) {
        self.peers.retain(|peer, _| ring.get(peer.key).is_some());
    }

    fn remember(&mut self, peer: PeerKey, key: LessSafeKey, counter: u64) {
        // A search of all, but only for a life that is new and authentic when the room is used up.
        if self.peers.len() >= self.max_peers {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.used);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.peers.remove(&oldest);
            }
        }
        let mut window = ReplayWindow::new();
        let fresh = window.accept(counter);
        debug_assert!(fresh, "a new window accepts everything");
        let used = self.accepted;
        self.peers
            .insert(peer, Box::new(Peer { key, window, used }));
    }
}

/// One life of a sender under one key. A window for each key is right although the counter runs
/// on when the key changes: a packet opens with the one key that sealed it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PeerKey {
    node: NodeId,
    salt: u64,
    key: KeyId,
}

struct Peer {
    key: LessSafeKey,
    window: ReplayWindow,
    /// [`Opener::accepted`] when it was last heard. All differ, so which is the oldest never
    /// depends on the order of the map.
    used: u64,
}

/// Room for the header, then the cluster's name.
fn associated(cluster_name: &str) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(cluster_name.as_bytes());
    bytes
}

fn datagram_key(key: &Key, node: NodeId, salt: u64) -> LessSafeKey {
    let info: [&[u8]; 3] = [b"kith datagram", &node.0.to_be_bytes(), &salt.to_be_bytes()];
    let prk = key.prk();
    let derived = prk
        .expand(&info, &AES_256_GCM)
        .expect("one block of the hash is always to be had");
    LessSafeKey::new(UnboundKey::from(derived))
}

fn decrypt<'a>(
    key: &LessSafeKey,
    counter: u64,
    associated: Aad<&Vec<u8>>,
    sealed: &'a mut [u8],
) -> Result<&'a [u8], OpenError> {
    let opened = key.open_in_place(nonce(counter), associated, sealed);
    opened
        .map(|plaintext| &*plaintext)
        .map_err(|Unspecified| OpenError::Forged)
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests;
