//! The world: hosts that run real cores, the network between them, one heap of events.
//!
//! ```text
//!   heap --> happen: a packet arrives, a timer is due, a connection is made ...
//!              |
//!              v
//!     core.handle(host's own clock, input)        the very code that `node` runs
//!              |
//!              v   outputs, in order (carry_out)
//!     network: how long, whether at all  -->  heap
//! ```
//!
//! One generator, made from the seed, decides all that is random, and events of the same moment
//! happen in the order in which they were scheduled: the same seed gives the same trace.
//!
//! | file | subject |
//! |---|---|
//! | `carry_out` | what cores ask for |
//! | `dials` | connections and knocks, with what kernels say |
//! | `streams` | TCP: order, retransmission, resets |
//! | `control` | what users of the world do to it: start, kill, pause, cut, ... |
//! | `tamper` | switches for tests that break the protocol on purpose |

mod carry_out;
mod control;
mod dials;
mod streams;
pub mod tamper;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    time::Duration,
};

use kith_proto::{
    config::{ClusterSettings, Detection, Timing},
    core::Core,
    event::Event,
    id::NodeId,
    input::{Input, StreamId},
    output::{Answer, Stop},
    placement::Placer,
    time::Time,
    wire::keyring::Keyring,
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

pub(crate) use self::dials::Dialling;
use self::{
    streams::{Connections, Item},
    tamper::Tampering,
};
pub use crate::host::HostId;
use crate::{
    host::{Host, Process, Traffic},
    network::{Links, Network, Transport},
    trace::{Digest, Trace},
    truth::Truth,
};

/// Conditions of [`World::run_while`] are looked at this often: they may be costly.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug)]
enum Happening {
    /// A datagram reaches a host.
    Datagram {
        to: HostId,
        from: SocketAddr,
        data: Vec<u8>,
    },
    /// What a kernel has to tell its process, if that still is the one that it concerns.
    Local {
        host: HostId,
        starts: u32,
        input: Input,
    },
    /// Something arrives at that end of a stream.
    Arrives { stream: StreamId, item: Item },
    /// What could not be sent over a stream is tried again from that end.
    Again { stream: StreamId },
    /// A connection attempt reaches the other host's kernel.
    Syn(Dialling),
    /// TLS is nearly done.
    Handshake(Dialling),
    /// A dialler loses patience.
    DialEnds(Dialling),
    /// A process's timer is due.
    Wake(HostId),
    /// A starved host is blocked, or runs for a moment.
    Starve { host: HostId, number: u32 },
}

struct Scheduled {
    at: Time,
    sequence: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// Something that a node told its users.
#[derive(Clone, Debug)]
pub struct Told {
    /// When.
    pub at: Time,
    /// Which node.
    pub host: HostId,
    /// What.
    pub event: Event,
}

/// What hosts get unless they are told otherwise.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Time limits of their nodes.
    pub timing: Timing,
    /// Mechanisms of their nodes.
    pub detection: Detection,
    /// Settings of the cluster that the first of them bootstraps.
    pub settings: ClusterSettings,
    /// Places of the network; see [`crate::network`]. Host `n` stands in place `n % places`.
    pub places: u16,
    /// Places are failure zones too.
    pub zones: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            detection: Detection::default(),
            settings: ClusterSettings::default(),
            places: 1,
            zones: false,
        }
    }
}

/// Hosts, network and clock.
pub struct World {
    /// What hosts that are added from now on get.
    pub defaults: Defaults,
    /// How the network behaves from now on.
    pub network: Network,
    /// Everything that nodes told their users, oldest first; without the lines about single
    /// partitions, which would be most of it.
    pub told: Vec<Told>,
    /// What nodes answered to commands, oldest first.
    pub answers: Vec<(HostId, Answer)>,
    /// What really happened.
    pub truth: Truth,
    /// What is written down while it happens, if anything.
    pub trace: Option<Box<Trace>>,
    now: Time,
    hosts: Vec<Host>,
    by_address: BTreeMap<SocketAddr, HostId>,
    links: Links,
    connections: Connections,
    heap: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    rng: ChaCha8Rng,
    digest: Digest,
    requests: u64,
    happened: u64,
    tampering: Tampering,
    // Most nodes see the same members: where partitions go is computed once for all of them.
    placer: Placer,
}

impl World {
    /// An empty world; `seed` decides all that is random in it.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            defaults: Defaults::default(),
            network: Network::default(),
            told: Vec::new(),
            answers: Vec::new(),
            truth: Truth::default(),
            trace: None,
            now: Time::from_millis(1),
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            links: Links::new(rng.random()),
            connections: Connections::default(),
            heap: BinaryHeap::new(),
            sequence: 0,
            rng,
            digest: Digest::default(),
            requests: 0,
            happened: 0,
            tampering: Tampering::default(),
            placer: Placer::default(),
        }
    }

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

    /// Whether a host's node cannot join, since no member runs where it looks for one.
    pub fn is_lost(&self, host: HostId) -> bool {
        let it = &self.hosts[host];
        let known = it.durable.iter().flat_map(|durable| durable.peers.iter());
        let seeds = it.seeds.iter().filter_map(|seed| seed.parse().ok());
        let mut candidates = known.copied().chain(seeds);
        !candidates.any(|address| {
            self.by_address
                .get(&address)
                .and_then(|other| self.core(*other))
                .is_some_and(|core| core.phase_name() == "active")
        })
    }

    /// Events that are to happen.
    pub fn scheduled(&self) -> usize {
        self.heap.len()
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

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
    }

    /// Lets time pass until a condition holds; false if it did not within `limit`.
    pub fn run_while(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        let mut look_at = self.now;
        loop {
            if self.now >= look_at {
                if holds(self) {
                    return true;
                }
                look_at = self.now + LOOK;
            }
            if !self.step(until) {
                return holds(self);
            }
        }
    }

    /// Lets the next event happen, unless it comes after `until`: then it is `until`, and false
    /// is returned.
    pub fn step(&mut self, until: Time) -> bool {
        match self.heap.peek() {
            Some(Reverse(next)) if next.at <= until => {}
            _ => {
                self.now = self.now.max(until);
                return false;
            }
        }
        if let Some(Reverse(next)) = self.heap.pop() {
            self.now = next.at;
            self.happened += 1;
            self.happen(next.what);
        }
        true
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Datagram { to, from, data } => {
                self.deliver(to, Input::Datagram { from, data });
            }
            Happening::Local {
                host,
                starts,
                input,
            } => {
                if self.hosts[host].starts == starts {
                    self.deliver(host, input);
                }
            }
            Happening::Arrives { stream, item } => self.arrives(stream, item),
            Happening::Again { stream } => self.send_again(stream),
            Happening::Syn(dialling) => self.syn(dialling),
            Happening::Handshake(dialling) => self.handshake(dialling),
            Happening::DialEnds(dialling) => self.dial_ends(&dialling),
            Happening::Wake(host) => {
                if self.hosts[host].wake == Some(self.now) {
                    self.hosts[host].wake = None;
                    if self.hosts[host].process == Process::Running {
                        self.deliver(host, Input::Tick);
                    }
                }
            }
            Happening::Starve { host, number } => self.starve_turn(host, number),
        }
    }

    /// Gives a process an input, or keeps it for one that is paused.
    fn deliver(&mut self, host: HostId, input: Input) {
        match self.hosts[host].process {
            Process::Dead => {}
            Process::Paused => {
                if !self.hosts[host].keep(input) {
                    self.digest.add(self.now, host, b"dropped");
                }
            }
            Process::Running => {
                self.handle(host, input);
                self.drain(host);
            }
        }
    }

    fn handle(&mut self, host: HostId, mut input: Input) {
        if !self.tampering.admits(self.now, host, &mut input) {
            return;
        }
        self.digest.input(self.now, host, &input);
        let it = &mut self.hosts[host];
        if let Some(trace) = &mut self.trace {
            trace.input(self.now, host, &input, &it.keys);
        }
        let local = it.clock.local(self.now);
        if let Some(core) = &mut it.core {
            core.handle(local, input);
        }
    }

    /// Carries out what a core wants, and sets its timer.
    fn drain(&mut self, host: HostId) {
        while let Some(output) = self.hosts[host].core.as_mut().and_then(|c| c.poll_output()) {
            if self.tampering.changes_outputs() {
                for output in self.tampering.output(self.now, host, output) {
                    self.carry_out(host, output);
                }
            } else {
                self.carry_out(host, output);
            }
        }
        self.set_wake(host);
    }

    fn set_wake(&mut self, host: HostId) {
        let soonest = self.now + self.tampering.pause();
        let it = &mut self.hosts[host];
        let Some(core) = &it.core else {
            return;
        };
        let next = core
            .poll_timeout()
            .map(|at| it.clock.world(at).max(soonest));
        if let Some(at) = next
            && it.wake != Some(at)
        {
            it.wake = Some(at);
            self.at(at, Happening::Wake(host));
        }
    }

    /// A delay drawn for one packet.
    fn delay(&mut self, from: HostId, to: HostId) -> Duration {
        let (min, max) = self.links.delay(&self.network, from, to);
        let spread = u64::try_from((max - min).as_nanos()).unwrap_or(0);
        min + Duration::from_nanos(self.rng.random_range(0..=spread))
    }

    fn draw(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.rng.random_range(0..1000) < thousandths
    }

    fn hears(&self, host: HostId) -> bool {
        self.hosts[host].powered && !self.hosts[host].deaf
    }

    fn reaches(&self, from: HostId, to: HostId, transport: Transport) -> bool {
        self.hears(to) && self.links.passes(from, to, transport)
    }

    fn later(&mut self, after: Duration, what: Happening) {
        self.at(self.now + after, what);
    }

    fn at(&mut self, at: Time, what: Happening) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.heap.push(Reverse(Scheduled { at, sequence, what }));
    }
}
