//! From start to membership.
//!
//! ```text
//!               no seed, no known peer                      first Welcome
//!   joining ---------------------------> bootstrap ----+        |
//!      |  \                                            v        v
//!      |   +-- knows its cluster, nobody answers --> resume -> active
//!      |   +-- --expect N: N nodes list each other, the lowest id -> bootstrap
//!      +-- refused --> stop (exit code 4)
//! ```
//!
//! In each round all candidates (seeds, looked up anew, and peers known from before) are
//! dialled, a few at once. While nobody accepts, rounds repeat for ever with growing pauses: a
//! node with seeds never becomes a cluster of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use rand::RngExt;

use super::{Core, Phase, streams::Purpose, timers::TimerKind};
use crate::{
    event::Event,
    id::{ClusterId, NodeId},
    input::DialError,
    output::{Output, Refusal, Stop},
    store::{Cluster, Durable, MAX_KNOWN_PEERS},
    time::Time,
    wire::message::Expecting,
};

/// Candidates dialled at once.
const AT_ONCE: usize = 8;
/// Pause between the first rounds; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How joining stands.
#[derive(Debug)]
pub(super) struct Join {
    started: Time,
    rounds: u32,
    waiting: Vec<SocketAddr>,
    dialling: usize,
    outcomes: BTreeMap<String, String>,
    untrusted: Option<SocketAddr>,
    reached: bool,
    expecting: BTreeMap<NodeId, (SocketAddr, BTreeSet<NodeId>)>,
}

impl Join {
    pub(super) fn new(now: Time) -> Self {
        Self {
            started: now,
            rounds: 0,
            waiting: Vec::new(),
            dialling: 0,
            outcomes: BTreeMap::new(),
            untrusted: None,
            reached: false,
            expecting: BTreeMap::new(),
        }
    }
}

impl Core {
    pub(super) fn start_joining(&mut self, now: Time) {
        self.timers.set(TimerKind::Join, now);
        self.timers
            .set(TimerKind::JoinReport, now + self.config.timing.join_report);
    }

    pub(super) fn join_round(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Joining(_)) {
            return;
        }
        let seeds = self.config.seeds.clone();
        if seeds.is_empty() {
            self.resolved(now, Vec::new());
        } else {
            self.outputs.push_back(Output::Resolve { seeds });
        }
    }

    pub(super) fn resolved(
        &mut self,
        now: Time,
        seeds: Vec<(String, Result<Vec<SocketAddr>, String>)>,
    ) {
        let own = self.config.advertise;
        let mut addresses = BTreeSet::new();
        let mut unresolved = Vec::new();
        for (seed, result) in seeds {
            match result {
                Ok(found) => addresses.extend(found),
                Err(error) => unresolved.push((seed, error)),
            }
        }
        addresses.remove(&own);
        self.seeds = addresses.iter().copied().collect();
        let Phase::Joining(join) = &mut self.phase else {
            return;
        };
        let lookups_failed = !unresolved.is_empty();
        join.outcomes.clear();
        join.outcomes.extend(unresolved);
        for peer in &self.restored.peers {
            if *peer != own {
                addresses.insert(*peer);
            }
        }
        for (address, _) in join.expecting.values() {
            if *address != own {
                addresses.insert(*address);
            }
        }
        join.rounds += 1;
        join.untrusted = None;
        join.reached = false;
        if addresses.is_empty() && !lookups_failed {
            self.nobody_to_ask(now);
            return;
        }
        join.waiting = addresses.into_iter().collect();
        self.dial_candidates(now);
    }

    fn nobody_to_ask(&mut self, now: Time) {
        if self.cluster.is_some() {
            self.become_active(now);
        } else if self.config.expect.is_none_or(|wanted| wanted == 1) {
            self.bootstrap(now);
        } else {
            self.schedule_round(now);
        }
    }

    fn dial_candidates(&mut self, now: Time) {
        let Phase::Joining(join) = &mut self.phase else {
            return;
        };
        let mut next = Vec::new();
        while join.dialling < AT_ONCE
            && let Some(address) = join.waiting.pop()
        {
            join.dialling += 1;
            next.push(address);
        }
        let round_is_over = join.dialling == 0;
        for address in next {
            self.dial(address, Purpose::Join);
        }
        if round_is_over {
            self.round_is_over(now);
        }
    }

    // Nobody accepted in this round.
    fn round_is_over(&mut self, now: Time) {
        let Phase::Joining(join) = &mut self.phase else {
            return;
        };
        if let (Some(address), false) = (join.untrusted, join.reached) {
            self.stop(Stop::Refused(Refusal::WrongKey { address }));
            return;
        }
        // It belongs to a cluster already, and may well be the first one back after a power
        // cut: it goes on alone, and looks for the others for ever.
        let waited = now.saturating_since(join.started) >= Duration::from_millis(1500);
        if self.cluster.is_some() && waited {
            self.warn(
                "resumed_alone",
                "no known peer answers; this node goes on alone and keeps looking for the others"
                    .to_owned(),
            );
            self.become_active(now);
            return;
        }
        self.schedule_round(now);
    }

    fn schedule_round(&mut self, now: Time) {
        let Phase::Joining(join) = &self.phase else {
            return;
        };
        let pause = (PAUSE_MIN * (1 << join.rounds.min(5))).min(PAUSE_MAX);
        let pause = self.jitter(pause);
        self.timers.set(TimerKind::Join, now + pause);
    }

    /// A candidate could not be reached, or did not accept: the next one.
    pub(super) fn join_attempt_failed(
        &mut self,
        now: Time,
        address: SocketAddr,
        error: Option<DialError>,
        text: String,
    ) {
        let Phase::Joining(join) = &mut self.phase else {
            return;
        };
        join.dialling = join.dialling.saturating_sub(1);
        match error {
            Some(DialError::Untrusted) => join.untrusted = Some(address),
            // It answered in our language, or not at all.
            None => join.reached = true,
            Some(_) => {}
        }
        join.outcomes.insert(address.to_string(), text);
        self.dial_candidates(now);
    }

    pub(super) fn join_report(&mut self, now: Time) {
        let Phase::Joining(join) = &self.phase else {
            return;
        };
        let event = Event::JoinWaiting {
            waited_ms: millis(now.saturating_since(join.started)),
            seeds: join
                .outcomes
                .iter()
                .map(|(seed, outcome)| format!("{seed}: {outcome}"))
                .collect(),
            expect: self.config.expect,
            listed: self.config.expect.map(|_| join.expecting.len() + 1),
        };
        self.emit(event);
        self.timers
            .set(TimerKind::JoinReport, now + self.config.timing.join_report);
    }

    /// What a node that expects others tells them.
    pub(super) fn expecting(&self) -> Expecting {
        let Phase::Joining(join) = &self.phase else {
            return Expecting::default();
        };
        let mut known: Vec<_> = join
            .expecting
            .iter()
            .map(|(id, (address, _))| (*id, *address))
            .collect();
        known.push((self.table.own_id(), self.config.advertise));
        Expecting {
            wanted: self.config.expect.unwrap_or(0),
            known,
        }
    }

    /// Somebody else expects too.
    pub(super) fn heard_expecting(&mut self, now: Time, from: NodeId, heard: &Expecting) {
        let (own, wanted) = (self.table.own_id(), self.config.expect);
        let Phase::Joining(join) = &mut self.phase else {
            return;
        };
        let Some(wanted) = wanted else { return };
        if heard.wanted == 0 || heard.known.len() > 1000 {
            return;
        }
        let list: BTreeSet<NodeId> = heard.known.iter().map(|(id, _)| *id).collect();
        for (id, address) in &heard.known {
            if *id == own {
                continue;
            }
            let entry = join
                .expecting
                .entry(*id)
                .or_insert_with(|| (*address, BTreeSet::new()));
            entry.0 = *address;
            if *id == from {
                entry.1.clone_from(&list);
            }
        }
        // All list each other, and there are enough: the lowest id begins.
        let mut all: BTreeSet<NodeId> = join.expecting.keys().copied().collect();
        all.insert(own);
        let agreed = all.len() >= wanted as usize
            && join
                .expecting
                .values()
                .all(|(_, lists)| all.iter().all(|id| lists.contains(id)));
        if agreed && all.first() == Some(&own) && self.cluster.is_none() {
            self.bootstrap(now);
        } else if all.len() > 1 && self.timers.is_set(TimerKind::Join) {
            self.timers.set_by(TimerKind::Join, now + PAUSE_MIN);
        }
    }

    fn bootstrap(&mut self, now: Time) {
        self.cluster = Some(Cluster {
            id: ClusterId(self.rng.random()),
            name: self.config.cluster.clone(),
            settings: self.config.settings,
        });
        self.restored.founder = true;
        self.count("bootstraps");
        self.become_active(now);
    }

    /// It is a member, and says so.
    pub(super) fn become_active(&mut self, now: Time) {
        let Some(cluster) = self.cluster.clone() else {
            return;
        };
        self.phase = Phase::Active;
        self.timers.clear(TimerKind::Join);
        self.timers.clear(TimerKind::JoinReport);
        self.persist();
        self.emit(Event::AgentReady {
            name: self.config.name.clone(),
            id: self.config.node,
            generation: self.config.generation,
            cluster: cluster.name,
            cluster_id: cluster.id,
            members: self.living(),
            gossip: self.config.advertise,
            resp: self.config.resp,
            http: self.config.http,
        });
        self.spread_own_record(now);
        self.timers.set(TimerKind::Mesh, now);
        self.place_first(now);
        let pause = self.jitter(self.config.timing.redial);
        self.timers.set(TimerKind::Redial, now + pause);
        let pause = self.jitter(self.config.timing.push_pull);
        self.timers.set(TimerKind::PushPull, now + pause);
        self.timers
            .set(TimerKind::Forget, now + Duration::from_secs(60));
    }

    /// Writes down what must survive.
    pub(super) fn persist(&mut self) {
        let peers = self.known_peers();
        self.persisted_peers.clone_from(&peers);
        self.outputs.push_back(Output::Persist(Box::new(Durable {
            node: self.config.node,
            generation: self.config.generation,
            cluster: self.cluster.clone(),
            peers,
            founder: self.restored.founder,
        })));
    }

    pub(super) fn persist_peers(&mut self) {
        if self.known_peers() != self.persisted_peers {
            self.persist();
        }
    }

    /// Addresses for finding the cluster again: members first, then what was known before.
    fn known_peers(&self) -> Vec<SocketAddr> {
        let mut entries: Vec<_> = self.table.others().filter(|e| e.record.is_some()).collect();
        entries.sort_by_key(|entry| (!entry.is_living(), entry.identity.id));
        let mut peers: Vec<SocketAddr> = entries
            .iter()
            .map(|entry| entry.identity.addr)
            .chain(self.restored.peers.iter().copied())
            .collect();
        let mut seen = BTreeSet::new();
        peers.retain(|peer| *peer != self.config.advertise && seen.insert(*peer));
        peers.truncate(MAX_KNOWN_PEERS);
        peers
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
