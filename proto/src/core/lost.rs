//! Those who were lost: redialled for ever, and reported together when they are back.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{Core, Phase, streams::Purpose, timers::TimerKind};
use crate::{
    event::Event,
    id::NodeId,
    members::table::{Entry, Table},
    time::Time,
};

/// Those who come back within this are reported together.
const HEALING: Duration = Duration::from_millis(1500);
/// Who is alone dials so many at once.
const ALONE_AT_ONCE: usize = 16;
/// At most so many seeds are dialled at once.
const SEEDS_AT_ONCE: usize = 8;

impl Core {
    /// Dials one of those who were lost, for ever, at a small rate; and each time the seeds at
    /// which nobody is known, since whoever started there meanwhile need not know of this node. A
    /// node that is alone dials more at once, or it would take minutes to ask all it ever knew.
    pub(super) fn redial(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        let timing = &self.config.timing;
        let mut youngest = timing.redial_max * 10;
        let mut lost: Vec<SocketAddr> = Vec::new();
        for entry in self.table.failed_ids().filter_map(|id| self.table.get(id)) {
            youngest = youngest.min(now.saturating_since(entry.since));
            lost.push(entry.identity.addr);
        }
        let pause = (youngest / 10).clamp(timing.redial, timing.redial_max);
        let alone = self.living() == 1;
        if alone {
            let known = self.restored.peers.clone();
            lost = self.unknown_of(&known, lost);
        }
        let mut wanted: Vec<SocketAddr> = (0..if alone { ALONE_AT_ONCE } else { 1 })
            .filter_map(|_| self.next_to_redial(&lost))
            .collect();
        let seeds = self.seeds.clone();
        let mut seeds = self.unknown_of(&seeds, Vec::new());
        seeds.retain(|seed| !lost.contains(seed));
        seeds.truncate(SEEDS_AT_ONCE);
        wanted.extend(seeds);
        for address in wanted {
            let busy = self.dials.values().any(|dial| dial.address == address);
            if !busy {
                self.dial(address, Purpose::Lost);
            }
        }
        let pause = self.jitter(pause);
        self.timers.set(TimerKind::Redial, now + pause);
    }

    // Adds those addresses at which nobody is known.
    fn unknown_of(&mut self, addresses: &[SocketAddr], mut to: Vec<SocketAddr>) -> Vec<SocketAddr> {
        for address in addresses {
            if *address != self.config.advertise
                && !to.contains(address)
                && !is_at(&self.table, &mut self.residents, *address, is_known)
            {
                to.push(*address);
            }
        }
        to
    }

    // Each in its turn; where somebody else lives now, such as a node that lost its disk and has a
    // new id, nobody will be found.
    fn next_to_redial(&mut self, lost: &[SocketAddr]) -> Option<SocketAddr> {
        for _ in 0..lost.len() {
            self.redial_cursor = (self.redial_cursor + 1) % lost.len();
            let address = lost[self.redial_cursor];
            if !is_at(&self.table, &mut self.residents, address, Entry::is_living) {
                return Some(address);
            }
        }
        None
    }

    pub(super) fn heal_report(&mut self) {
        self.healing = false;
        let regained = std::mem::take(&mut self.regained);
        if !regained.is_empty() {
            let members = regained.iter().map(|id| self.table.name_of(*id)).collect();
            self.emit(Event::ClusterHealed { members });
        }
    }

    /// Two sides have met: those who come back during the next moments are reported together.
    pub(super) fn healing(&mut self, now: Time) {
        self.healing = true;
        self.timers.set(TimerKind::HealReport, now + HEALING);
    }
}

fn is_known(entry: &Entry) -> bool {
    entry.swim.is_some()
}

// Whether such a member is at an address. To find it takes a walk through the table, so it is
// remembered who was there last time.
fn is_at(
    table: &Table,
    residents: &mut BTreeMap<SocketAddr, NodeId>,
    address: SocketAddr,
    such: fn(&Entry) -> bool,
) -> bool {
    let there = |entry: &Entry| such(entry) && entry.identity.addr == address;
    let resident = residents.get(&address).and_then(|id| table.get(*id));
    if resident.is_some_and(there) {
        return true;
    }
    let found = table.others().find(|entry| there(entry));
    if let Some(entry) = found {
        residents.insert(address, entry.identity.id);
    }
    found.is_some()
}
