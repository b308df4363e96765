//! foca and its timers.
//!
//! | file | subject |
//! |---|---|
//! | `probe` | the probe in flight, and what its end says about this node |
//! | `schedule` | the delays that foca asks for, and those that it gets |
//! | `effects` | what foca did and wants, taken over after each call |
//!
//! foca's gossip tick is replaced by [`Detector::gossip`], so that an idle node sleeps.

mod effects;
mod probe;
mod schedule;

use std::{
    collections::{BTreeMap, VecDeque},
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{Foca, Member, State, Timer};
use rand::rngs::ChaCha8Rng;

use self::{effects::Effects, probe::Probe};
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
    /// About this member foca may know something new.
    Touched(NodeId),
    /// An accepted packet said this of a member; foca knows something new of it only if
    /// [`Seen::is_news`].
    Claimed(Seen),
    /// News arrived from an accepted sender.
    News(NodeId, News),
    /// A packet of this member was accepted: it lives, or did when it sent it.
    Heard(NodeId),
    /// This member answered our own probe directly: UDP gets through both ways.
    Reached(NodeId),
    /// A round trip to this member was measured that lengthens its timeout beyond the least.
    Slow(NodeId),
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

impl Seen {
    /// Whether foca takes this over, if what it has so far is what is given. Its own rule: of
    /// two identities the larger holds; of one, doubt outweighs life at the same incarnation, a
    /// larger incarnation outweighs doubt, and down outweighs everything.
    ///
    /// foca can only be asked by a pass over its whole list, and nearly all of what packets say
    /// is known already.
    pub fn is_news(&self, identity: &Identity, incarnation: u16, state: State) -> bool {
        if self.identity != *identity {
            return self.identity.rank() >= identity.rank();
        }
        match (state, self.state) {
            (State::Down, _) => false,
            (_, State::Down) => true,
            (State::Alive, State::Suspect) => self.incarnation >= incarnation,
            (State::Alive | State::Suspect, _) => self.incarnation > incarnation,
        }
    }

    pub(super) fn of(member: &Member<Identity>) -> Self {
        Self {
            identity: *member.id(),
            incarnation: member.incarnation(),
            state: member.state(),
        }
    }
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
        let known = self.rtt.entry(id).or_default();
        let before = known.smoothed().is_some() && is_slow(known, &self.timing);
        known.sample(rtt);
        if is_slow(known, &self.timing) && !before {
            self.notes.push_back(Note::Slow(id));
        }
    }

    /// Whether a member is given more time than the least: the way to it is long, or was not
    /// measured, or while one of the two had other things to do.
    pub fn is_slow(&self, id: NodeId) -> bool {
        self.rtt
            .get(&id)
            .is_none_or(|known| is_slow(known, &self.timing))
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
            .map(Seen::of)
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

    /// We go on with a larger generation.
    pub fn take_generation(&mut self, now: Time, generation: u64) {
        let identity = Identity {
            generation,
            renewal: 0,
            ..self.identity()
        };
        self.probe = None;
        self.incarnation = 0;
        let mut effects = Effects::default();
        let result = self.foca.change_identity(identity, &mut effects);
        self.settle(now, result, effects);
        // foca has stopped its timers, and looks only now whether it knows anybody.
        let mut effects = Effects::default();
        let result = self
            .foca
            .apply_many(std::iter::empty(), false, &mut effects);
        self.settle(now, result, effects);
    }

    /// Our incarnation. foca keeps its own to itself, so its rule is followed here.
    pub fn incarnation(&self) -> u16 {
        self.incarnation
    }

    /// We are suspected at an incarnation: refutes it, unless that was done before.
    /// `doubt` if this speaks against ourselves too: Lifeguard lowers our local health.
    pub fn refute(&mut self, now: Time, incarnation: u16, doubt: bool) {
        if incarnation < self.incarnation {
            return;
        }
        if doubt && self.detection.lifeguard {
            self.health.worsen(1);
        }
        let Some(next) = incarnation.checked_add(1) else {
            // There is no larger one: only a new identity refutes it.
            self.renew(now);
            return;
        };
        self.incarnation = next;
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

    /// We were away: what waits to be said of others is out of date. The own record takes its
    /// place.
    pub fn retract(&mut self, own_record: &News) {
        if self.foca.custom_broadcast_backlog() > 0 {
            self.desk.lock().retract = true;
            self.spread(own_record);
        }
    }

    /// Sends what waits to a few members.
    pub fn gossip(&mut self, now: Time) {
        let mut effects = Effects::default();
        let result = self.foca.gossip(&mut effects);
        self.settle(now, result, effects);
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
}

fn is_slow(rtt: &RttEstimator, timing: &Timing) -> bool {
    let (min, max) = (timing.probe_timeout_min, timing.probe_timeout_max);
    rtt.timeout(min, max) > min
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transmissions_follow_the_cluster_size_rounded_up() {
        let of = |members| max_transmissions(members).get();
        assert_eq!([1, 9, 10, 99, 100, 999].map(of), [4, 4, 8, 8, 12, 12]);
    }
}
