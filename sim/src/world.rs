//! The world: hosts that run real cores, a network with faults, one heap of events.
//!
//! What a kernel would do is modelled beside what a process does: a host whose process was
//! killed refuses connections and its streams break; a host whose process is paused accepts
//! them, and everything that arrives waits; a host that is cut off says nothing at all.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use kith_proto::{
    config::Config,
    core::Core,
    event::Event,
    id::NodeId,
    input::{Command, DialError, Input, Knock, RequestId, StreamId, Token},
    output::{Output, Stop},
    store::{Durable, Restored},
    time::Time,
    wire::keyring::{Key, Keyring},
};
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use xxhash_rust::xxh3::Xxh3;

/// Number of a host, from 0.
pub type HostId = usize;

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// The least delay of a packet.
    pub delay_min: Duration,
    /// The most.
    pub delay_max: Duration,
    /// Datagrams lost, in thousandths.
    pub loss: u32,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_micros(600),
            loss: 0,
        }
    }
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Running,
    Paused,
    Dead,
}

struct Host {
    core: Option<Core>,
    process: Process,
    address: SocketAddr,
    config: Config,
    seeds: Vec<String>,
    durable: Option<Durable>,
    waiting: VecDeque<Input>,
    streams: BTreeMap<StreamId, (HostId, StreamId)>,
    wake: Option<Time>,
    stopped: Option<Stop>,
}

#[derive(Debug)]
enum Happening {
    Deliver(HostId, Input),
    Dialled {
        from: HostId,
        to: SocketAddr,
        token: Token,
    },
    Knocks {
        from: HostId,
        to: SocketAddr,
        token: Token,
    },
    Wake(HostId),
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

/// Hosts, network and clock.
pub struct World {
    /// How the network behaves from now on.
    pub network: Network,
    /// Everything that nodes told their users, oldest first.
    pub told: Vec<Told>,
    /// Datagram bytes sent by each host.
    pub bytes: BTreeMap<HostId, u64>,
    now: Time,
    hosts: Vec<Host>,
    by_address: BTreeMap<SocketAddr, HostId>,
    heap: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    streams: u64,
    last_delivery: BTreeMap<(HostId, StreamId), Time>,
    cut: Vec<Option<u8>>,
    rng: ChaCha8Rng,
    digest: Xxh3,
    requests: u64,
}

impl World {
    /// An empty world; `seed` decides all that is random in it.
    pub fn new(seed: u64) -> Self {
        Self {
            network: Network::default(),
            told: Vec::new(),
            bytes: BTreeMap::new(),
            now: Time::from_millis(1),
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            heap: BinaryHeap::new(),
            sequence: 0,
            streams: 0,
            last_delivery: BTreeMap::new(),
            cut: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            digest: Xxh3::new(),
            requests: 0,
        }
    }

    /// Now.
    pub fn now(&self) -> Time {
        self.now
    }

    /// One number for everything that happened; equal for equal seeds.
    pub fn digest(&self) -> u64 {
        self.digest.digest()
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
        self.hosts[host].core.as_ref()
    }

    /// Why a host's node stopped by itself, if it did.
    pub fn stopped(&self, host: HostId) -> Option<&Stop> {
        self.hosts[host].stopped.as_ref()
    }

    /// The id of a host's node.
    pub fn id(&self, host: HostId) -> NodeId {
        self.hosts[host].config.node
    }

    /// Adds a host whose node has the given seeds, and starts it. `change` may alter its settings.
    pub fn add(&mut self, seeds: &[HostId], change: impl FnOnce(&mut Config)) -> HostId {
        let host = self.hosts.len();
        let octets = (host as u32 + 1).to_be_bytes();
        let ip = Ipv4Addr::new(10, octets[1], octets[2], octets[3]);
        let address = SocketAddr::new(ip.into(), 7400);
        let node = NodeId(self.rng.random());
        let mut config = Config::new(node, &format!("n{host}"), address);
        change(&mut config);
        let seeds = seeds
            .iter()
            .map(|seed| self.hosts[*seed].address.to_string())
            .collect();
        self.hosts.push(Host {
            core: None,
            process: Process::Dead,
            address,
            config,
            seeds,
            durable: None,
            waiting: VecDeque::new(),
            streams: BTreeMap::new(),
            wake: None,
            stopped: None,
        });
        self.by_address.insert(address, host);
        self.cut.push(None);
        self.start(host);
        host
    }

    /// Starts a host's process, with what its disk remembers.
    pub fn start(&mut self, host: HostId) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let now = self.now;
        let it = &mut self.hosts[host];
        let stored = it.durable.as_ref().map_or(0, |durable| durable.generation);
        let millis = u64::try_from(now.since_origin().as_millis()).unwrap_or(u64::MAX);
        it.config.generation = millis.max(stored + 1);
        it.config.seeds.clone_from(&it.seeds);
        let restored = it
            .durable
            .as_ref()
            .map_or_else(Restored::default, |durable| Restored {
                cluster: durable.cluster.clone(),
                peers: durable.peers.clone(),
            });
        let keys = Keyring::new(Key::derived_from_name(&it.config.cluster));
        it.core = Some(Core::new(it.config.clone(), keys, seed, restored, now));
        it.process = Process::Running;
        it.stopped = None;
        it.wake = None;
        self.drain(host);
    }

    /// Kills a host's process: its streams break, its ports refuse.
    pub fn kill(&mut self, host: HostId) {
        let it = &mut self.hosts[host];
        it.core = None;
        it.process = Process::Dead;
        it.waiting.clear();
        it.wake = None;
        let streams = std::mem::take(&mut it.streams);
        for (_, (peer, stream)) in streams {
            if self.connected(host, peer) {
                self.close_at(peer, stream);
            }
        }
    }

    /// Pauses a host's process (SIGSTOP): its kernel goes on, everything waits.
    pub fn pause(&mut self, host: HostId) {
        if self.hosts[host].process == Process::Running {
            self.hosts[host].process = Process::Paused;
        }
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, host: HostId) {
        let it = &mut self.hosts[host];
        if it.process != Process::Paused {
            return;
        }
        it.process = Process::Running;
        let waiting = std::mem::take(&mut it.waiting);
        let now = self.now;
        if let Some(core) = &mut it.core {
            for input in waiting {
                core.handle(now, input);
            }
            core.handle(now, Input::Tick);
        }
        self.drain(host);
    }

    /// Puts hosts on a side of a split; only hosts of the same side reach each other.
    pub fn cut(&mut self, hosts: &[HostId], side: Option<u8>) {
        for host in hosts {
            self.cut[*host] = side;
        }
    }

    /// Gives a host's node a command.
    pub fn command(&mut self, host: HostId, command: Command) {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.deliver(host, Input::Command { request, command });
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.run_until(until, |_| false);
    }

    /// Lets time pass until a condition holds; false if it did not within `limit`.
    pub fn run_while(&mut self, limit: Duration, holds: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        self.run_until(until, holds)
    }

    fn run_until(&mut self, until: Time, mut done: impl FnMut(&Self) -> bool) -> bool {
        let mut look_at = self.now;
        loop {
            if self.now >= look_at {
                if done(self) {
                    return true;
                }
                // Conditions may be costly: every millisecond is often enough.
                look_at = self.now + Duration::from_millis(1);
            }
            match self.heap.peek() {
                Some(Reverse(next)) if next.at <= until => {}
                _ => {
                    self.now = until;
                    return done(self);
                }
            }
            if let Some(Reverse(next)) = self.heap.pop() {
                self.now = next.at;
                self.happen(next.what);
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Deliver(host, input) => self.deliver(host, input),
            Happening::Wake(host) => {
                if self.hosts[host].wake == Some(self.now) {
                    self.hosts[host].wake = None;
                    if self.hosts[host].process == Process::Running {
                        self.deliver(host, Input::Tick);
                    }
                }
            }
            Happening::Dialled { from, to, token } => self.dialled(from, to, token),
            Happening::Knocks { from, to, token } => {
                let answer = match self.reach(from, to) {
                    None => Knock::Silent,
                    Some(host) if self.hosts[host].process == Process::Dead => Knock::Refused,
                    Some(_) => Knock::Accepted,
                };
                let timing = &self.hosts[from].config.timing;
                let after = match answer {
                    Knock::Silent => timing.knock_timeout,
                    _ => self.delay(),
                };
                let knock = token;
                self.later(
                    after,
                    Happening::Deliver(from, Input::Knocked { knock, answer }),
                );
            }
        }
    }

    fn deliver(&mut self, host: HostId, input: Input) {
        let now = self.now;
        let it = &mut self.hosts[host];
        match it.process {
            Process::Dead => return,
            Process::Paused => {
                // A kernel keeps so much for a process, and not more.
                if it.waiting.len() < 20_000 {
                    it.waiting.push_back(input);
                }
                return;
            }
            Process::Running => {}
        }
        self.digest.update(&now.as_nanos().to_be_bytes());
        self.digest.update(&(host as u64).to_be_bytes());
        if let Input::Datagram { data, .. } = &input {
            self.digest.update(data);
        }
        if let Some(core) = &mut it.core {
            core.handle(now, input);
        }
        self.drain(host);
    }

    fn drain(&mut self, host: HostId) {
        while let Some(output) = self.hosts[host].core.as_mut().and_then(Core::poll_output) {
            self.carry_out(host, output);
        }
        let Some(core) = &self.hosts[host].core else {
            return;
        };
        let next = core.poll_timeout().map(|at| at.max(self.now));
        if let Some(at) = next
            && self.hosts[host].wake != Some(at)
        {
            self.hosts[host].wake = Some(at);
            self.at(at, Happening::Wake(host));
        }
    }

    fn carry_out(&mut self, host: HostId, output: Output) {
        match output {
            Output::Datagram { to, data } => {
                *self.bytes.entry(host).or_default() += data.len() as u64 + 28;
                let lost = self.rng.random_range(0..1000) < self.network.loss;
                if let Some(target) = self.reach(host, to)
                    && !lost
                {
                    let from = self.hosts[host].address;
                    let after = self.delay();
                    let input = Input::Datagram { from, data };
                    self.later(after, Happening::Deliver(target, input));
                }
            }
            Output::Dial { dial, to } => {
                let after = self.delay();
                let token = dial;
                self.later(
                    after,
                    Happening::Dialled {
                        from: host,
                        to,
                        token,
                    },
                );
            }
            Output::Knock { knock, to } => {
                let after = self.delay();
                let token = knock;
                self.later(
                    after,
                    Happening::Knocks {
                        from: host,
                        to,
                        token,
                    },
                );
            }
            Output::Frame { stream, frame } => {
                if let Some((peer, theirs)) = self.hosts[host].streams.get(&stream).copied()
                    && self.connected(host, peer)
                {
                    let stream = theirs;
                    self.in_order(peer, stream, Input::StreamFrame { stream, frame });
                }
            }
            Output::Close { stream } => {
                if let Some((peer, theirs)) = self.hosts[host].streams.remove(&stream) {
                    self.in_order(host, stream, Input::StreamClosed { stream });
                    if self.connected(host, peer) {
                        self.close_at(peer, theirs);
                    }
                }
            }
            Output::Resolve { seeds } => {
                let seeds = seeds
                    .into_iter()
                    .map(|seed| {
                        let address = seed.parse().map(|a| vec![a]);
                        (
                            seed,
                            address.map_err(|e: std::net::AddrParseError| e.to_string()),
                        )
                    })
                    .collect();
                let after = self.delay();
                self.later(after, Happening::Deliver(host, Input::Resolved { seeds }));
            }
            Output::Persist(durable) => self.hosts[host].durable = Some(*durable),
            Output::Event(event) => self.told.push(Told {
                at: self.now,
                host,
                event,
            }),
            Output::Keys(_) | Output::Reply { .. } => {}
            Output::Stop(stop) => {
                self.kill(host);
                self.hosts[host].stopped = Some(stop);
            }
        }
    }

    fn dialled(&mut self, from: HostId, to: SocketAddr, token: Token) {
        let target = self.reach(from, to);
        let timeout = self.hosts[from].config.timing.dial_timeout;
        let (after, error) = match target {
            None => (timeout, DialError::Silent),
            Some(host) => match self.hosts[host].process {
                Process::Dead => (self.delay(), DialError::Refused),
                Process::Paused => (timeout, DialError::Silent),
                Process::Running => {
                    self.open(from, host, token);
                    return;
                }
            },
        };
        let dial = token;
        self.later(
            after,
            Happening::Deliver(from, Input::DialFailed { dial, error }),
        );
    }

    fn open(&mut self, from: HostId, to: HostId, token: Token) {
        let ours = StreamId(self.streams + 1);
        let theirs = StreamId(self.streams + 2);
        self.streams += 2;
        self.hosts[from].streams.insert(ours, (to, theirs));
        self.hosts[to].streams.insert(theirs, (from, ours));
        let opened = |stream, remote, dial| Input::StreamOpened {
            stream,
            remote,
            dial,
        };
        let (here, there) = (self.hosts[from].address, self.hosts[to].address);
        // The handshake of TLS takes another round trip.
        self.in_order(to, theirs, opened(theirs, here, None));
        self.in_order(from, ours, opened(ours, there, Some(token)));
    }

    fn close_at(&mut self, host: HostId, stream: StreamId) {
        self.hosts[host].streams.remove(&stream);
        self.in_order(host, stream, Input::StreamClosed { stream });
    }

    // Streams keep their order, whatever the delays.
    fn in_order(&mut self, host: HostId, stream: StreamId, input: Input) {
        let at = self.now + self.delay();
        let last = self.last_delivery.entry((host, stream)).or_default();
        *last = (*last + Duration::from_nanos(1)).max(at);
        let at = *last;
        self.at(at, Happening::Deliver(host, input));
    }

    fn reach(&self, from: HostId, to: SocketAddr) -> Option<HostId> {
        let host = *self.by_address.get(&to)?;
        self.connected(from, host).then_some(host)
    }

    fn connected(&self, a: HostId, b: HostId) -> bool {
        self.cut[a] == self.cut[b]
    }

    fn delay(&mut self) -> Duration {
        let (min, max) = (self.network.delay_min, self.network.delay_max);
        let spread = u64::try_from((max - min).as_nanos()).unwrap_or(0);
        min + Duration::from_nanos(self.rng.random_range(0..=spread))
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
