//! Certificates that nobody has to handle: minted from the cluster key.
//!
//! ```text
//!   cluster key ──derive──> authority (the same at every node, never stored or sent)
//!                               │ signs
//!                               v
//!                 leaf certificate with a random key, minted at each start
//! ```
//!
//! Every node derives the same certificate authority from a key, so that holding the key
//! and being able to show an accepted certificate are the same thing. A node shows a leaf
//! of its *primary* key's authority and accepts leaves of the authorities of *all* keys in
//! its ring: that is what lets keys rotate without downtime.

use kith_proto::wire::keyring::{Key, Keyring};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SerialNumber,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{Credentials, TlsError};

/// The name in every leaf. Who a node is, is settled by the handshake on the stream; the
/// certificate only says that it belongs.
pub(super) const NAME: &str = "peer.kith.internal";
/// What sets the authority's secret apart from all else derived from a cluster key.
const AUTHORITY_LABEL: &[u8] = b"kith peer stream authority, ed25519, 1";
/// What precedes the 32 secret bytes of an Ed25519 key in PKCS#8 (RFC 8410, section 7).
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Derives the authorities of all keys and mints a leaf under the primary one's.
///
/// # Errors
/// If the machine gives no randomness.
pub(super) fn credentials(keys: &Keyring) -> Result<Credentials, TlsError> {
    let mut roots = RootCertStore::empty();
    for key in keys.iter() {
        roots.add(Authority::derive(key)?.certificate()?)?;
    }
    let (leaf, key) = Authority::derive(keys.primary())?.mint_leaf()?;
    Ok(Credentials {
        chain: vec![leaf],
        key,
        roots,
    })
}

/// Whether a certificate looks like a leaf from here, of whatever key. Proves nothing.
pub(super) fn is_minted(certificate: &CertificateDer<'_>) -> bool {
    let mut parts = certificate.windows(NAME.len());
    parts.any(|part| part == NAME.as_bytes())
}

/// The certificate authority of one cluster key. Everything about it is fixed by the key.
pub(super) struct Authority {
    params: CertificateParams,
    pair: KeyPair,
}

impl Authority {
    pub(super) fn derive(key: &Key) -> Result<Self, rcgen::Error> {
        let mut pkcs8 = ED25519_PKCS8_PREFIX.to_vec();
        pkcs8.extend_from_slice(&key.derive(AUTHORITY_LABEL));
        let pair =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        // The key's id makes the names of authorities differ, so that a verifier with
        // several of them knows which one is meant, and says "unknown issuer" of others.
        params.distinguished_name.push(
            DnType::CommonName,
            format!("Kith cluster authority {}", key.id()),
        );
        params.serial_number = Some(SerialNumber::from(1));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self { params, pair })
    }

    pub(super) fn certificate(&self) -> Result<CertificateDer<'static>, rcgen::Error> {
        Ok(self.params.self_signed(&self.pair)?.into())
    }

    /// A leaf for either end of a stream. Its dates (1975 to 4096) never matter: a wrong
    /// clock must not keep a node out of its cluster, and the end of a key is its removal.
    fn mint_leaf(self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
        let pair = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::new([NAME.to_owned()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, "Kith node");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let issuer = Issuer::new(self.params, self.pair);
        let leaf = params.signed_by(&pair, &issuer)?.into();
        Ok((leaf, PrivatePkcs8KeyDer::from(pair.serialize_der()).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_derives_the_same_authority_from_a_key() {
        let key = |n| Key::from_bytes([n; 32]);
        let certificate = |n| Authority::derive(&key(n)).unwrap().certificate().unwrap();
        assert_eq!(certificate(1), certificate(1));
        assert_ne!(certificate(1), certificate(2));
    }

    #[test]
    fn leaves_are_known_by_their_name() {
        let authority = || Authority::derive(&Key::from_bytes([1; 32])).unwrap();
        assert!(is_minted(&authority().mint_leaf().unwrap().0));
        assert!(!is_minted(&authority().certificate().unwrap()));
    }
}
