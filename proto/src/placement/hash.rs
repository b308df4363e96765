//! Keys to slots to partitions, and the draws that order nodes for a partition.
//!
//! Two hashes for two purposes. **Slots** are Redis Cluster's: CRC16 (XMODEM) of the key, or
//! of its `{tag}`, modulo 16384, because that is what cluster-aware clients compute. A
//! partition is a run of consecutive slots. **Draws** are XXH3 with a seed that is part of
//! the format: change anything here and every cluster moves its data at the next upgrade.
//!
//! Logarithms are integers from a table that the compiler fills with integer arithmetic: the
//! last digit of a floating-point logarithm is not the same on every machine, and one
//! different digit would be two nodes of different opinions.
//!
//! Sources: "Redis cluster specification", sections "Key distribution model" and "Hash
//! tags"; Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998).

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::{NodeId, PartitionId};

/// The number of slots, as in Redis Cluster.
pub const SLOTS: u16 = 16_384;

/// Seed of the draws ("kith" and a version): part of the format.
const DRAW_SEED: u64 = 0x6b69_7468_0000_0001;

/// Fraction bits of the logarithms here.
pub(super) const LOG_BITS: u32 = 24;

/// The slot of a key: CRC16 modulo 16384, of the text between the first `{` and the next `}`
/// where that is not empty, else of the whole key.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    crc16(hashed_part(key)) % SLOTS
}

/// The partition of a key, among `partitions` (at least 1, at most [`SLOTS`]).
#[must_use]
pub fn partition_of(key: &[u8], partitions: u16) -> PartitionId {
    partition_of_slot(slot(key), partitions)
}

/// The partition that a slot is in, the inverse of [`slots`].
#[must_use]
pub fn partition_of_slot(slot: u16, partitions: u16) -> PartitionId {
    debug_assert!((1..=SLOTS).contains(&partitions) && slot < SLOTS);
    // The largest p with first(p) <= slot, first(p) being floor(p * SLOTS / partitions).
    let numerator = (u32::from(slot) + 1) * u32::from(partitions) - 1;
    (numerator / u32::from(SLOTS)) as PartitionId
}

/// The first and the last slot of a partition. All have the same number of slots, or one more.
#[must_use]
pub fn slots(partition: PartitionId, partitions: u16) -> (u16, u16) {
    debug_assert!((1..=SLOTS).contains(&partitions) && partition < partitions);
    let first = |p: u32| (p * u32::from(SLOTS) / u32::from(partitions)) as u16;
    let partition = u32::from(partition);
    (first(partition), first(partition + 1) - 1)
}

/// The draws of one node: for each partition a number in 0 .. 2^32, uniform over partitions
/// and independent between nodes.
///
/// They are *stratified*: the interval is cut into as many strata as there are partitions,
/// and exactly one draw falls into each. The node draws a small number as often as it
/// should, never more or less often by luck: that leaves a quarter to a half of the
/// variance of its load, before any balancing has to move something.
pub(super) fn draws(node: NodeId, partitions: u16) -> Vec<u32> {
    let mut order: Vec<(u64, u16)> = (0..partitions).map(|p| (hash(node, p), p)).collect();
    order.sort_unstable();
    let mut draws = vec![0; usize::from(partitions)];
    for (rank, (hash, partition)) in (0u64..).zip(order) {
        // The place within the stratum comes from bits that did not decide the rank.
        let within = hash & 0xffff_ffff;
        let draw = ((rank << 32) + within) / u64::from(partitions);
        draws[usize::from(partition)] = draw as u32;
    }
    draws
}

fn hash(node: NodeId, partition: PartitionId) -> u64 {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&node.0.to_be_bytes());
    bytes[8..].copy_from_slice(&partition.to_be_bytes());
    xxh3_64_with_seed(&bytes, DRAW_SEED)
}

/// The natural logarithm of the exponentially distributed time `-ln(1 - draw / 2^32)`, with
/// [`LOG_BITS`] fraction bits.
pub(super) fn log_time(draw: u32) -> i64 {
    // Half a step inwards, so that neither end has an infinite logarithm.
    let left = (1u64 << 33) - (2 * u64::from(draw) + 1);
    let time = ln(1 << 33) - ln(left);
    ln(time.max(1) as u64) - ln(1 << LOG_BITS)
}

/// The natural logarithm of `x`, at least 1, with [`LOG_BITS`] fraction bits; rises with `x`.
pub(super) fn ln(x: u64) -> i64 {
    /// ln 2 with 32 fraction bits.
    const LN_2: u64 = 0xb172_17f8;
    debug_assert!(x > 0);
    let whole = 63 - x.leading_zeros();
    // The bits after the leading one, at the top of a word.
    let mantissa = if whole == 0 { 0 } else { x << (64 - whole) };
    let step = (mantissa >> (64 - TABLE_BITS)) as usize;
    let rest = (mantissa << TABLE_BITS) >> 32;
    let below = u64::from(LOG2[step]);
    let above = if step + 1 < LOG2.len() {
        u64::from(LOG2[step + 1])
    } else {
        1 << 32
    };
    let log2 = (u64::from(whole) << 32) + below + (((above - below) * rest) >> 32);
    ((u128::from(log2) * u128::from(LN_2)) >> (64 - LOG_BITS)) as i64
}

const TABLE_BITS: u32 = 10;

/// `log2(1 + i / 1024)` with 32 fraction bits.
static LOG2: [u32; 1 << TABLE_BITS] = {
    let mut table = [0; 1 << TABLE_BITS];
    let mut i = 0;
    while i < table.len() {
        table[i] = log2_fraction((1 << 31) + ((i as u64) << (31 - TABLE_BITS)));
        i += 1;
    }
    table
};

/// 32 fraction bits of log2 of `x / 2^31`, which is in 1 .. 2: squaring doubles the logarithm,
/// so that each squaring yields its next bit.
const fn log2_fraction(mut x: u64) -> u32 {
    let mut bits = 0;
    let mut i = 0;
    while i < 32 {
        x = (x * x) >> 31;
        bits <<= 1;
        if x >= 1 << 32 {
            x >>= 1;
            bits |= 1;
        }
        i += 1;
    }
    bits
}

/// What of the key decides its slot.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else {
        return key;
    };
    let tail = &key[open + 1..];
    match tail.iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(close) => &tail[..close],
    }
}

/// CRC16 as XMODEM has it: polynomial 0x1021, initially 0, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (crc << 8) ^ CRC16[usize::from((crc >> 8) ^ u16::from(byte))]
    })
}

static CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"123456789"), 0x31c3);
        // `CLUSTER KEYSLOT` of Redis 7 answers these.
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"bar"), 5061);
        assert_eq!(slot(b""), 0);
    }

    #[test]
    fn a_tag_decides_alone_unless_it_is_empty_or_open() {
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(hashed_part(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hashed_part(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hashed_part(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hashed_part(b"foo{bar"), b"foo{bar");
        assert_eq!(hashed_part(b"}foo{bar}"), b"bar");
    }

    #[test]
    fn partitions_cut_the_slots_without_gap_or_overlap() {
        for partitions in [1, 2, 3, 7, 16, 100, 256, 1000, 4096, 9999, SLOTS] {
            let mut next = 0;
            for partition in 0..partitions {
                let (first, last) = slots(partition, partitions);
                assert_eq!(first, next);
                let size = last + 1 - first;
                assert!(size == SLOTS / partitions || size == SLOTS / partitions + 1);
                for slot in first..=last {
                    assert_eq!(partition_of_slot(slot, partitions), partition);
                }
                next = last + 1;
            }
            assert_eq!(next, SLOTS);
        }
        assert_eq!(partition_of(b"foo", SLOTS), 12182);
    }

    #[test]
    fn logarithms_are_close_and_rise() {
        let mut before = -1;
        for shift in 0..63 {
            for x in [1u64 << shift, (1 << shift) + (1 << shift) / 3] {
                let exact = (x as f64).ln();
                let got = ln(x) as f64 / f64::from(1 << LOG_BITS);
                assert!((exact - got).abs() < 1e-6, "ln {x} is {exact}, not {got}");
                assert!(ln(x) >= before);
                before = ln(x);
            }
        }
    }

    #[test]
    fn draws_fall_once_into_each_stratum() {
        let mut draws = draws(NodeId(7), 256);
        draws.sort_unstable();
        for (stratum, draw) in (0u32..).zip(draws) {
            assert_eq!(draw >> 24, stratum);
        }
    }
}
