//! `GET /v1/kv`: keys of the whole cluster, page by page.

use std::time::Instant;

use axum::{
    Json,
    extract::{Query, State},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kith_proto::{
    id::PartitionId,
    kv::request::{Cursor, RequestError},
    replica::digest::{bucket_of, buckets},
};
use serde::Deserialize;

use super::{Parsed, count, keys_of};
use crate::{
    api::{App, operations::Work, problem::Failure},
    kv::Kv,
    view::{KeyInScanView, ScanView},
};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;
/// The most requests to partitions for one page: many partitions may have nothing to tell.
const MAX_ASKED: usize = 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ScanOptions {
    #[serde(default)]
    prefix: String,
    limit: Option<u32>,
    after: Option<String>,
}

/// Keys of the whole cluster, a page of them, in an order of its own. A page may have fewer
/// keys than wanted, or none, and still not be the last.
pub(in crate::api) async fn scan(
    State(app): State<App>,
    options: Parsed<ScanOptions>,
) -> Result<Json<ScanView>, Failure> {
    let Query(options) = options?;
    let limit = options.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let text = format!("limit={limit} is not possible; allowed: 1 to {MAX_LIMIT}");
        return Err(Failure::bad_request(text));
    }
    let from = match &options.after {
        None => (0, None),
        Some(text) => parse_place(text).ok_or_else(|| {
            Failure::bad_request("after is not the \"next\" of a page before this one")
        })?,
    };
    let kv = keys_of(&app)?;
    let since = Instant::now();
    let page = page(kv, options.prefix.as_bytes(), limit, from).await;
    count(&app, Work::Scan, page.as_ref().err(), since.elapsed());
    Ok(Json(page?))
}

/// Where a scan goes on: after a cursor within a partition.
type Place = (PartitionId, Option<Cursor>);

async fn page(kv: &Kv, prefix: &[u8], limit: u32, from: Place) -> Result<ScanView, RequestError> {
    let partitions = kv.topology().len();
    if partitions == 0 {
        return Err(RequestError::Unavailable(
            "this node has not joined a cluster yet".to_owned(),
        ));
    }
    let (mut partition, mut after) = from;
    let mut keys = Vec::new();
    for _ in 0..MAX_ASKED {
        if partition >= partitions {
            return Ok(ScanView { keys, next: None });
        }
        let left = limit - u32::try_from(keys.len()).unwrap_or(limit);
        if left == 0 {
            break;
        }
        // With a prefix most keys may be of no interest: not one request for each few.
        let asked = if prefix.is_empty() { left } else { MAX_LIMIT };
        let found = kv.scan(partition, after.take(), asked).await?;
        let mut next = found.next;
        for (key, version) in found.keys {
            if !key.starts_with(prefix) {
                continue;
            }
            keys.push(KeyInScanView::new(&key, version));
            if keys.len() == limit as usize {
                let bucket = bucket_of(&key, buckets(partitions));
                next = Some(Cursor { bucket, key });
                break;
            }
        }
        match next {
            Some(cursor) => after = Some(cursor),
            None => partition += 1,
        }
    }
    let next = Some(place_text(partition, after.as_ref()));
    Ok(ScanView { keys, next })
}

fn place_text(partition: PartitionId, after: Option<&Cursor>) -> String {
    match after {
        None => partition.to_string(),
        Some(Cursor { bucket, key }) => {
            format!("{partition}.{bucket}.{}", URL_SAFE_NO_PAD.encode(key))
        }
    }
}

fn parse_place(text: &str) -> Option<Place> {
    let mut parts = text.split('.');
    let partition = parts.next()?.parse().ok()?;
    let Some(bucket) = parts.next() else {
        return Some((partition, None));
    };
    let bucket = bucket.parse().ok()?;
    let key = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?.into();
    let cursor = Cursor { bucket, key };
    parts.next().is_none().then_some((partition, Some(cursor)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_place_is_text_and_back() {
        let cursor = Cursor {
            bucket: 7,
            key: Bytes::from_static(b"a.\xff"),
        };
        for after in [None, Some(cursor)] {
            let text = place_text(300, after.as_ref());
            assert_eq!(parse_place(&text), Some((300, after)));
        }
        for wrong in ["", "x", "1.2", "1.2.!", "1.2.YQ.3", "99999"] {
            assert!(parse_place(wrong).is_none(), "{wrong}");
        }
    }
}
