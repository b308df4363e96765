//! TLS for peer streams, with nothing to handle but the cluster key.
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
//!
//! Only TLS 1.3, both sides with certificates, no session resumption: streams live for
//! days, and a ticket would outlive the removal of the key that it was given under.
//!
//! In TLS 1.3 (RFC 8446, section 4.4) a client has finished its handshake before the
//! server has looked at the client's certificate. A dialler must therefore not believe that
//! it is accepted until it has heard something: see the greeting in [`crate::peer`].

use std::{fmt, io, sync::Arc};

use kith_proto::wire::keyring::{Key, Keyring};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SerialNumber,
};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{Accept, Connect, TlsAcceptor, TlsConnector};

/// The name in every leaf. Who a node is, is settled by the handshake on the stream; the
/// certificate only says that it belongs.
const NAME: &str = "peer.kith.internal";
/// What sets the authority's secret apart from all else derived from a cluster key.
const AUTHORITY_LABEL: &[u8] = b"kith peer stream authority, ed25519, 1";
/// What precedes the 32 secret bytes of an Ed25519 key in PKCS#8 (RFC 8410, section 7).
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Both ends of peer streams, ready for use. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct TlsSetup {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for TlsSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSetup(..)")
    }
}

/// Certificates could not be made. Nothing in the configuration leads here.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Minting failed.
    #[error("cannot mint the certificate for peer streams: {0}")]
    Mint(#[from] rcgen::Error),
    /// The authorities were not usable.
    #[error("cannot verify certificates of peers: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// rustls did not take what was minted.
    #[error("cannot set up TLS for peer streams: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsSetup {
    /// Derives the authorities of all keys and mints a leaf under the primary one's.
    ///
    /// # Errors
    /// If the machine gives no randomness.
    pub(crate) fn new(keys: &Keyring) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for key in keys.iter() {
            roots.add(Authority::derive(key)?.certificate()?)?;
        }
        let roots = Arc::new(roots);
        let (leaf, leaf_key) = Authority::derive(keys.primary())?.mint_leaf()?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server_config(
                &provider,
                &roots,
                leaf.clone(),
                leaf_key.clone_key(),
            )?)),
            connector: TlsConnector::from(Arc::new(client_config(
                &provider, roots, leaf, leaf_key,
            )?)),
            name: ServerName::try_from(NAME).map_err(|_fixed_and_valid| {
                rustls::Error::General(format!("{NAME} is not a name"))
            })?,
        })
    }

    /// The accepting side's handshake.
    pub(crate) fn accept(&self, tcp: TcpStream) -> Accept<TcpStream> {
        self.acceptor.accept(tcp)
    }

    /// The dialling side's handshake.
    pub(crate) fn connect(&self, tcp: TcpStream) -> Connect<TcpStream> {
        self.connector.connect(self.name.clone(), tcp)
    }
}

/// True if an error of a handshake, or of the first read after it, says that one side did
/// not accept the other's certificate: we found so ourselves, or their alert says it.
pub(crate) fn is_untrusted(error: &io::Error) -> bool {
    let Some(error) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return false;
    };
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::NoCertificate
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
        ),
        _ => false,
    }
}

/// The certificate authority of one cluster key. Everything about it is fixed by the key.
struct Authority {
    params: CertificateParams,
    pair: KeyPair,
}

impl Authority {
    fn derive(key: &Key) -> Result<Self, rcgen::Error> {
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

    fn certificate(&self) -> Result<CertificateDer<'static>, rcgen::Error> {
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

fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    leaf: CertificateDer<'static>,
    leaf_key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            // There is one certificate to choose from; a list of names would only tell
            // strangers the ids of our keys.
            .clear_root_hint_subjects()
            .build()?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf], leaf_key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    leaf: CertificateDer<'static>,
    leaf_key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf], leaf_key)?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 32])
    }

    fn ring(keys: &[u8]) -> TlsSetup {
        let mut ring = Keyring::new(key(keys[0]));
        for n in &keys[1..] {
            ring.add(key(*n)).unwrap();
        }
        TlsSetup::new(&ring).unwrap()
    }

    /// What the dialler and the accepting side find, each after its handshake and one byte
    /// from the accepting side.
    async fn meet(dialler: &TlsSetup, acceptor: &TlsSetup) -> (io::Result<u8>, io::Result<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dial = async {
            let tcp = TcpStream::connect(address).await?;
            dialler.connect(tcp).await?.read_u8().await
        };
        let accept = async {
            let (tcp, _) = listener.accept().await?;
            let mut stream = acceptor.accept(tcp).await?;
            stream.write_u8(7).await?;
            stream.flush().await
        };
        tokio::join!(dial, accept)
    }

    #[tokio::test]
    async fn nodes_with_the_same_key_accept_each_other() {
        let (dialled, accepted) = meet(&ring(&[1]), &ring(&[1])).await;
        assert_eq!(dialled.unwrap(), 7);
        accepted.unwrap();
    }

    #[tokio::test]
    async fn nodes_with_different_keys_refuse_each_other_and_both_know_why() {
        let (dialled, accepted) = meet(&ring(&[1]), &ring(&[2])).await;
        let (dialled, accepted) = (dialled.unwrap_err(), accepted.unwrap_err());
        assert!(is_untrusted(&dialled), "{dialled}");
        assert!(is_untrusted(&accepted), "{accepted}");
    }

    #[tokio::test]
    async fn a_ring_of_two_accepts_both_and_shows_the_first() {
        for other in [1, 2] {
            // The other side accepts only what we show, so that it sees which that is.
            let both = ring(&[2, 1]);
            let (dialled, _) = meet(&ring(&[other, 2]), &both).await;
            assert_eq!(dialled.unwrap(), 7, "{other} dials");
            let (dialled, _) = meet(&both, &ring(&[other, 2])).await;
            assert_eq!(dialled.unwrap(), 7, "{other} is dialled");
        }
    }

    #[tokio::test]
    async fn a_dialler_learns_that_its_own_certificate_is_the_one_refused() {
        // It accepts the old key's leaf but shows the new one, which the old node refuses
        // after the dialler's side of the handshake is over.
        let (dialled, accepted) = meet(&ring(&[2, 1]), &ring(&[1])).await;
        let (dialled, accepted) = (dialled.unwrap_err(), accepted.unwrap_err());
        assert!(is_untrusted(&dialled), "{dialled}");
        assert!(is_untrusted(&accepted), "{accepted}");
    }

    #[tokio::test]
    async fn a_client_without_a_certificate_is_refused() {
        let acceptor = ring(&[1]);
        let mut roots = RootCertStore::empty();
        let authority = Authority::derive(&key(1)).unwrap();
        roots.add(authority.certificate().unwrap()).unwrap();
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let bare = TlsSetup {
            connector: TlsConnector::from(Arc::new(config)),
            ..ring(&[1])
        };
        let (dialled, accepted) = meet(&bare, &acceptor).await;
        let (dialled, accepted) = (dialled.unwrap_err(), accepted.unwrap_err());
        assert!(is_untrusted(&dialled), "{dialled}");
        assert!(is_untrusted(&accepted), "{accepted}");
    }

    #[test]
    fn every_node_derives_the_same_authority_from_a_key() {
        let certificate = |n| Authority::derive(&key(n)).unwrap().certificate().unwrap();
        assert_eq!(certificate(1), certificate(1));
        assert_ne!(certificate(1), certificate(2));
    }

    #[test]
    fn other_errors_are_not_about_trust() {
        for error in [
            io::Error::from(io::ErrorKind::UnexpectedEof),
            io::Error::other(rustls::Error::DecryptError),
            io::Error::other(rustls::Error::AlertReceived(
                AlertDescription::InternalError,
            )),
        ] {
            assert!(!is_untrusted(&error), "{error}");
        }
    }
}
