//! The world: hosts that run real cores, the network between them, one heap of events.
//!
//! ```text
//!   agenda --> happen: a packet arrives, a timer is due, a connection is made ...
//!                |
//!                v
//!     core.handle(host's own clock, input)        the very code that `node` runs
//!                |
//!                v   outputs, in order (carry_out)
//!     network: how long, whether at all  -->  agenda
//! ```
//!
//! One generator, made from the seed, decides all that is random, and events of the same moment
//! happen in the order in which they were scheduled: the same seed gives the same trace.
//!
//! | file | subject |
//! |---|---|
//! | `ask` | what a world can be asked |
//! | `carry_out` | what cores ask for |
//! | `dials` | connections and knocks, with what kernels say |
//! | `streams` | TCP: order, retransmission, resets |
//! | `control` | what users of the world do to it: start, kill, pause, cut, ... |
//! | `cpu` | what a process does with the CPU that it gets |
//! | `tamper` | switches for tests that break the protocol on purpose |

mod ask;
mod carry_out;
mod control;
pub mod cpu;
mod dials;
mod streams;
pub mod tamper;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use kith_proto::{
    config::{ClusterSettings, Detection, Timing},
    event::Event,
    input::{Input, StreamId},
    output::Answer,
    placement::Placer,
    time::Time,
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

pub(crate) use self::dials::Dialling;
use self::{
    cpu::Order,
    streams::{Connections, Item},
    tamper::Tampering,
};
pub use crate::host::HostId;
use crate::{
    agenda::Agenda,
    host::{Host, Process},
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
    /// A starved process has the time to do the next thing.
    Work { host: HostId, starts: u32 },
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
    /// In which order processes take what waits for them.
    pub order: Order,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            detection: Detection::default(),
            settings: ClusterSettings::default(),
            places: 1,
            zones: false,
            order: Order::default(),
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
    agenda: Agenda<Happening>,
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
            agenda: Agenda::default(),
            rng,
            digest: Digest::default(),
            requests: 0,
            happened: 0,
            tampering: Tampering::default(),
            placer: Placer::default(),
        }
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
        let Some((at, what)) = self.agenda.pop(until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = at;
        self.happened += 1;
        self.happen(what);
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
                    if self.hosts[host].starvation.is_some() {
                        self.go_to_work(host);
                    } else if self.hosts[host].process == Process::Running {
                        self.deliver(host, Input::Tick);
                    }
                }
            }
            Happening::Starve { host, number } => self.starve_turn(host, number),
            Happening::Work { host, starts } => self.work(host, starts),
        }
    }

    /// Gives a process an input, or keeps it for one that is paused or starved.
    fn deliver(&mut self, host: HostId, input: Input) {
        let it = &mut self.hosts[host];
        match it.process {
            Process::Dead => {}
            Process::Running if it.starvation.is_none() => {
                self.handle(host, input);
                self.drain(host);
            }
            Process::Paused | Process::Running => {
                if !it.keep(input) {
                    self.digest.add(self.now, host, b"dropped");
                }
                self.go_to_work(host);
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
        self.agenda.push(at, what);
    }
}
