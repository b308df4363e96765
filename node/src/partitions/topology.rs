//! Where partitions are, for clients: put together from what membership and the shards tell.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use kith_proto::id::{NodeId, PartitionId};
use tokio::sync::watch;

use super::TopologyWatch;
use crate::kv::{Topology, TopologyNode};

/// Nodes that can be reached.
pub(crate) type Nodes = BTreeMap<NodeId, TopologyNode>;

/// The topology, as it is known so far.
#[derive(Debug)]
pub(crate) struct Known {
    present: Mutex<Topology>,
    told: watch::Sender<Arc<Topology>>,
}

impl Known {
    pub(super) fn new() -> (Self, TopologyWatch) {
        let (told, topology) = watch::channel(Arc::default());
        let known = Self {
            present: Mutex::default(),
            told,
        };
        (known, topology)
    }

    /// What is known now.
    pub(super) fn present(&self) -> Topology {
        self.with(Topology::clone)
    }

    /// Looks at what is known now.
    pub(super) fn with<R>(&self, look: impl FnOnce(&Topology) -> R) -> R {
        look(&self.present.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Membership has changed.
    pub(super) fn nodes(&self, nodes: Nodes, own: NodeId, partitions: u16) {
        self.change(|topology| {
            topology.own = Some(own);
            topology.nodes = nodes;
            topology
                .partitions
                .resize(usize::from(partitions), Vec::new());
        });
    }

    /// Configurations have changed.
    pub(super) fn partitions(&self, changed: Vec<(PartitionId, Vec<NodeId>)>) {
        self.change(|topology| {
            for (partition, members) in changed {
                let place = usize::from(partition);
                // A shard that has just begun may be sooner than membership.
                if topology.partitions.len() <= place {
                    topology.partitions.resize(place + 1, Vec::new());
                }
                topology.partitions[place] = members;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Topology)) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let before = present.clone();
        change(&mut present);
        if *present != before {
            self.told.send_replace(Arc::new(present.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shards_tell_before_membership_does_is_not_lost() {
        let (known, _topology) = Known::new();
        let members = vec![NodeId(7), NodeId(9)];
        known.partitions(vec![(3, members.clone())]);
        known.nodes(Nodes::new(), NodeId(7), 8);
        let present = known.present();
        assert_eq!(present.partitions.len(), 8);
        assert_eq!(present.partitions[3], members);
        assert_eq!(present.partitions[0], []);
    }
}
