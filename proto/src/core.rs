//! The core: one node's protocol as a pure state machine.
//!
//! It decides nothing itself: inputs are routed to the files below, each with one subject, and
//! what they want done leaves through one ordered queue.
//!
//! | file | subject |
//! |---|---|
//! | `join` | from start to membership: seeds, bootstrap, `--expect`, resuming alone |
//! | `streams` | dialling, which of two streams stays, what comes over them |
//! | `handshake` | Hello and its answers; who may be a member |
//! | `holders` | a joiner whose name or id a living member has already |
//! | `duplicates` | two members with one id or one name |
//! | `mesh` | which streams are held |
//! | `lost` | redialling those who were lost |
//! | `sync` | push/pull and newcomers |
//! | `news` | records, and how news spreads |
//! | `lives` | what foca's changes and records mean for members and users |
//! | `greet` | how long the way to others is |
//! | `half_blocked` | members that only one of UDP and TCP reaches |
//! | `inquire` | is it really gone, and how |
//! | `judge` | accusations, suspicions, verdicts |
//! | `direct` | pings, nacks and whatever else one member says to one other |
//! | `leave` | stopping, leaving, evicting |
//! | `keys`, `key_round` | rotation, and asking every member for it |
//! | `ring`, `partition_view` | whose is what, in this node's view; what partitions are told |
//! | `datagrams`, `outgoing`, `view` | opening and sealing; what leaves; what is shown |
//!
//! A host calls [`Core::handle`] for everything that happened, oldest first, then drains
//! [`Core::poll_output`], and calls [`Input::Tick`] when [`Core::poll_timeout`] is reached.

mod datagrams;
mod direct;
mod duplicates;
mod greet;
mod half_blocked;
mod handshake;
mod holders;
mod inquire;
mod join;
mod judge;
mod key_round;
mod keys;
mod leave;
mod lives;
mod lost;
pub(crate) mod mesh;
mod news;
mod outgoing;
mod partition_view;
mod ring;
mod streams;
mod sync;
mod timers;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use self::{
    datagrams::BUDDY,
    half_blocked::DialFailure,
    join::Join,
    keys::KeyOperation,
    leave::Leaving,
    mesh::Partners,
    ring::Ring,
    streams::{Dial, Stream},
    timers::{TimerKind, Timers},
};
use crate::{
    config::Config,
    event::Transport,
    id::NodeId,
    input::{Command, Input, RequestId, StreamId, Token},
    members::{
        record::Record,
        table::{Entry, Table},
    },
    output::{Answer, Output},
    store::{Cluster, Restored},
    swim::{
        detector::{Detector, Note},
        identity::Identity,
        limits::Bucket,
    },
    time::Time,
    wire::{
        keyring::{KeyId, Keyring},
        message::News,
        seal::{self, Opener, Sealer},
    },
};

/// A tick that comes later than this finds that the process was paused or starved.
const STALL: Duration = Duration::from_millis(100);

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
    dial_failures: BTreeMap<NodeId, DialFailure>,
    blocked_told: Bucket,
    redial_cursor: usize,
    seeds: Vec<SocketAddr>,
    residents: BTreeMap<SocketAddr, NodeId>,

    touched: BTreeSet<NodeId>,
    last_gossip: Time,
    burst_rounds: u32,
    nacks: BTreeMap<(NodeId, u8), (NodeId, Time)>,

    holders: BTreeMap<NodeId, holders::Pending>,
    newcomers: sync::Newcomers,
    regained: BTreeSet<NodeId>,
    healing: bool,
    key_operation: Option<KeyOperation>,
    removed_keys: VecDeque<KeyId>,
    claimed: Option<Time>,
    ring: Ring,
    partners: Partners,
    partition_view: partition_view::Last,
    persisted_peers: Vec<SocketAddr>,
    /// When this node last found that it was late.
    excused: Time,
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
            dial_failures: BTreeMap::new(),
            blocked_told: half_blocked::tellings(),
            redial_cursor: 0,
            seeds: Vec::new(),
            residents: BTreeMap::new(),
            touched: BTreeSet::new(),
            last_gossip: Time::ZERO,
            burst_rounds: 0,
            nacks: BTreeMap::new(),
            holders: BTreeMap::new(),
            newcomers: sync::Newcomers::default(),
            regained: BTreeSet::new(),
            healing: false,
            key_operation: None,
            removed_keys: VecDeque::new(),
            claimed: None,
            ring: Ring::default(),
            partners: Partners::default(),
            partition_view: partition_view::Last::default(),
            persisted_peers: Vec::new(),
            excused: Time::ZERO,
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
        if let Some(due) = self
            .poll_timeout()
            .filter(|_| self.config.detection.lifeguard)
        {
            // All that arrived meanwhile comes before the tick, at the same moment: it was late once.
            let asleep_since = due.max(self.excused);
            if now > asleep_since + STALL {
                self.excused = now;
                self.excuse(now, now.saturating_since(asleep_since));
            }
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
            TimerKind::Handshake => self.end_handshakes(now),
            TimerKind::Mesh => self.mesh(now),
            TimerKind::Redial => self.redial(now),
            TimerKind::PushPull => self.push_pull(now),
            TimerKind::Newcomers => self.tell_newcomers(now),
            TimerKind::HealReport => self.heal_report(),
            TimerKind::Greeting(id) => self.greet_again(now, id),
            TimerKind::Inquiry(id) => self.look_at_inquiry(now, id),
            TimerKind::Suspicion(id) => self.suspicion_ends(now, id),
            TimerKind::Nack => self.send_nacks(now),
            TimerKind::Placement => self.place(now),
            TimerKind::Leave => self.leave_goes_on(now),
            TimerKind::Keys => self.key_round_goes_on(now),
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
            Command::Depart { returning } => {
                self.depart(now, returning);
                Some(Answer::Done)
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
            Note::Heard(id) => self.table.heard(id, now),
            Note::Claimed(seen) => {
                // Before the table hears of it, and rarely: see `Seen::is_news`.
                let known = self.table.get(seen.identity.id);
                let news = known.is_none_or(|entry| {
                    entry
                        .swim
                        .is_none_or(|state| seen.is_news(&entry.identity, entry.incarnation, state))
                });
                if news {
                    self.touched.insert(seen.identity.id);
                }
            }
            Note::Reached(id) => self.unblocked(now, id, Transport::Udp),
            Note::Slow(id) => self.measure_again(now, id),
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
                let record = Box::new(self.own_record());
                self.detector.retract(&News::Record(record));
                self.burst(now);
            }
        }
    }

    // This node was late: what was due meanwhile says nothing about others.
    fn excuse(&mut self, now: Time, late: Duration) {
        self.count("stalls");
        self.detector.excuse(now);
        let mut again = Vec::new();
        let doubted = |entry: &Entry| entry.suspicion.is_some() || entry.inquiry.is_some();
        let doubted: Vec<NodeId> = self
            .table
            .others()
            .filter(|entry| doubted(entry))
            .map(|entry| entry.identity.id)
            .collect();
        for id in doubted {
            let Some(entry) = self.table.get_mut(id) else {
                continue;
            };
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
}
