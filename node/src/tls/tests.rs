//! Who accepts whom, over real connections on this machine.

use std::{fs, path::Path, time::Duration};

use kith_proto::wire::keyring::Key;
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{testing::TestAuthority, *};

fn key(n: u8) -> Key {
    Key::from_bytes([n; 32])
}

fn minted(keys: &[u8]) -> TlsSetup {
    let mut ring = Keyring::new(key(keys[0]));
    for n in &keys[1..] {
        ring.add(key(*n)).unwrap();
    }
    TlsSetup::new(&ring, None).unwrap()
}

fn own(certificates: &Certificates) -> TlsSetup {
    TlsSetup::new(&Keyring::new(key(1)), Some(certificates)).unwrap()
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
    let (dialled, accepted) = meet(&minted(&[1]), &minted(&[1])).await;
    assert_eq!(dialled.unwrap(), 7);
    accepted.unwrap();
}

#[tokio::test]
async fn nodes_with_different_keys_refuse_each_other_and_both_know_why() {
    let (dialled, accepted) = meet(&minted(&[1]), &minted(&[2])).await;
    let (dialled, accepted) = (dialled.unwrap_err(), accepted.unwrap_err());
    assert_eq!(minted(&[1]).mistrust(&dialled), Some(Mistrust::Key));
    assert_eq!(minted(&[1]).mistrust(&accepted), Some(Mistrust::Key));
}

#[tokio::test]
async fn a_ring_of_two_accepts_both_and_shows_the_first() {
    for other in [1, 2] {
        // The other side accepts only what we show, so that it sees which that is.
        let both = minted(&[2, 1]);
        let (dialled, _) = meet(&minted(&[other, 2]), &both).await;
        assert_eq!(dialled.unwrap(), 7, "{other} dials");
        let (dialled, _) = meet(&both, &minted(&[other, 2])).await;
        assert_eq!(dialled.unwrap(), 7, "{other} is dialled");
    }
}

#[tokio::test]
async fn a_dialler_learns_that_its_own_certificate_is_the_one_refused() {
    // It accepts the old key's leaf but shows the new one, which the old node refuses
    // after the dialler's side of the handshake is over.
    let (dialled, accepted) = meet(&minted(&[2, 1]), &minted(&[1])).await;
    let (dialled, accepted) = (dialled.unwrap_err(), accepted.unwrap_err());
    assert_eq!(minted(&[1]).mistrust(&dialled), Some(Mistrust::Key));
    assert_eq!(minted(&[1]).mistrust(&accepted), Some(Mistrust::Key));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let acceptor = minted(&[1]);
    let mut roots = RootCertStore::empty();
    let authority = minted::Authority::derive(&key(1)).unwrap();
    roots.add(authority.certificate().unwrap()).unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let bare = TlsSetup {
        connector: TlsConnector::from(Arc::new(config)),
        ..minted(&[1])
    };
    let (dialled, accepted) = meet(&bare, &acceptor).await;
    let (dialled, accepted) = (dialled.unwrap_err(), accepted.unwrap_err());
    assert_eq!(minted(&[1]).mistrust(&dialled), Some(Mistrust::Key));
    assert_eq!(minted(&[1]).mistrust(&accepted), Some(Mistrust::Key));
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
        assert_eq!(minted(&[1]).mistrust(&error), None);
    }
}

/// What one side has against certificates, as text.
fn why(setup: &TlsSetup, error: &io::Error) -> String {
    match setup.mistrust(error) {
        Some(Mistrust::Certificate(why)) => why,
        other => panic!("{other:?}: {error}"),
    }
}

/// Both sides refuse, and say these words.
async fn refused(dialler: &TlsSetup, acceptor: &TlsSetup, words: [&str; 2]) {
    let (dialled, accepted) = meet(dialler, acceptor).await;
    let found = [
        why(dialler, &dialled.unwrap_err()),
        why(acceptor, &accepted.unwrap_err()),
    ];
    for (text, words) in found.iter().zip(words) {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

#[tokio::test]
async fn certificates_of_one_authority_accept_each_other_whatever_their_names() {
    let authority = TestAuthority::new("one");
    let [a, b] = ["a", "b"].map(|node| own(&authority.certificates(node)));
    let through = Certificates::load(&authority.issue_through("between", "c")).unwrap();
    let c = own(&through);
    for (dialler, acceptor) in [(&a, &b), (&b, &c), (&c, &a)] {
        let (dialled, accepted) = meet(dialler, acceptor).await;
        assert_eq!(dialled.unwrap(), 7);
        accepted.unwrap();
    }
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused_with_words_about_certificates() {
    let [a, b] = ["one", "two"].map(|name| own(&TestAuthority::new(name).certificates("n")));
    let words = [
        "no authority in this node's --tls-ca",
        "no authority in its --tls-ca",
    ];
    refused(&a, &b, words).await;
}

#[tokio::test]
async fn minted_certificates_and_an_operators_do_not_meet() {
    let (minted, own) = (
        minted(&[1]),
        own(&TestAuthority::new("one").certificates("n")),
    );
    let given = "it was given certificates of its own";
    refused(&minted, &own, [given, "without --tls-cert"]).await;
    refused(&own, &minted, ["minted from a cluster key", given]).await;
}

#[tokio::test]
async fn a_certificate_that_expired_while_the_node_ran_is_refused_with_its_date() {
    let authority = TestAuthority::new("one");
    let files = authority.issue_with("old", |params| {
        params.not_after = date_time_ymd(2020, 1, 2);
    });
    let in_its_time = UnixTime::since_unix_epoch(Duration::from_secs(1_500_000_000));
    let old = own(&Certificates::load_at(&files, in_its_time).unwrap());
    let new = own(&authority.certificates("new"));
    let words = [
        "expired on 2020-01-02",
        "this node's certificate is not valid",
    ];
    refused(&new, &old, words).await;
    let words = [
        "this node's certificate is not valid",
        "expired on 2020-01-02",
    ];
    refused(&old, &new, words).await;
}

#[tokio::test]
async fn a_proof_is_worth_nothing_on_another_stream_or_from_the_other_side() {
    let authority = TestAuthority::new("one");
    let setup = own(&authority.certificates("a"));
    let proofs = setup.proofs().unwrap();
    let (listener, mut ends) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Vec::new());
    for _ in 0..2 {
        let tcp = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let dial = async { setup.connect(tcp).await.unwrap() };
        let accept = async {
            setup
                .accept(listener.accept().await.unwrap().0)
                .await
                .unwrap()
        };
        ends.push(tokio::join!(dial, accept));
    }
    let [(dialled, accepted), (_, elsewhere)] = &ends[..] else {
        unreachable!();
    };
    let proof = proofs.make(Side::Dialler, dialled.get_ref().1).unwrap();
    let here = accepted.get_ref().1;
    let check = |proofs: &Proofs, side, session| proofs.check(side, session, &proof).unwrap();
    assert_eq!(check(proofs, Side::Dialler, here), Ok(()));
    assert_eq!(check(proofs, Side::Acceptor, here), Err(WrongKey));
    assert_eq!(
        check(proofs, Side::Dialler, elsewhere.get_ref().1),
        Err(WrongKey)
    );
    let mut ring = Keyring::new(key(2));
    assert_eq!(
        check(&Proofs::new(&ring), Side::Dialler, here),
        Err(WrongKey)
    );
    // While a key is replaced, all that are held are accepted.
    ring.add(key(1)).unwrap();
    assert_eq!(check(&Proofs::new(&ring), Side::Dialler, here), Ok(()));
}

/// What is said of files that cannot be used.
#[track_caller]
fn unusable(files: &CertificateFiles, named: &Path, words: &str) {
    let text = Certificates::load(files).unwrap_err().to_string();
    let named = named.display().to_string();
    assert!(text.contains(words) && text.contains(&named), "{text}");
    assert!(!text.contains("MIG"), "the key is shown: {text}");
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let authority = TestAuthority::new("one");
    let good = authority.issue("good");
    let other = authority.issue("other");
    let files = |change: &dyn Fn(&mut CertificateFiles)| {
        let mut files = good.clone();
        change(&mut files);
        files
    };
    let missing = Path::new("/no/such/file");
    let broken = good.cert.with_extension("broken");
    let key = fs::read_to_string(&good.key).unwrap();
    fs::write(&broken, key.replace("END", "")).unwrap();

    unusable(&files(&|f| f.cert = missing.into()), missing, "--tls-cert");
    unusable(&files(&|f| f.key = missing.into()), missing, "--tls-key");
    unusable(&files(&|f| f.ca = missing.into()), missing, "--tls-ca");
    unusable(
        &files(&|f| f.cert = good.key.clone()),
        &good.key,
        "holds no certificate",
    );
    unusable(
        &files(&|f| f.key = good.cert.clone()),
        &good.cert,
        "holds no private key",
    );
    unusable(&files(&|f| f.key = broken.clone()), &broken, "is damaged");
    unusable(
        &files(&|f| f.key = other.key.clone()),
        &other.key,
        "does not belong to",
    );
    let another = TestAuthority::new("two");
    let stranger = another.issue("stranger");
    fs::write(&stranger.ca, fs::read(&good.ca).unwrap()).unwrap();
    unusable(&stranger, &stranger.cert, "of no authority in");
}

#[test]
fn certificates_that_peers_would_refuse_are_not_taken() {
    let authority = TestAuthority::new("one");
    let expired = authority.issue_with("n", |p| p.not_after = date_time_ymd(2020, 1, 2));
    unusable(&expired, &expired.cert, "it expired on 2020-01-02");
    let early = authority.issue_with("n", |p| p.not_before = date_time_ymd(4000, 1, 2));
    unusable(&early, &early.cert, "valid from 4000-01-02");
    for only in [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ] {
        let half = authority.issue_with("n", |p| p.extended_key_usages = vec![only]);
        unusable(&half, &half.cert, "serverAuth and clientAuth");
    }
    let ca = authority.issue_with("n", |p| {
        p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    unusable(&ca, &ca.cert, "the certificate of an authority");
    let unlimited = authority.issue_with("n", |p| p.extended_key_usages = Vec::new());
    assert!(Certificates::load(&unlimited).is_ok());
}

#[test]
fn an_operator_hears_of_the_end_of_a_certificate_in_time() {
    let authority = TestAuthority::new("one");
    let files = authority.issue_with("n", |p| p.not_after = date_time_ymd(2030, 1, 20));
    let at = |day: u64| {
        let since = Duration::from_secs(1_893_456_000 + day * 24 * 3600);
        Certificates::load_at(&files, UnixTime::since_unix_epoch(since)).unwrap()
    };
    // Days after the first of January 2030.
    assert_eq!(at(4).expires_soon(), None);
    assert!(at(6).expires_soon().unwrap().starts_with("2030-01-20"));
}
