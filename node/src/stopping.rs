//! Whether a member could stop now without anything being lost or out of reach.
//!
//! Who has a copy is no answer: a copy may be one that is being made, or that of a member that has
//! just come back and lacks what was written meanwhile. So the owner of each partition of which
//! the member has a copy is asked who has all of it.

use std::collections::BTreeSet;

use kith_proto::id::{NodeId, PartitionId};

use crate::{
    kv::{Kv, Topology},
    view::SafeToStopView,
};

/// What membership knows of the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    /// Its name.
    pub(crate) member: String,
    /// Its id.
    pub(crate) id: NodeId,
    /// All that take part, itself among them if it does.
    pub(crate) living: BTreeSet<NodeId>,
    /// Partitions need a majority of their members.
    pub(crate) strict: bool,
}

/// What stands against it, by the number of partitions.
#[derive(Debug, Default)]
struct Against {
    /// Nobody else that lives has all of it.
    alone: usize,
    /// Strict: less than a majority would be left.
    minority: usize,
    /// Its owner cannot be asked; why the first of them could not.
    unknown: Vec<String>,
}

/// Asks the owners, and judges.
pub(crate) async fn judge(stopping: &Stopping, kv: &Kv) -> SafeToStopView {
    let topology = kv.topology();
    let known = !topology.is_empty() && topology.partitions.iter().all(|m| !m.is_empty());
    let against = match known {
        true => against(stopping, kv, &topology).await,
        false => Against::default(),
    };
    let reason = if !known {
        "this node does not know yet who has which partition: ask again in a moment".to_owned()
    } else if let Some(first) = against.unknown.first() {
        format!(
            "{} partitions cannot be asked about: {first}",
            against.unknown.len()
        )
    } else if against.alone > 0 {
        format!(
            "{} partitions have a complete copy on no other living member",
            against.alone
        )
    } else if against.minority > 0 {
        format!(
            "{} partitions would be left without a majority of their members",
            against.minority
        )
    } else {
        "every partition has a complete copy on some other living member".to_owned()
    };
    let none = against.unknown.is_empty() && against.alone == 0 && against.minority == 0;
    SafeToStopView {
        member: stopping.member.clone(),
        safe: known && none,
        reason,
    }
}

async fn against(stopping: &Stopping, kv: &Kv, topology: &Topology) -> Against {
    let mut against = Against::default();
    let held = (0..).zip(&topology.partitions);
    let held = held.filter(|(_, members)| members.contains(&stopping.id));
    // All are asked before the first answer is waited for.
    let mut asked = Vec::new();
    for (partition, members) in held {
        let partition: PartitionId = partition;
        asked.push((partition, members, kv.begin_equal(partition).await));
    }
    let stays = |member: &&NodeId| **member != stopping.id && stopping.living.contains(*member);
    for (partition, members, begun) in asked {
        let equal = match begun {
            Ok(begun) => begun.equal().await,
            Err(error) => Err(error),
        };
        match equal {
            Ok(equal) => {
                let left = members.iter().filter(stays).count();
                against.alone += usize::from(!equal.iter().any(|member| stays(&member)));
                against.minority += usize::from(stopping.strict && left <= members.len() / 2);
            }
            Err(error) => against
                .unknown
                .push(format!("partition {partition}: {error}")),
        }
    }
    against
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::fake;

    const OWN: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    /// All partitions have these members; of them only [`OWN`] is known to have everything.
    fn kv(members: &[NodeId]) -> Kv {
        let topology = fake::alone(None);
        let partitions = vec![members.to_vec(); topology.partitions.len()];
        fake::with_topology(Topology {
            partitions,
            ..topology
        })
    }

    async fn judged(id: NodeId, members: &[NodeId], strict: bool) -> (bool, String) {
        let stopping = Stopping {
            member: "n".to_owned(),
            id,
            living: BTreeSet::from([OWN, OTHER]),
            strict,
        };
        let view = judge(&stopping, &kv(members)).await;
        (view.safe, view.reason)
    }

    #[tokio::test]
    async fn a_copy_that_is_not_complete_does_not_count() {
        let (safe, why) = judged(OWN, &[OWN, OTHER], false).await;
        assert!(
            !safe && why.starts_with("16 partitions have a complete copy on no other"),
            "{why}"
        );
        let (safe, why) = judged(OTHER, &[OWN, OTHER], false).await;
        assert!(safe, "{why}");
        let (safe, why) = judged(OTHER, &[OWN], true).await;
        assert!(safe, "it has none: {why}");
    }

    #[tokio::test]
    async fn strict_partitions_need_a_majority() {
        let gone = NodeId(3);
        let (safe, why) = judged(OTHER, &[OWN, OTHER, gone], true).await;
        assert!(!safe && why.contains("without a majority"), "{why}");
        let (safe, why) = judged(OTHER, &[OWN, OTHER, gone], false).await;
        assert!(safe, "{why}");
    }

    #[tokio::test]
    async fn what_is_not_known_is_not_safe() {
        let (safe, why) = judged(OWN, &[], false).await;
        assert!(!safe && why.contains("does not know yet"), "{why}");
    }
}
