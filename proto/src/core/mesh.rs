//! The mesh: which streams are held.
//!
//! Up to [`MESH_LIMIT`] members everybody holds a stream to everybody: the lower id dials, and
//! the other one only if nothing came for a while. In larger clusters each dials a few, chosen
//! by hash, and those that partitions need: whoever shares one with this node in its view of the
//! ring, and whom its host names ([`Core::partition_peers`]). Streams are opened at a bounded rate.

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Core, Phase, half_blocked::DialFailure, streams::Purpose, timers::TimerKind};
use crate::{id::NodeId, members::table::Entry, time::Time};

/// Up to so many members everybody holds a stream to everybody.
pub(crate) const MESH_LIMIT: usize = 128;
/// Beyond that each member holds streams to so many others, chosen by hash.
const CHOSEN: usize = 8;
/// Streams are opened at most this often.
pub(super) const MESH_PAUSE: Duration = Duration::from_millis(60);
/// The higher id dials too if the lower one did not for so long; and a dial that failed is
/// tried again after it, later each time.
pub(super) const MESH_PATIENCE: Duration = Duration::from_secs(3);
const CHOICE_SEED: u64 = 0x6b69_7468_6d65_7368;

/// Members that partitions have to talk to.
#[derive(Debug, Default)]
pub(super) struct Partners {
    /// Placement gives them a partition together with this node.
    placed: BTreeSet<NodeId>,
    /// The host named them.
    named: BTreeSet<NodeId>,
}

impl Core {
    /// Partitions have to talk to these members, as their configurations say, or as requests do
    /// that wait for an owner: streams to them are opened if there are none, and kept like
    /// all others. What was named before and is not any more is only not opened again.
    pub fn partition_peers(&mut self, now: Time, peers: BTreeSet<NodeId>) {
        if self.partners.named != peers {
            self.partners.named = peers;
            self.mesh_soon(now);
        }
    }

    /// Placement gives these members partitions together with this node.
    pub(super) fn placed_together(&mut self, now: Time, peers: BTreeSet<NodeId>) {
        if self.partners.placed != peers {
            self.partners.placed = peers;
            self.mesh_soon(now);
        }
    }

    // In smaller clusters streams to all are opened anyway.
    fn mesh_soon(&mut self, now: Time) {
        if self.living() > MESH_LIMIT {
            self.timers.set_by(TimerKind::Mesh, now + MESH_PAUSE);
        }
    }

    /// Opens one stream that is missing, and comes again while more are.
    pub(super) fn mesh(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        let own = self.table.own_id();
        let mut wanted = Vec::new();
        let mut later = false;
        let everybody = self.living() <= MESH_LIMIT;
        let peers: Vec<NodeId> = if everybody {
            self.table.living_ids().collect()
        } else {
            self.wanted_peers().into_iter().collect()
        };
        let dialling = self.dialling();
        for entry in peers.into_iter().filter_map(|id| self.table.get(id)) {
            let id = entry.identity.id;
            if entry.stream.is_some() {
                continue;
            }
            let patient = entry.since + MESH_PATIENCE;
            let failed = self.dial_failures.get(&id).map(DialFailure::next_attempt);
            let turn = own < id || now >= patient;
            if turn && !dialling.contains(&id) && failed.is_none_or(|at| now >= at) {
                wanted.push((id, entry.identity.addr));
            } else {
                later = true;
            }
        }
        if !wanted.is_empty() {
            let (id, address) = wanted[self.rng.random_range(0..wanted.len())];
            self.dial(address, Purpose::Mesh(id));
        }
        if wanted.len() > 1 {
            self.timers.set(TimerKind::Mesh, now + MESH_PAUSE);
        } else if later || wanted.len() == 1 {
            self.timers
                .set(TimerKind::Mesh, now + Duration::from_secs(1));
        }
    }

    /// Whether a stream to a member is being opened by this node.
    pub(super) fn is_dialling(&self, id: NodeId) -> bool {
        self.dialling().contains(&id)
    }

    /// Whether a stream to a member is to be held.
    pub(super) fn mesh_wants(&self, id: NodeId) -> bool {
        self.living() <= MESH_LIMIT || self.wanted_peers().contains(&id)
    }

    // In a large cluster.
    fn wanted_peers(&self) -> BTreeSet<NodeId> {
        let Partners { placed, named } = &self.partners;
        let partners = placed.union(named).copied().filter(|id| {
            let entry = self.table.get(*id).filter(|_| *id != self.table.own_id());
            entry.is_some_and(Entry::is_living)
        });
        self.chosen_peers().into_iter().chain(partners).collect()
    }

    pub(super) fn chosen_peers(&self) -> Vec<NodeId> {
        let own = self.table.own_id();
        // The same for both ends, so that a pair chooses each other.
        let rank = |id: NodeId| xxh3_64_with_seed(&(own.0 ^ id.0).to_be_bytes(), CHOICE_SEED);
        let mut ranked: Vec<(u64, NodeId)> =
            self.table.living_ids().map(|id| (rank(id), id)).collect();
        if ranked.len() > CHOSEN {
            ranked.select_nth_unstable(CHOSEN);
            ranked.truncate(CHOSEN);
        }
        ranked.into_iter().map(|(_, id)| id).collect()
    }

    // To whom a stream is being opened.
    fn dialling(&self) -> BTreeSet<NodeId> {
        let dials = self.dials.values().map(|dial| dial.purpose);
        let opened = self.streams.values().filter(|known| known.peer.is_none());
        dials
            .chain(opened.filter_map(|known| known.purpose))
            .filter_map(|purpose| match purpose {
                Purpose::Mesh(id) | Purpose::Keys(id) => Some(id),
                Purpose::Join | Purpose::Lost => None,
            })
            .collect()
    }
}
