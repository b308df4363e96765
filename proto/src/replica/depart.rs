//! What a node that stops, and will be back, waits for: that others own what they can own.
//!
//! ```text
//!   told to stop ──> says so; backups are wanted as owners ──> nothing is left, or it took too long
//!                ──> says farewell ──> others count without it ──> its process ends
//! ```

use std::{collections::BTreeSet, time::Duration};

use crate::id::NodeId;

/// It waits at most so long.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this node owns a partition with these members, the owner first, and none of the takers could own it
/// while this node is away: without a copy nobody can, and in a strict cluster without a majority.
pub fn is_only_ours(
    members: &[NodeId],
    own: NodeId,
    takers: &BTreeSet<NodeId>,
    is_strict: bool,
) -> bool {
    let others = members.iter().filter(|member| takers.contains(member));
    let others = others.count();
    // For the next configuration this node still counts.
    let has_majority = 2 * (others + 1) > members.len();
    members.first() == Some(&own) && (others == 0 || (is_strict && !has_majority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_will_be_back_waits_only_for_what_others_can_own() {
        let [own, b, c, d, e] = [1, 2, 3, 4, 5].map(NodeId);
        let takers = BTreeSet::from([b, c]);
        for (members, available, strict) in [
            (vec![own, b, c], false, false),
            (vec![own, b, d], false, false),
            (vec![own, d, b, e], false, true),
            // Nobody who is here has a copy.
            (vec![own, d, e], true, true),
            (vec![own], true, true),
            // Somebody else's, or nobody knows whose.
            (vec![b, own, c], false, false),
            (vec![], false, false),
        ] {
            let ours = |is_strict| is_only_ours(&members, own, &takers, is_strict);
            assert_eq!(
                (ours(false), ours(true)),
                (available, strict),
                "{members:?}"
            );
        }
    }
}
