//! Which places may hold something: whether a key is new is mostly answered here.
//!
//! A write first asks what is there, and for a new key the engine has to look through all that it
//! has in memory to find out that it is nothing. So every place that is written is noted in a filter
//! that may say "perhaps" of one that holds nothing (of one in 200), but never "nothing" of one
//! that holds something.
//!
//! ```text
//!   a partition is opened    all its places were noted, as pages went by from its beginning to its
//!                            end: what has not been gone through yet may hold anything
//!   is cleared               it holds nothing
//!   is written               noted; what is removed stays noted
//!
//!   filter   64 KiB | 256 KiB | 1 MiB | …      the next one is begun when the last one is full
//! ```
//!
//! It knows more than there is, at worst, whatever fails: it is not kept anywhere, and begins anew
//! with the process. When it would become too large it is given up, and the engine asked.
//!
//! Source of the filter: Putze, Sanders, Singler, "Cache-, Hash- and Space-Efficient Bloom
//! Filters" (2007): all bits of a place are in one block of the size of a cache line.

use std::collections::HashMap;

use kith_proto::{
    id::PartitionId,
    store::partitions::{Page, Place},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Words of a block; a place has one bit in each.
const WORDS: usize = 8;
/// Blocks of the first layer: 64 KiB.
const FIRST: usize = 1024;
/// Each layer has so many times the blocks of the one before.
const GROWTH: usize = 4;
/// Places in a block, on average, when a layer is full: 12 bits each.
const PER_BLOCK: usize = WORDS * 64 / 12;
/// Odd numbers that choose a bit of each word.
const SALTS: [u32; WORDS] = [
    0x9e37_79b1,
    0x85eb_ca77,
    0xc2b2_ae3d,
    0x27d4_eb2f,
    0x1656_67b1,
    0xd3a2_646d,
    0xfd70_46c5,
    0xb55a_4f09,
];

/// How far the pages of a partition have gone by.
#[derive(Debug)]
enum Gone {
    /// From the beginning to this place.
    To(Place),
    /// All of it: whatever it holds is noted.
    Through,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Places {
    layers: Vec<Layer>,
    partitions: HashMap<PartitionId, Gone>,
    /// What the layers may take (bytes); `None`: they would have taken more, and nothing is known.
    most: Option<usize>,
}

impl Places {
    /// Nothing is known; at most so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            layers: Vec::new(),
            partitions: HashMap::new(),
            most: Some(most),
        }
    }

    /// False: nothing is there.
    pub(super) fn may_hold(&self, place: &Place) -> bool {
        match self.partitions.get(&place.partition) {
            Some(Gone::Through) => self.has(hash(place)),
            _ => true,
        }
    }

    /// Something is written there. False: it has not been noted before.
    pub(super) fn note(&mut self, place: &Place) -> bool {
        if self.most.is_none() {
            return true;
        }
        let hash = hash(place);
        if self.has(hash) {
            return true;
        }
        if self.layers.last().is_none_or(Layer::is_full) {
            self.grow();
        }
        if let Some(last) = self.layers.last_mut() {
            last.add(hash);
        }
        false
    }

    /// A partition holds nothing now.
    pub(super) fn cleared(&mut self, partition: PartitionId) {
        if self.most.is_some() {
            self.partitions.insert(partition, Gone::Through);
        }
    }

    /// That is what a partition holds after a place, as far as was wanted; an empty page is its end.
    pub(super) fn paged(&mut self, partition: PartitionId, after: Option<&Place>, page: &Page) {
        if self.most.is_none() {
            return;
        }
        match (self.partitions.get(&partition), after) {
            (Some(Gone::Through), _) => return,
            (_, None) => {}
            (Some(Gone::To(place)), Some(after)) if place == after => {}
            // Something may be before it that was not seen.
            _ => return,
        }
        for (place, _) in page {
            self.note(place);
        }
        let gone = match page.last() {
            Some((place, _)) => Gone::To(place.clone()),
            None => Gone::Through,
        };
        // Unless it was given up meanwhile.
        if self.most.is_some() {
            self.partitions.insert(partition, gone);
        }
    }

    fn has(&self, hash: u64) -> bool {
        self.layers.iter().rev().any(|layer| layer.has(hash))
    }

    fn grow(&mut self) {
        let blocks = self
            .layers
            .last()
            .map_or(FIRST, |l| l.blocks.len() * GROWTH);
        let taken: usize = self.layers.iter().map(|layer| layer.blocks.len()).sum();
        let wanted = (taken + blocks) * size_of::<Block>();
        if self.most.is_some_and(|most| wanted <= most) {
            self.layers.push(Layer::new(blocks));
            return;
        }
        *self = Self {
            layers: Vec::new(),
            partitions: HashMap::new(),
            most: None,
        };
    }
}

/// Shards have partitions of their own, so that one seed for each is enough.
fn hash(place: &Place) -> u64 {
    xxh3_64_with_seed(&place.key, u64::from(place.partition))
}

type Block = [u64; WORDS];

#[derive(Debug)]
struct Layer {
    blocks: Vec<Block>,
    count: usize,
}

impl Layer {
    fn new(blocks: usize) -> Self {
        Self {
            blocks: vec![[0; WORDS]; blocks],
            count: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.count >= self.blocks.len() * PER_BLOCK
    }

    fn add(&mut self, hash: u64) {
        let at = self.block(hash);
        for (word, bit) in self.blocks[at].iter_mut().zip(bits(hash)) {
            *word |= bit;
        }
        self.count += 1;
    }

    fn has(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block(hash)];
        block
            .iter()
            .zip(bits(hash))
            .all(|(word, bit)| word & bit != 0)
    }

    /// The high half chooses the block.
    fn block(&self, hash: u64) -> usize {
        let [a, b, c, d, ..] = hash.to_be_bytes();
        let high = u64::from(u32::from_be_bytes([a, b, c, d]));
        // As even as a remainder, and below the number of blocks.
        usize::try_from((high * self.blocks.len() as u64) >> 32).unwrap_or(0)
    }
}

/// The low half chooses the bits: the six high bits of its product with each salt.
fn bits(hash: u64) -> impl Iterator<Item = u64> {
    let [.., a, b, c, d] = hash.to_be_bytes();
    let low = u32::from_be_bytes([a, b, c, d]);
    SALTS
        .iter()
        .map(move |salt| 1 << (low.wrapping_mul(*salt) >> 26))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kith_proto::kv::{entry::Entry, version::Version};

    use super::*;

    fn place(partition: PartitionId, number: usize) -> Place {
        Place {
            partition,
            bucket: 0,
            key: Bytes::from(number.to_string()),
        }
    }

    fn page(partition: PartitionId, numbers: std::ops::Range<usize>) -> Page {
        numbers
            .map(|n| (place(partition, n), Entry::tombstone(Version::default())))
            .collect()
    }

    #[test]
    fn what_was_noted_is_never_denied_and_little_else_is_affirmed() {
        const COUNT: usize = 200_000;
        let mut places = Places::new(1 << 20);
        places.cleared(1);
        assert!(!places.may_hold(&place(1, 0)));
        for number in 0..COUNT {
            places.note(&place(1, number));
        }
        assert_eq!(places.layers.len(), 2, "it has grown");
        assert!((0..COUNT).all(|number| places.may_hold(&place(1, number))));
        let wrong = (COUNT..2 * COUNT).filter(|number| places.may_hold(&place(1, *number)));
        let wrong = wrong.count();
        assert!(wrong < COUNT / 50, "{wrong} of {COUNT}");
    }

    #[test]
    fn a_partition_is_known_once_it_went_by_from_beginning_to_end() {
        let mut places = Places::new(1 << 20);
        let absent = place(1, 99);
        assert!(places.may_hold(&absent));
        // Not from the beginning.
        places.paged(1, Some(&place(1, 3)), &page(1, 4..4));
        assert!(places.may_hold(&absent));
        places.paged(1, None, &page(1, 0..4));
        assert!(places.may_hold(&absent));
        // With a gap, and once more from the beginning.
        places.paged(1, Some(&place(1, 5)), &page(1, 6..6));
        assert!(places.may_hold(&absent));
        places.paged(1, None, &page(1, 0..2));
        places.paged(1, Some(&place(1, 3)), &page(1, 4..4));
        assert!(places.may_hold(&absent), "2 and 3 were not seen this time");
        places.paged(1, Some(&place(1, 1)), &page(1, 2..4));
        places.paged(1, Some(&place(1, 3)), &page(1, 4..4));
        assert!(!places.may_hold(&absent));
        assert!((0..4).all(|number| places.may_hold(&place(1, number))));
        assert!(places.may_hold(&place(2, 99)), "another partition");
    }

    #[test]
    fn too_many_are_given_up() {
        let mut places = Places::new(64 << 10);
        places.cleared(1);
        for number in 0..100_000 {
            places.note(&place(1, number));
        }
        places.cleared(2);
        places.paged(3, None, &page(3, 0..0));
        assert!(places.layers.is_empty());
        for partition in 1..4 {
            assert!(places.may_hold(&place(partition, 200_000)));
        }
    }
}
