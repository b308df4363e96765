//! Which keys a node starts with: those it was given, and those it had.
//!
//! A node's ring is kept on its disk, because keys rotate while it runs. The key in the
//! operator's file (`--key-file`, `KITH_KEY`) does not change with them, so that at a
//! restart the two may differ, and either may be the newer one:
//!
//! | the given key is | then | because |
//! |---|---|---|
//! | in the stored ring | the stored ring is used | the ring knows which key seals now |
//! | the one given at the last start, and no longer in the ring | it is ignored, with a warning | it was rotated away, and the file was not updated |
//! | neither | it seals, the stored ones are accepted too | the cluster's key changed while the node was away |
//!
//! To tell the second case from the third, the id of the key given last is kept as well.

use kith_proto::wire::keyring::{Key, KeyId, Keyring};

/// What begins the line with the id of the key that was given last.
const GIVEN_PREFIX: &str = "given ";

/// The keys of an earlier life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredKeys {
    /// The ring at its end.
    pub(crate) ring: Keyring,
    /// The key that the operator had given for it.
    pub(crate) given: Option<KeyId>,
}

/// What an operator should know about the keys at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingNotice {
    /// The key file is out of date.
    #[error(
        "the key given ({given}) was removed from the cluster; this node goes on with {used}, which it \
         has on its disk. Update the key file"
    )]
    Outdated {
        /// The key given.
        given: KeyId,
        /// The one that is used.
        used: KeyId,
    },
    /// The node uses a key that it did not have before.
    #[error("this node now uses the key given ({given}); before, it used {before}")]
    Replaced {
        /// The key given.
        given: KeyId,
        /// The one before.
        before: KeyId,
    },
}

/// The ring to start with; `None` if no key was given and none is stored. `keyless` is the
/// key that everybody knows, for clusters without one: it is not kept beside a given one.
pub(crate) fn choose_ring(
    given: Option<Key>,
    stored: Option<StoredKeys>,
    keyless: KeyId,
) -> Option<(Keyring, Option<RingNotice>)> {
    let (given, stored) = match (given, stored) {
        (None, None) => return None,
        (Some(given), None) => return Some((Keyring::new(given), None)),
        (None, Some(stored)) => return Some((stored.ring, None)),
        (Some(given), Some(stored)) => (given, stored),
    };
    if stored.ring.get(given.id()).is_some() {
        return Some((stored.ring, None));
    }
    let before = stored.ring.primary().id();
    if stored.given == Some(given.id()) {
        let notice = RingNotice::Outdated {
            given: given.id(),
            used: before,
        };
        return Some((stored.ring, Some(notice)));
    }
    let notice = RingNotice::Replaced {
        given: given.id(),
        before,
    };
    let mut ring = Keyring::new(given);
    for key in stored.ring.iter().filter(|key| key.id() != keyless) {
        if let Err(error) = ring.add(key.clone()) {
            // More than a ring can hold: the last ones are those that matter least.
            tracing::warn!(target: "kith", %error, "an old key is not accepted any more");
        }
    }
    Some((ring, Some(notice)))
}

impl StoredKeys {
    /// The lines of a keys file.
    pub(super) fn render(ring: &Keyring, given: Option<KeyId>) -> String {
        let mut text = String::new();
        for key in ring.iter() {
            text.push_str(&key.to_base64());
            text.push('\n');
        }
        if let Some(given) = given {
            text.push_str(&format!("{GIVEN_PREFIX}{given}\n"));
        }
        text
    }

    /// Reads what [`Self::render`] wrote. What it says of a problem tells nothing of the keys.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut ring: Option<Keyring> = None;
        let mut given = None;
        for line in text.lines() {
            if let Some(id) = line.strip_prefix(GIVEN_PREFIX) {
                given = Some(
                    id.parse()
                        .map_err(|_parse_error| "not the id of a key".to_owned())?,
                );
                continue;
            }
            let key = Key::parse(line).map_err(|error| error.to_string())?;
            match &mut ring {
                None => ring = Some(Keyring::new(key)),
                Some(ring) => {
                    ring.add(key).map_err(|error| error.to_string())?;
                }
            }
        }
        let ring = ring.ok_or_else(|| "it holds no key".to_owned())?;
        Ok(Self { ring, given })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 32])
    }

    fn ring(keys: &[u8]) -> Keyring {
        let mut ring = Keyring::new(key(keys[0]));
        for n in &keys[1..] {
            ring.add(key(*n)).unwrap();
        }
        ring
    }

    fn choose(given: Option<u8>, stored: &[u8], before: Option<u8>) -> (Keyring, bool) {
        let stored = (!stored.is_empty()).then(|| StoredKeys {
            ring: ring(stored),
            given: before.map(|n| key(n).id()),
        });
        let (ring, notice) = choose_ring(given.map(key), stored, key(0).id()).unwrap();
        (ring, notice.is_some())
    }

    #[test]
    fn every_case_of_the_table() {
        assert_eq!(choose(Some(1), &[], None), (ring(&[1]), false));
        assert_eq!(choose(None, &[2, 1], Some(1)), (ring(&[2, 1]), false));
        assert_eq!(choose(Some(1), &[2, 1], Some(1)), (ring(&[2, 1]), false));
        assert_eq!(choose(Some(1), &[2], Some(1)), (ring(&[2]), true));
        assert_eq!(choose(Some(3), &[2, 1], Some(1)), (ring(&[3, 2, 1]), true));
        assert_eq!(choose_ring(None, None, key(0).id()), None);
    }

    #[test]
    fn the_key_that_everybody_knows_is_not_kept_beside_a_secret_one() {
        assert_eq!(choose(Some(1), &[0], None), (ring(&[1]), true));
        // Unless a rotation away from it is under way.
        assert_eq!(choose(Some(1), &[0, 1], None), (ring(&[0, 1]), false));
    }

    #[test]
    fn stored_keys_read_back() {
        let given = Some(key(1).id());
        let text = StoredKeys::render(&ring(&[2, 1]), given);
        let stored = StoredKeys::parse(&text).unwrap();
        assert_eq!((stored.ring, stored.given), (ring(&[2, 1]), given));
        for wrong in ["", "given 0000000x\n", "AAAA\n"] {
            assert!(StoredKeys::parse(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
