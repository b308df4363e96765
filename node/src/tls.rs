//! TLS for peer streams: with nothing to handle but the cluster key, or with an operator's own
//! certificates.
//!
//! | certificates | who accepts whom | the cluster key is proven by |
//! |---|---|---|
//! | [`minted`] from the cluster key (the default) | whoever shows one minted from a key of the ring | the certificate |
//! | an operator's [`own`] | whoever shows one of an authority in `--tls-ca` | a [`proof`] on each stream |
//!
//! Datagrams are sealed with the cluster key either way.
//!
//! Only TLS 1.3, both sides with certificates, no session resumption: streams live for
//! days, and a ticket would outlive the removal of the key that it was given under.
//!
//! In TLS 1.3 (RFC 8446, section 4.4) a client has finished its handshake before the
//! server has looked at the client's certificate. A dialler must therefore not believe that
//! it is accepted until it has heard something: see the greeting in [`crate::peer`].

mod minted;
mod own;
mod proof;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kith_proto::wire::keyring::Keyring;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{Accept, Connect, TlsAcceptor, TlsConnector};

pub use self::own::{CertificateFiles, Certificates, CertificatesError};
pub(crate) use self::proof::{PROOF_LEN, Proofs, Side, WrongKey};
use self::verify::{OtherKind, PeerVerifier};

/// Both ends of peer streams, ready for use. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct TlsSetup {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    name: ServerName<'static>,
    proofs: Option<Arc<Proofs>>,
}

/// What a node shows, and what it accepts.
struct Credentials {
    /// The node's certificate, and those between it and the authority.
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Authorities of which certificates are accepted.
    roots: RootCertStore,
}

/// Why one side did not accept the other's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mistrust {
    /// They do not hold the same cluster key.
    Key,
    /// Something is wrong with certificates that an operator gave; in this text "it" is the
    /// other node.
    Certificate(String),
}

/// Peer streams could not be set up. Nothing in the configuration leads here.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Minting failed.
    #[error("cannot mint the certificate for peer streams: {0}")]
    Mint(#[from] rcgen::Error),
    /// The authorities were not usable.
    #[error("cannot verify certificates of peers: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// rustls did not take what it was given.
    #[error("cannot set up TLS for peer streams: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsSetup {
    /// With an operator's own certificates, or with one that is minted from the primary key.
    ///
    /// # Errors
    /// If the machine gives no randomness.
    pub(crate) fn new(keys: &Keyring, own: Option<&Certificates>) -> Result<Self, TlsError> {
        let Credentials { chain, key, roots } = match own {
            Some(own) => own.credentials()?,
            None => minted::credentials(keys)?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots);
        let server = server_config(&provider, &roots, chain.clone(), key.clone_key())?;
        let client = client_config(&provider, roots, chain, key, own.is_none())?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            name: ServerName::try_from(minted::NAME).map_err(|_fixed_and_valid| {
                rustls::Error::General(format!("{} is not a name", minted::NAME))
            })?,
            proofs: own.map(|_| Arc::new(Proofs::new(keys))),
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

    /// What both ends show beside their certificates, where those do not come from the key.
    pub(crate) fn proofs(&self) -> Option<&Proofs> {
        self.proofs.as_deref()
    }

    /// Whether an error of a handshake, or of what was read after it, says that one side did
    /// not accept the other's credentials: we found so ourselves, or their alert says it.
    pub(crate) fn mistrust(&self, error: &io::Error) -> Option<Mistrust> {
        let inner = error.get_ref()?;
        if inner.is::<WrongKey>() {
            return Some(Mistrust::Key);
        }
        let text = match inner.downcast_ref::<rustls::Error>()? {
            rustls::Error::InvalidCertificate(CertificateError::Other(other))
                if other.0.is::<OtherKind>() =>
            {
                return Some(self.other_kind());
            }
            rustls::Error::InvalidCertificate(error) => not_accepted_here(error),
            rustls::Error::NoCertificatesPresented => "it shows no certificate".to_owned(),
            rustls::Error::AlertReceived(alert) if is_about_trust(*alert) => {
                if self.proofs.is_none() && *alert == AlertDescription::CertificateUnknown {
                    return Some(self.other_kind());
                }
                not_accepted_there(*alert)
            }
            _ => return None,
        };
        Some(match self.proofs {
            Some(_) => Mistrust::Certificate(text),
            None => Mistrust::Key,
        })
    }

    fn other_kind(&self) -> Mistrust {
        let text = match self.proofs {
            Some(_) => {
                "its certificate is minted from a cluster key, while this node was given its own \
                 (--tls-cert)"
            }
            None => {
                "it was given certificates of its own (--tls-cert), while this node mints its \
                 certificate from the cluster key"
            }
        };
        Mistrust::Certificate(text.to_owned())
    }
}

impl fmt::Debug for TlsSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSetup(..)")
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
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
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    minted: bool,
) -> Result<ClientConfig, TlsError> {
    let verifier = PeerVerifier {
        roots,
        algorithms: provider.signature_verification_algorithms,
        minted,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        // All that is dangerous here is that names are not looked at: see there.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn is_about_trust(alert: AlertDescription) -> bool {
    matches!(
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
    )
}

fn not_accepted_here(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its certificate is of no authority in this node's --tls-ca".to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "its certificate expired on {}, by this machine's clock",
            date(*not_after)
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "its certificate is valid from {} on, by this machine's clock",
            date(*not_before)
        ),
        other => format!("its certificate is not accepted here: {other}"),
    }
}

fn not_accepted_there(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            "this node's certificate is of no authority in its --tls-ca".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "this node's certificate is not valid at this time, by its clock".to_owned()
        }
        AlertDescription::CertificateUnknown => {
            "it does not accept this node's certificate; it may have been started without --tls-cert"
                .to_owned()
        }
        other => format!("it does not accept this node's certificate ({other:?})"),
    }
}

/// A time in a certificate, for people.
fn date(time: UnixTime) -> String {
    // Certificates know no year after 9999.
    let since = Duration::from_secs(time.as_secs());
    let date = SystemTime::UNIX_EPOCH + since;
    humantime::format_rfc3339_seconds(date).to_string()
}
