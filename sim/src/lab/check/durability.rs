//! What was acknowledged is there, unless something later is.
//!
//! Later is what has the larger clock reading: it grows with every write along a chain, whoever the
//! owner is, and decides between branches; an entry that is joined keeps it.

use std::collections::BTreeSet;

use bytes::Bytes;
use kith_proto::kv::version::Hlc;

use super::by_key;
use crate::lab::{
    Lab,
    client::{Asked, Ended, Operation},
};

/// What was acknowledged last of a key, and when by the clock that decides.
pub(super) fn newest<'a>(operations: &[&'a Operation]) -> Option<(Hlc, &'a Operation)> {
    operations
        .iter()
        .filter_map(|operation| Some((operation.written()?.hlc, *operation)))
        .max_by_key(|(hlc, _)| *hlc)
}

fn may_have_deleted(operation: &Operation, write: &Operation) -> bool {
    let known = matches!(operation.result, Ended::Done(_) | Ended::Refused(_));
    let later = !known || operation.ended.is_some_and(|ended| ended > write.began);
    operation.asked == Asked::Delete && later && !matches!(operation.result, Ended::Refused(_))
}

/// Looks at every key.
pub(super) fn at_rest(lab: &Lab) -> Vec<String> {
    let mut found = Vec::new();
    for (key, operations) in by_key(&lab.clients.history) {
        let there = lab.present(key);
        let counted = operations.iter().any(|o| o.asked == Asked::Add);
        let written: BTreeSet<&Bytes> = operations.iter().filter_map(|o| o.value()).collect();
        if let Some(value) = there.as_ref().and_then(|entry| entry.value.as_ref())
            && !counted
            && !written.contains(value)
        {
            found.push(format!("{key:?}: nobody wrote {there:?}"));
        }
        let Some((hlc, write)) = newest(&operations) else {
            continue;
        };
        if write.asked == Asked::Delete {
            continue;
        }
        let what = format!("{key:?}: {:?} was acknowledged at {hlc:?}", write.asked);
        match &there {
            // Somebody's deletion may have been done, and be forgotten by now.
            None if operations.iter().any(|o| may_have_deleted(o, write)) => {}
            None => found.push(format!("{what}, and nothing is there")),
            Some(entry) if entry.version.hlc < hlc => {
                found.push(format!("{what}, and what is there is older: {entry:?}"));
            }
            // Two branches may have stamped alike: then either may stay.
            Some(entry) if entry.version.hlc == hlc && !counted && lab.setup.is_strict() => {
                if entry.value.as_ref() != write.value() {
                    found.push(format!("{what}, and another value is there: {entry:?}"));
                }
            }
            Some(_) => {}
        }
    }
    found
}
