use serde::de::{
    IntoDeserializer,
    value::{Error, SeqDeserializer},
};

use super::*;

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; KEY_LEN])
}

fn ring(bytes: impl IntoIterator<Item = u8>) -> Keyring {
    let mut keys = bytes.into_iter().map(key);
    let mut ring = Keyring::new(keys.next().expect("a ring has a key"));
    for key in keys {
        assert_eq!(ring.add(key), Ok(true));
    }
    ring
}

fn ids(ring: &Keyring) -> Vec<KeyId> {
    ring.ids().collect()
}

#[test]
fn text_is_read_as_it_was_written() {
    let key = Key::from_bytes(std::array::from_fn(|i| (i * 37) as u8));
    let text = key.to_base64();
    assert_eq!(text.len(), 44);
    let careless = [
        text.to_string(),
        format!("  {}\r\n", *text),
        text.trim_end_matches('=').to_owned(),
    ];
    for text in careless {
        assert_eq!(Key::parse(&text), Ok(key.clone()), "{text:?}");
    }
}

#[test]
fn text_that_is_no_key_is_refused_with_advice() {
    let short = BASE64.encode([7; 31]);
    let long = BASE64.encode([7; 64]);
    let cut = &key(7).to_base64()[..41];
    for (text, error) in [
        ("", KeyError::Empty),
        (" \n", KeyError::Empty),
        (&short, KeyError::Length { found: 31 }),
        (&long, KeyError::Length { found: 64 }),
        (cut, KeyError::Truncated),
        ("AAAA AAAA", KeyError::NotBase64 { position: 5 }),
        ("päss", KeyError::NotBase64 { position: 2 }),
    ] {
        assert_eq!(Key::parse(text), Err(error.clone()), "{text:?}");
        let advice = error.to_string();
        assert!(advice.contains("kith keygen"), "{advice}");
    }
}

/// Nodes of different versions must derive the same. The values were computed with Python's
/// `hmac` from the diagram above.
#[test]
fn derivations_are_fixed_for_ever() {
    let zeroes = key(0);
    assert_eq!(zeroes.id().to_string(), "d9af6f50");
    assert_eq!(zeroes.derive(b"authority")[..4], [246, 37, 49, 24]);
    assert_eq!(Key::derived_from_name("demo").id().to_string(), "b9a0d9ee");
}

#[test]
fn derivations_differ_by_key_and_label() {
    let derived = [
        key(1).derive(b"a"),
        key(1).derive(b"b"),
        key(1).derive(b""),
        key(2).derive(b"a"),
    ];
    for (i, one) in derived.iter().enumerate() {
        assert!(derived[..i].iter().all(|other| other != one), "{i}");
    }
    assert_eq!(key(1).derive(b"a"), key(1).derive(b"a"));
    assert_ne!(Key::derived_from_name("a"), Key::derived_from_name("b"));
    assert_ne!(key(1).id(), key(2).id());
}

#[test]
fn equality_sees_every_byte() {
    for at in 0..KEY_LEN {
        let mut bytes = [9; KEY_LEN];
        bytes[at] ^= 0x80;
        assert_ne!(Key::from_bytes(bytes), key(9), "byte {at}");
    }
    assert_eq!(key(9), key(9));
}

#[test]
fn ids_are_eight_digits_both_ways() {
    let id = KeyId(0xab);
    assert_eq!(id.to_string(), "000000ab");
    assert_eq!("000000AB".parse(), Ok(id));
    for wrong in ["", "ab", "000000ag", "+00000ab", "00000000ab"] {
        assert!(wrong.parse::<KeyId>().is_err(), "{wrong:?} was taken");
    }
}

#[test]
fn debug_shows_ids_only() {
    let ring = ring([1, 2]);
    let shown = format!("{ring:?}");
    let [one, two] = [key(1).id(), key(2).id()];
    assert_eq!(
        shown,
        format!("Keyring {{ keys: [Key({one}), Key({two})] }}")
    );
}

#[test]
fn a_rotation_adds_switches_and_removes() {
    let [old, new] = [key(1), key(2)];
    let mut ring = Keyring::new(old.clone());
    assert_eq!(ring.add(new.clone()), Ok(true));
    assert_eq!(ring.add(new.clone()), Ok(false), "it is held already");
    assert_eq!(ring.primary(), &old);
    assert_eq!(ring.set_primary(new.id()), Ok(true));
    assert_eq!(
        ring.set_primary(new.id()),
        Ok(false),
        "it is in use already"
    );
    assert_eq!(ids(&ring), [new.id(), old.id()]);
    assert_eq!(ring.remove(old.id()), Ok(()));
    assert_eq!(ring, Keyring::new(new));
    assert_eq!(ring.get(old.id()), None);
}

#[test]
fn the_order_of_the_others_is_kept() {
    let mut ring = ring([1, 2, 3, 4]);
    ring.set_primary(key(3).id()).unwrap();
    assert_eq!(ids(&ring), [3, 1, 2, 4].map(|byte| key(byte).id()));
}

#[test]
fn what_a_ring_refuses_leaves_it_as_it_was() {
    let mut full = ring(0..MAX_KEYS as u8);
    let before = full.clone();
    let stranger = key(99);
    let id = stranger.id();
    assert_eq!(full.add(key(3)), Ok(false), "held already, though full");
    assert_eq!(full.add(stranger), Err(KeyringError::Full));
    assert_eq!(full.set_primary(id), Err(KeyringError::Unknown { id }));
    assert_eq!(full.remove(id), Err(KeyringError::Unknown { id }));
    let primary = full.primary().id();
    assert_eq!(
        full.remove(primary),
        Err(KeyringError::Primary { id: primary })
    );
    assert_eq!(full, before);

    let mut twin = key(50);
    twin.id = primary;
    assert_eq!(full.add(twin), Err(KeyringError::Clash { id: primary }));
    assert_eq!(full, before);
}

/// With the deserializers of serde itself, which are "human readable"; the bytes are the
/// codec's to test.
#[test]
fn rings_are_read_without_trust() {
    let read = |keys: &[Key]| {
        let texts = keys.iter().map(|key| key.to_base64().to_string());
        Keyring::deserialize(SeqDeserializer::<_, Error>::new(texts))
    };
    let many: Vec<Key> = (0..=MAX_KEYS as u8).map(key).collect();
    assert_eq!(read(&many[..3]), Ok(ring(0..3)));
    assert_eq!(read(&many[1..]), Ok(ring(1..=MAX_KEYS as u8)));
    let refused = |keys| read(keys).unwrap_err().to_string();
    assert_eq!(refused(&many), KeyringError::Full.to_string());
    assert!(refused(&[]).contains("expected 1 to 8 cluster keys"));
    let id = KeyId::deserialize("000000ab".into_deserializer());
    assert_eq!(id, Ok::<_, Error>(KeyId(0xab)));
}
