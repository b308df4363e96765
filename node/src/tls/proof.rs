//! What an operator's own certificates leave open: that both ends hold the cluster's key.
//!
//! A certificate from a company's authority says who somebody is, and not that it belongs to
//! this cluster: others have such certificates, too. So each end of a stream shows that it
//! knows a key of the ring, in a way that is of use on this stream alone:
//!
//! ```text
//!   HMAC-SHA256(derived from the cluster key, side ‖ what only the two ends of this TLS
//!                                             session can compute: RFC 8446, section 7.5)
//! ```
//!
//! Minted certificates (see [`super::minted`]) need none of this: they come from the key.

use kith_proto::wire::keyring::{Key, KeyId, Keyring};
use ring::hmac;
use rustls::ConnectionCommon;

/// What sets the proof's secret apart from all else derived from a cluster key.
const PROOF_LABEL: &[u8] = b"kith peer stream proof, hmac-sha256, 1";
/// What sets the secret of a session that is used here apart from its others.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-kith-peer-stream";
const ID_LEN: usize = 4;
const MAC_LEN: usize = 32;
/// Bytes of a proof: the id of the key, big endian, and the code.
pub(crate) const PROOF_LEN: usize = ID_LEN + MAC_LEN;

/// Which end shows a proof. One end's is worth nothing as the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one that opened the connection.
    Dialler,
    /// The one that accepted it.
    Acceptor,
}

/// The other end has no key of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end does not hold a key of this cluster")]
pub(crate) struct WrongKey;

/// Makes and checks proofs with the keys of a ring.
#[derive(Clone, Debug)]
pub(crate) struct Proofs {
    /// The first one makes, all check.
    keys: Vec<(KeyId, hmac::Key)>,
}

impl Proofs {
    pub(super) fn new(keys: &Keyring) -> Self {
        let secret = |key: &Key| hmac::Key::new(hmac::HMAC_SHA256, &key.derive(PROOF_LABEL));
        Self {
            keys: keys.iter().map(|key| (key.id(), secret(key))).collect(),
        }
    }

    /// What this end shows, being on that side of the session.
    ///
    /// # Errors
    /// If the handshake is not over.
    pub(crate) fn make<D>(
        &self,
        side: Side,
        session: &ConnectionCommon<D>,
    ) -> Result<[u8; PROOF_LEN], rustls::Error> {
        let (id, key) = &self.keys[0];
        let mac = hmac::sign(key, &proven(side, session)?);
        let mut proof = [0; PROOF_LEN];
        proof[..ID_LEN].copy_from_slice(&id.0.to_be_bytes());
        proof[ID_LEN..].copy_from_slice(mac.as_ref());
        Ok(proof)
    }

    /// Whether what the other end, on that side, showed is right.
    ///
    /// # Errors
    /// If the handshake is not over; the inner one is that it is wrong.
    pub(crate) fn check<D>(
        &self,
        side: Side,
        session: &ConnectionCommon<D>,
        proof: &[u8; PROOF_LEN],
    ) -> Result<Result<(), WrongKey>, rustls::Error> {
        let (id, mac) = proof.split_at(ID_LEN);
        let mut keys = self.keys.iter();
        let Some((_, key)) = keys.find(|(known, _)| known.0.to_be_bytes() == *id) else {
            return Ok(Err(WrongKey));
        };
        let checked = hmac::verify(key, &proven(side, session)?, mac);
        Ok(checked.map_err(|_says_nothing_more| WrongKey))
    }
}

fn proven<D>(
    side: Side,
    session: &ConnectionCommon<D>,
) -> Result<[u8; 1 + MAC_LEN], rustls::Error> {
    let mut proven = [0; 1 + MAC_LEN];
    proven[0] = match side {
        Side::Dialler => 1,
        Side::Acceptor => 2,
    };
    session.export_keying_material(&mut proven[1..], EXPORTER_LABEL, None)?;
    Ok(proven)
}
