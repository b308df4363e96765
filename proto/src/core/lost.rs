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

impl Core {
    /// Dials one of those who were lost, for ever, at a small rate.
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
        let alone = self.living() == 1;
        let known = self.restored.peers.iter().filter(|_| alone);
        for address in self.seeds.iter().chain(known) {
            if *address != self.config.advertise
                && !lost.contains(address)
                && !is_here(&self.table, &mut self.residents, *address)
            {
                lost.push(*address);
            }
        }
        let pause = (youngest / 10).clamp(timing.redial, timing.redial_max);
        if !lost.is_empty() {
            self.redial_cursor = (self.redial_cursor + 1) % lost.len();
            let address = lost[self.redial_cursor];
            let busy = self.dials.values().any(|dial| dial.address == address);
            if !busy {
                self.dial(address, Purpose::Lost);
            }
        }
        let pause = self.jitter(pause);
        self.timers.set(TimerKind::Redial, now + pause);
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

// Whether a member is at an address. To find it takes a walk through the table, so it is
// remembered who was there last time.
fn is_here(
    table: &Table,
    residents: &mut BTreeMap<SocketAddr, NodeId>,
    address: SocketAddr,
) -> bool {
    let there = |entry: &Entry| entry.swim.is_some() && entry.identity.addr == address;
    let resident = residents.get(&address).and_then(|id| table.get(*id));
    if resident.is_some_and(there) {
        return true;
    }
    let found = table.others().find(|entry| there(entry));
    match found {
        Some(entry) => residents.insert(address, entry.identity.id),
        None => residents.remove(&address),
    };
    found.is_some()
}
