//! What was read or written lately, in memory: most reads end here.

use std::collections::HashMap;

use bytes::Bytes;
use kith_proto::{kv::entry::Entry, store::partitions::Place};

/// Longer values are not kept: the engine's own cache has them (bytes).
const MAX_VALUE: usize = 4096;
/// What an entry takes beside its key and its value (bytes), about.
const OVERHEAD: usize = 192;

/// Entries, and that there is none, by place: up to a number of bytes, about.
///
/// In two halves: what is used comes into the young one; when that is full it becomes the old
/// one, and what was in the old one and was not used since is forgotten.
#[derive(Debug)]
pub(super) struct Recent {
    young: HashMap<Place, Option<Entry>>,
    old: HashMap<Place, Option<Entry>>,
    /// What the young half takes (bytes).
    size: usize,
    half: usize,
}

impl Recent {
    /// For so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            size: 0,
            half: bytes / 2,
        }
    }

    /// What is at a place, if that is known.
    pub(super) fn get(&mut self, place: &Place) -> Option<Option<Entry>> {
        if let Some(entry) = self.young.get(place) {
            return Some(entry.clone());
        }
        let (place, entry) = self.old.remove_entry(place)?;
        let found = entry.clone();
        self.insert(place, entry);
        Some(found)
    }

    /// That is at a place now.
    pub(super) fn put(&mut self, place: &Place, entry: Option<&Entry>) {
        let value = entry.and_then(|entry| entry.value.as_ref());
        if value.is_some_and(|value| value.len() > MAX_VALUE) {
            self.forget(place);
            return;
        }
        self.old.remove(place);
        // Copies: a part of what was received would keep all of it in memory.
        let copied = entry.map(|entry| Entry {
            value: value.map(|value| Bytes::copy_from_slice(value)),
            ..entry.clone()
        });
        if let Some(known) = self.young.get_mut(place) {
            self.size = self.size.saturating_sub(cost(place, known.as_ref()))
                + cost(place, copied.as_ref());
            *known = copied;
            return;
        }
        let place = Place {
            key: Bytes::copy_from_slice(&place.key),
            ..*place
        };
        self.insert(place, copied);
    }

    /// Nothing is known of a place.
    fn forget(&mut self, place: &Place) {
        if let Some(known) = self.young.remove(place) {
            self.size = self.size.saturating_sub(cost(place, known.as_ref()));
        }
        self.old.remove(place);
    }

    /// Nothing is known of any.
    pub(super) fn clear(&mut self) {
        *self = Self::new(2 * self.half);
    }

    fn insert(&mut self, place: Place, entry: Option<Entry>) {
        self.size += cost(&place, entry.as_ref());
        self.young.insert(place, entry);
        if self.size > self.half {
            self.old = std::mem::take(&mut self.young);
            self.size = 0;
        }
    }
}

fn cost(place: &Place, entry: Option<&Entry>) -> usize {
    let value = entry.and_then(|entry| entry.value.as_ref());
    OVERHEAD + place.key.len() + value.map_or(0, Bytes::len)
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
        recent.clear();
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
