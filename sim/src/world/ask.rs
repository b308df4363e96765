//! What a world can be asked.

use std::net::SocketAddr;

use kith_proto::{
    config::Timing, core::Core, id::NodeId, output::Stop, time::Time, wire::keyring::Keyring,
};

use super::{HostId, World};
use crate::host::{Process, Traffic};

impl World {
    /// Now.
    pub fn now(&self) -> Time {
        self.now
    }

    /// One number for everything that happened; equal for equal seeds.
    pub fn digest(&self) -> u64 {
        self.digest.value()
    }

    /// How many events happened.
    pub fn happened(&self) -> u64 {
        self.happened
    }

    /// Number of hosts.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The node of a host, if its process runs or is paused.
    pub fn core(&self, host: HostId) -> Option<&Core> {
        self.hosts[host].core.as_deref()
    }

    /// What a host's process is doing.
    pub fn process(&self, host: HostId) -> Process {
        self.hosts[host].process
    }

    /// Why a host's node stopped by itself, if it did.
    pub fn stopped(&self, host: HostId) -> Option<&Stop> {
        self.hosts[host].stopped.as_ref()
    }

    /// The id of a host's node.
    pub fn id(&self, host: HostId) -> NodeId {
        self.hosts[host].id()
    }

    /// The name of a host's node.
    pub fn name(&self, host: HostId) -> String {
        self.hosts[host].config.name.clone()
    }

    /// The keys on a host's disk.
    pub fn keys(&self, host: HostId) -> &Keyring {
        &self.hosts[host].keys
    }

    /// Where a host's node is reached.
    pub fn address(&self, host: HostId) -> SocketAddr {
        self.hosts[host].address
    }

    /// The host at an address.
    pub fn host_at(&self, address: SocketAddr) -> Option<HostId> {
        self.by_address.get(&address).copied()
    }

    /// What a host has sent since the world began.
    pub fn traffic(&self, host: HostId) -> Traffic {
        self.hosts[host].traffic
    }

    /// The time limits of a host's node.
    pub fn timing(&self, host: HostId) -> &Timing {
        &self.hosts[host].config.timing
    }

    /// Whether a host's node finds nobody, since no other member runs where it looks for one.
    pub fn is_lost(&self, host: HostId) -> bool {
        let it = &self.hosts[host];
        let known = it.durable.iter().flat_map(|durable| durable.peers.iter());
        let seeds = it.seeds.iter().filter_map(|seed| seed.parse().ok());
        let mut candidates = known.copied().chain(seeds);
        !candidates.any(|address| {
            self.by_address
                .get(&address)
                .filter(|other| **other != host)
                .and_then(|other| self.core(*other))
                .is_some_and(|core| core.phase_name() == "active")
        })
    }

    /// Events that are to happen.
    pub fn scheduled(&self) -> usize {
        self.agenda.len()
    }

    /// Inputs that wait for a paused process.
    pub fn waiting(&self, host: HostId) -> usize {
        self.hosts[host].waiting.len()
    }

    /// Whether two hosts reach each other both ways, with datagrams and streams alike.
    pub fn connected(&self, a: HostId, b: HostId) -> bool {
        self.hears(a) && self.hears(b) && self.links.connected(a, b)
    }

    /// Whether two hosts could talk to each other, both ways and not too slowly, all the time
    /// since that moment.
    pub fn steady_since(&self, since: Time, a: HostId, b: HostId) -> bool {
        self.hears(a) && self.hears(b) && self.links.steady_since(since, a, b)
    }

    /// Whether a way from or to a host is so slow that whoever is there may be taken for dead.
    pub fn is_far_away(&self, host: HostId) -> bool {
        self.links.is_far_away(host)
    }

    /// Whether nothing is cut, blocked or slow.
    pub fn is_whole(&self) -> bool {
        self.links.is_whole()
    }

    /// When a cut, a block or the like was last made or mended.
    pub fn links_changed(&self) -> Time {
        self.links.changed()
    }
}
