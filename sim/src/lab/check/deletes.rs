//! What was deleted last stays deleted.

use super::{by_key, durability::newest};
use crate::lab::{Lab, client::Asked};

/// Looks at every key that was deleted last.
pub(super) fn at_rest(lab: &Lab) -> Vec<String> {
    let mut found = Vec::new();
    for (key, operations) in by_key(&lab.clients.history) {
        let Some((hlc, last)) = newest(&operations) else {
            continue;
        };
        if last.asked != Asked::Delete {
            continue;
        }
        // Two branches may have stamped alike: then either may stay.
        let strict = lab.setup.is_strict();
        if let Some(entry) = lab.present(key)
            && entry.value.is_some()
            && (entry.version.hlc < hlc || (strict && entry.version.hlc == hlc))
        {
            found.push(format!(
                "{key:?}: it was deleted at {hlc:?}, and is there again: {entry:?}"
            ));
        }
    }
    found
}
