//! foca and its timers.
//!
//! foca asks for delays; what it gets is decided here:
//!
//! ```text
//!   probe n starts            direct answer due         probe n fails     probe n+1 starts
//!        |-- timeout × health ----->|                        |                  |
//!        |                          |-- 3 × timeout × health |                  |
//!        |--------------------- period × health ---------------------------------|
//! ```
//!
//! - `timeout` comes from measured round trips; `health` is Lifeguard's factor, 1 to 9.
//! - A probe that is not answered directly is decided early instead of at the period's end.
//! - `ChangeSuspectToDown` is dropped: only the prober whose probe failed would arm it, and
//!   its suspicion would die with it. Every member runs its own (see [`super::suspicion`]).
//! - foca's gossip tick is replaced by [`Detector::gossip`], so that an idle node sleeps.
//! - Timers are queued by (when, sequence): foca's own order compares kinds only.

use std::{
    collections::{BTreeMap, VecDeque},
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{Foca, Header, Member, Message, Notification, OwnedNotification, Runtime, State, Timer};
use rand::{RngExt, rngs::ChaCha8Rng};

use super::{
    foca_codec::{FocaCodec, NewsDesk, SharedDesk},
    health::LocalHealth,
    identity::Identity,
    rtt::{LossEstimator, RttEstimator},
};
use crate::{
    config::{Detection, Timing},
    id::NodeId,
    time::Time,
    wire::{codec, message::News},
};

/// Members asked to probe on this node's behalf, and fan-out of gossip.
const FAN_OUT: usize = 3;
/// News that waits to be sent, at most; beyond that only synchronisation spreads it.
pub const MAX_BACKLOG: usize = 4096;

/// What happened inside, in order.
#[derive(Debug)]
pub enum Note {
    /// A packet to send.
    Send(Identity, Vec<u8>),
    /// About these members foca may know something new.
    Touched(NodeId),
    /// News arrived from an accepted sender.
    News(NodeId, News),
    /// A packet of this member was accepted: it lives, or did when it sent it.
    Heard(NodeId),
    /// Our probe of this member failed; it had been silent since the given time.
    ProbeFailed(Identity, Time),
    /// A probe was not answered directly: the stream may be tried too.
    ProbeLate(Identity),
    /// Somebody asks us to probe a member: we owe a nack if it does not answer in time.
    AskedToProbe {
        /// Who asks.
        by: NodeId,
        /// About whom.
        target: NodeId,
        /// The probe's number.
        probe: u8,
    },
    /// We answered such a request: nothing is owed any more.
    Answered {
        /// Who asked.
        by: NodeId,
        /// The probe's number.
        probe: u8,
    },
    /// We counted as down somewhere and have a new identity now.
    Renewed(Identity),
}

/// What foca sees of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The newest identity.
    pub identity: Identity,
    /// Its incarnation.
    pub incarnation: u16,
    /// Its state.
    pub state: State,
}

/// Drives foca.
pub struct Detector {
    foca: Foca<Identity, FocaCodec, ChaCha8Rng, NewsDesk>,
    desk: SharedDesk,
    timing: Timing,
    detection: Detection,
    timers: BTreeMap<(Time, u64), Timer<Identity>>,
    sequence: u64,
    rng: ChaCha8Rng,
    health: LocalHealth,
    loss: LossEstimator,
    rtt: BTreeMap<NodeId, RttEstimator>,
    probe: Option<Probe>,
    /// foca's token of the timers that count; others are leftovers of an earlier identity.
    token: foca::TimerToken,
    incarnation: u16,
    config: foca::Config,
    notes: VecDeque<Note>,
    /// Errors that foca reported, by kind; shown as counters.
    pub errors: BTreeMap<&'static str, u64>,
    /// Probes that failed and probes that were started.
    pub probes: (u64, u64),
}

/// The probe in flight.
#[derive(Clone, Copy, Debug)]
struct Probe {
    target: Identity,
    number: u8,
    sent: Time,
    answered: bool,
    indirect: bool,
    nacks_owed: u8,
}

#[derive(Default)]
struct Effects {
    sends: Vec<(Identity, Vec<u8>)>,
    timers: Vec<(Timer<Identity>, Duration)>,
    notes: Vec<OwnedNotification<Identity>>,
}

impl Runtime<Identity> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        self.notes.push(notification.to_owned());
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((event, after));
    }
}

impl Detector {
    /// A detector that knows nobody yet. `max_packet` is the room that a datagram leaves to
    /// foca (bytes).
    pub fn new(
        identity: Identity,
        timing: &Timing,
        detection: Detection,
        max_packet: usize,
        rng: ChaCha8Rng,
        foca_rng: ChaCha8Rng,
    ) -> Self {
        let desk = SharedDesk::new(identity);
        let config = foca::Config {
            probe_period: timing.probe_period,
            probe_rtt: timing.probe_timeout_max,
            num_indirect_probes: NonZeroUsize::MIN.saturating_add(FAN_OUT - 1),
            max_transmissions: max_transmissions(1),
            // Never used: see the module's text.
            suspect_to_down_after: timing.unresponsive,
            remove_down_after: None,
            max_packet_size: NonZeroUsize::MIN.saturating_add(max_packet - 1),
            notify_down_members: true,
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: None,
        };
        Self {
            foca: Foca::with_custom_broadcast(
                identity,
                config.clone(),
                foca_rng,
                FocaCodec { desk: desk.clone() },
                NewsDesk { desk: desk.clone() },
            ),
            desk,
            timing: timing.clone(),
            detection,
            timers: BTreeMap::new(),
            sequence: 0,
            rng,
            health: LocalHealth::default(),
            loss: LossEstimator::default(),
            rtt: BTreeMap::new(),
            probe: None,
            token: 0,
            incarnation: 0,
            config,
            notes: VecDeque::new(),
            errors: BTreeMap::new(),
            probes: (0, 0),
        }
    }

    /// Who we are now.
    pub fn identity(&self) -> Identity {
        *self.foca.identity()
    }

    /// Lifeguard's score.
    pub fn health(&self) -> LocalHealth {
        self.health
    }

    /// How much is lost on the way to members that live.
    pub fn loss(&self) -> LossEstimator {
        self.loss
    }

    /// The smoothed round-trip time of a member, once measured.
    pub fn rtt(&self, id: NodeId) -> Option<Duration> {
        self.rtt.get(&id).and_then(RttEstimator::smoothed)
    }

    /// What happened since the last call, oldest first; drain it after each call.
    pub fn next_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// When a timer is due.
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    /// A round trip to a member was measured outside of a probe.
    pub fn measured(&mut self, id: NodeId, rtt: Duration) {
        self.rtt.entry(id).or_default().sample(rtt);
    }

    /// News that waits to be sent.
    pub fn backlog(&self) -> usize {
        self.foca.updates_backlog() + self.foca.custom_broadcast_backlog()
    }

    /// How long to wait for an answer of a member, health included.
    pub fn timeout(&self, id: NodeId) -> Duration {
        let rtt = self.rtt.get(&id).copied().unwrap_or_default();
        let timeout = rtt.timeout(self.timing.probe_timeout_min, self.timing.probe_timeout_max);
        self.loss.stretch(timeout) * self.factor()
    }

    /// What foca knows of some members: one pass over its list.
    pub fn look_up(&self, ids: &std::collections::BTreeSet<NodeId>) -> Vec<Seen> {
        self.foca
            .iter_membership_state()
            .filter(|member| ids.contains(&member.id().id))
            .map(|member| Seen {
                identity: *member.id(),
                incarnation: member.incarnation(),
                state: member.state(),
            })
            .collect()
    }

    /// A packet from a sender that was admitted.
    pub fn handle_packet(&mut self, now: Time, packet: &[u8]) {
        let mut effects = Effects::default();
        let result = self.foca.handle_data(packet, &mut effects);
        self.settle(now, result, effects);
    }

    /// Tells foca what was learnt outside: it spreads it if `spread`.
    pub fn apply(&mut self, now: Time, member: Member<Identity>, spread: bool) {
        self.notes.push_back(Note::Touched(member.id().id));
        let mut effects = Effects::default();
        let result = self
            .foca
            .apply_many(std::iter::once(member), spread, &mut effects);
        self.settle(now, result, effects);
    }

    /// We count as down somewhere: takes a new identity.
    pub fn renew(&mut self, now: Time) {
        let own = Member::down(self.identity());
        let mut effects = Effects::default();
        let result = self
            .foca
            .apply_many(std::iter::once(own), true, &mut effects);
        self.settle(now, result, effects);
    }

    /// Our incarnation. foca keeps its own to itself, so its rule is followed here.
    pub fn incarnation(&self) -> u16 {
        self.incarnation
    }

    /// We are suspected at an incarnation: refutes it, unless that was done before.
    pub fn refute(&mut self, now: Time, incarnation: u16) {
        if incarnation < self.incarnation {
            return;
        }
        self.incarnation = incarnation.saturating_add(1);
        if self.detection.lifeguard {
            self.health.worsen(1);
        }
        let own = Member::new(self.identity(), incarnation, State::Suspect);
        let mut effects = Effects::default();
        let result = self
            .foca
            .apply_many(std::iter::once(own), true, &mut effects);
        self.settle(now, result, effects);
    }

    /// Spreads news with the next packets.
    pub fn spread(&mut self, news: &News) {
        if self.foca.custom_broadcast_backlog() >= MAX_BACKLOG {
            self.count("news_dropped");
            return;
        }
        let bytes = codec::encode(news);
        if bytes.len() + 160 > self.config.max_packet_size.get() {
            // It would never fit beside a header, and stay in the queue for ever:
            // synchronisation carries it.
            self.count("news_too_large");
            return;
        }
        if self.foca.add_broadcast(&bytes).is_err() {
            self.count("news_refused");
        }
    }

    /// Sends what waits to a few members.
    pub fn gossip(&mut self, now: Time) {
        let mut effects = Effects::default();
        let result = self.foca.gossip(&mut effects);
        self.settle(now, result, effects);
    }

    /// Fires what is due.
    pub fn tick(&mut self, now: Time) {
        while let Some((at, sequence)) = self.timers.keys().next().copied() {
            if at > now {
                break;
            }
            if let Some(timer) = self.timers.remove(&(at, sequence)) {
                self.fire(now, timer);
            }
        }
    }

    /// This node itself was late: the probe in flight says nothing about its target, and this
    /// node trusts itself less.
    pub fn excuse(&mut self, now: Time) {
        if self.detection.lifeguard {
            self.health.worsen(1);
        }
        if self.probe.is_some_and(|probe| !probe.answered) {
            self.acknowledge_probe(now);
        }
        // What waited in the queue is not fired late all at once: it is due from now.
        let late: Vec<_> = self
            .timers
            .keys()
            .copied()
            .filter(|(at, _)| *at < now)
            .collect();
        for key in late {
            if let Some(timer) = self.timers.remove(&key) {
                self.timers.insert((now, key.1), timer);
            }
        }
    }

    /// The target of the probe in flight proved otherwise that it lives.
    pub fn alive_otherwise(&mut self, now: Time, id: NodeId) {
        if self
            .probe
            .is_some_and(|probe| probe.target.id == id && !probe.answered)
        {
            self.acknowledge_probe(now);
        }
    }

    /// A helper says that it lives, but heard nothing of the target either.
    pub fn nacked(&mut self, target: NodeId, number: u8) {
        if let Some(probe) = &mut self.probe
            && probe.target.id == target
            && probe.number == number
        {
            probe.nacks_owed = probe.nacks_owed.saturating_sub(1);
        }
    }

    /// The cluster has that many members now, this one included.
    pub fn set_cluster_size(&mut self, members: usize) {
        let wanted = max_transmissions(members);
        if wanted != self.config.max_transmissions {
            self.config.max_transmissions = wanted;
            if self.foca.set_config(self.config.clone()).is_err() {
                self.count("config_refused");
            }
        }
    }

    /// Forgets a member for good.
    pub fn forget(&mut self, now: Time, identity: Identity) {
        self.rtt.remove(&identity.id);
        let mut effects = Effects::default();
        let result = self
            .foca
            .handle_timer(Timer::RemoveDown(identity), &mut effects);
        self.settle(now, result, effects);
    }

    fn factor(&self) -> u32 {
        if self.detection.lifeguard {
            self.health.factor()
        } else {
            1
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.errors.entry(what).or_default() += 1;
    }

    fn fire(&mut self, now: Time, timer: Timer<Identity>) {
        if let Timer::SendIndirectProbe { token, .. } = timer
            && token == self.token
            && let Some(probe) = &mut self.probe
            && !probe.answered
        {
            probe.indirect = true;
            let target = probe.target;
            self.notes.push_back(Note::ProbeLate(target));
            self.decide_early(now, target.id);
        }
        if let Timer::ProbeRandomMember(token) = timer
            && token == self.token
        {
            self.close_probe();
        }
        let mut effects = Effects::default();
        let result = self.foca.handle_timer(timer, &mut effects);
        self.settle(now, result, effects);
    }

    // The probe is decided when the next one starts: pull that forward.
    fn decide_early(&mut self, now: Time, target: NodeId) {
        let at = now + self.timeout(target) * 3;
        let queued = self
            .timers
            .iter()
            .find(|(_, timer)| matches!(timer, Timer::ProbeRandomMember(_)))
            .map(|(key, _)| *key);
        if let Some(key) = queued
            && key.0 > at
            && let Some(timer) = self.timers.remove(&key)
        {
            self.timers.insert((at, key.1), timer);
        }
    }

    // Lifeguard's accounting of a probe that is over.
    fn close_probe(&mut self) {
        let Some(probe) = self.probe.take() else {
            return;
        };
        self.probes.1 += 1;
        if probe.answered {
            self.health.improve();
            return;
        }
        self.probes.0 += 1;
        if self.detection.lifeguard {
            // Silent helpers speak against us; if all of them answered, against the target.
            self.health
                .worsen(probe.nacks_owed.min(super::health::WORST));
        }
        self.notes
            .push_back(Note::ProbeFailed(probe.target, probe.sent));
    }

    // As if the target's answer had come: foca has no other way to void a probe.
    fn acknowledge_probe(&mut self, now: Time) {
        let Some(probe) = &mut self.probe else { return };
        probe.answered = true;
        let (target, number) = (probe.target, probe.number);
        let ids = std::iter::once(target.id).collect();
        let Some(seen) = self.look_up(&ids).pop() else {
            return;
        };
        let header = Header {
            src: target,
            src_incarnation: seen.incarnation,
            dst: self.identity(),
            message: Message::Ack(number),
        };
        let mut packet = Vec::with_capacity(64);
        let mut codec = FocaCodec {
            desk: self.desk.clone(),
        };
        if foca::Codec::encode_header(&mut codec, &header, &mut packet).is_err() {
            self.count("encode");
            return;
        }
        self.handle_packet(now, &packet);
    }

    // Takes over what foca did and wants.
    fn settle(&mut self, now: Time, result: Result<(), foca::Error>, effects: Effects) {
        if let Err(error) = result {
            self.count(error_kind(&error));
        }
        self.desk.lock().own = *self.foca.identity();
        for notification in effects.notes {
            self.note(now, notification);
        }
        for (timer, after) in effects.timers {
            self.schedule(now, timer, after);
        }
        for (to, data) in effects.sends {
            self.notes.push_back(Note::Send(to, data));
        }
        let (seen, news) = {
            let mut desk = self.desk.lock();
            (
                std::mem::take(&mut desk.seen),
                std::mem::take(&mut desk.news),
            )
        };
        for member in seen {
            self.notes.push_back(Note::Touched(member.id().id));
        }
        if !news.is_empty() {
            // foca hands over broadcasts only of packets whose sender it accepted, and one
            // call handles one packet, whose sender was noted above.
            let sender = self.notes.iter().rev().find_map(|note| match note {
                Note::Heard(id) => Some(*id),
                _ => None,
            });
            if let Some(sender) = sender {
                self.notes
                    .extend(news.into_iter().map(|news| Note::News(sender, news)));
            }
        }
    }

    fn schedule(&mut self, now: Time, timer: Timer<Identity>, after: Duration) {
        if let Timer::ProbeRandomMember(token) = timer {
            self.token = token;
        }
        let delay = match timer {
            Timer::ChangeSuspectToDown { .. } => return,
            Timer::SendIndirectProbe { probed_id, .. } => self.timeout(probed_id.id),
            Timer::ProbeRandomMember(_) if self.probe.is_none() => {
                // The first probe comes at a random moment, so that nodes started together do
                // not probe in step.
                let period = u64::try_from(self.timing.probe_period.as_nanos()).unwrap_or(u64::MAX);
                Duration::from_nanos(self.rng.random_range(0..period))
            }
            Timer::ProbeRandomMember(_) => self.timing.probe_period * self.factor(),
            _ => after,
        };
        self.sequence += 1;
        self.timers.insert((now + delay, self.sequence), timer);
    }

    fn note(&mut self, now: Time, notification: OwnedNotification<Identity>) {
        match notification {
            OwnedNotification::MemberUp(id) | OwnedNotification::MemberDown(id) => {
                self.notes.push_back(Note::Touched(id.id));
            }
            OwnedNotification::Rename(_, id) => self.notes.push_back(Note::Touched(id.id)),
            OwnedNotification::Rejoin(identity) => {
                self.probe = None;
                self.incarnation = 0;
                self.notes.push_back(Note::Renewed(identity));
            }
            OwnedNotification::DataReceived(header) => self.received(now, &header),
            OwnedNotification::DataSent(header) => self.sent(now, &header),
            // Told by `close_probe`, which knows since when the target has been silent.
            OwnedNotification::ProbeFailed(_, id) => self.notes.push_back(Note::Touched(id.id)),
            OwnedNotification::Idle | OwnedNotification::Defunct => self.probe = None,
            OwnedNotification::Active => {}
        }
    }

    fn sent(&mut self, now: Time, header: &Header<Identity>) {
        match header.message {
            Message::Ping(number) => {
                self.probe = Some(Probe {
                    target: header.dst,
                    number,
                    sent: now,
                    answered: false,
                    indirect: false,
                    nacks_owed: 0,
                });
            }
            Message::PingReq { .. } => {
                if let Some(probe) = &mut self.probe {
                    probe.nacks_owed += 1;
                }
            }
            Message::ForwardedAck { probe_number, .. } => self.notes.push_back(Note::Answered {
                by: header.dst.id,
                probe: probe_number,
            }),
            _ => {}
        }
    }

    fn received(&mut self, now: Time, header: &Header<Identity>) {
        let source = header.src.id;
        self.notes.push_back(Note::Heard(source));
        self.notes.push_back(Note::Touched(source));
        match header.message {
            Message::Ack(number) => {
                if let Some(probe) = &mut self.probe
                    && probe.target.id == source
                    && probe.number == number
                {
                    let rtt = now.saturating_since(probe.sent);
                    // An answer after the indirect stage came late: that is loss, or a slow
                    // member, and both shall lengthen windows.
                    let late = probe.indirect;
                    if !std::mem::replace(&mut probe.answered, true) {
                        self.rtt.entry(source).or_default().sample(rtt);
                        self.loss.sample(late);
                    }
                }
            }
            Message::ForwardedAck {
                origin,
                probe_number,
            } => {
                if let Some(probe) = &mut self.probe
                    && probe.target == origin
                    && probe.number == probe_number
                {
                    probe.nacks_owed = probe.nacks_owed.saturating_sub(1);
                    if !probe.answered {
                        probe.answered = true;
                        self.loss.sample(true);
                    }
                }
            }
            Message::PingReq {
                target,
                probe_number,
            } => self.notes.push_back(Note::AskedToProbe {
                by: source,
                target: target.id,
                probe: probe_number,
            }),
            _ => {}
        }
    }
}

/// 4 · ⌈log10(n + 1)⌉, in integers: foca's own rounds down.
fn max_transmissions(members: usize) -> NonZeroU8 {
    let mut digits = 1u8;
    let mut reach = 10;
    while reach < members + 1 {
        digits += 1;
        reach = reach.saturating_mul(10);
    }
    NonZeroU8::MIN.saturating_add(4 * digits - 1)
}

fn error_kind(error: &foca::Error) -> &'static str {
    match error {
        foca::Error::DataTooBig => "foca_too_big",
        foca::Error::NotUndead => "foca_not_undead",
        foca::Error::SameIdentity => "foca_same_identity",
        foca::Error::NotConnected => "foca_not_connected",
        foca::Error::IncompleteProbeCycle => "foca_incomplete_probe",
        foca::Error::DataFromOurselves => "foca_from_ourselves",
        foca::Error::IndirectForOurselves => "foca_indirect_for_ourselves",
        foca::Error::MalformedPacket => "foca_malformed",
        foca::Error::Encode(_) => "foca_encode",
        foca::Error::Decode(_) => "foca_decode",
        foca::Error::CustomBroadcast(_) => "foca_broadcast",
        foca::Error::InvalidConfig => "foca_config",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transmissions_follow_the_cluster_size_rounded_up() {
        let of = |members| max_transmissions(members).get();
        assert_eq!([1, 9, 10, 99, 100, 999].map(of), [4, 4, 8, 8, 12, 12]);
    }
}
