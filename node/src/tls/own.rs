//! An operator's own certificates: three files, and all that can be wrong with them.
//!
//! `--tls-cert` has the node's certificate, followed by those between it and the authority;
//! `--tls-key` the private key that belongs to it; `--tls-ca` the authorities of which
//! certificates of peers are accepted, which may be several while one takes the place of
//! another. All are PEM.
//!
//! They are looked at as the peers will: better that a node does not start than that it
//! starts and everybody refuses it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, InconsistentKeys, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject},
    },
    server::{ParsedCertificate, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::{Credentials, TlsError, date};

/// Files longer than this (bytes) are no certificates.
const MAX_FILE: u64 = 1 << 20;
/// An operator is told this long before a certificate expires.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Where an operator's certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The node's certificate, and those between it and the authority (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM; PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// The authorities that are accepted (PEM).
    pub ca: PathBuf,
}

/// An operator's certificates, which fit together and are valid now. `Debug` does not show
/// the key.
#[derive(Clone)]
pub struct Certificates {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    authorities: Vec<CertificateDer<'static>>,
    expiry: Option<String>,
}

/// Certificates that cannot be used, as they are or at all.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A file cannot be read.
    #[error("cannot read {} ({flag}): {error}", path.display())]
    Unreadable {
        /// The setting that names it.
        flag: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} ({flag}): {problem}", path.display())]
    Content {
        /// The setting that names it.
        flag: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The private key belongs to another certificate.
    #[error(
        "the key in {} (--tls-key) does not belong to the certificate in {} (--tls-cert): its public half \
         is another",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The authorities do not vouch for the node's own certificate, so that no peer with the
    /// same authorities would accept it.
    #[error(
        "the certificate in {} (--tls-cert) is of no authority in {} (--tls-ca). If other certificates \
         stand between them, add these to {} behind the first",
        cert.display(), ca.display(), cert.display()
    )]
    Authority {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with the authorities.
        ca: PathBuf,
    },
}

impl Certificates {
    /// Reads the files, and looks at the certificate as peers will.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file.
    pub fn load(files: &CertificateFiles) -> Result<Self, CertificatesError> {
        Self::load_at(files, UnixTime::now())
    }

    pub(super) fn load_at(
        files: &CertificateFiles,
        now: UnixTime,
    ) -> Result<Self, CertificatesError> {
        let content = |flag, path: &Path, problem: String| CertificatesError::Content {
            flag,
            path: path.to_owned(),
            problem,
        };
        let chain = certificates("--tls-cert", &files.cert)?;
        let key = private_key(&files.key)?;
        let authorities = certificates("--tls-ca", &files.ca)?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(|e| {
                let problem = format!("one of its certificates cannot be an authority: {e}");
                content("--tls-ca", &files.ca, problem)
            })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider) {
            Ok(_) => {}
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(CertificatesError::Mismatch {
                    cert: files.cert.clone(),
                    key: files.key.clone(),
                });
            }
            Err(rustls::Error::InvalidCertificate(error)) => {
                let problem = format!("it cannot be used for TLS: {}", plain(&error));
                return Err(content("--tls-cert", &files.cert, problem));
            }
            Err(error) => {
                let problem = format!("a key of a kind that cannot be used: {error}");
                return Err(content("--tls-key", &files.key, problem));
            }
        }
        let look = |now| as_peers_see_it(&provider, &chain, &roots, now);
        let expiry = match look(now) {
            Ok(()) => match look(later(now)) {
                Err(CertificateError::ExpiredContext { not_after, .. }) => Some(date(not_after)),
                _ => None,
            },
            Err(CertificateError::UnknownIssuer) => {
                return Err(CertificatesError::Authority {
                    cert: files.cert.clone(),
                    ca: files.ca.clone(),
                });
            }
            Err(error) => return Err(content("--tls-cert", &files.cert, refused(&error))),
        };
        Ok(Self {
            chain,
            key: Arc::new(key),
            authorities,
            expiry,
        })
    }

    /// When the certificate expires, if that is within the next 14 days.
    pub fn expires_soon(&self) -> Option<&str> {
        self.expiry.as_deref()
    }

    pub(super) fn credentials(&self) -> Result<Credentials, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone())?;
        }
        Ok(Credentials {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            roots,
        })
    }
}

impl PartialEq for Certificates {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key == other.key && self.authorities == other.authorities
    }
}

impl Eq for Certificates {}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates(..)")
    }
}

/// A node shows the same certificate when it dials and when it is dialled.
fn as_peers_see_it(
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let algorithms = provider.signature_verification_algorithms.all;
    let Some((own, between)) = chain.split_first() else {
        return Err(CertificateError::BadEncoding);
    };
    let dialled = ParsedCertificate::try_from(own).and_then(|own| {
        verify_server_cert_signed_by_trust_anchor(&own, roots, between, now, algorithms)
    });
    let roots = Arc::new(roots.clone());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
    let verifier = verifier.map_err(|_no_authority| CertificateError::UnknownIssuer)?;
    dialled
        .and_then(|()| verifier.verify_client_cert(own, between, now).map(drop))
        .map_err(|error| match error {
            rustls::Error::InvalidCertificate(error) => error,
            _ => CertificateError::BadEncoding,
        })
}

fn refused(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it expired on {}", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "it is valid from {} on only; is this machine's clock right?",
            date(*not_before)
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "a peer's certificate needs the extended key usages serverAuth and clientAuth, because it \
             both dials and is dialled"
                .to_owned()
        }
        other => format!("peers would not accept it: {}", plain(other)),
    }
}

/// What the library says of rare mistakes is a word of its own code; those that people make
/// with `openssl x509` are said in theirs.
fn plain(error: &CertificateError) -> String {
    let CertificateError::Other(other) = error else {
        return error.to_string();
    };
    match other.0.to_string().as_str() {
        "UnsupportedCertVersion" => {
            "it is of X.509 version 1, and version 3 is needed: issue it with an extension, such as \
             extendedKeyUsage"
                .to_owned()
        }
        "CaUsedAsEndEntity" => {
            "it is the certificate of an authority, and not of a node (basicConstraints CA:TRUE)"
                .to_owned()
        }
        other => other.to_owned(),
    }
}

fn later(now: UnixTime) -> UnixTime {
    let since = Duration::from_secs(now.as_secs());
    UnixTime::since_unix_epoch(since.saturating_add(EXPIRES_SOON))
}

fn certificates(
    flag: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let text = read(flag, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let problem = match all {
        Ok(all) if !all.is_empty() => return Ok(all),
        Ok(_) => "it holds no certificate (PEM, -----BEGIN CERTIFICATE-----)".to_owned(),
        Err(error) => format!("it is damaged: {}", pem_problem(&error)),
    };
    Err(CertificatesError::Content {
        flag,
        path: path.to_owned(),
        problem,
    })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificatesError> {
    let flag = "--tls-key";
    let text = read(flag, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| CertificatesError::Content {
        flag,
        path: path.to_owned(),
        problem: match error {
            pem::Error::NoItemsFound => {
                "it holds no private key (PEM, -----BEGIN PRIVATE KEY-----; one that is encrypted cannot \
                 be used)"
                    .to_owned()
            }
            error => format!(
                "it is damaged, or encrypted, which cannot be used: {}",
                pem_problem(&error)
            ),
        },
    })
}

/// Nothing of the file is repeated: it may be the key.
fn pem_problem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "an -----END----- line is missing",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN----- line is malformed",
        pem::Error::Base64Decode(_) => "what is between its lines is not base64",
        _ => "it is not PEM",
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, CertificatesError> {
    use io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|error| CertificatesError::Unreadable {
            flag,
            path: path.to_owned(),
            error,
        })?;
    Ok(bytes)
}
