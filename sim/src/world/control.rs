//! What can be done to the world: hosts come and go, processes stop and starve, ways are cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use kith_proto::{
    config::Config,
    core::Core,
    id::NodeId,
    input::{Command, Input, RequestId},
    store::Restored,
    wire::keyring::{KEY_LEN, Key, KeyId, Keyring},
};
use rand::{Rng, RngExt};

use super::{Happening, HostId, World};
use crate::{
    host::{Host, Process, Starvation, Turns},
    network::{Link, Network},
    truth::End,
};

impl World {
    /// Adds a host whose node has the given seeds, and starts it. `change` may alter its settings.
    pub fn add(&mut self, seeds: &[HostId], change: impl FnOnce(&mut Config)) -> HostId {
        let host = self.place(seeds, change);
        self.start(host);
        host
    }

    /// Adds a host, and does not start its node yet.
    pub fn place(&mut self, seeds: &[HostId], change: impl FnOnce(&mut Config)) -> HostId {
        let host = self.hosts.len();
        let octets = (host as u32 + 1).to_be_bytes();
        let ip = Ipv4Addr::new(10, octets[1], octets[2], octets[3]);
        let address = SocketAddr::new(ip.into(), 7400);
        let node = NodeId(self.rng.random());
        let mut config = Config::new(node, &format!("n{host}"), address);
        let place = (host % usize::from(self.defaults.places.max(1))) as u16;
        config.timing.clone_from(&self.defaults.timing);
        config.detection = self.defaults.detection;
        config.settings = self.defaults.settings;
        if self.defaults.zones {
            config.zone = format!("z{place}");
        }
        change(&mut config);
        let keys = Keyring::new(Key::derived_from_name(&config.cluster));
        let mut it = Host::new(address, config, keys);
        it.order = self.defaults.order;
        self.hosts.push(it);
        self.by_address.insert(address, host);
        self.links.add_host(place);
        self.truth.add_host();
        self.set_seeds(host, seeds);
        host
    }

    /// Changes the seeds that a host's node is started with from now on.
    pub fn set_seeds(&mut self, host: HostId, seeds: &[HostId]) {
        let seeds = seeds
            .iter()
            .map(|seed| self.hosts[*seed].address.to_string())
            .collect();
        self.hosts[host].seeds = seeds;
    }

    /// Changes the settings that a host's node is started with from now on.
    pub fn configure(&mut self, host: HostId, change: impl FnOnce(&mut Config)) {
        change(&mut self.hosts[host].config);
    }

    /// Moves a host to another place of the network; see [`crate::network`].
    pub fn move_to(&mut self, host: HostId, place: u16) {
        self.links.move_to(host, place);
    }

    /// Starts a host's process, with what its disk remembers. Does nothing if it runs.
    pub fn start(&mut self, host: HostId) {
        let generation = self.hosts[host].next_generation(self.now);
        self.start_as(host, generation);
    }

    /// Starts a host's process as that generation, whatever its disk says.
    pub fn start_as(&mut self, host: HostId, generation: u64) {
        if self.hosts[host].process != Process::Dead {
            return;
        }
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let it = &mut self.hosts[host];
        it.powered = true;
        it.config.generation = generation;
        it.config.seeds.clone_from(&it.seeds);
        let restored = it
            .durable
            .as_ref()
            .map_or_else(Restored::default, |durable| Restored {
                cluster: durable.cluster.clone(),
                peers: durable.peers.clone(),
                founder: durable.founder,
            });
        let (config, keys) = (it.config.clone(), it.keys.clone());
        let local = it.clock.local(self.now);
        let mut core = Core::new(config, keys, seed, restored, local);
        core.share_placer(&self.placer);
        it.core = Some(Box::new(core));
        it.process = Process::Running;
        it.starts += 1;
        it.stopped = None;
        it.wake = None;
        let (id, name) = (it.config.node, it.config.name.clone());
        self.note(|| format!("n{host} starts: {id}@{generation}"));
        self.truth.started(self.now, host, id, generation, &name);
        self.drain(host);
    }

    /// Kills a host's process: its streams break, its ports refuse.
    pub fn kill(&mut self, host: HostId) {
        self.note(|| format!("n{host} is killed"));
        self.end_process(host, End::Killed);
    }

    /// Switches a host off: it answers nothing, and its streams end at no other end.
    pub fn power_off(&mut self, host: HostId) {
        self.note(|| format!("n{host} loses power"));
        self.hosts[host].powered = false;
        self.end_process(host, End::PoweredOff);
    }

    /// Switches a host on again; its process is not started yet.
    pub fn power_on(&mut self, host: HostId) {
        self.hosts[host].powered = true;
    }

    /// Loses what is on a host's disk: at its next start its node is a new one of the same name.
    pub fn wipe(&mut self, host: HostId) {
        self.note(|| format!("n{host} loses its disk"));
        let node = NodeId(self.rng.random());
        let it = &mut self.hosts[host];
        it.durable = None;
        it.config.node = node;
    }

    /// The key that operators know under a number: 0 is the one that the cluster began with.
    pub fn key(&self, number: u8) -> Key {
        match number {
            0 => Key::derived_from_name(&self.cluster()),
            number => Key::from_bytes([number; KEY_LEN]),
        }
    }

    /// What an operator gives a node that starts: the key that most of the others seal with
    /// now, whatever was changed while it was away.
    pub fn give_key(&mut self, host: HostId) {
        let key = self.common_key();
        let it = &mut self.hosts[host];
        let id = key.id();
        let kept = it.durable.is_some()
            && (it.keys.get(id).is_some()
                || (it.keys.add(key.clone()).is_ok() && it.keys.set_primary(id).is_ok()));
        if !kept {
            it.keys = Keyring::new(key);
        }
    }

    fn common_key(&self) -> Key {
        let mut held: BTreeMap<KeyId, (usize, Key)> = BTreeMap::new();
        for it in &self.hosts {
            if it.process != Process::Dead {
                let key = it.keys.primary();
                held.entry(key.id()).or_insert((0, key.clone())).0 += 1;
            }
        }
        let most = held.into_values().max_by_key(|(count, _)| *count);
        most.map_or_else(|| self.key(0), |(_, key)| key)
    }

    fn cluster(&self) -> String {
        self.hosts
            .first()
            .map_or_else(|| "kith".to_owned(), |it| it.config.cluster.clone())
    }

    /// Pauses a host's process (SIGSTOP): its kernel goes on, everything waits.
    pub fn pause(&mut self, host: HostId) {
        if self.hosts[host].process == Process::Running {
            self.note(|| format!("n{host} is paused"));
            self.hosts[host].process = Process::Paused;
            self.truth.troubled(self.now, host);
        }
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, host: HostId) {
        if self.hosts[host].process != Process::Paused {
            return;
        }
        self.note(|| format!("n{host} goes on"));
        self.go_on(host);
        if self.hosts[host].starvation.is_none() {
            self.truth.recovered(self.now, host);
        }
    }

    fn go_on(&mut self, host: HostId) {
        self.hosts[host].process = Process::Running;
        self.set_wake(host);
        self.go_to_work(host);
        if self.hosts[host].starvation.is_none() {
            self.serve_backlog(host);
        }
    }

    /// Gives a host no CPU but in turns (the duty cycles of Lifeguard's experiments; see
    /// [`super::cpu`]); `after` shifts the first one.
    pub fn starve(&mut self, host: HostId, turns: Turns, after: Duration) {
        self.note(|| format!("n{host} starves: {turns:?}"));
        let it = &mut self.hosts[host];
        it.starvations += 1;
        let number = it.starvations;
        it.starvation = Some(Starvation { turns, number });
        self.truth.troubled(self.now, host);
        self.later(after, Happening::Starve { host, number });
    }

    /// Gives it all the CPU that it wants again.
    pub fn nourish(&mut self, host: HostId) {
        if self.hosts[host].starvation.take().is_some() {
            self.note(|| format!("n{host} starves no more"));
            if self.hosts[host].process != Process::Dead {
                self.go_on(host);
            }
            self.truth.recovered(self.now, host);
        }
    }

    pub(super) fn starve_turn(&mut self, host: HostId, number: u32) {
        let it = &mut self.hosts[host];
        let Some(starvation) = it.starvation.filter(|s| s.number == number) else {
            return;
        };
        let next = match it.process {
            Process::Running => {
                it.process = Process::Paused;
                starvation.turns.blocked
            }
            Process::Paused => {
                self.go_on(host);
                starvation.turns.running
            }
            Process::Dead => starvation.turns.blocked,
        };
        self.later(next, Happening::Starve { host, number });
    }

    /// A host's clock jumps forward, as at a suspended virtual machine.
    pub fn jump_clock(&mut self, host: HostId, by: Duration) {
        self.note(|| format!("n{host}'s clock jumps by {by:?}"));
        let now = self.now;
        self.hosts[host].clock.jump(now, by);
        self.truth.disturbed(now, host);
        self.set_wake(host);
    }

    /// A host's clock is too fast by so many parts per million, or too slow.
    pub fn drift_clock(&mut self, host: HostId, parts_per_million: i32) {
        self.note(|| format!("n{host}'s clock drifts by {parts_per_million} ppm"));
        let now = self.now;
        self.hosts[host].clock.set_drift(now, parts_per_million);
        self.set_wake(host);
    }

    /// A host's wall clock is wrong by so many milliseconds; generations come from it.
    pub fn set_wall_clock_error(&mut self, host: HostId, millis: i64) {
        self.hosts[host].wall_error = millis;
    }

    /// Puts hosts on a side of a split; only hosts of the same side reach each other.
    pub fn cut(&mut self, hosts: &[HostId], side: Option<u8>) {
        self.note(|| format!("side {side:?}: {hosts:?}"));
        for host in hosts {
            self.links.set_side(self.now, *host, side);
        }
    }

    /// Blocks or frees all that goes from one host to another, in this direction only.
    pub fn block_one_way(&mut self, from: HostId, to: HostId, blocked: bool) {
        self.change_link(from, to, |link| {
            link.no_datagrams = blocked;
            link.no_streams = blocked;
        });
    }

    /// Blocks or frees streams between two hosts, both ways, while UDP passes: connections are
    /// not answered, and those that are open break.
    pub fn block_streams(&mut self, a: HostId, b: HostId, blocked: bool) {
        if blocked {
            self.break_streams(a, b);
        }
        self.change_link(a, b, |link| link.no_streams = blocked);
        self.change_link(b, a, |link| link.no_streams = blocked);
    }

    /// Blocks or frees datagrams between two hosts, both ways: UDP is dropped, TCP passes.
    pub fn block_datagrams(&mut self, a: HostId, b: HostId, blocked: bool) {
        self.change_link(a, b, |link| link.no_datagrams = blocked);
        self.change_link(b, a, |link| link.no_datagrams = blocked);
    }

    /// Nothing reaches a host any more, while everything that it sends gets through; or all is
    /// well again.
    pub fn deafen(&mut self, host: HostId, deaf: bool) {
        self.note(|| format!("n{host} is deaf: {deaf}"));
        self.hosts[host].deaf = deaf;
        self.links.has_changed(self.now);
    }

    /// Changes the way from one host to another, in this direction.
    pub fn change_link(&mut self, from: HostId, to: HostId, change: impl FnOnce(&mut Link)) {
        self.note(|| format!("the way from n{from} to n{to} changes"));
        self.links.change(self.now, (from, to), change);
    }

    /// The network as a whole behaves like this from now on.
    pub fn set_network(&mut self, network: Network) {
        self.note(|| format!("network: {network}"));
        self.network = network;
        self.links.has_changed(self.now);
    }

    /// Mends every cut, block and slow link.
    pub fn heal_links(&mut self) {
        self.note(|| "all ways are free".to_owned());
        self.links.heal(self.now);
    }

    /// Gives a host's node a command.
    pub fn command(&mut self, host: HostId, command: Command) {
        self.note(|| format!("n{host} is told: {command:?}"));
        self.requests += 1;
        let request = RequestId(self.requests);
        if matches!(command, Command::Leave { .. }) {
            self.truth.leaving(self.now, host);
        }
        self.deliver(host, Input::Command { request, command });
    }

    /// Partitions at a host have to talk to these members, as its `node` would tell the core.
    pub fn name_partition_peers(&mut self, host: HostId, peers: BTreeSet<NodeId>) {
        let it = &mut self.hosts[host];
        let local = it.clock.local(self.now);
        if let Some(core) = &mut it.core {
            core.partition_peers(local, peers);
        }
        self.drain(host);
    }

    pub(super) fn end_process(&mut self, host: HostId, end: End) {
        let it = &mut self.hosts[host];
        if it.process == Process::Dead {
            // Powered off after it ended.
            self.end_streams(host, !self.hosts[host].powered);
            return;
        }
        it.core = None;
        it.process = Process::Dead;
        it.forget_waiting();
        it.at_work = false;
        it.dials.clear();
        it.wake = None;
        it.starvation = None;
        let silently = !it.powered;
        let backlog = std::mem::take(&mut it.backlog);
        self.truth.ended(self.now, host, end);
        self.end_streams(host, silently);
        if !silently {
            for dialling in backlog {
                // The kernel resets what the process never took.
                self.later(Duration::ZERO, Happening::Handshake(dialling));
            }
        }
    }

    /// A line for the trace, made only if it is written.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.note(self.now, &text());
        }
    }
}
