//! Accusations, suspicions, verdicts: from "it does not answer" to "it failed".
//!
//! ```text
//!   stream breaks, probe fails, somebody accuses
//!        -> inquiry (pings, knock) -> accusation -> to three peers by hash at once, and by gossip
//!        -> suspicion at everybody who hears it, each with its own inquiry and window
//!        -> window ends, or this node and enough others were refused -> verdict, by gossip
//! ```
//!
//! A process that was killed breaks its streams to everybody at the same moment, so everybody
//! inquires by itself. Each sends what it found to the three peers that follow it in the
//! target's hash order, so that each hears from three others, with three messages a member.

use std::time::Duration;

use foca::{Member, State};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Core, STALL, join::millis, mesh::MESH_LIMIT, timers::TimerKind};
use crate::{
    event::{Event, Reason},
    id::NodeId,
    members::table::Failure,
    swim::suspicion::{Suspicion, Windows},
    time::Time,
    wire::message::{Accusation, DirectBody, MAX_ACCUSERS, News, Verdict},
};

/// Peers that hear an accusation at once.
const WITNESSES: usize = 3;
/// Independent confirmations that make a window shortest.
const CONFIRMATIONS: u32 = 3;
/// Accusers that are told of if the kernel of whom they accuse still answers: their number does not
/// change that window, and two make a verdict credible.
const UNRESPONSIVE_TOLD: usize = 2;
/// Others that must have been refused too.
const REFUSALS: usize = 2;
/// A member may have refuted so many suspicions that this node has not heard of.
const MAX_AHEAD: u16 = 16;
/// A verdict that was not followed counts so long for what this node finds itself.
const HEARSAY: Duration = Duration::from_secs(10);
const WITNESS_SEED: u64 = 0x6b69_7468_7769_746e;
/// So many members or so look for themselves whether another is gone, beside those whose own
/// probe failed or whose stream broke.
const EXAMINERS: u64 = 24;
const EXAMINER_SEED: u64 = 0x6b69_7468_6578_616d;

/// What somebody's word is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// Nothing: it is no member, or says too much.
    None,
    /// It was mostly wrong so far.
    Doubted,
    Full,
}

impl Core {
    fn windows(&self) -> Windows {
        let others = self.table.living().saturating_sub(1);
        let min = self
            .detector
            .loss()
            .stretch(self.scaled(self.config.timing.suspicion_min));
        let confirmations = CONFIRMATIONS.min(u32::try_from(others).unwrap_or(u32::MAX));
        Windows {
            min,
            max: if self.config.detection.lifeguard {
                min * self.config.timing.suspicion_max_factor
            } else {
                min
            },
            unresponsive: self.config.timing.unresponsive,
            confirmations,
            refusals: REFUSALS.min(others),
        }
    }

    // What this node itself found.
    pub(super) fn accuse(&mut self, now: Time, id: NodeId, reason: Reason, silent_since: Time) {
        let Some(entry) = self.table.get(id) else {
            return;
        };
        let silent_since = entry
            .suspicion
            .as_ref()
            .map_or(silent_since, |s| s.silent_since.min(silent_since));
        let accusation = Accusation {
            target: entry.life(),
            renewal: entry.identity.renewal,
            incarnation: entry.incarnation,
            accuser: self.table.own_id(),
            reason,
            silent_ms: u32::try_from(millis(now.saturating_since(silent_since)))
                .unwrap_or(u32::MAX),
        };
        self.count("accusations");
        // Nobody waits for what others say of one whose kernel still answers: time will tell.
        if self.config.detection.evidence && reason != Reason::Unresponsive {
            for address in self.witnesses(id) {
                let news = News::Accusation(accusation.clone());
                self.send_direct(address, DirectBody::News(news));
            }
        }
        self.hear_accusation(now, accusation);
        self.remember_hearsay(now, id);
    }

    // The peers that follow this node in the target's hash order.
    fn witnesses(&self, target: NodeId) -> Vec<std::net::SocketAddr> {
        let rank = |id: NodeId| xxh3_64_with_seed(&(target.0 ^ id.0).to_be_bytes(), WITNESS_SEED);
        let own = rank(self.table.own_id());
        let mut order: Vec<_> = self
            .table
            .living_ids()
            .filter(|id| *id != target)
            .map(|id| (rank(id).wrapping_sub(own), id))
            .collect();
        // Only the first few are put in order: in a large cluster everybody accuses at once.
        if order.len() > WITNESSES {
            order.select_nth_unstable(WITNESSES);
            order.truncate(WITNESSES);
        }
        order.sort_unstable();
        order
            .into_iter()
            .filter_map(|(_, id)| self.table.get(id))
            .map(|entry| entry.identity.addr)
            .collect()
    }

    pub(super) fn hear_accusation(&mut self, now: Time, accusation: Accusation) {
        let own = self.detector.identity();
        if accusation.target.id == own.id {
            let weight = self.weigh(now, accusation.accuser);
            if weight != Weight::None
                && accusation.target == own.life()
                && accusation.renewal == own.renewal
            {
                self.refute(now, accusation.incarnation, weight == Weight::Full);
            }
            return;
        }
        let id = accusation.target.id;
        let Some(entry) = self.table.get(id) else {
            return;
        };
        let newest = entry.incarnation.saturating_add(MAX_AHEAD);
        let applies = entry.life() == accusation.target
            && entry.identity.renewal == accusation.renewal
            && (entry.incarnation..=newest).contains(&accusation.incarnation)
            && entry.is_living();
        // Most of what gossip brings was heard before, and is not held against the accuser.
        let heard_before = entry.suspicion.as_ref().is_some_and(|suspicion| {
            (suspicion.renewal, suspicion.incarnation)
                >= (accusation.renewal, accusation.incarnation)
                && suspicion.has_heard(accusation.accuser, accusation.reason)
        });
        if !applies || heard_before {
            return;
        }
        let (identity, is_suspected) = (entry.identity, entry.suspicion.is_some());
        let weight = self.weigh(now, accusation.accuser);
        if weight == Weight::None {
            return;
        }
        if weight == Weight::Doubted && !is_suspected {
            self.look_for_oneself(now, id, accusation.accuser);
            return;
        }
        self.begin_suspicion(now, id, accusation.renewal, accusation.incarnation);
        if self.table.get(id).and_then(|entry| entry.swim) == Some(State::Alive) {
            let suspect = Member::new(identity, accusation.incarnation, State::Suspect);
            // Not spread by foca: the accusation says the same, and who says so.
            self.detector.apply(now, suspect, false);
        }
        self.add_accuser(now, id, accusation, weight == Weight::Full);
    }

    fn add_accuser(&mut self, now: Time, id: NodeId, accusation: Accusation, credible: bool) {
        let silent_since = now - Duration::from_millis(u64::from(accusation.silent_ms));
        let Some(suspicion) = self
            .table
            .get_mut(id)
            .and_then(|entry| entry.suspicion.as_mut())
        else {
            return;
        };
        let news = suspicion.accuse(
            accusation.accuser,
            accusation.reason,
            silent_since,
            credible,
        );
        if !news {
            return;
        }
        let first = !std::mem::replace(&mut suspicion.announced, true);
        let told_of = match accusation.reason {
            Reason::Unresponsive => UNRESPONSIVE_TOLD,
            _ => CONFIRMATIONS as usize + 1,
        };
        let worth_telling = credible && suspicion.accusers() <= told_of;
        if first {
            self.count("suspicions");
            if let Some(who) = self.table.get(id).map(|entry| entry.who()) {
                self.emit(Event::MemberSuspected {
                    who,
                    accuser: self.table.name_of(accusation.accuser),
                    reason: accusation.reason,
                });
            }
        }
        if worth_telling {
            // Lifeguard: only the first few confirmations travel on.
            self.spread(now, &News::Accusation(accusation));
        }
        self.suspicion_ends(now, id);
    }

    // What somebody's word is worth.
    fn weigh(&mut self, now: Time, accuser: NodeId) -> Weight {
        if accuser == self.table.own_id() {
            return Weight::Full;
        }
        let Some(entry) = self.table.get_mut(accuser) else {
            return Weight::None;
        };
        if !entry.limit.admit(now) {
            self.count("accusations_limited");
            Weight::None
        } else if !entry.is_living() {
            self.count("accusations_ignored");
            Weight::None
        } else if entry.limit.is_credible() {
            Weight::Full
        } else {
            self.count("accusations_doubted");
            Weight::Doubted
        }
    }

    // Somebody's word is not enough to suspect a member, and may be true all the same.
    fn look_for_oneself(&mut self, now: Time, id: NodeId, accuser: NodeId) {
        let admitted = self
            .table
            .get_mut(accuser)
            .is_some_and(|entry| entry.limit.admit_doubted(now));
        if admitted {
            self.start_inquiry(now, id);
        }
    }

    pub(super) fn begin_suspicion(
        &mut self,
        now: Time,
        id: NodeId,
        renewal: u32,
        incarnation: u16,
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let running = entry.suspicion.as_ref().is_some_and(|suspicion| {
            (suspicion.renewal, suspicion.incarnation) >= (renewal, incarnation)
        });
        if running {
            return;
        }
        if entry.suspicion.is_none() {
            entry.since = now;
        }
        entry.suspicion = Some(Box::new(Suspicion::new(now, renewal, incarnation)));
        if self.examines(now, id) {
            self.start_inquiry(now, id);
        }
        let windows = self.windows();
        self.timers.set(TimerKind::Suspicion(id), now + windows.max);
    }

    // Whether this node looks for itself, just because others suspect a member. While everybody
    // holds a stream to everybody, all do. In larger clusters a few, chosen by hash, are enough
    // to have a living target refute and to confirm that a dead one is dead: their verdict is
    // with all the others before these could ask. If all asked, a failure would cost messages
    // in proportion to the cluster's size, and many failures at once a storm. A few are enough too
    // for one that keeps falling silent and coming back.
    pub(super) fn examines(&self, now: Time, target: NodeId) -> bool {
        let members = self.living();
        let all = members <= MESH_LIMIT && !self.is_unsteady(now, target);
        let pair = target.0 ^ self.table.own_id().0;
        let chance = xxh3_64_with_seed(&pair.to_be_bytes(), EXAMINER_SEED);
        all || chance / EXAMINERS <= u64::MAX / members as u64
    }

    /// Looks whether a suspicion's window has ended.
    pub(super) fn suspicion_ends(&mut self, now: Time, id: NodeId) {
        let windows = self.windows();
        let own = self.table.own_id();
        let Some(suspicion) = self
            .table
            .get(id)
            .and_then(|entry| entry.suspicion.as_ref())
        else {
            return;
        };
        // Who has just woken may have the refutation among what it has not read yet.
        let awake = self.excused + STALL;
        let deadline = suspicion.deadline(own, &windows).max(awake);
        if now < deadline {
            self.timers.set(TimerKind::Suspicion(id), deadline);
            return;
        }
        let reason = suspicion.reason();
        let over = suspicion.is_over(own, &windows);
        let reason = if over { Reason::Refused } else { reason };
        let accusers = suspicion.order.iter().copied().take(MAX_ACCUSERS).collect();
        self.declare(now, id, reason, accusers);
    }

    fn declare(&mut self, now: Time, id: NodeId, reason: Reason, accusers: Vec<NodeId>) {
        // Also while it leaves, or it would wait for the farewell of those who are gone.
        if !self.is_member() {
            return;
        }
        let author = self.table.own_id();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.failure = Some(Failure { at: now, reason });
        let identity = entry.identity;
        let down = Member::new(identity, entry.incarnation, State::Down);
        self.count("verdicts");
        self.spread(
            now,
            &News::Verdict(Verdict {
                target: identity.life(),
                renewal: identity.renewal,
                author,
                reason,
                accusers,
            }),
        );
        // Not spread by foca: the verdict says the same, and why.
        self.detector.apply(now, down, false);
    }

    /// Somebody declared a member failed. This node follows if it suspects that member itself,
    /// for the word of two at least, and has heard nothing of it since; otherwise it looks for
    /// itself, and what it finds is then confirmed by those who were there first.
    ///
    /// A verdict was true where it was made. That may have been on the other side of a split
    /// that has healed since, or long ago, if this node was asleep.
    pub(super) fn hear_verdict(&mut self, now: Time, sender: NodeId, verdict: Verdict) {
        let id = verdict.target.id;
        if id == sender || verdict.accusers.len() > MAX_ACCUSERS {
            return;
        }
        let own = self.detector.identity();
        if id == own.id {
            let weight = self.weigh(now, verdict.author);
            if weight != Weight::None
                && verdict.target == own.life()
                && verdict.renewal == own.renewal
            {
                if weight == Weight::Full {
                    self.detector.renew(now);
                } else {
                    self.refute(now, self.detector.incarnation(), false);
                }
            }
            return;
        }
        let author = verdict.author;
        let Some(entry) = self.table.get(id) else {
            return;
        };
        let applies = entry.life() == verdict.target
            && verdict.renewal == entry.identity.renewal
            && entry.is_living();
        if !applies {
            return;
        }
        let weight = self.weigh(now, author);
        let followed = weight == Weight::Full && self.follows(now, id, author);
        let Some(entry) = self.table.get_mut(id).filter(|_| weight != Weight::None) else {
            return;
        };
        if !followed {
            if weight == Weight::Full {
                entry.hearsay = Some(Box::new((now, verdict)));
            }
            self.count("verdicts_doubted");
            self.look_for_oneself(now, id, author);
            return;
        }
        if let Some(suspicion) = &mut entry.suspicion {
            for accuser in &verdict.accusers {
                suspicion.accuse(*accuser, verdict.reason, now, true);
            }
        }
        entry.failure = Some(Failure {
            at: now,
            reason: verdict.reason,
        });
        let down = Member::new(entry.identity, entry.incarnation, State::Down);
        self.spread(now, &News::Verdict(verdict));
        self.detector.apply(now, down, false);
    }

    // Whether a verdict of that author is believed at once.
    fn follows(&self, now: Time, id: NodeId, author: NodeId) -> bool {
        let Some(entry) = self.table.get(id) else {
            return false;
        };
        let Some(suspicion) = &entry.suspicion else {
            return false;
        };
        if !suspicion.is_confirmed_by(author) || now < self.excused + STALL {
            return false;
        }
        // Who looks for himself has found that it is silent, or has given it its time to refute.
        let looks = self.examines(now, id) || entry.stream.is_some();
        !looks
            || !self.config.detection.evidence
            || suspicion.accused_by(self.table.own_id())
            || now >= suspicion.started + self.windows().min
            || entry.inquiry.as_ref().is_some_and(|i| i.is_silent(now))
    }

    // This node has found by itself what a verdict says that it heard a moment ago: those who
    // found it before confirm it.
    fn remember_hearsay(&mut self, now: Time, id: NodeId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let (life, renewal) = (entry.life(), entry.identity.renewal);
        let heard = entry.hearsay.take_if(|heard| {
            let (at, verdict) = heard.as_ref();
            now >= *at + HEARSAY || (verdict.target, verdict.renewal) == (life, renewal)
        });
        let Some((at, verdict)) = heard.map(|heard| *heard) else {
            return;
        };
        if now >= at + HEARSAY {
            return;
        }
        for accuser in verdict.accusers.iter().chain([&verdict.author]) {
            let credible = self
                .table
                .get(*accuser)
                .is_some_and(|entry| entry.is_living() && entry.limit.is_credible());
            if let Some(entry) = self.table.get_mut(id)
                && let Some(suspicion) = &mut entry.suspicion
            {
                suspicion.accuse(*accuser, verdict.reason, now, credible);
            }
        }
        self.suspicion_ends(now, id);
    }

    /// A suspicion is over without a verdict.
    pub(super) fn end_suspicion(&mut self, id: NodeId, refuted: bool) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let Some(suspicion) = entry.suspicion.take() else {
            return;
        };
        entry.inquiry = None;
        let who = entry.who();
        let announced = suspicion.announced && entry.announced;
        self.timers.clear(TimerKind::Suspicion(id));
        self.timers.clear(TimerKind::Inquiry(id));
        let now = entry.last_contact.unwrap_or(suspicion.started);
        entry.since = entry.since.max(now);
        if refuted {
            for accuser in &suspicion.order {
                if let Some(entry) = self.table.get_mut(*accuser) {
                    entry.limit.refuted();
                }
            }
        }
        if announced {
            self.count("suspicions_refuted");
            self.emit(Event::MemberRecovered {
                who,
                suspected_ms: Some(millis(now.saturating_since(suspicion.started))),
                failed_ms: None,
            });
        }
    }

    /// We are suspected: says otherwise.
    /// `doubt` if that speaks against this node too.
    pub(super) fn refute(&mut self, now: Time, incarnation: u16, doubt: bool) {
        self.count("refutations");
        self.detector.refute(now, incarnation, doubt);
        self.burst(now);
    }
}
