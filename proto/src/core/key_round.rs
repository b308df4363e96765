//! One round of a change of keys: the same request to every living member.
//!
//! ```text
//!   stream open ------------------------------> [KeyRequest] -> [KeyReply]
//!   none        -> dial, so many at once -> handshake -> [KeyRequest] -> [KeyReply] -> closed again,
//!                                                                     unless the mesh wants it
//! ```
//!
//! In large clusters most members have no stream to each other. Whoever cannot be reached, or does
//! not answer in time, is named with the reason; who joins meanwhile is asked too.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{Core, streams::Purpose, timers::TimerKind};
use crate::{
    id::NodeId,
    input::StreamId,
    time::Time,
    wire::message::{Frame, KeyAction, KeyState},
};

/// Members have so long to answer, once asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// A round takes at most this long. Two of them fit into the minute after which interfaces give up.
const WHOLE_ROUND: Duration = Duration::from_secs(25);
/// Members that are dialled, or asked over such a stream, at once.
const AT_ONCE: usize = 16;
/// A stream that breaks before the answer is replaced so many times.
const REPEATS: u8 = 2;

/// How a round stands.
#[derive(Debug)]
pub(super) struct Round {
    number: u64,
    action: KeyAction,
    ends: Time,
    /// Everybody who was, is or will be asked.
    members: BTreeSet<NodeId>,
    /// Without a stream, and not dialled yet.
    unreached: VecDeque<NodeId>,
    under_way: BTreeMap<NodeId, UnderWay>,
    pub(super) states: BTreeMap<NodeId, KeyState>,
    /// By name, with the reason.
    pub(super) missing: Vec<(String, String)>,
}

/// A member that was dialled or asked, and has not answered.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    /// Over which stream it was asked; `None` while that is being opened.
    asked: Option<StreamId>,
    dialled: bool,
    until: Time,
    repeats: u8,
}

impl Round {
    pub(super) fn new(now: Time, number: u64, action: KeyAction) -> Self {
        Self {
            number,
            action,
            ends: now + WHOLE_ROUND,
            members: BTreeSet::new(),
            unreached: VecDeque::new(),
            under_way: BTreeMap::new(),
            states: BTreeMap::new(),
            missing: Vec::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.unreached.is_empty() && self.under_way.is_empty()
    }

    fn next(&self) -> Time {
        let first = self.under_way.values().map(|member| member.until).min();
        first.map_or(self.ends, |first| first.min(self.ends))
    }
}

impl Core {
    /// Begins the round of the present operation: everybody who lives is asked, this node too.
    pub(super) fn begin_key_round(&mut self, now: Time) {
        let own = self.table.own_id();
        let Some(round) = self.key_round() else {
            return;
        };
        round.members.insert(own);
        let action = round.action.clone();
        match self.change_key(action) {
            Ok(state) => {
                if let Some(round) = self.key_round() {
                    round.states.insert(own, state);
                }
            }
            Err(reason) => self.key_missing(own, reason),
        }
        self.key_round_goes_on(now);
    }

    /// Asks, dials, gives up, and ends the round: whatever can be done now.
    pub(super) fn key_round_goes_on(&mut self, now: Time) {
        self.give_up_on_the_silent(now);
        self.ask_newcomers(now);
        self.dial_for_keys(now);
        let Some(round) = self.key_round() else {
            return;
        };
        if round.is_over() {
            self.timers.clear(TimerKind::Keys);
            self.key_round_is_over(now);
        } else {
            let next = round.next();
            self.timers.set(TimerKind::Keys, next);
        }
    }

    // Its stream is open: it is asked if its turn has come.
    fn ask_for_keys(&mut self, now: Time, id: NodeId) {
        let stream = self.table.get(id).and_then(|entry| entry.stream);
        let Some(round) = self.key_round() else {
            return;
        };
        let Some(stream) = stream else { return };
        let (operation, action) = (round.number, round.action.clone());
        match round.under_way.get_mut(&id) {
            Some(member) if member.asked.is_none() => {
                member.asked = Some(stream);
                member.until = now + PATIENCE;
                self.send_frame(stream, &Frame::KeyRequest { operation, action });
            }
            // It answers over another stream.
            Some(_) => {}
            // It came too late.
            None => self.close_unless_wanted(id),
        }
    }

    /// A stream has opened: perhaps the one over which a member is to be asked.
    pub(super) fn key_stream_opened(&mut self, now: Time, stream: StreamId, id: NodeId) {
        let purpose = self.streams.get(&stream).and_then(|known| known.purpose);
        if let Some(Purpose::Keys(wanted)) = purpose
            && wanted != id
        {
            self.no_stream_for_keys(now, wanted, "another node answers at its address");
        }
        if self.key_operation.is_some() {
            self.ask_for_keys(now, id);
        } else {
            self.close_unless_wanted(id);
        }
    }

    /// A member answered.
    pub(super) fn key_replied(
        &mut self,
        now: Time,
        from: NodeId,
        number: u64,
        outcome: Result<KeyState, String>,
    ) {
        let Some(round) = self.key_round() else {
            return;
        };
        if round.number != number || round.under_way.remove(&from).is_none() {
            return;
        }
        match outcome {
            Ok(state) => {
                round.states.insert(from, state);
            }
            Err(reason) => self.key_missing(from, reason),
        }
        self.close_unless_wanted(from);
        self.key_round_goes_on(now);
    }

    /// No stream to a member could be opened.
    pub(super) fn no_stream_for_keys(&mut self, now: Time, id: NodeId, reason: &str) {
        let waits = self
            .key_round()
            .and_then(|round| round.under_way.get(&id))
            .is_some_and(|member| member.asked.is_none());
        if waits {
            self.no_keys_for(now, id, reason);
        }
    }

    /// A member cannot be reached any more.
    pub(super) fn no_keys_for(&mut self, now: Time, id: NodeId, reason: &str) {
        let Some(round) = self.key_round() else {
            return;
        };
        let before = round.unreached.len();
        round.unreached.retain(|other| *other != id);
        if round.under_way.remove(&id).is_some() || round.unreached.len() < before {
            self.key_missing(id, reason.to_owned());
            self.key_round_goes_on(now);
        }
    }

    /// A member left: it needs no keys any more.
    pub(super) fn left_without_keys(&mut self, now: Time, id: NodeId) {
        let Some(round) = self.key_round() else {
            return;
        };
        round.unreached.retain(|other| *other != id);
        round.under_way.remove(&id);
        self.key_round_goes_on(now);
    }

    /// A stream has ended: whoever was asked over it and did not answer is asked again.
    pub(super) fn key_stream_closed(&mut self, now: Time, stream: StreamId) {
        let Some(round) = self.key_round() else {
            return;
        };
        let asked = round
            .under_way
            .iter()
            .find(|(_, member)| member.asked == Some(stream))
            .map(|(id, member)| (*id, *member));
        let Some((id, member)) = asked else { return };
        if member.repeats >= REPEATS {
            self.no_keys_for(now, id, "the stream to it broke before it answered");
            return;
        }
        let again = UnderWay {
            asked: None,
            repeats: member.repeats + 1,
            ..member
        };
        round.under_way.insert(id, again);
        match self
            .table
            .get(id)
            .map(|entry| (entry.stream, entry.identity.addr))
        {
            Some((Some(_), _)) => self.ask_for_keys(now, id),
            Some((None, address)) => self.dial(address, Purpose::Keys(id)),
            None => self.no_keys_for(now, id, "it is not known any more"),
        }
    }

    fn give_up_on_the_silent(&mut self, now: Time) {
        let Some(round) = self.key_round() else {
            return;
        };
        let mut given_up: Vec<(NodeId, &str)> = Vec::new();
        let whole = now >= round.ends;
        for (id, member) in &round.under_way {
            if whole || now >= member.until {
                given_up.push((*id, "it did not answer in time"));
            }
        }
        if whole {
            let unreached = std::mem::take(&mut round.unreached);
            let reason = "no time was left to reach it";
            given_up.extend(unreached.into_iter().map(|id| (id, reason)));
        }
        for (id, reason) in given_up {
            if let Some(round) = self.key_round() {
                round.under_way.remove(&id);
            }
            self.key_missing(id, reason.to_owned());
            self.close_unless_wanted(id);
        }
    }

    // Everybody who lives and was not asked yet: at first, all.
    fn ask_newcomers(&mut self, now: Time) {
        let living: Vec<(NodeId, bool)> = self
            .table
            .living_others()
            .map(|entry| (entry.identity.id, entry.stream.is_some()))
            .collect();
        let mut ask = Vec::new();
        let Some(round) = self.key_round() else {
            return;
        };
        if now >= round.ends {
            return;
        }
        for (id, has_stream) in living {
            if !round.members.insert(id) {
                continue;
            }
            if has_stream {
                let member = UnderWay {
                    asked: None,
                    dialled: false,
                    until: now + PATIENCE,
                    repeats: 0,
                };
                round.under_way.insert(id, member);
                ask.push(id);
            } else {
                round.unreached.push_back(id);
            }
        }
        for id in ask {
            self.ask_for_keys(now, id);
        }
    }

    fn dial_for_keys(&mut self, now: Time) {
        loop {
            let patience = self.config.timing.dial_timeout + PATIENCE;
            let Some(round) = self.key_round() else {
                return;
            };
            let dialled = round.under_way.values().filter(|m| m.dialled).count();
            if dialled >= AT_ONCE {
                return;
            }
            let Some(id) = round.unreached.pop_front() else {
                return;
            };
            let member = UnderWay {
                asked: None,
                dialled: true,
                until: now + patience,
                repeats: 0,
            };
            round.under_way.insert(id, member);
            match self
                .table
                .get(id)
                .map(|entry| (entry.stream, entry.identity.addr))
            {
                Some((Some(_), _)) => self.ask_for_keys(now, id),
                // The mesh is opening one already.
                Some((None, _)) if self.is_dialling(id) => {}
                Some((None, address)) => self.dial(address, Purpose::Keys(id)),
                None => {
                    if let Some(round) = self.key_round() {
                        round.under_way.remove(&id);
                    }
                }
            }
        }
    }

    fn key_missing(&mut self, id: NodeId, reason: String) {
        let name = self.table.name_of(id);
        if let Some(round) = self.key_round() {
            round.missing.push((name, reason));
        }
    }

    // A stream that was opened only for a change of keys is not kept.
    fn close_unless_wanted(&mut self, id: NodeId) {
        let Some(stream) = self.table.get(id).and_then(|entry| entry.stream) else {
            return;
        };
        let only_for_keys = self
            .streams
            .get(&stream)
            .is_some_and(|known| matches!(known.purpose, Some(Purpose::Keys(_))));
        if only_for_keys && !self.mesh_wants(id) {
            self.send_frame(stream, &Frame::Superfluous);
            self.close(stream);
        }
    }
}
