//! Whose is what, in this node's view. A first part: what is computed here is only proposed by
//! placement; no partition holds anything yet.

use super::{Core, Phase, timers::TimerKind};
use crate::{
    event::Event,
    members::{record::Phase as RecordPhase, table::Entry},
    placement::{Assignment, Peer, assign, diff},
    time::Time,
};

/// The assignment in view.
#[derive(Debug)]
pub(super) struct Ring {
    assignment: Assignment,
    peers: Vec<Peer>,
    pub(super) last_rejection: Option<Time>,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            assignment: Assignment::empty(0),
            peers: Vec::new(),
            last_rejection: None,
        }
    }
}

impl Ring {
    pub(super) fn assignment(&self) -> &Assignment {
        &self.assignment
    }
}

fn takes_part(entry: &Entry) -> bool {
    entry.is_living()
        && entry
            .current_record()
            .is_some_and(|record| record.phase == RecordPhase::Active)
}

impl Core {
    pub(super) fn place(&mut self) {
        self.timers.clear(TimerKind::Placement);
        let Some(cluster) = &self.cluster else { return };
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        let settings = cluster.settings;
        let peers: Vec<Peer> = self
            .table
            .iter()
            .filter(|entry| takes_part(entry))
            .filter_map(|entry| entry.current_record())
            .map(|record| Peer {
                id: record.id(),
                weight: record.weight,
                zone: record.zone.clone(),
            })
            .collect();
        if peers == self.ring.peers {
            return;
        }
        let after = assign(&peers, settings.partitions, settings.copies);
        let mut before = std::mem::replace(&mut self.ring.assignment, Assignment::empty(0));
        if before.partitions() == 0 {
            before = Assignment::empty(settings.partitions);
        }
        let changes = diff(&before, &after);
        self.count("placements");
        for partition in &changes.changed {
            let name = |id| self.table.name_of(id);
            let event = Event::PartitionAssigned {
                partition: *partition,
                owner: after.owner(*partition).map(name).unwrap_or_default(),
                backups: after
                    .backups(*partition)
                    .iter()
                    .map(|id| name(*id))
                    .collect(),
                from: before
                    .owner(*partition)
                    .filter(|owner| Some(*owner) != after.owner(*partition))
                    .map(name),
            };
            self.emit(event);
        }
        let (owned, backups) = after.counts(self.table.own_id());
        if !changes.changed.is_empty() {
            self.emit(Event::AssignmentSummary {
                members: peers.len(),
                owners_moved: changes.owners_moved,
                copies_moved: changes.copies_moved,
                owned,
                backups,
            });
        }
        self.ring.peers = peers;
        self.ring.assignment = after;
    }
}
