//! One core among members that a test plays: most are well, one has the key and is not. And
//! whoever meets another with its own name or id.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use kith_proto::{
    config::Config,
    core::Core,
    event::{Event, Reason},
    id::{Life, NodeId},
    input::{Input, Knock, StreamId},
    members::{record::Record, table::Status},
    output::{Output, Refusal, Stop},
    store::{Durable, Restored},
    swim::identity::Identity,
    time::Time,
    wire::{
        codec,
        keyring::{Key, Keyring},
        message::{
            Accusation, Direct, DirectBody, Frame, Health, Hello, Intent, KIND_DIRECT, News,
            SyncEntry, Verdict,
        },
        seal::{Opener, Sealer},
    },
};

const OWN: NodeId = NodeId(1);
/// When the core's process started.
const STARTED: u64 = 1_000_000;

fn ring() -> Keyring {
    Keyring::new(Key::derived_from_name("kith"))
}

fn address(number: u64) -> SocketAddr {
    let host = u8::try_from(number).expect("few members");
    SocketAddr::from(([10, 0, 0, host], 7400))
}

/// A member that the test plays. It answers every ping, and refutes every suspicion.
struct Puppet {
    config: Config,
    stream: StreamId,
    sealer: Sealer,
    opener: Opener,
    incarnation: u16,
}

impl Puppet {
    fn identity(&self) -> Identity {
        Identity {
            id: self.config.node,
            generation: self.config.generation,
            renewal: 0,
            addr: self.config.advertise,
        }
    }

    fn life(&self) -> Life {
        self.identity().life()
    }
}

/// The core, everything around it, and what it said.
struct Stage {
    core: Core,
    now: Time,
    puppets: BTreeMap<NodeId, Puppet>,
    streams: u64,
    events: Vec<Event>,
    frames: Vec<(StreamId, Frame)>,
    persisted: Option<Durable>,
    stopped: Option<Stop>,
    datagrams: u64,
}

impl Stage {
    fn new() -> Self {
        let stage = Self::with_seeds(&[]);
        assert_eq!(stage.core.phase_name(), "active");
        stage
    }

    fn with_seeds(seeds: &[&str]) -> Self {
        let now = Time::from_millis(1);
        let mut config = Config::new(OWN, "n1", address(1));
        config.generation = STARTED;
        config.seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        let core = Core::new(config, ring(), [7; 32], Restored::default(), now);
        let mut stage = Self {
            core,
            now,
            puppets: BTreeMap::new(),
            streams: 0,
            events: Vec::new(),
            frames: Vec::new(),
            persisted: None,
            stopped: None,
            datagrams: 0,
        };
        stage.tell(Input::Tick);
        stage
    }

    /// With so many members, numbered from 2.
    fn with_members(last: u64) -> Self {
        let mut stage = Self::new();
        for number in 2..=last {
            let mut config = Config::new(NodeId(number), &format!("n{number}"), address(number));
            config.generation = STARTED + number;
            stage.call(config, Intent::Join);
        }
        stage.run(Duration::from_secs(1));
        assert_eq!(stage.core.living() as u64, last);
        stage
    }

    /// Somebody calls; from then on it is played.
    fn call(&mut self, config: Config, intent: Intent) -> StreamId {
        let stream = self.open(config.advertise);
        let puppet = Puppet {
            stream,
            sealer: Sealer::new("kith", config.node, 77),
            opener: Opener::new("kith"),
            incarnation: 0,
            config,
        };
        let cluster = match intent {
            Intent::Peer => self.core.cluster().map(|cluster| cluster.id),
            Intent::Join | Intent::Expect(_) => None,
        };
        let hello = Hello {
            protocol: (1, 1),
            cluster_name: "kith".to_owned(),
            cluster,
            intent,
            identity: puppet.identity(),
            incarnation: 0,
            record: Record::of(&puppet.config),
        };
        if puppet.config.node != OWN {
            self.puppets.insert(puppet.config.node, puppet);
        }
        self.say(stream, &Frame::Hello(Box::new(hello)));
        stream
    }

    fn open(&mut self, remote: SocketAddr) -> StreamId {
        self.streams += 1;
        let stream = StreamId(self.streams);
        self.tell(Input::StreamOpened {
            stream,
            remote,
            dial: None,
        });
        stream
    }

    fn say(&mut self, stream: StreamId, frame: &Frame) {
        let frame = codec::encode(frame);
        self.tell(Input::StreamFrame { stream, frame });
    }

    /// A member says something over its stream.
    fn say_by(&mut self, id: NodeId, body: DirectBody) {
        let stream = self.puppets[&id].stream;
        self.say(stream, &Frame::Direct(body));
    }

    fn tell(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            self.core.handle(self.now, input);
            while let Some(output) = self.core.poll_output() {
                inputs.extend(self.carry_out(output));
            }
        }
    }

    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Datagram { to, data } => {
                self.datagrams += 1;
                return self.answer(to, data);
            }
            Output::Knock { knock, .. } => {
                let answer = Knock::Accepted;
                return Some(Input::Knocked { knock, answer });
            }
            Output::Event(event) => self.events.push(event),
            Output::Frame { stream, frame } => {
                let frame = codec::decode(&frame).expect("its own frames");
                self.frames.push((stream, frame));
            }
            Output::Close { stream } => return Some(Input::StreamClosed { stream }),
            Output::Persist(durable) => self.persisted = Some(*durable),
            Output::Stop(stop) => self.stopped = Some(stop),
            Output::Dial { .. }
            | Output::Resolve { .. }
            | Output::Keys(_)
            | Output::Reply { .. } => {}
        }
        None
    }

    // A member that is well answers pings, and knows better when it is suspected.
    fn answer(&mut self, to: SocketAddr, mut data: Vec<u8>) -> Option<Input> {
        let puppet = self
            .puppets
            .values_mut()
            .find(|puppet| puppet.config.advertise == to)?;
        let life = puppet.life();
        let keys = ring();
        let opened = puppet.opener.open(&keys, &mut data).ok()?;
        if opened.kind != KIND_DIRECT {
            return None;
        }
        let direct: Direct = codec::decode(opened.payload).ok()?;
        let DirectBody::Ping {
            to: meant,
            nonce,
            suspected,
        } = direct.body
        else {
            return None;
        };
        if meant != life {
            return None;
        }
        if let Some((_, incarnation)) = suspected
            && incarnation >= puppet.incarnation
        {
            puppet.incarnation = incarnation + 1;
        }
        let body = DirectBody::Pong {
            nonce,
            renewal: 0,
            incarnation: puppet.incarnation,
        };
        let payload = codec::encode(&Direct { from: life, body });
        let data = puppet.sealer.seal(&keys, KIND_DIRECT, &[&payload]);
        Some(Input::Datagram { from: to, data })
    }

    fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(due) = self.core.poll_timeout()
            && due <= until
        {
            self.now = self.now.max(due);
            self.tell(Input::Tick);
        }
        self.now = until;
    }

    fn counter(&self, name: &str) -> u64 {
        self.core.counters().get(name).copied().unwrap_or(0)
    }

    fn status(&self, id: NodeId) -> Status {
        self.core.table().get(id).expect("it is known").status()
    }

    fn failures(&self) -> Vec<&Event> {
        let failed = |event: &&Event| matches!(event, Event::MemberFailed { .. });
        self.events.iter().filter(failed).collect()
    }

    /// What that member would say against another at its present incarnation.
    fn accusation(&self, by: NodeId, of: NodeId, reason: Reason) -> Accusation {
        Accusation {
            target: self.puppets[&of].life(),
            renewal: 0,
            incarnation: self.puppets[&of].incarnation,
            accuser: by,
            reason,
            silent_ms: 60_000,
        }
    }
}

const SICK: NodeId = NodeId(2);

#[test]
fn whoever_accuses_everybody_for_ever_is_limited_and_then_doubted() {
    let mut stage = Stage::with_members(12);
    let reasons = [Reason::Unreachable, Reason::Refused, Reason::Unresponsive];
    let others: Vec<NodeId> = (3..=12).map(NodeId).collect();
    stage.events.clear();
    let before = stage.datagrams;
    for round in 0..3000usize {
        let of = others[round % others.len()];
        let reason = reasons[round % reasons.len()];
        let accusation = stage.accusation(SICK, of, reason);
        let target = accusation.target;
        stage.say_by(SICK, DirectBody::News(News::Accusation(accusation)));
        if round % 3 == 0 {
            let verdict = Verdict {
                target,
                renewal: 0,
                author: SICK,
                reason,
                // It claims that others found it too.
                accusers: vec![SICK, NodeId(9), NodeId(10), NodeId(11)],
            };
            stage.say_by(SICK, DirectBody::News(News::Verdict(verdict)));
        }
        stage.run(Duration::from_millis(20));
    }
    assert!(stage.failures().is_empty(), "{:?}", stage.failures());
    for id in others {
        assert_eq!(stage.status(id), Status::Alive);
    }
    let sick = stage.core.table().get(SICK).expect("it is known");
    assert!(!sick.limit.is_credible(), "its weight has fallen");
    assert_eq!(sick.status(), Status::Alive, "and it is not punished");

    // 4,000 words in a minute: 64 at once and ten a second are heard, hardly any believed.
    let heard = 64 + 600;
    let limited = stage.counter("accusations_limited");
    assert!(limited >= 4000 - heard, "{limited}");
    let doubted = stage.counter("accusations_doubted");
    assert!(doubted > 400, "{doubted}");
    let suspicions = stage.counter("suspicions");
    assert!(suspicions < 40, "{suspicions}");
    let told = stage.events.len() as u64;
    assert!(told < 3 * suspicions + 10, "{told} events");
    // Gossip included, a few dozen datagrams a second.
    let sent = stage.datagrams - before;
    assert!(sent < 60 * 60, "{sent}");
}

#[test]
fn an_incarnation_beyond_all_others_condemns_nobody() {
    let mut stage = Stage::with_members(5);
    let mut accusation = stage.accusation(SICK, NodeId(4), Reason::Unreachable);
    accusation.incarnation = u16::MAX;
    stage.say_by(SICK, DirectBody::News(News::Accusation(accusation)));
    stage.run(Duration::from_secs(20));
    assert_eq!(stage.status(NodeId(4)), Status::Alive);
    assert!(stage.failures().is_empty());

    // Of this node itself: there is no larger incarnation, so it takes a new identity.
    let own = stage.core.table().get(OWN).expect("itself").identity;
    let accusation = Accusation {
        target: own.life(),
        renewal: own.renewal,
        incarnation: u16::MAX,
        accuser: SICK,
        reason: Reason::Unreachable,
        silent_ms: 0,
    };
    stage.say_by(SICK, DirectBody::News(News::Accusation(accusation)));
    let renewed = stage.core.table().get(OWN).expect("itself").identity;
    assert_eq!(
        (renewed.generation, renewed.renewal),
        (STARTED, own.renewal + 1)
    );
}

#[test]
fn a_verdict_on_a_renewal_that_is_not_known_condemns_nobody() {
    let mut stage = Stage::with_members(5);
    for (of, renewal) in [(NodeId(4), u32::MAX), (OWN, u32::MAX)] {
        let target = stage.core.table().get(of).expect("it is known").life();
        let verdict = Verdict {
            target,
            renewal,
            author: SICK,
            reason: Reason::Unreachable,
            accusers: vec![SICK],
        };
        stage.say_by(SICK, DirectBody::News(News::Verdict(verdict)));
    }
    stage.run(Duration::from_secs(20));
    assert_eq!(stage.status(NodeId(4)), Status::Alive);
    let own = stage.core.table().get(OWN).expect("itself").identity;
    assert_eq!(own.renewal, 0, "nobody can know of a renewal that was not");
}

#[test]
fn nobody_is_refused_by_whom_he_did_not_ask() {
    let mut stage = Stage::with_seeds(&["10.0.0.9:7400"]);
    assert_eq!(stage.core.phase_name(), "joining");
    let stream = stage.open(address(5));
    stage.say(stream, &Frame::Refused("go away".to_owned()));
    assert!(stage.stopped.is_none());
    assert_eq!(stage.core.phase_name(), "joining");
    assert_eq!(stage.counter("rejected_frame"), 1);
}

#[test]
fn who_failed_accuses_nobody() {
    let mut stage = Stage::with_members(6);
    // It is gone: no answer to anything, and its stream breaks.
    let gone = stage.puppets.remove(&SICK).expect("it is there");
    let stream = gone.stream;
    stage.tell(Input::StreamClosed { stream });
    stage.run(Duration::from_secs(30));
    assert_eq!(stage.status(SICK), Status::Failed);
    let accusation = stage.accusation(SICK, NodeId(4), Reason::Unreachable);
    stage.say_by(NodeId(3), DirectBody::News(News::Accusation(accusation)));
    assert_eq!(stage.counter("accusations_ignored"), 1);
    assert_eq!(stage.status(NodeId(4)), Status::Alive);
}

/// The namesake of the core, whose process started so much earlier or later.
fn namesake(started: u64) -> Config {
    let mut config = Config::new(NodeId(50), "n1", address(50));
    config.generation = started;
    config
}

fn expect_name_taken(stage: &Stage) {
    let Some(Stop::Refused(Refusal::NameTaken {
        name,
        holder,
        holder_id,
        own,
    })) = &stage.stopped
    else {
        panic!("{:?}", stage.stopped);
    };
    assert_eq!(name, "n1");
    assert_eq!(
        (*holder, *holder_id, *own),
        (address(50), NodeId(50), address(1))
    );
}

#[test]
fn of_two_with_one_name_the_younger_stops_when_the_elder_calls() {
    let mut stage = Stage::with_members(3);
    stage.call(namesake(STARTED - 1), Intent::Peer);
    expect_name_taken(&stage);
}

#[test]
fn of_two_with_one_name_the_younger_stops_when_it_hears_of_the_elder() {
    let mut stage = Stage::with_members(3);
    let elder = namesake(STARTED - 1);
    let record = Record::of(&elder);
    let identity = Identity {
        id: elder.node,
        generation: elder.generation,
        renewal: 0,
        addr: elder.advertise,
    };
    let entry = SyncEntry {
        identity,
        incarnation: 0,
        health: Health::Active,
        record: Some(record),
    };
    let stream = stage.puppets[&NodeId(3)].stream;
    let delta = Frame::SyncDelta {
        entries: vec![entry],
        want: Vec::new(),
    };
    stage.say(stream, &delta);
    expect_name_taken(&stage);
}

#[test]
fn of_two_with_one_name_the_elder_goes_on_and_says_so() {
    let mut stage = Stage::with_members(3);
    let stream = stage.call(namesake(STARTED + 1), Intent::Peer);
    assert!(stage.stopped.is_none());
    let taken = stage.frames.iter().any(|(to, frame)| {
        *to == stream && matches!(frame, Frame::Taken(record) if record.id() == OWN)
    });
    assert!(taken, "{:?}", stage.frames.last());
    // Who is no member yet reads why.
    let stream = stage.call(namesake(STARTED + 1), Intent::Join);
    let refused = stage.frames.iter().any(|(to, frame)| {
        *to == stream && matches!(frame, Frame::Refused(text) if text.contains("--name"))
    });
    assert!(refused, "{:?}", stage.frames.last());
    stage.run(Duration::from_secs(5));
    assert!(stage.stopped.is_none());
}

/// Another process with the core's own id.
fn double(started: u64) -> Config {
    let mut config = Config::new(OWN, "n1", address(60));
    config.generation = started;
    config
}

#[test]
fn of_two_with_one_id_the_younger_stops_when_the_elder_calls() {
    let mut stage = Stage::with_members(3);
    stage.call(double(STARTED - 1), Intent::Peer);
    let Some(Stop::Refused(Refusal::IdTaken { id, other, own })) = &stage.stopped else {
        panic!("{:?}", stage.stopped);
    };
    assert_eq!((*id, *other, *own), (OWN, address(60), address(1)));
}

#[test]
fn of_two_with_one_id_the_elder_takes_a_generation_above_both() {
    let mut stage = Stage::with_members(3);
    let stream = stage.call(double(STARTED + 70), Intent::Peer);
    assert!(stage.stopped.is_none());
    let own = stage.core.table().get(OWN).expect("itself");
    assert_eq!(own.identity.generation, STARTED + 71);
    let record = own.record.clone().expect("its own");
    assert_eq!(
        (record.life.generation, record.started),
        (STARTED + 71, STARTED)
    );
    let persisted = stage.persisted.clone().expect("it is written down");
    assert_eq!(
        persisted.generation,
        STARTED + 71,
        "before others hear of it"
    );
    let taken = stage.frames.iter().any(|(to, frame)| {
        *to == stream && matches!(frame, Frame::Taken(taken) if **taken == record)
    });
    assert!(taken);
    let warned =
        |event: &Event| matches!(event, Event::Warning { kind, .. } if kind == "duplicate_id");
    assert_eq!(stage.events.iter().filter(|e| warned(e)).count(), 1);
}

#[test]
fn a_larger_generation_that_was_started_earlier_ends_the_younger_one() {
    let mut stage = Stage::with_members(3);
    let mut record = Record::of(&double(STARTED + 70));
    // A larger generation alone is a younger process, or an earlier one's that is long dead.
    let mut dead = record.clone();
    dead.life.generation = STARTED - 5;
    dead.started = STARTED - 5;
    stage.say_by(NodeId(3), DirectBody::News(News::Record(Box::new(dead))));
    assert!(stage.stopped.is_none());
    record.started = STARTED - 5;
    stage.say_by(NodeId(3), DirectBody::News(News::Record(Box::new(record))));
    assert!(matches!(
        stage.stopped,
        Some(Stop::Refused(Refusal::IdTaken { .. }))
    ));
}
