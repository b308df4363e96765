//! Keys and values as bytes.
//!
//! ```text
//!   key     1                                      -> sequence u64       of the last batch
//!           2 | name                               -> a fact
//!           3 | partition u16                      -> a chain record
//!           4 | partition u16                      -> life u32           after the last clearing
//!           5 | partition u16                      -> life u32           below it all is swept
//!           6 | partition u16 | life u32 | bucket u16 | key -> an entry
//!
//!   value   checksum u32 | content
//!   entry   kind u8 | epoch varint | hlc u64 | branch u64 | [expires u64] | value
//!           kind: 1 there is a value (else a tombstone), 2 it expires
//! ```
//!
//! Numbers are big-endian, so that the order of keys is the order of places. The checksum is
//! over key and content: what is found under the wrong key is as wrong as a flipped bit.

use bytes::Bytes;
use kith_proto::{
    id::PartitionId,
    kv::{
        MAX_KEY,
        entry::Entry,
        version::{Hlc, Version, Wall},
    },
    store::partitions::Place,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Where the sequence of the last batch is.
pub(super) const HEAD: [u8; 1] = [1];
const FACT: u8 = 2;
const CHAIN: u8 = 3;
const LIFE: u8 = 4;
const SWEPT: u8 = 5;
const ENTRY: u8 = 6;

/// Bytes before the key of an entry.
const PLACE_LEN: usize = 1 + 2 + 4 + 2;
/// The longest key that the engine takes (bytes).
const ENGINE_MAX_KEY: usize = u16::MAX as usize;
const CHECKSUM_LEN: usize = 4;
const HAS_VALUE: u8 = 1;
const EXPIRES: u8 = 2;

const _: () = assert!(MAX_KEY + PLACE_LEN <= ENGINE_MAX_KEY);

/// How often a partition has been cleared; what was written in an earlier life is gone.
pub(super) type Life = u32;

/// The key of a fact.
pub(super) fn fact_key(name: &str) -> Vec<u8> {
    [&[FACT], name.as_bytes()].concat()
}

/// The key of a partition's chain record.
pub(super) fn chain_key(partition: PartitionId) -> [u8; 3] {
    tagged(CHAIN, partition)
}

/// What the keys of all chain records begin with.
pub(super) const CHAINS: [u8; 1] = [CHAIN];

/// The key of a partition's life.
pub(super) fn life_key(partition: PartitionId) -> [u8; 3] {
    tagged(LIFE, partition)
}

/// What the keys of all lives begin with.
pub(super) const LIVES: [u8; 1] = [LIFE];

/// The key of the life below which a partition has been swept.
pub(super) fn swept_key(partition: PartitionId) -> [u8; 3] {
    tagged(SWEPT, partition)
}

fn tagged(tag: u8, partition: PartitionId) -> [u8; 3] {
    let [high, low] = partition.to_be_bytes();
    [tag, high, low]
}

/// The partition in a key of three bytes.
pub(super) fn partition_of(key: &[u8]) -> Option<PartitionId> {
    match *key {
        [_, high, low] => Some(PartitionId::from_be_bytes([high, low])),
        _ => None,
    }
}

/// Where the entries of a life of a partition begin.
pub(super) fn life_start(partition: PartitionId, life: Life) -> Vec<u8> {
    let mut key = Vec::with_capacity(PLACE_LEN);
    key.extend(tagged(ENTRY, partition));
    key.extend(life.to_be_bytes());
    key
}

/// What the keys of a bucket begin with.
pub(super) fn bucket_start(partition: PartitionId, life: Life, bucket: u16) -> Vec<u8> {
    let mut key = life_start(partition, life);
    key.extend(bucket.to_be_bytes());
    key
}

/// The key of an entry; `None` if it is longer than can be kept.
pub(super) fn entry_key(place: &Place, life: Life) -> Option<Vec<u8>> {
    let len = PLACE_LEN + place.key.len();
    if len > ENGINE_MAX_KEY {
        return None;
    }
    let mut key = Vec::with_capacity(len);
    key.extend(tagged(ENTRY, place.partition));
    key.extend(life.to_be_bytes());
    key.extend(place.bucket.to_be_bytes());
    key.extend_from_slice(&place.key);
    Some(key)
}

/// The place in the key of an entry.
pub(super) fn place_of(key: &[u8]) -> Option<Place> {
    let (head, rest) = key.split_first_chunk::<PLACE_LEN>()?;
    let [ENTRY, p0, p1, _, _, _, _, b0, b1] = *head else {
        return None;
    };
    Some(Place {
        partition: PartitionId::from_be_bytes([p0, p1]),
        bucket: u16::from_be_bytes([b0, b1]),
        key: Bytes::copy_from_slice(rest),
    })
}

/// Content with its checksum.
pub(super) fn seal(key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CHECKSUM_LEN + content.len());
    value.extend(checksum(key, content));
    value.extend_from_slice(content);
    value
}

/// The content of a value; `None` if it is not what was written there.
pub(super) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, content) = value.split_first_chunk::<CHECKSUM_LEN>()?;
    (*sum == checksum(key, content)).then_some(content)
}

/// The low half of a hash of the content, seeded by one of the key.
fn checksum(key: &[u8], content: &[u8]) -> [u8; CHECKSUM_LEN] {
    let [.., a, b, c, d] = xxh3_64_with_seed(content, xxh3_64(key)).to_be_bytes();
    [a, b, c, d]
}

/// A sealed number.
pub(super) fn seal_number(key: &[u8], number: u64) -> Vec<u8> {
    seal(key, &number.to_be_bytes())
}

/// A number; `None` if it is not what was written there.
pub(super) fn unseal_number(key: &[u8], value: &[u8]) -> Option<u64> {
    let content = unseal(key, value)?.try_into().ok()?;
    Some(u64::from_be_bytes(content))
}

/// A sealed entry.
pub(super) fn seal_entry(key: &[u8], entry: &Entry) -> Vec<u8> {
    const MOST: usize = CHECKSUM_LEN + 1 + 10 + 8 + 8 + 8;
    let value_len = entry.value.as_ref().map_or(0, Bytes::len);
    let mut sealed = Vec::with_capacity(MOST + value_len);
    sealed.extend([0; CHECKSUM_LEN]);
    let has_value = if entry.value.is_some() { HAS_VALUE } else { 0 };
    let expires = if entry.expires.is_some() { EXPIRES } else { 0 };
    sealed.push(has_value | expires);
    put_varint(&mut sealed, entry.version.epoch);
    sealed.extend(entry.version.hlc.0.to_be_bytes());
    sealed.extend(entry.version.branch.to_be_bytes());
    if let Some(expires) = entry.expires {
        sealed.extend(expires.0.to_be_bytes());
    }
    if let Some(value) = &entry.value {
        sealed.extend_from_slice(value);
    }
    let sum = checksum(key, &sealed[CHECKSUM_LEN..]);
    sealed[..CHECKSUM_LEN].copy_from_slice(&sum);
    sealed
}

/// An entry; `None` if it is not what was written there.
pub(super) fn unseal_entry(key: &[u8], value: &[u8]) -> Option<Entry> {
    let (&kind, rest) = unseal(key, value)?.split_first()?;
    let (epoch, rest) = take_varint(rest)?;
    let (hlc, rest) = take_u64(rest)?;
    let (branch, rest) = take_u64(rest)?;
    let (expires, rest) = if kind & EXPIRES == 0 {
        (None, rest)
    } else {
        let (expires, rest) = take_u64(rest)?;
        (Some(Wall(expires)), rest)
    };
    Some(Entry {
        version: Version {
            epoch,
            hlc: Hlc(hlc),
            branch,
        },
        value: (kind & HAS_VALUE != 0).then(|| Bytes::copy_from_slice(rest)),
        expires,
    })
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// Seven bits a byte, the low ones first; the high bit says that more follow.
fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_flipped_bits_do_not() {
        for epoch in [0, 1, 127, 128, 300, u64::MAX] {
            for value in [None, Some(Bytes::new()), Some(Bytes::from("value"))] {
                for expires in [None, Some(Wall(7))] {
                    let version = Version {
                        epoch,
                        hlc: Hlc(5 << 20),
                        branch: 9,
                    };
                    let entry = Entry {
                        version,
                        value: value.clone(),
                        expires,
                    };
                    let mut sealed = seal_entry(b"key", &entry);
                    assert_eq!(unseal_entry(b"key", &sealed), Some(entry));
                    assert_eq!(unseal_entry(b"kez", &sealed), None);
                    for bit in 0..sealed.len() * 8 {
                        sealed[bit / 8] ^= 1 << (bit % 8);
                        assert_eq!(unseal_entry(b"key", &sealed), None, "bit {bit}");
                        sealed[bit / 8] ^= 1 << (bit % 8);
                    }
                }
            }
        }
    }

    #[test]
    fn keys_are_in_the_order_of_places() {
        let place = |partition, bucket, key: &'static str| Place {
            partition,
            bucket,
            key: Bytes::from(key),
        };
        let places = [
            place(1, 2, ""),
            place(1, 2, "a"),
            place(1, 300, "a"),
            place(256, 0, "b"),
        ];
        let keys = places.clone().map(|place| entry_key(&place, 3).unwrap());
        assert!(keys.is_sorted());
        assert_eq!(keys.clone().map(|key| place_of(&key).unwrap()), places);
        let too_long = Place {
            key: Bytes::from(vec![0; ENGINE_MAX_KEY]),
            ..place(1, 1, "")
        };
        assert_eq!(entry_key(&too_long, 0), None);
    }
}
