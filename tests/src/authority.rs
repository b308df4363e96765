//! Certificates as an operator would have them, from an authority of one's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

/// Issues certificates into a folder.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    name: String,
    folder: PathBuf,
}

impl Authority {
    /// A new one; its own certificate is in [`Self::ca`].
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn new(name: &str, folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self {
            issuer,
            name: name.to_owned(),
            folder: folder.to_owned(),
        };
        fs::write(authority.ca(), pem("CERTIFICATE", authority.issuer.der()))?;
        Ok(authority)
    }

    /// The file with its certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join(format!("{}.ca", self.name))
    }

    /// The flags that make a node use a new certificate of this authority.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn flags(&self, node: &str) -> Result<Vec<String>> {
        self.flags_until(node, 4000)
    }

    /// The same with a certificate that is valid to the end of a year.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn flags_until(&self, node: &str, year: i32) -> Result<Vec<String>> {
        let cert = self.folder.join(format!("{node}.cert"));
        let key = self.folder.join(format!("{node}.key"));
        self.issue(year, &cert, &key)?;
        let pairs = [
            ("--tls-cert", cert),
            ("--tls-key", key),
            ("--tls-ca", self.ca()),
        ];
        Ok(pairs
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect())
    }

    fn issue(&self, year: i32, cert: &Path, key: &Path) -> Result<()> {
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::new(["node.example".to_owned()])?;
        params.not_after = date_time_ymd(year, 12, 31);
        let issued = params.signed_by(&pair, &self.issuer)?;
        fs::write(cert, pem("CERTIFICATE", issued.der()))?;
        fs::write(key, pem("PRIVATE KEY", &pair.serialize_der()))?;
        Ok(())
    }
}

fn pem(kind: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n")
}
