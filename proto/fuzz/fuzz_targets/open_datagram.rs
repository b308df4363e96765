//! Strangers can neither get a datagram accepted nor damage one unnoticed.

#![no_main]

use kith_proto::{
    id::NodeId,
    wire::{
        keyring::{Key, Keyring},
        seal::{OVERHEAD, OpenError, Opener, Sealer},
    },
};
use libfuzzer_sys::fuzz_target;

const CLUSTER: &str = "fuzz";
const SENDER: NodeId = NodeId(1);

fuzz_target!(|data: &[u8]| {
    let ring = Keyring::new(Key::from_bytes([1; 32]));
    let mut sealer = Sealer::new(CLUSTER, SENDER, 2);
    let mut opener = Opener::new(CLUSTER);

    // As it is. In a cluster that nothing here seals for: libFuzzer watches comparisons, and
    // would copy a good packet of this process from one of those below.
    let mut garbage = data.to_vec();
    assert!(Opener::new("other").open(&ring, &mut garbage).is_err());

    // As the payload of a good datagram, which opens once.
    let sealed = sealer.seal(&ring, 3, &[data]);
    assert_eq!(sealed.len(), data.len() + OVERHEAD);
    let mut copy = sealed.clone();
    let opened = opener.open(&ring, &mut copy).expect("nothing was changed");
    assert_eq!((opened.sender, opened.salt), (SENDER, 2));
    assert_eq!((opened.kind, opened.payload), (3, data));
    let replayed = Err(OpenError::Replayed {
        sender: SENDER,
        counter: 0,
    });
    assert_eq!(opener.open(&ring, &mut sealed.clone()), replayed);

    // As the damage done to another, which does not open, and harms nothing.
    let next = sealer.seal(&ring, 3, &[b"ping"]);
    let mut damaged = next.clone();
    for (byte, damage) in damaged.iter_mut().zip(data) {
        *byte ^= damage;
    }
    if damaged != next {
        assert!(opener.open(&ring, &mut damaged).is_err());
    }
    assert!(opener.open(&ring, &mut next.clone()).is_ok());
});
