//! Streams with an operator's own certificates: who opens one, and what each side is told.

use super::*;
use crate::tls::testing::TestAuthority;

fn host(authority: &TestAuthority, node: &str, key: u8) -> Host {
    let ring = Keyring::new(Key::from_bytes([key; 32]));
    let own = authority.certificates(node);
    let tls = TlsSetup::new(&ring, Some(&own)).unwrap();
    Host::start_with("127.0.0.1:0", tls, PATIENCE)
}

/// How often strangers were turned away for want of trust, after a dial that failed so.
async fn turned_away(mut dialler: Host, acceptor: Host) -> (u64, Host) {
    let failed = dialler.dial_fails(acceptor.address).await;
    assert_eq!(failed, DialError::Untrusted);
    // The dialler may be the first to know.
    acceptor.has_turned_away(1).await;
    let untrusted = acceptor.counters.handshakes_untrusted.get();
    acceptor.ends_in_silence().await;
    (untrusted, dialler)
}

#[tokio::test]
async fn nodes_with_one_authority_and_one_key_open_streams() {
    let authority = TestAuthority::new("one");
    let (mut a, mut b) = (host(&authority, "a", 1), host(&authority, "b", 1));
    let (at_a, at_b) = pair(&mut a, &mut b).await;
    a.peers.send(at_a, b"hello".to_vec());
    assert_eq!(b.frame(at_b).await, b"hello");
}

#[tokio::test]
async fn another_cluster_key_is_refused_whatever_the_certificate() {
    let authority = TestAuthority::new("one");
    let (a, b) = (host(&authority, "a", 1), host(&authority, "b", 2));
    let to = b.address;
    let (counted, a) = turned_away(a, b).await;
    assert_eq!(counted, 1);
    // It is the key, so that there is nothing to say about certificates.
    assert_eq!(a.peers.wrong_certificate(to), None);
}

#[tokio::test]
async fn a_dialler_that_is_the_only_one_to_be_wrong_hears_of_it() {
    let authority = TestAuthority::new("one");
    let (a, b) = (host(&authority, "a", 1), host(&authority, "b", 1));
    // It holds the key of the other side, and proves another.
    let mut ring = Keyring::new(Key::from_bytes([2; 32]));
    ring.add(Key::from_bytes([1; 32])).unwrap();
    let own = authority.certificates("a");
    a.peers.set_tls(TlsSetup::new(&ring, Some(&own)).unwrap());
    assert_eq!(turned_away(a, b).await.0, 1);
}

#[tokio::test]
async fn another_authority_is_refused_and_certificates_are_the_reason() {
    let (one, two) = (TestAuthority::new("one"), TestAuthority::new("two"));
    let (a, b) = (host(&one, "a", 1), host(&two, "b", 1));
    let (to, elsewhere) = (b.address, a.address);
    let (counted, a) = turned_away(a, b).await;
    assert_eq!(counted, 1);
    let why = a.peers.wrong_certificate(to).unwrap();
    assert!(why.contains("--tls-ca"), "{why}");
    assert_eq!(a.peers.wrong_certificate(elsewhere), None);
}
