//! `SCAN`, `DBSIZE`, `RANDOMKEY`: about the keys that this node owns, as in Redis Cluster.
//!
//! A cursor is a number, and nothing is remembered between calls: it is the partition, and
//! the bucket in it at which the next page begins. A page therefore ends where a bucket ends.
//! A key that is there during the whole scan is told once, whatever else comes and goes, as
//! long as its partition stays with this node.
//!
//! ```text
//!   cursor = partition << 16 | bucket        0 is the start, and means the end when told
//! ```

use bytes::Bytes;
use kith_proto::{
    id::PartitionId,
    kv::request::{Cursor, RequestError},
    replica::digest::{bucket_of, buckets},
};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{
    glob::Glob,
    reply::Reply,
    strings::{Refused, error_text, number},
};
use crate::kv::{Kv, Topology};

/// The most keys that one page aims at, whatever `COUNT` says.
const MAX_COUNT: i64 = 10_000;
const DEFAULT_COUNT: i64 = 10;
/// The most partitions that one call looks into: many may be empty.
const MAX_PARTITIONS: usize = 64;
/// The most steps that comparing the keys of one page with a pattern may take.
const MATCH_BUDGET: usize = 20_000_000;
/// Keys from which a random one is taken.
const RANDOM_PAGE: u32 = 32;

/// What is asked of `SCAN`.
#[derive(Debug)]
struct Scan {
    from: Position,
    count: u32,
    pattern: Option<Glob>,
    /// A type was asked for that no value has.
    nothing: bool,
}

/// Where a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    partition: PartitionId,
    bucket: u16,
}

impl Position {
    fn number(self) -> u64 {
        u64::from(self.partition) << 16 | u64::from(self.bucket)
    }

    fn from_number(number: u64) -> Option<Self> {
        let partition = u16::try_from(number >> 16).ok()?;
        let bucket = (number & 0xffff) as u16;
        Some(Self { partition, bucket })
    }
}

impl Scan {
    fn parse(args: &[Bytes]) -> Result<Self, Refused> {
        let [_, cursor, options @ ..] = args else {
            return Err(Refused::Arity("scan"));
        };
        let from = std::str::from_utf8(cursor)
            .ok()
            .and_then(|text| text.parse().ok())
            .and_then(Position::from_number)
            .ok_or_else(|| Refused::Other("ERR invalid cursor".to_owned()))?;
        let mut scan = Self {
            from,
            count: DEFAULT_COUNT as u32,
            pattern: None,
            nothing: false,
        };
        for option in options.chunks(2) {
            let [name, value] = option else {
                return Err(Refused::Syntax);
            };
            match name.to_ascii_uppercase().as_slice() {
                b"COUNT" => {
                    let count = number(value)?;
                    if count < 1 {
                        return Err(Refused::Syntax);
                    }
                    scan.count = u32::try_from(count.min(MAX_COUNT)).unwrap_or(u32::MAX);
                }
                b"MATCH" if value.as_ref() == b"*" => scan.pattern = None,
                b"MATCH" => {
                    let too_long = || Refused::Other("ERR the pattern is too long".to_owned());
                    scan.pattern = Some(Glob::new(value).ok_or_else(too_long)?);
                }
                b"TYPE" => scan.nothing = !value.eq_ignore_ascii_case(b"string"),
                _ => return Err(Refused::Syntax),
            }
        }
        Ok(scan)
    }
}

/// Answers `SCAN`.
pub(super) async fn scan(kv: &Kv, args: &[Bytes]) -> Result<Reply, Refused> {
    let scan = Scan::parse(args)?;
    let topology = kv.topology();
    let (keys, next) = match page(kv, &topology, scan.from, scan.count).await {
        Ok(page) => page,
        Err(error) => return Ok(Reply::Error(error_text(&error))),
    };
    let mut budget = MATCH_BUDGET;
    let mut found = Vec::new();
    for key in keys.into_iter().filter(|_| !scan.nothing) {
        let fits = match &scan.pattern {
            None => true,
            Some(glob) => glob.matches(&key, &mut budget).map_err(|_costly| {
                Refused::Other(
                    "ERR this pattern takes too long on these keys; a smaller COUNT helps"
                        .to_owned(),
                )
            })?,
        };
        if fits {
            found.push(Reply::Bulk(key));
        }
    }
    let cursor = next.map_or(0, Position::number);
    Ok(Reply::Array(vec![
        Reply::bulk(cursor.to_string()),
        Reply::Array(found),
    ]))
}

/// About `count` keys from a position on, to the end of a bucket, and where the next page
/// begins.
async fn page(
    kv: &Kv,
    topology: &Topology,
    from: Position,
    count: u32,
) -> Result<(Vec<Bytes>, Option<Position>), RequestError> {
    let mut keys = Vec::new();
    let mut bucket = from.bucket;
    let mut own = own_partitions(topology)
        .skip_while(|partition| *partition < from.partition)
        .peekable();
    for _ in 0..MAX_PARTITIONS {
        let Some(partition) = own.next() else {
            return Ok((keys, None));
        };
        // The bucket is one of the cursor's own partition only.
        if partition != from.partition {
            bucket = 0;
        }
        let left = count.saturating_sub(u32::try_from(keys.len()).unwrap_or(u32::MAX));
        let next_bucket = buckets_page(
            kv,
            topology,
            Position { partition, bucket },
            left,
            &mut keys,
        )
        .await?;
        if let Some(bucket) = next_bucket {
            return Ok((keys, Some(Position { partition, bucket })));
        }
        if keys.len() >= count as usize {
            break;
        }
    }
    let next = own.peek().map(|partition| Position {
        partition: *partition,
        bucket: 0,
    });
    Ok((keys, next))
}

/// Adds the keys of whole buckets, about `limit` of them; returns the bucket to go on with, or
/// `None` at the end of the partition.
async fn buckets_page(
    kv: &Kv,
    topology: &Topology,
    from: Position,
    limit: u32,
    keys: &mut Vec<Bytes>,
) -> Result<Option<u16>, RequestError> {
    let buckets = buckets(topology.len());
    let had = keys.len();
    // No key is empty, so that this is before all keys of the bucket.
    let mut after = (from.bucket > 0).then(|| Cursor {
        bucket: from.bucket,
        key: Bytes::new(),
    });
    loop {
        let page = kv.scan(from.partition, after.take(), limit.max(1)).await?;
        keys.extend(page.keys.into_iter().map(|(key, _)| key));
        let Some(next) = page.next else {
            return Ok(None);
        };
        // The last bucket may be incomplete: it is left to the next page, unless it is all
        // there is.
        let complete = keys[had..]
            .iter()
            .position(|key| bucket_of(key, buckets) >= next.bucket)
            .map_or(keys.len(), |at| had + at);
        if complete > had {
            keys.truncate(complete);
            return Ok(Some(next.bucket));
        }
        after = Some(next);
    }
}

/// Answers `DBSIZE`.
pub(super) async fn size(kv: &Kv) -> Reply {
    match count(kv).await {
        Ok(count) => Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX)),
        Err(error) => Reply::Error(error_text(&error)),
    }
}

/// How many living keys this node owns.
pub(super) async fn count(kv: &Kv) -> Result<u64, RequestError> {
    let topology = kv.topology();
    let mut begun = Vec::new();
    for partition in own_partitions(&topology) {
        begun.push(kv.begin_count(partition).await?);
    }
    let mut sum = 0;
    for begun in begun {
        sum += begun.count().await?;
    }
    Ok(sum)
}

/// Answers `RANDOMKEY`. Keys in sparse buckets are told more often than others.
pub(super) async fn random(kv: &Kv) -> Reply {
    match random_key(kv).await {
        Ok(key) => Reply::value(key),
        Err(error) => Reply::Error(error_text(&error)),
    }
}

async fn random_key(kv: &Kv) -> Result<Option<Bytes>, RequestError> {
    let topology = kv.topology();
    let own: Vec<PartitionId> = own_partitions(&topology).collect();
    if own.is_empty() {
        return Ok(None);
    }
    let start = random_below(own.len());
    let bucket = u16::try_from(random_below(buckets(topology.len()).into())).unwrap_or(0);
    // From a random place to the end of that partition; then the others; then what is left.
    let places = (0..=own.len()).map(|step| {
        let partition = own[(start + step) % own.len()];
        (partition, if step == 0 { bucket } else { 0 })
    });
    for (partition, bucket) in places {
        let after = (bucket > 0).then_some(Cursor {
            bucket,
            key: Bytes::new(),
        });
        let mut keys = kv.scan(partition, after, RANDOM_PAGE).await?.keys;
        if !keys.is_empty() {
            let at = random_below(keys.len());
            return Ok(Some(keys.swap_remove(at).0));
        }
    }
    Ok(None)
}

/// Below `end`, which is not 0. Which key is told is nobody's secret, so that a system without
/// randomness tells the first.
fn random_below(end: usize) -> usize {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => (u64::from_ne_bytes(bytes) % end as u64) as usize,
        Err(_unspecified) => 0,
    }
}

fn own_partitions(topology: &Topology) -> impl Iterator<Item = PartitionId> {
    (0..topology.len())
        .filter(|partition| topology.own.is_some() && topology.owner(*partition) == topology.own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_number_and_back() {
        for (partition, bucket) in [(0, 0), (0, 1023), (7, 0), (16383, 15)] {
            let position = Position { partition, bucket };
            assert_eq!(Position::from_number(position.number()), Some(position));
        }
        assert_eq!(Position::from_number(u64::MAX), None);
    }

    #[test]
    fn what_scan_takes() {
        let parse = |text: &str| {
            let args: Vec<Bytes> = text
                .split_whitespace()
                .map(|word| Bytes::copy_from_slice(word.as_bytes()))
                .collect();
            Scan::parse(&args)
        };
        let scan = parse("scan 65537 match a* count 100 type string").unwrap();
        assert_eq!(scan.from.number(), 65537);
        assert_eq!((scan.count, scan.nothing), (100, false));
        assert!(parse("scan 0 type list").unwrap().nothing);
        for wrong in [
            "scan x",
            "scan -1",
            "scan 0 count",
            "scan 0 count 0",
            "scan 0 foo 1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
