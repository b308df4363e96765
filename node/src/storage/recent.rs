//! What was read or written lately, in memory: most reads end here.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

use bytes::Bytes;
use kith_proto::{id::PartitionId, kv::entry::Entry, store::partitions::Place};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longer values are not kept: the engine's own cache has them (bytes).
const MAX_VALUE: usize = 4096;
/// What an entry takes beside its key and its value (bytes), about.
const OVERHEAD: usize = 192;

/// Something by its place.
pub(super) type ByPlace<T> = HashMap<Place, T, Seeded>;

/// Entries, and that there is none, by place: up to a number of bytes, about.
///
/// In two halves: what is used comes into the young one; when that is full it becomes the old
/// one, and what was in the old one and was not used since is forgotten.
#[derive(Debug)]
pub(super) struct Recent {
    young: ByPlace<Known>,
    old: ByPlace<Known>,
    /// What the young half takes (bytes).
    size: usize,
    half: usize,
    /// Something was forgotten to make room.
    turned: bool,
    /// How often each partition was cleared: what was known before is not true any more.
    lives: HashMap<PartitionId, u32>,
}

/// What is at a place, in a life of its partition.
#[derive(Debug)]
struct Known {
    life: u32,
    entry: Option<Entry>,
}

impl Recent {
    /// For so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            young: ByPlace::default(),
            old: ByPlace::default(),
            size: 0,
            half: bytes / 2,
            turned: false,
            lives: HashMap::new(),
        }
    }

    /// What is at a place, if that is known.
    pub(super) fn get(&mut self, place: &Place) -> Option<Option<Entry>> {
        let life = self.life(place.partition);
        if let Some(known) = self.young.get(place) {
            return (known.life == life).then(|| known.entry.clone());
        }
        let (place, known) = self.old.remove_entry(place)?;
        if known.life != life {
            return None;
        }
        let found = known.entry.clone();
        self.insert(place, known);
        Some(found)
    }

    /// That is at a place now. False: it is too long to be kept here.
    pub(super) fn put(&mut self, place: &Place, entry: Option<&Entry>) -> bool {
        let Some(new) = self.known(place, entry) else {
            return false;
        };
        if let Some(known) = self.young.get_mut(place) {
            self.size = self.size.saturating_sub(cost(place, known)) + cost(place, &new);
            *known = new;
            return true;
        }
        let place = match self.old.remove_entry(place) {
            Some((place, _)) => place,
            None => copy(place),
        };
        self.insert(place, new);
        true
    }

    /// The same for a place where nothing was before, as far as is known: that is not looked for.
    pub(super) fn put_first(&mut self, place: &Place, entry: Option<&Entry>) -> bool {
        let Some(new) = self.known(place, entry) else {
            return false;
        };
        // If the old half should know that there was nothing, it is asked after the young one.
        self.insert(copy(place), new);
        true
    }

    // `None`: it is too long, and nothing is known of the place any more.
    fn known(&mut self, place: &Place, entry: Option<&Entry>) -> Option<Known> {
        let value = entry.and_then(|entry| entry.value.as_ref());
        if value.is_some_and(|value| value.len() > MAX_VALUE) {
            self.forget(place);
            return None;
        }
        // Copies: a part of what was received would keep all of it in memory.
        let entry = entry.map(|entry| Entry {
            value: value.map(|value| Bytes::copy_from_slice(value)),
            ..*entry
        });
        let life = self.life(place.partition);
        Some(Known { life, entry })
    }

    /// Whether anything was forgotten to make room since this was asked last.
    pub(super) fn turned(&mut self) -> bool {
        std::mem::take(&mut self.turned)
    }

    /// Nothing is known of a place.
    fn forget(&mut self, place: &Place) {
        if let Some(known) = self.young.remove(place) {
            self.size = self.size.saturating_sub(cost(place, &known));
        }
        self.old.remove(place);
    }

    /// Nothing is known of a partition any more.
    pub(super) fn clear(&mut self, partition: PartitionId) {
        *self.lives.entry(partition).or_default() += 1;
    }

    fn life(&self, partition: PartitionId) -> u32 {
        // Most nodes never clear any.
        if self.lives.is_empty() {
            return 0;
        }
        self.lives.get(&partition).copied().unwrap_or(0)
    }

    fn insert(&mut self, place: Place, known: Known) {
        self.size += cost(&place, &known);
        self.young.insert(place, known);
        if self.size > self.half {
            self.old = std::mem::take(&mut self.young);
            self.size = 0;
            self.turned = true;
        }
    }
}

fn copy(place: &Place) -> Place {
    Place {
        key: Bytes::copy_from_slice(&place.key),
        ..*place
    }
}

fn cost(place: &Place, known: &Known) -> usize {
    let value = known.entry.as_ref().and_then(|entry| entry.value.as_ref());
    OVERHEAD + place.key.len() + value.map_or(0, Bytes::len)
}

/// Hashes places faster than the standard library does; seeded, so that clients cannot choose keys
/// that meet in one spot.
#[derive(Clone, Debug)]
pub(super) struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Seeded {
    type Hasher = PlaceHasher;

    fn build_hasher(&self) -> PlaceHasher {
        PlaceHasher(self.0)
    }
}

/// See [`Seeded`].
#[derive(Debug)]
pub(super) struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    // Partition, bucket and the length of the key: what is hashed after them mixes them in.
    fn write_u16(&mut self, number: u16) {
        self.0 = self.0.rotate_left(16) ^ u64::from(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.0 = self.0.rotate_left(16) ^ number as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use kith_proto::kv::version::Version;

    use super::*;

    fn place(number: usize) -> Place {
        Place {
            partition: 1,
            bucket: 2,
            key: Bytes::from(number.to_string()),
        }
    }

    fn entry(value: &[u8]) -> Entry {
        Entry {
            version: Version::default(),
            value: Some(Bytes::copy_from_slice(value)),
            expires: None,
        }
    }

    #[test]
    fn what_is_used_stays_and_memory_is_bounded() {
        let mut recent = Recent::new(100 * OVERHEAD);
        recent.put(&place(0), None);
        for number in 1..1000 {
            recent.put(&place(number), Some(&entry(b"x")));
            assert_eq!(recent.get(&place(0)), Some(None), "used after {number}");
        }
        assert!(recent.young.len() + recent.old.len() <= 101);
        assert_eq!(recent.get(&place(1)), None);
        assert_eq!(recent.get(&place(999)), Some(Some(entry(b"x"))));
    }

    #[test]
    fn what_was_cleared_is_not_known_and_the_rest_is() {
        let other = Place {
            partition: 2,
            ..place(7)
        };
        let mut recent = Recent::new(1 << 20);
        recent.put(&place(7), Some(&entry(b"x")));
        recent.put(&other, Some(&entry(b"y")));
        recent.clear(1);
        assert_eq!(recent.get(&place(7)), None);
        assert_eq!(recent.get(&other), Some(Some(entry(b"y"))));
        recent.put(&place(7), None);
        assert_eq!(recent.get(&place(7)), Some(None));
        // Also when it has grown old.
        recent.put(&place(8), Some(&entry(b"z")));
        recent.old = std::mem::take(&mut recent.young);
        recent.clear(1);
        assert_eq!(recent.get(&place(8)), None);
        assert_eq!(recent.get(&other), Some(Some(entry(b"y"))));
    }

    #[test]
    fn what_is_first_at_a_place_counts_and_room_that_was_made_is_told() {
        let mut recent = Recent::new(20 * OVERHEAD);
        recent.put(&place(0), None);
        assert!(!recent.turned());
        for number in 1..12 {
            assert!(recent.put_first(&place(number), Some(&entry(b"x"))));
        }
        assert!(recent.turned() && !recent.turned());
        // Nothing was there, says the old half.
        assert!(recent.put_first(&place(0), Some(&entry(b"y"))));
        assert_eq!(recent.get(&place(0)), Some(Some(entry(b"y"))));
        recent.old = std::mem::take(&mut recent.young);
        assert_eq!(recent.get(&place(0)), Some(Some(entry(b"y"))));
        let long = entry(&[0; MAX_VALUE + 1]);
        assert!(!recent.put_first(&place(0), Some(&long)));
        assert_eq!(recent.get(&place(0)), None);
    }

    #[test]
    fn a_value_too_long_is_not_confused_with_the_one_before() {
        let mut recent = Recent::new(1 << 20);
        recent.put(&place(1), Some(&entry(b"x")));
        recent.put(&place(1), Some(&entry(&[0; MAX_VALUE + 1])));
        assert_eq!(recent.get(&place(1)), None);
        assert_eq!(recent.size, 0);
    }
}
