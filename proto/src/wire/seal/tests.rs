use proptest::{prelude::*, sample::Index};

use super::*;

const ALICE: NodeId = NodeId(0xA11CE);
const SALT: u64 = 0x5a17;
const CLUSTER: &str = "demo";

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; 32])
}

fn ring() -> Keyring {
    Keyring::new(key(1))
}

fn sealer() -> Sealer {
    Sealer::new(CLUSTER, ALICE, SALT)
}

/// What a receiver that has seen nothing says.
fn open_fresh(ring: &Keyring, datagram: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut datagram = datagram.to_vec();
    let opened = Opener::new(CLUSTER).open(ring, &mut datagram)?;
    Ok(opened.payload.to_vec())
}

/// Whether a receiver takes a copy of the datagram.
fn open(opener: &mut Opener, ring: &Keyring, datagram: &[u8]) -> Result<(), OpenError> {
    opener.open(ring, &mut datagram.to_vec()).map(|_| ())
}

#[test]
fn what_is_sealed_is_opened() {
    let (ring, mut sealer, mut opener) = (ring(), sealer(), Opener::new(CLUSTER));
    for counter in 0..3 {
        let mut datagram = sealer.seal(&ring, 7, &[b"sus", b"", b"pect"]);
        assert_eq!(datagram.len(), OVERHEAD + 7);
        let opened = opener.open(&ring, &mut datagram);
        let expected = Opened {
            sender: ALICE,
            salt: SALT,
            counter,
            key: key(1).id(),
            kind: 7,
            payload: b"suspect",
        };
        assert_eq!(opened, Ok(expected));
    }
}

/// Nodes of different versions must understand each other. The packet was computed with
/// Python's `hmac` and `cryptography` from the description above.
#[test]
fn the_format_is_fixed_for_ever() {
    let datagram = sealer().seal(&ring(), 7, &[b"ping"]);
    let hex: String = datagram.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "01",
            "4886daaf",
            "00000000000a11ce",
            "0000000000005a17",
            "000000000000",
            "2154cc1498",
            "8fdc6691e8a8276c3ebfba4e61b356d8",
        )
    );
    assert_eq!(datagram, sealer().seal(&ring(), 7, &[b"pi", b"ng"]));
}

#[test]
fn what_is_too_short_is_refused() {
    let sealed = sealer().seal(&ring(), 0, &[]);
    assert_eq!(sealed.len(), OVERHEAD);
    assert_eq!(open_fresh(&ring(), &sealed), Ok(vec![]));
    for length in 0..OVERHEAD {
        let refused = open_fresh(&ring(), &sealed[..length]);
        assert_eq!(refused, Err(OpenError::TooShort { length }));
    }
}

#[test]
fn other_versions_are_named_whatever_their_length() {
    for found in (0..=255).filter(|version| *version != VERSION) {
        let mut sealed = sealer().seal(&ring(), 0, &[]);
        sealed[0] = found;
        for datagram in [&sealed[..], &[found]] {
            let refused = open_fresh(&ring(), datagram);
            assert_eq!(refused, Err(OpenError::Version { found }));
        }
    }
}

#[test]
fn keys_that_are_not_held_are_named() {
    let sealed = sealer().seal(&Keyring::new(key(2)), 0, &[]);
    let id = key(2).id();
    assert_eq!(
        open_fresh(&ring(), &sealed),
        Err(OpenError::UnknownKey { id })
    );
}

/// Somebody without the key can copy a key's id, which is public, but no more.
#[test]
fn another_key_under_a_right_id_is_refused() {
    let mut sealed = sealer().seal(&Keyring::new(key(2)), 0, &[b"trust me"]);
    sealed[at::KEY].copy_from_slice(&key(1).id().0.to_be_bytes());
    assert_eq!(open_fresh(&ring(), &sealed), Err(OpenError::Forged));
}

#[test]
fn clusters_of_another_name_are_refused() {
    for name in ["", "dem", "demo2", "Demo"] {
        let sealed = Sealer::new(name, ALICE, SALT).seal(&ring(), 0, &[b"hello"]);
        let refused = open_fresh(&ring(), &sealed);
        assert_eq!(refused, Err(OpenError::Forged), "{name:?}");
    }
}

#[test]
fn each_packet_is_accepted_once() {
    let (ring, mut sealer, mut opener) = (ring(), sealer(), Opener::new(CLUSTER));
    let sealed: Vec<_> = (0..3).map(|n| sealer.seal(&ring, n, &[])).collect();
    for counter in [1, 2, 0] {
        let datagram = &sealed[counter as usize];
        assert_eq!(open(&mut opener, &ring, datagram), Ok(()));
        let sender = ALICE;
        let replayed = OpenError::Replayed { sender, counter };
        assert_eq!(open(&mut opener, &ring, datagram), Err(replayed));
    }
}

#[test]
fn a_forged_counter_does_not_shut_out_the_sender() {
    let (ring, mut sealer, mut opener) = (ring(), sealer(), Opener::new(CLUSTER));
    let first = sealer.seal(&ring, 0, &[]);
    assert_eq!(open(&mut opener, &ring, &first), Ok(()));
    let mut forged = first.clone();
    forged[at::COUNTER].fill(0xff);
    assert_eq!(open(&mut opener, &ring, &forged), Err(OpenError::Forged));
    let second = sealer.seal(&ring, 0, &[]);
    assert_eq!(open(&mut opener, &ring, &second), Ok(()));
}

/// The same node, counter and words in two lives: were the key stream the same, the
/// difference of the ciphertexts would be that of the plaintexts, here nothing.
#[test]
fn lives_and_nodes_share_no_key_stream() {
    let payload: &[&[u8]] = &[&[0; 64]];
    let one = sealer().seal(&ring(), 0, payload);
    let lives = [
        (ALICE, SALT + 1),
        (NodeId(0xB0B), SALT),
        (NodeId(SALT), 0xA11CE),
    ];
    for (node, salt) in lives {
        let other = Sealer::new(CLUSTER, node, salt).seal(&ring(), 0, payload);
        let equal = one[HEADER..].iter().zip(&other[HEADER..]);
        let equal = equal.filter(|(a, b)| a == b).count();
        assert!(equal < 10, "{equal} bytes of {} are equal", 64 + KIND + TAG);
    }
}

#[test]
fn a_rotation_loses_no_packet_and_uses_no_nonce_twice() {
    let (mut ring, mut sealer, mut opener) = (ring(), sealer(), Opener::new(CLUSTER));
    let [old, new] = [key(1).id(), key(2).id()];
    let before = sealer.seal(&ring, 0, &[]);
    ring.add(key(2)).unwrap();
    ring.set_primary(new).unwrap();
    let during = sealer.seal(&ring, 0, &[]);
    ring.set_primary(old).unwrap();
    let back = sealer.seal(&ring, 0, &[]);
    for (counter, id, datagram) in [(1, new, during), (0, old, before), (2, old, back)] {
        let mut datagram = datagram;
        let opened = opener.open(&ring, &mut datagram).unwrap();
        assert_eq!((opened.counter, opened.key), (counter, id));
    }
}

#[test]
fn a_removed_key_opens_nothing_though_it_was_used_before() {
    let (mut ring, mut sealer, mut opener) = (ring(), sealer(), Opener::new(CLUSTER));
    let old = key(1).id();
    let first = sealer.seal(&ring, 0, &[]);
    let second = sealer.seal(&ring, 0, &[]);
    assert_eq!(open(&mut opener, &ring, &first), Ok(()));
    ring.add(key(2)).unwrap();
    ring.set_primary(key(2).id()).unwrap();
    ring.remove(old).unwrap();
    let refused = Err(OpenError::UnknownKey { id: old });
    assert_eq!(open(&mut opener, &ring, &second), refused);

    let third = sealer.seal(&ring, 0, &[]);
    assert_eq!(open(&mut opener, &ring, &third), Ok(()));
    assert_eq!(opener.peers.len(), 2);
    opener.forget_removed_keys(&ring);
    assert_eq!(opener.peers.len(), 1);
    assert_eq!(
        open(&mut opener, &ring, &third),
        Err(OpenError::Replayed {
            sender: ALICE,
            counter: 2
        })
    );
}

#[test]
fn the_life_not_heard_for_the_longest_time_is_forgotten_first() {
    let (ring, mut opener) = (ring(), Opener::new(CLUSTER));
    opener.max_peers = 3;
    let mut sealers: Vec<_> = (0..5).map(|n| Sealer::new(CLUSTER, NodeId(n), 0)).collect();
    let mut recorded = Vec::new();
    // 0 speaks again after 2 did, so that 1 is the first to be forgotten, then 2.
    for node in [0, 1, 2, 0, 3, 4] {
        let sealed = sealers[node].seal(&ring, 0, &[]);
        assert_eq!(open(&mut opener, &ring, &sealed), Ok(()));
        recorded.push(sealed);
        assert!(opener.peers.len() <= 3);
    }
    let known: Vec<_> = opener.peers.keys().map(|peer| peer.node.0).collect();
    assert_eq!(known, [0, 3, 4]);
    assert!(open(&mut opener, &ring, &recorded[0]).is_err());
    assert_eq!(open(&mut opener, &ring, &recorded[1]), Ok(()), "forgotten");
}

#[test]
fn what_is_refused_leaves_no_trace() {
    let (ring, mut opener) = (ring(), Opener::new(CLUSTER));
    opener.max_peers = 1;
    let first = sealer().seal(&ring, 0, &[]);
    assert_eq!(open(&mut opener, &ring, &first), Ok(()));
    for salt in 0..100 {
        let mut forged = Sealer::new(CLUSTER, ALICE, salt).seal(&ring, 0, &[]);
        forged[HEADER] ^= 1;
        assert_eq!(open(&mut opener, &ring, &forged), Err(OpenError::Forged));
    }
    let replayed = open(&mut opener, &ring, &first);
    assert!(matches!(replayed, Err(OpenError::Replayed { .. })));
}

#[test]
fn the_last_nonce_can_be_used() {
    let mut sealer = sealer();
    sealer.counter = COUNTER_END - 1;
    let mut last = sealer.seal(&ring(), 0, &[]);
    let opened = Opener::new(CLUSTER)
        .open(&ring(), &mut last)
        .map(|o| o.counter);
    assert_eq!(opened, Ok(COUNTER_END - 1));
}

#[test]
#[should_panic(expected = "used up its nonces")]
fn no_nonce_follows_the_last() {
    let mut sealer = sealer();
    sealer.counter = COUNTER_END;
    sealer.seal(&ring(), 0, &[]);
}

proptest! {
    #[test]
    fn round_trip(
        cluster in "\\PC{0,64}",
        node: u64,
        salt: u64,
        secret: [u8; 32],
        kind: u8,
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..500), 0..4),
    ) {
        let ring = Keyring::new(Key::from_bytes(secret));
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let mut datagram = Sealer::new(&cluster, NodeId(node), salt).seal(&ring, kind, &parts);
        let mut opener = Opener::new(&cluster);
        let opened = opener.open(&ring, &mut datagram);
        let expected = Opened {
            sender: NodeId(node),
            salt,
            counter: 0,
            key: ring.primary().id(),
            kind,
            payload: &parts.concat(),
        };
        prop_assert_eq!(opened, Ok(expected));
    }

    /// Both by a receiver that knows the sender and by one that does not.
    #[test]
    fn any_flipped_bit_is_refused(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        at: Index,
        bit in 0..8u8,
    ) {
        let (ring, mut sealer, mut opener) = (ring(), sealer(), Opener::new(CLUSTER));
        let first = sealer.seal(&ring, 0, &[]);
        prop_assert_eq!(open(&mut opener, &ring, &first), Ok(()));
        let sealed = sealer.seal(&ring, 0, &[&payload]);
        let mut damaged = sealed.clone();
        damaged[at.index(sealed.len())] ^= 1u8 << bit;
        prop_assert!(open_fresh(&ring, &damaged).is_err());
        prop_assert!(open(&mut opener, &ring, &damaged).is_err());
        prop_assert_eq!(opener.peers.len(), 1);
        prop_assert_eq!(open(&mut opener, &ring, &sealed), Ok(()));
    }

    #[test]
    fn any_cut_or_lengthened_packet_is_refused(cut in 1..60usize, more in 1..60usize) {
        let ring = ring();
        let mut sealed = sealer().seal(&ring, 0, &[&[7; 100]]);
        prop_assert!(open_fresh(&ring, &sealed[..sealed.len() - cut]).is_err());
        sealed.extend(std::iter::repeat_n(0, more));
        prop_assert!(open_fresh(&ring, &sealed).is_err());
    }

    /// Garbage, some of it with a good beginning, is refused and remembered nowhere.
    #[test]
    fn garbage_is_refused(
        mut garbage in prop::collection::vec(any::<u8>(), 0..2000),
        known_as_far_as in 0..=HEADER,
    ) {
        let ring = ring();
        let good = sealer().seal(&ring, 0, &[]);
        let known = known_as_far_as.min(garbage.len());
        garbage[..known].copy_from_slice(&good[..known]);
        let mut opener = Opener::new(CLUSTER);
        prop_assert!(opener.open(&ring, &mut garbage).is_err());
        prop_assert!(opener.peers.is_empty());
    }
}
