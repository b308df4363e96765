//! Whose is what, in this node's view. A first part: what is computed here is only proposed by
//! placement; no partition holds anything yet.

use std::sync::Arc;

use super::{Core, Phase, timers::TimerKind};
use crate::{
    event::Event,
    placement::{Assignment, Peer, Placer, diff},
    time::Time,
};

/// Up to so many members an assignment is computed in a millisecond or two.
const QUICK: u32 = 64;
/// However long changes go on, what they are is placed after so many quiet times.
const QUIET_TIMES: u32 = 16;

/// The assignment in view.
#[derive(Debug)]
pub(super) struct Ring {
    assignment: Arc<Assignment>,
    placer: Placer,
    /// [`Table::shares`](crate::members::table::Table::shares) of what was placed.
    placed: Option<u64>,
    /// Since when something has been waiting to be placed.
    unplaced_since: Option<Time>,
    pub(super) last_rejection: Option<Time>,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            assignment: Arc::new(Assignment::empty(0)),
            placer: Placer::default(),
            placed: None,
            unplaced_since: None,
            last_rejection: None,
        }
    }
}

impl Ring {
    pub(super) fn placer(&self) -> &Placer {
        &self.placer
    }

    pub(super) fn assignment(&self) -> &Assignment {
        &self.assignment
    }
}

impl Core {
    /// Shares one placer with other cores; see there.
    pub fn share_placer(&mut self, placer: &Placer) {
        self.ring.placer = placer.clone();
    }

    /// Places anew what has changed, once nothing more has changed for a moment: what comes
    /// next in a burst of changes would move it again. The moment grows with the cluster, as
    /// computing does (some 35 ms with a thousand members), so that even while changes go on
    /// and on that takes a hundredth of a core's time.
    pub(super) fn place_soon(&mut self, now: Time) {
        if self.ring.placed == Some(self.table.shares()) {
            return;
        }
        let members = u32::try_from(self.living()).unwrap_or(u32::MAX);
        let quiet = self.config.timing.placement_delay * members.max(QUICK) / QUICK;
        let since = *self.ring.unplaced_since.get_or_insert(now);
        let at = (now + quiet).min(since + quiet * QUIET_TIMES);
        self.timers.set(TimerKind::Placement, at);
    }

    /// What a node that has just become a member shows first.
    pub(super) fn place_first(&mut self, now: Time) {
        if self.living() <= QUICK as usize {
            self.timers.set(TimerKind::Placement, now);
        } else {
            self.place_soon(now);
        }
    }

    pub(super) fn place(&mut self, now: Time) {
        self.timers.clear(TimerKind::Placement);
        self.ring.unplaced_since = None;
        let Some(cluster) = &self.cluster else { return };
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        let settings = cluster.settings;
        let shares = Some(self.table.shares());
        if std::mem::replace(&mut self.ring.placed, shares) == shares {
            return;
        }
        let peers: Vec<Peer> = self
            .table
            .iter()
            .filter(|entry| entry.takes_part())
            .filter_map(|entry| entry.current_record())
            .map(|record| Peer {
                id: record.id(),
                weight: record.weight,
                zone: record.zone.clone(),
            })
            .collect();
        let members = peers.len();
        let placer = self.ring.placer.clone();
        let after = placer.assign(peers, settings.partitions, settings.copies);
        let mut before = std::mem::replace(&mut self.ring.assignment, after.clone());
        if before.partitions() == 0 {
            before = Arc::new(Assignment::empty(settings.partitions));
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
        let own = self.table.own_id();
        self.placed_together(now, after.partners(own));
        let (owned, backups) = after.counts(own);
        if !changes.changed.is_empty() {
            self.emit(Event::AssignmentSummary {
                members,
                owners_moved: changes.owners_moved,
                copies_moved: changes.copies_moved,
                owned,
                backups,
            });
        }
    }
}
