//! Digests of what a partition holds: how two replicas find out where they differ.
//!
//! A partition's keys are in buckets by the hash of the key. Each bucket has a digest, the XOR
//! of a hash of (key, version) over its entries, so that a change costs O(1) whatever is
//! there. Two replicas are equal when all their digests are. Where they are not, they find the few
//! buckets that differ by groups of buckets, so that it costs in proportion to what differs, and
//! list the keys of those.
//!
//! ```text
//!   root = hash of all digests, ── equal ──> done, in one round trip
//!   groups = of those of a group └─ not ───> digests of groups that differ
//!                                               ──> keys and versions of buckets that differ
//!                                               ──> the entries that one side lacks
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::kv::version::Version;

/// Buckets of all partitions of a cluster together, about.
const BUCKETS: usize = 262_144;
/// Groups into which the buckets of a partition are divided, at most: the square root of the largest
/// number of buckets, so that all groups take as much as the buckets of one.
const GROUPS: u16 = 32;
const BUCKET_SEED: u64 = 0x6b69_7468_6275_636b;
const ENTRY_SEED: u64 = 0x6b69_7468_656e_7472;

/// How many buckets each of so many partitions has: at least 16, at most 1,024.
pub fn buckets(partitions: u16) -> u16 {
    let each = BUCKETS / usize::from(partitions.max(1));
    u16::try_from(each.clamp(16, 1024)).unwrap_or(1024)
}

/// The bucket of a key, among so many. Part of the format on disk.
pub fn bucket_of(key: &[u8], buckets: u16) -> u16 {
    let hash = xxh3_64_with_seed(key, BUCKET_SEED);
    u16::try_from(hash % u64::from(buckets)).unwrap_or(0)
}

/// What one entry adds to the digest of its bucket.
pub fn entry_digest(key: &[u8], version: &Version) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&version.epoch.to_be_bytes());
    bytes[8..16].copy_from_slice(&version.hlc.0.to_be_bytes());
    bytes[16..].copy_from_slice(&version.branch.to_be_bytes());
    xxh3_64_with_seed(key, ENTRY_SEED ^ xxh3_64(&bytes))
}

/// The digests of a partition's buckets in one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its number.
    pub number: u16,
    /// Digests of its buckets, in their order.
    pub buckets: Vec<u64>,
}

/// The digests of a partition's buckets, and what is counted beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    buckets: Vec<u64>,
    /// The XOR of all buckets; not enough to compare by, but it tells a change.
    entries: u64,
    bytes: u64,
}

impl Digests {
    /// Of a partition without entries.
    pub fn new(buckets: u16) -> Self {
        Self {
            buckets: vec![0; usize::from(buckets)],
            entries: 0,
            bytes: 0,
        }
    }

    /// An entry was added: its bucket, key, version and size (bytes).
    pub fn add(&mut self, bucket: u16, key: &[u8], version: &Version, size: usize) {
        self.toggle(bucket, key, version);
        self.entries += 1;
        self.bytes += size as u64;
    }

    /// An entry is gone.
    pub fn remove(&mut self, bucket: u16, key: &[u8], version: &Version, size: usize) {
        self.toggle(bucket, key, version);
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size as u64);
    }

    fn toggle(&mut self, bucket: u16, key: &[u8], version: &Version) {
        if let Some(digest) = self.buckets.get_mut(usize::from(bucket)) {
            *digest ^= entry_digest(key, version);
        }
    }

    /// One number for everything.
    pub fn root(&self) -> u64 {
        hash_of(&self.buckets)
    }

    /// One number for each group of buckets.
    pub fn groups(&self) -> Vec<u64> {
        self.buckets
            .chunks(self.group_size())
            .map(hash_of)
            .collect()
    }

    /// The groups in which another replica's [`Self::groups`] differ; all of them if it counts
    /// otherwise.
    pub fn differing_groups(&self, other: &[u64]) -> Vec<Group> {
        let chunks = self.buckets.chunks(self.group_size());
        (0u16..)
            .zip(chunks)
            .filter(|(number, buckets)| other.get(usize::from(*number)) != Some(&hash_of(buckets)))
            .map(|(number, buckets)| Group {
                number,
                buckets: buckets.to_vec(),
            })
            .collect()
    }

    /// Buckets in which another replica's digests differ, of those groups of it; all of a group
    /// that it counts otherwise.
    pub fn differing(&self, other: &[Group]) -> Vec<u16> {
        let size = self.group_size();
        let theirs: BTreeMap<u16, &[u64]> = other
            .iter()
            .map(|group| (group.number, &group.buckets[..]))
            .collect();
        (0u16..)
            .zip(&self.buckets)
            .filter(|(bucket, digest)| {
                let bucket = usize::from(*bucket);
                let group = u16::try_from(bucket / size).unwrap_or(u16::MAX);
                theirs
                    .get(&group)
                    .is_some_and(|buckets| buckets.get(bucket % size) != Some(digest))
            })
            .map(|(bucket, _)| bucket)
            .collect()
    }

    fn group_size(&self) -> usize {
        self.buckets.len().div_ceil(usize::from(GROUPS)).max(1)
    }

    /// Entries, tombstones included.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// What they take, about (bytes).
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn hash_of(digests: &[u64]) -> u64 {
    let mut bytes = Vec::with_capacity(digests.len() * 8);
    for digest in digests {
        bytes.extend_from_slice(&digest.to_be_bytes());
    }
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kv::version::Hlc;

    fn version(hlc: u64) -> Version {
        Version {
            epoch: 1,
            hlc: Hlc(hlc),
            branch: 7,
        }
    }

    #[test]
    fn equal_contents_have_equal_digests_however_they_came_about() {
        let mut a = Digests::new(16);
        let mut b = Digests::new(16);
        a.add(3, b"x", &version(1), 10);
        a.add(5, b"y", &version(2), 10);
        b.add(5, b"y", &version(9), 10);
        b.add(3, b"x", &version(1), 10);
        assert_ne!(a.root(), b.root());
        assert_eq!(differing(&a, &b), [5]);
        b.remove(5, b"y", &version(9), 10);
        b.add(5, b"y", &version(2), 10);
        assert_eq!(a, b);
        assert_eq!((a.entries(), a.bytes()), (2, 20));
    }

    // As two replicas find it out.
    fn differing(here: &Digests, there: &Digests) -> Vec<u16> {
        here.differing(&there.differing_groups(&here.groups()))
    }

    #[test]
    fn whatever_differs_is_found_by_groups_and_little_is_said() {
        for buckets in [1, 16, 17, 33, 1000, 1024] {
            let key = |n: u16| n.to_be_bytes();
            let mut a = Digests::new(buckets);
            for n in 0..buckets {
                a.add(n, &key(n), &version(1), 10);
            }
            let mut b = a.clone();
            assert_eq!(differing(&a, &b), [], "{buckets}");
            // Both ends, and some between.
            let changed: BTreeSet<u16> = [0, buckets / 3, buckets / 2, buckets - 1].into();
            for n in &changed {
                b.remove(*n, &key(*n), &version(1), 10);
                b.add(*n, &key(*n), &version(2), 10);
            }
            let changed: Vec<u16> = changed.into_iter().collect();
            assert_eq!(differing(&a, &b), changed, "{buckets}");
            let said: usize = b
                .differing_groups(&a.groups())
                .iter()
                .map(|group| group.buckets.len())
                .sum();
            assert!(
                a.groups().len() <= 32 && said <= 4 * 32,
                "{buckets}: {said}"
            );
        }
    }

    #[test]
    fn who_counts_otherwise_is_told_everything() {
        let mut a = Digests::new(64);
        a.add(9, b"x", &version(1), 10);
        let none = a.differing_groups(&[]);
        assert_eq!(none.len(), 32);
        assert_eq!(a.differing(&none), []);
        // A group cut short, one that does not exist, and one that comes twice.
        let mut odd = vec![none[4].clone(), none[4].clone()];
        odd[1].buckets.truncate(1);
        odd.push(Group {
            number: u16::MAX,
            buckets: vec![7; 3],
        });
        assert_eq!(a.differing(&odd), [9]);
    }

    #[test]
    fn buckets_shrink_with_the_number_of_partitions() {
        assert_eq!(buckets(1), 1024);
        assert_eq!(buckets(256), 1024);
        assert_eq!(buckets(1024), 256);
        assert_eq!(buckets(16_384), 16);
        assert!((0..1000u32).all(|n| bucket_of(&n.to_be_bytes(), 16) < 16));
    }
}
