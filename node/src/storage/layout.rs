//! Keys and values as bytes.
//!
//! ```text
//!   key     1                                      -> sequence u64       of the last batch
//!           2 | name                               -> a fact
//!           3 | partition u16                      -> a chain record
//!           4 | partition u16                      -> life u32           after the last clearing
//!           5 | partition u16                      -> life u32           below it all is swept
//!           an entry's place | key                 -> an entry
//!
//!   place   1 | partition 16 bits | life 5 bits | bucket 10 bits                   life below 31
//!           1 | partition 16 bits | 31   5 bits | 0 10 bits | life u32 | bucket u16         else
//!
//!   value   checksum u32 | content
//!   entry   kind u8 | epoch varint | hlc u64 | branch u64 | [expires u64] | value
//!           kind: 1 there is a value (else a tombstone), 2 it expires
//! ```
//!
//! Numbers are big-endian, so that the order of keys is the order of places, life by life. The checksum
//! is over key and content: what is found under the wrong key is as wrong as a flipped bit.
//!
//! A place takes four bytes because the engine keeps the first four of each key where it compares them,
//! and fetches the rest from elsewhere only if they are the same: of what is in memory, mostly one
//! entry has them. Keys of up to 20 bytes are not kept elsewhere at all.

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
/// What all keys of entries begin with, and no others.
const ENTRY: u32 = 1 << 31;
const PARTITION_SHIFT: u32 = 15;
const LIFE_SHIFT: u32 = 10;
/// As many buckets as a place can tell apart.
pub(super) const BUCKETS: u16 = 1 << LIFE_SHIFT;
/// Lives from here on have their number behind the place.
const LATER: Life = (1 << (PARTITION_SHIFT - LIFE_SHIFT)) - 1;

/// The most bytes before the key of an entry.
const PLACE_LEN: usize = 4 + 4 + 2;
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
    put_life(&mut key, partition, life);
    key
}

fn put_life(key: &mut Vec<u8>, partition: PartitionId, life: Life) {
    let first = ENTRY | (u32::from(partition) << PARTITION_SHIFT) | (life.min(LATER) << LIFE_SHIFT);
    key.extend(first.to_be_bytes());
    if life >= LATER {
        key.extend(life.to_be_bytes());
    }
}

/// What the keys of a bucket begin with; `None` if there is none of that number.
pub(super) fn bucket_start(partition: PartitionId, life: Life, bucket: u16) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(PLACE_LEN);
    put_bucket(&mut key, partition, life, bucket).then_some(key)
}

fn put_bucket(key: &mut Vec<u8>, partition: PartitionId, life: Life, bucket: u16) -> bool {
    let first = key.len();
    put_life(key, partition, life);
    if bucket >= BUCKETS {
        return false;
    }
    let bucket = bucket.to_be_bytes();
    if life >= LATER {
        key.extend(bucket);
    } else {
        // It has the low bits of the second half to itself.
        key[first + 2] |= bucket[0];
        key[first + 3] |= bucket[1];
    }
    true
}

/// The key of an entry; `None` if it is longer than can be kept, or in a bucket that there is not.
pub(super) fn entry_key(place: &Place, life: Life) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(PLACE_LEN + place.key.len());
    put_entry_key(&mut key, place, life).then_some(key)
}

/// The same in a buffer that is used again; false if there is no such key.
pub(super) fn put_entry_key(key: &mut Vec<u8>, place: &Place, life: Life) -> bool {
    key.clear();
    let has_place = put_bucket(key, place.partition, life, place.bucket);
    key.extend_from_slice(&place.key);
    has_place && key.len() <= ENGINE_MAX_KEY
}

/// The place in the key of an entry.
pub(super) fn place_of(key: &[u8]) -> Option<Place> {
    let (first, mut rest) = key.split_first_chunk()?;
    let first = u32::from_be_bytes(*first);
    if first & ENTRY == 0 {
        return None;
    }
    let partition = (first & !ENTRY) >> PARTITION_SHIFT;
    let mut bucket = first & u32::from(BUCKETS - 1);
    if (first >> LIFE_SHIFT) & LATER == LATER {
        let (behind, key) = rest.split_first_chunk::<6>()?;
        let [_, _, _, _, b0, b1] = *behind;
        bucket = u32::from(u16::from_be_bytes([b0, b1]));
        rest = key;
    }
    Some(Place {
        partition: PartitionId::try_from(partition).ok()?,
        bucket: u16::try_from(bucket).ok()?,
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

/// A sealed entry, in a buffer that is used again.
pub(super) fn seal_entry(sealed: &mut Vec<u8>, key: &[u8], entry: &Entry) {
    sealed.clear();
    sealed.extend([0; CHECKSUM_LEN]);
    let has_value = if entry.value.is_some() { HAS_VALUE } else { 0 };
    let expires = if entry.expires.is_some() { EXPIRES } else { 0 };
    sealed.push(has_value | expires);
    put_varint(sealed, entry.version.epoch);
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
    use kith_proto::replica::digest::buckets;

    use super::*;

    #[test]
    fn entries_come_back_and_flipped_bits_do_not() {
        let mut sealed = Vec::new();
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
                    seal_entry(&mut sealed, b"key", &entry);
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

    fn place(partition: PartitionId, bucket: u16, key: &'static str) -> Place {
        Place {
            partition,
            bucket,
            key: Bytes::from(key),
        }
    }

    #[test]
    fn keys_are_in_the_order_of_places_life_by_life() {
        let mut expected = Vec::new();
        let mut keys = Vec::new();
        for partition in [0, 1, 256, PartitionId::MAX] {
            for life in [0, 1, LATER - 1, LATER, LATER + 1, 1 << 20, Life::MAX] {
                keys.push(life_start(partition, life));
                for bucket in [0, 1, 255, 256, BUCKETS - 1] {
                    keys.push(bucket_start(partition, life, bucket).unwrap());
                    for key in ["a", "aa", "b"] {
                        let place = place(partition, bucket, key);
                        keys.push(entry_key(&place, life).unwrap());
                        expected.push(place);
                    }
                }
            }
        }
        assert!(keys.is_sorted());
        let others = [&HEAD[..], &fact_key("fact"), &swept_key(PartitionId::MAX)];
        assert!(others.iter().all(|other| *other < keys[0].as_slice()));
        assert!(others.iter().all(|other| place_of(other).is_none()));
        let found = keys.iter().filter_map(|key| place_of(key));
        let found: Vec<Place> = found.filter(|place| !place.key.is_empty()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_has_no_key_is_refused() {
        let too_long = Place {
            key: Bytes::from(vec![0; ENGINE_MAX_KEY - 3]),
            ..place(1, 1, "")
        };
        assert_eq!(entry_key(&too_long, 0), None);
        assert_eq!(entry_key(&place(1, BUCKETS, "a"), 0), None);
        assert_eq!(bucket_start(1, LATER, BUCKETS), None);
        let most = (1..=PartitionId::MAX).map(buckets).max();
        assert_eq!(most, Some(BUCKETS), "buckets that partitions have");
    }
}
