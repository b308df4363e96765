//! The core: one node's protocol as a pure state machine.
//!
//! It decides nothing itself: inputs are routed to the files below, each with one subject, and
//! what they want done leaves through one ordered queue.
//!
//! | file | subject |
//! |---|---|
//! | `join` | from start to membership: seeds, bootstrap, `--expect`, resuming alone |
//! | `streams` | dialling, which of two streams stays, the mesh, redialling the lost |
//! | `handshake` | Hello and its answers; who may be a member |
//! | `sync` | push/pull and newcomers |
//! | `news` | records, spreading, what foca's changes mean for members |
//! | `judge` | inquiries, accusations, suspicions, verdicts |
//! | `direct` | pings, nacks and whatever else one member says to one other |
//! | `leave` | stopping, leaving, evicting |
//! | `keys` | rotation |
//! | `ring` | whose is what, in this node's view |
//!
//! A host calls [`Core::handle`] for everything that happened, oldest first, then drains
//! [`Core::poll_output`], and calls [`Input::Tick`] when [`Core::poll_timeout`] is reached.

mod direct;
mod handshake;
mod join;
mod judge;
mod keys;
mod leave;
mod news;
mod ring;
mod streams;
mod sync;
mod timers;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use self::{
    join::Join,
    keys::KeyOperation,
    leave::Leaving,
    ring::Ring,
    streams::{Dial, Stream},
    timers::{TimerKind, Timers},
};
use crate::{
    config::Config,
    event::Event,
    id::NodeId,
    input::{Command, Input, RequestId, StreamId, Token},
    members::{
        record::Record,
        table::{Status, Table},
    },
    output::{Answer, Output, Stop},
    placement::Assignment,
    store::{Cluster, Restored},
    swim::{
        detector::{Detector, Note},
        identity::Identity,
    },
    time::Time,
    wire::{
        codec,
        keyring::Keyring,
        message::{Frame, KIND_DIRECT, KIND_SWIM, KIND_SWIM_BUDDY},
        seal::{self, Opener, Sealer},
    },
};

/// A tick that comes later than this finds that the process was paused or starved.
const STALL: Duration = Duration::from_millis(100);
/// Bytes that the suspicion of the receiver takes in a datagram.
const BUDDY: usize = 2;

/// Where a node is in its life.
#[derive(Debug)]
enum Phase {
    Joining(Join),
    Active,
    Leaving(Leaving),
    Stopped,
}

/// Numbers for operators, by metric name.
pub type Counters = BTreeMap<&'static str, u64>;

/// One node's protocol. See the module's text.
pub struct Core {
    config: Config,
    phase: Phase,
    cluster: Option<Cluster>,
    restored: Restored,
    keys: Keyring,
    sealer: Sealer,
    opener: Opener,
    rng: ChaCha8Rng,
    detector: Detector,
    table: Table,
    timers: Timers,
    outputs: VecDeque<Output>,
    counters: Counters,
    tokens: u64,

    streams: BTreeMap<StreamId, Stream>,
    dials: BTreeMap<Token, Dial>,
    knocks: BTreeMap<Token, NodeId>,
    mesh_failures: BTreeMap<NodeId, Time>,
    redial_cursor: usize,
    seeds: Vec<SocketAddr>,

    touched: BTreeSet<NodeId>,
    last_gossip: Time,
    burst_rounds: u32,
    nacks: BTreeMap<(NodeId, u8), (NodeId, Time)>,

    holders: BTreeMap<NodeId, handshake::Pending>,
    newcomers: sync::Newcomers,
    regained: BTreeSet<NodeId>,
    healing: bool,
    key_operation: Option<KeyOperation>,
    ring: Ring,
    persisted_peers: Vec<SocketAddr>,
}

impl std::fmt::Debug for Core {
    // Keys and packets are nobody's business in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("identity", &self.detector.identity())
            .field("phase", &self.phase_name())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A node that starts now. `seed` is all the randomness it will ever have; it must be
    /// different for each life (the sealing key depends on it).
    pub fn new(
        config: Config,
        keys: Keyring,
        seed: [u8; 32],
        restored: Restored,
        now: Time,
    ) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let identity = Identity {
            id: config.node,
            generation: config.generation,
            renewal: 0,
            addr: config.advertise,
        };
        let sealer = Sealer::new(&config.cluster, config.node, rng.random());
        let detector = Detector::new(
            identity,
            &config.timing,
            config.detection,
            config.max_datagram - seal::OVERHEAD - BUDDY,
            ChaCha8Rng::from_seed(rng.random()),
            ChaCha8Rng::from_seed(rng.random()),
        );
        let mut core = Self {
            phase: Phase::Joining(Join::new(now)),
            cluster: restored.cluster.clone(),
            keys,
            sealer,
            opener: Opener::new(&config.cluster),
            rng,
            detector,
            table: Table::new(identity, Record::of(&config), now),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            counters: Counters::new(),
            tokens: 0,
            streams: BTreeMap::new(),
            dials: BTreeMap::new(),
            knocks: BTreeMap::new(),
            mesh_failures: BTreeMap::new(),
            redial_cursor: 0,
            seeds: Vec::new(),
            touched: BTreeSet::new(),
            last_gossip: Time::ZERO,
            burst_rounds: 0,
            nacks: BTreeMap::new(),
            holders: BTreeMap::new(),
            newcomers: sync::Newcomers::default(),
            regained: BTreeSet::new(),
            healing: false,
            key_operation: None,
            ring: Ring::default(),
            persisted_peers: Vec::new(),
            restored,
            config,
        };
        core.start_joining(now);
        core
    }

    /// Takes in something that happened. It never fails halfway: what cannot be used is
    /// counted, and changes nothing.
    pub fn handle(&mut self, now: Time, input: Input) {
        if matches!(self.phase, Phase::Stopped) {
            return;
        }
        if let Some(due) = self.poll_timeout()
            && now > due + STALL
        {
            self.excuse(now, now.saturating_since(due));
        }
        match input {
            Input::Tick => self.tick(now),
            Input::Datagram { from, data } => self.datagram(now, from, data),
            Input::StreamOpened {
                stream,
                remote,
                dial,
            } => self.stream_opened(now, stream, remote, dial),
            Input::StreamFrame { stream, frame } => self.stream_frame(now, stream, &frame),
            Input::StreamClosed { stream } => self.stream_closed(now, stream),
            Input::DialFailed { dial, error } => self.dial_failed(now, dial, error),
            Input::Knocked { knock, answer } => self.knocked(now, knock, answer),
            Input::Resolved { seeds } => self.resolved(now, seeds),
            Input::Command { request, command } => self.command(now, request, command),
        }
        self.absorb(now);
    }

    /// What is to be done next, if anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is wanted.
    pub fn poll_timeout(&self) -> Option<Time> {
        if matches!(self.phase, Phase::Stopped) {
            return None;
        }
        [self.timers.next(), self.detector.next_timer()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Everybody known.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The settings it was started with, as changed since.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cluster, once it belongs to one.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The keys it accepts.
    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// Whose is what in this node's view.
    pub fn assignment(&self) -> &Assignment {
        self.ring.assignment()
    }

    /// Lifeguard's score of this node: 0 (well) to 8.
    pub fn health_score(&self) -> u8 {
        self.detector.health().score()
    }

    /// The smoothed round-trip time to a member, once measured.
    pub fn rtt(&self, id: NodeId) -> Option<Duration> {
        self.detector.rtt(id)
    }

    /// `joining`, `active`, `leaving` or `left`.
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Joining(_) => "joining",
            Phase::Active => "active",
            Phase::Leaving(_) => "leaving",
            Phase::Stopped => "left",
        }
    }

    /// Numbers for operators.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        for (kind, count) in &self.detector.errors {
            *counters.entry(kind).or_default() += count;
        }
        counters.insert("probes", self.detector.probes.1);
        counters.insert("probes_failed", self.detector.probes.0);
        counters.insert("health_score", u64::from(self.health_score()));
        counters.insert("loss_ppm", u64::from(self.detector.loss().ppm()));
        counters.insert("news_backlog", self.detector.backlog() as u64);
        counters.insert("peer_streams", self.streams.len() as u64);
        counters
    }

    fn tick(&mut self, now: Time) {
        self.detector.tick(now);
        self.absorb(now);
        while let Some(kind) = self.timers.pop(now) {
            self.timer(now, kind);
            self.absorb(now);
        }
    }

    fn timer(&mut self, now: Time, kind: TimerKind) {
        match kind {
            TimerKind::Join => self.join_round(now),
            TimerKind::JoinReport => self.join_report(now),
            TimerKind::Gossip => self.gossip(now),
            TimerKind::Mesh => self.mesh(now),
            TimerKind::Redial => self.redial(now),
            TimerKind::PushPull => self.push_pull(now),
            TimerKind::Newcomers => self.tell_newcomers(now),
            TimerKind::HealReport => self.heal_report(),
            TimerKind::Inquiry(id) => self.look_at_inquiry(now, id),
            TimerKind::Suspicion(id) => self.suspicion_ends(now, id),
            TimerKind::Nack => self.send_nacks(now),
            TimerKind::Placement => self.place(),
            TimerKind::Leave => self.leave_goes_on(now),
            TimerKind::Keys => self.keys_overdue(now),
            TimerKind::Forget => self.forget(now),
            TimerKind::Persist => self.persist_peers(),
            TimerKind::Holder(id) => self.holder_is_silent(now, id),
        }
    }

    fn command(&mut self, now: Time, request: RequestId, command: Command) {
        let answer = match command {
            Command::Leave { returning } => {
                // Answered first: a node that is alone stops at once.
                self.reply(request, Answer::Done);
                self.leave(now, returning);
                None
            }
            Command::Evict { member } => Some(self.evict(now, &member)),
            Command::Reload { tags, weight } => Some(self.reload(now, tags, weight)),
            Command::KeyAdd { key } => self.key_add(now, request, key),
            Command::KeyUse { key } => self.key_use(now, request, key),
            Command::KeyRemove { key } => self.key_remove(now, request, key),
        };
        if let Some(answer) = answer {
            self.reply(request, answer);
        }
    }

    // Works off what the detector noted, until it has nothing more to say.
    fn absorb(&mut self, now: Time) {
        loop {
            while let Some(note) = self.detector.next_note() {
                self.note(now, note);
            }
            if self.touched.is_empty() {
                return;
            }
            let touched = std::mem::take(&mut self.touched);
            for seen in self.detector.look_up(&touched) {
                self.reconcile(now, seen);
            }
        }
    }

    fn note(&mut self, now: Time, note: Note) {
        match note {
            Note::Send(to, packet) => self.send_swim(to, &packet),
            Note::Touched(id) => {
                self.touched.insert(id);
            }
            Note::Heard(id) => {
                if let Some(entry) = self.table.get_mut(id) {
                    entry.last_contact = Some(now);
                }
            }
            Note::News(sender, news) => self.hear_news(now, sender, news),
            Note::ProbeFailed(identity, sent) => self.probe_failed(now, identity, sent),
            Note::ProbeLate(identity) => self.probe_is_late(identity),
            Note::AskedToProbe { by, target, probe } => self.owe_nack(now, by, target, probe),
            Note::Answered { by, probe } => {
                self.nacks.remove(&(by, probe));
            }
            Note::Renewed(identity) => {
                self.count("renewals");
                let own = self.table.own_id();
                if let Some(entry) = self.table.get_mut(own) {
                    entry.identity = identity;
                }
                self.burst(now);
            }
        }
    }

    // This node was late: what was due meanwhile says nothing about others.
    fn excuse(&mut self, now: Time, late: Duration) {
        self.count("stalls");
        self.detector.excuse(now);
        let mut again = Vec::new();
        for entry in self.table.others_mut() {
            let id = entry.identity.id;
            if let Some(suspicion) = &mut entry.suspicion {
                suspicion.started += late;
                suspicion.silent_since += late;
                again.push(TimerKind::Suspicion(id));
            }
            if let Some(inquiry) = &mut entry.inquiry {
                inquiry.excuse(now);
                again.push(TimerKind::Inquiry(id));
            }
        }
        for kind in again {
            // Looked at again at once; each knows its own deadline.
            self.timers.set(kind, now);
        }
    }

    fn datagram(&mut self, now: Time, from: SocketAddr, mut data: Vec<u8>) {
        self.count("datagrams_received");
        self.add("datagram_bytes_received", data.len());
        let (sender, kind, payload) = match self.opener.open(&self.keys, &mut data) {
            Ok(opened) => (opened.sender, opened.kind, opened.payload),
            Err(error) => {
                let kind = match error {
                    seal::OpenError::TooShort { .. } => "rejected_too_short",
                    seal::OpenError::Version { .. } => "rejected_version",
                    seal::OpenError::UnknownKey { .. } => "rejected_unknown_key",
                    seal::OpenError::Forged => "rejected_forged",
                    seal::OpenError::Replayed { .. } => "rejected_replayed",
                };
                self.reject(now, kind, &format!("a datagram from {from}: {error}"));
                return;
            }
        };
        if sender == self.table.own_id() {
            self.count("rejected_own_id");
            return;
        }
        match kind {
            KIND_SWIM => self.swim_packet(now, sender, payload, None),
            KIND_SWIM_BUDDY => match payload.split_first_chunk::<BUDDY>() {
                Some((incarnation, packet)) => {
                    let incarnation = u16::from_be_bytes(*incarnation);
                    self.swim_packet(now, sender, packet, Some(incarnation));
                }
                None => self.count("rejected_malformed"),
            },
            KIND_DIRECT => match codec::decode(payload) {
                Ok(direct) => self.direct(now, sender, direct),
                Err(_) => self.count("rejected_malformed"),
            },
            _ => self.count("rejected_kind"),
        }
    }

    fn send_swim(&mut self, to: Identity, packet: &[u8]) {
        let buddy = self
            .table
            .get(to.id)
            .and_then(|entry| entry.suspicion.as_ref())
            .filter(|suspicion| suspicion.renewal == to.renewal && self.config.detection.lifeguard)
            .map(|suspicion| suspicion.incarnation.to_be_bytes());
        let data = match &buddy {
            Some(incarnation) => {
                self.sealer
                    .seal(&self.keys, KIND_SWIM_BUDDY, &[incarnation, packet])
            }
            None => self.sealer.seal(&self.keys, KIND_SWIM, &[packet]),
        };
        self.send_datagram(to.addr, data);
    }

    fn send_datagram(&mut self, to: SocketAddr, data: Vec<u8>) {
        self.count("datagrams_sent");
        self.add("datagram_bytes_sent", data.len());
        self.outputs.push_back(Output::Datagram { to, data });
    }

    fn send_frame(&mut self, stream: StreamId, frame: &Frame) {
        self.count("frames_sent");
        self.outputs.push_back(Output::Frame {
            stream,
            frame: codec::encode(frame),
        });
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn warn(&mut self, kind: &str, text: String) {
        self.emit(Event::Warning {
            kind: kind.to_owned(),
            text,
        });
    }

    // Counted always, told at most once in ten seconds.
    fn reject(&mut self, now: Time, kind: &'static str, text: &str) {
        self.count(kind);
        let last = self.ring.last_rejection;
        if last.is_none_or(|last| now >= last + Duration::from_secs(10)) {
            self.ring.last_rejection = Some(now);
            self.warn("packet_rejected", text.to_owned());
        }
    }

    fn reply(&mut self, request: RequestId, answer: Answer) {
        self.outputs.push_back(Output::Reply { request, answer });
    }

    fn stop(&mut self, stop: Stop) {
        self.phase = Phase::Stopped;
        self.outputs.push_back(Output::Stop(stop));
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    fn add(&mut self, what: &'static str, amount: usize) {
        *self.counters.entry(what).or_default() += amount as u64;
    }

    fn own_record(&self) -> Record {
        match self
            .table
            .get(self.table.own_id())
            .and_then(|own| own.record.clone())
        {
            Some(record) => record,
            // Never: the table is made with it. A fresh one says the same.
            None => Record::of(&self.config),
        }
    }

    /// Members that take part, this node included.
    pub fn living(&self) -> usize {
        self.table.living_others().count() + 1
    }

    fn is_member(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Leaving(_))
    }

    fn is_failed(&self, id: NodeId) -> bool {
        self.table
            .get(id)
            .is_some_and(|entry| entry.status() == Status::Failed)
    }

    // A duration stretched by the logarithm of the cluster's size: 1 up to ten members.
    fn scaled(&self, base: Duration) -> Duration {
        let members = u32::try_from(self.living()).unwrap_or(u32::MAX).max(1);
        let whole = members.ilog2();
        let fraction = (members - (1 << whole)) * 1000 / (1 << whole);
        // log10 in thousandths, from log2 with a straight line between powers of two.
        let log = (whole * 1000 + fraction) * 301 / 1000;
        base * log.max(1000) / 1000
    }

    fn jitter(&mut self, base: Duration) -> Duration {
        base * self.rng.random_range(80..120u32) / 100
    }
}
