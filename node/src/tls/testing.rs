//! Authorities and certificates as an operator would have them, for tests.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tempfile::TempDir;

use super::{CertificateFiles, Certificates};

/// An authority, and the folder with the files of those that it issued a certificate for.
pub(crate) struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl TestAuthority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(authority(name), key).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Files with a certificate for both ends of a stream.
    pub(crate) fn issue(&self, node: &str) -> CertificateFiles {
        self.issue_with(node, |_| {})
    }

    /// The same with something changed.
    pub(crate) fn issue_with(
        &self,
        node: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateFiles {
        let mut params = CertificateParams::new([format!("{node}.example")]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        self.write(node, &[cert.der()], &key)
    }

    /// The same with an authority between this one and the certificate.
    pub(crate) fn issue_through(&self, between: &str, node: &str) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let between = CertifiedIssuer::signed_by(authority(between), key, &self.issuer).unwrap();
        let params = CertificateParams::new([format!("{node}.example")]).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &between).unwrap();
        self.write(node, &[cert.der(), between.der()], &key)
    }

    pub(crate) fn certificates(&self, node: &str) -> Certificates {
        Certificates::load(&self.issue(node)).unwrap()
    }

    fn write(&self, node: &str, chain: &[&[u8]], key: &KeyPair) -> CertificateFiles {
        let write = |name: &str, text: String| {
            let path = self.folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let chain: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        CertificateFiles {
            cert: write(&format!("{node}.crt"), chain),
            key: write(
                &format!("{node}.key"),
                pem("PRIVATE KEY", &key.serialize_der()),
            ),
            ca: write("ca.crt", pem("CERTIFICATE", self.issuer.der())),
        }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn pem(kind: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n")
}
