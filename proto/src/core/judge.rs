//! Inquiries, accusations, suspicions, verdicts: from "it does not answer" to "it failed".
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
use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Core, Phase, join::millis, timers::TimerKind};
use crate::{
    event::{Event, Reason},
    id::NodeId,
    input::{Knock, Token},
    members::table::{Failure, Status},
    output::Output,
    swim::{
        identity::Identity,
        inquiry::{Conclusion, Inquiry},
        suspicion::{Suspicion, Windows},
    },
    time::Time,
    wire::message::{Accusation, DirectBody, Frame, MAX_ACCUSERS, News, Verdict},
};

/// Peers that hear an accusation at once.
const WITNESSES: usize = 3;
/// Independent confirmations that make a window shortest.
const CONFIRMATIONS: u32 = 3;
/// Others that must have been refused too.
const REFUSALS: usize = 2;
const WITNESS_SEED: u64 = 0x6b69_7468_7769_746e;

impl Core {
    fn windows(&self) -> Windows {
        let others = self.table.living_others().count().saturating_sub(1);
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

    pub(super) fn nonce(&mut self) -> u32 {
        self.rng.random()
    }

    /// Our probe of that member failed.
    pub(super) fn probe_failed(&mut self, now: Time, identity: Identity, sent: Time) {
        let Some(entry) = self.table.get_mut(identity.id) else {
            return;
        };
        if entry.identity != identity || matches!(entry.swim, None | Some(State::Down)) {
            return;
        }
        if let Some(suspicion) = &mut entry.suspicion {
            suspicion.silent_since = suspicion.silent_since.min(sent);
        }
        if self.config.detection.evidence {
            self.start_inquiry(now, identity.id);
        } else {
            self.accuse(now, identity.id, Reason::Unreachable, sent);
        }
    }

    /// Finds out whether a member is really gone, and how.
    pub(super) fn start_inquiry(&mut self, now: Time, id: NodeId) {
        if !self.config.detection.evidence || !matches!(self.phase, Phase::Active) {
            return;
        }
        let timeout = self.detector.timeout(id);
        let nonce = self.nonce();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let status = entry.status();
        if entry.inquiry.is_some()
            || matches!(status, Status::Failed | Status::Left | Status::Evicted)
        {
            return;
        }
        entry.inquiry = Some(Inquiry::new(now, nonce, timeout));
        self.count("inquiries");
        self.timers.set(TimerKind::Inquiry(id), now);
    }

    fn knock(&mut self, id: NodeId) {
        let knock = self.token();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let Some(inquiry) = &mut entry.inquiry else {
            return;
        };
        inquiry.knocking = Some(knock);
        let to = entry.identity.addr;
        self.knocks.insert(knock, id);
        self.outputs.push_back(Output::Knock { knock, to });
    }

    pub(super) fn knocked(&mut self, now: Time, knock: Token, answer: Knock) {
        let Some(id) = self.knocks.remove(&knock) else {
            return;
        };
        if self.holder_knocked(now, id, answer) {
            return;
        }
        let Some(inquiry) = self
            .table
            .get_mut(id)
            .and_then(|entry| entry.inquiry.as_mut())
        else {
            return;
        };
        if inquiry.knocking != Some(knock) {
            return;
        }
        inquiry.knocked(now, answer);
        self.look_at_inquiry(now, id);
    }

    pub(super) fn look_at_inquiry(&mut self, now: Time, id: NodeId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let (identity, stream) = (entry.identity, entry.stream);
        let suspected = entry
            .suspicion
            .as_ref()
            .map(|suspicion| (suspicion.renewal, suspicion.incarnation));
        let Some(inquiry) = &mut entry.inquiry else {
            return;
        };
        let (nonce, started) = (inquiry.nonce, inquiry.started());
        let ping = inquiry.take_ping(now);
        let knock = inquiry.take_knock(now);
        let conclusion = inquiry.conclude(now);
        let next = inquiry.next();
        self.timers.set(TimerKind::Inquiry(id), next.max(now));
        if knock {
            self.knock(id);
        }
        if ping {
            let body = DirectBody::Ping {
                to: identity.life(),
                nonce,
                suspected,
            };
            self.send_direct(identity.addr, body.clone());
            if let Some(stream) = stream {
                self.send_frame(stream, &Frame::Direct(body));
            }
        }
        match conclusion {
            Some(Conclusion::Silent(reason)) => self.accuse(now, id, reason, started),
            Some(Conclusion::OnlyStream) => self.half_blocked(id),
            None => {}
        }
    }

    // Its stream works, its UDP does not: reported, never evidence of death.
    fn half_blocked(&mut self, id: NodeId) {
        self.timers.clear(TimerKind::Inquiry(id));
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.inquiry = None;
        if !std::mem::replace(&mut entry.half_blocked, true) {
            let who = entry.who();
            self.emit(Event::MemberHalfBlocked {
                who,
                blocked: "udp".to_owned(),
            });
        }
    }

    // What this node itself found.
    fn accuse(&mut self, now: Time, id: NodeId, reason: Reason, silent_since: Time) {
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
        if self.config.detection.evidence {
            for address in self.witnesses(id) {
                let news = News::Accusation(accusation.clone());
                self.send_direct(address, DirectBody::News(news));
            }
        }
        self.hear_accusation(now, accusation);
    }

    // The peers that follow this node in the target's hash order.
    fn witnesses(&self, target: NodeId) -> Vec<std::net::SocketAddr> {
        let rank = |id: NodeId| xxh3_64_with_seed(&(target.0 ^ id.0).to_be_bytes(), WITNESS_SEED);
        let own = rank(self.table.own_id());
        let mut order: Vec<_> = self
            .table
            .living_others()
            .filter(|entry| entry.identity.id != target)
            .map(|entry| {
                let distance = rank(entry.identity.id).wrapping_sub(own);
                (distance, entry.identity.addr)
            })
            .collect();
        order.sort_unstable_by_key(|(distance, _)| *distance);
        order
            .into_iter()
            .take(WITNESSES)
            .map(|(_, address)| address)
            .collect()
    }

    pub(super) fn hear_accusation(&mut self, now: Time, accusation: Accusation) {
        let own = self.table.own_id();
        if accusation.target.id == own {
            let identity = self.detector.identity();
            if accusation.target == identity.life() && accusation.renewal == identity.renewal {
                self.refute(now, accusation.incarnation);
            }
            return;
        }
        let id = accusation.target.id;
        let credible = match self.table.get_mut(accusation.accuser) {
            Some(accuser) if accusation.accuser != own => {
                if !accuser.limit.admit(now) {
                    self.count("accusations_limited");
                    return;
                }
                accuser.is_living() && accuser.limit.is_credible()
            }
            Some(_) => true,
            None => return,
        };
        let Some(entry) = self.table.get(id) else {
            return;
        };
        let applies = entry.life() == accusation.target
            && entry.identity.renewal == accusation.renewal
            && accusation.incarnation >= entry.incarnation
            && entry.is_living();
        if !applies {
            return;
        }
        let identity = entry.identity;
        self.begin_suspicion(now, id, accusation.renewal, accusation.incarnation);
        if self.table.get(id).and_then(|entry| entry.swim) == Some(State::Alive) {
            let suspect = Member::new(identity, accusation.incarnation, State::Suspect);
            self.detector.apply(now, suspect, true);
        }
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
        let worth_telling = suspicion.accusers() <= CONFIRMATIONS as usize + 1;
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
        entry.suspicion = Some(Suspicion::new(now, renewal, incarnation));
        self.start_inquiry(now, id);
        let windows = self.windows();
        self.timers.set(TimerKind::Suspicion(id), now + windows.max);
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
        let deadline = suspicion.deadline(own, &windows);
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
        if !matches!(self.phase, Phase::Active) {
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

    pub(super) fn hear_verdict(&mut self, now: Time, sender: NodeId, verdict: Verdict) {
        let own = self.detector.identity();
        if verdict.target.id == own.id {
            if verdict.target == own.life() && verdict.renewal >= own.renewal {
                self.detector.renew(now);
            }
            return;
        }
        if let Some(author) = self.table.get_mut(verdict.author)
            && !author.limit.admit(now)
        {
            self.count("accusations_limited");
            return;
        }
        let id = verdict.target.id;
        if id == sender || verdict.accusers.len() > MAX_ACCUSERS {
            return;
        }
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let applies = entry.life() == verdict.target
            && verdict.renewal >= entry.identity.renewal
            && !matches!(
                entry.status(),
                Status::Failed | Status::Left | Status::Evicted
            );
        if !applies {
            return;
        }
        let suspicion = entry
            .suspicion
            .get_or_insert_with(|| Suspicion::new(now, verdict.renewal, entry.incarnation));
        for accuser in &verdict.accusers {
            suspicion.accuse(*accuser, verdict.reason, now, true);
        }
        entry.failure = Some(Failure {
            at: now,
            reason: verdict.reason,
        });
        let identity = Identity {
            renewal: verdict.renewal,
            ..entry.identity
        };
        let down = Member::new(identity, entry.incarnation, State::Down);
        self.spread(now, &News::Verdict(verdict));
        self.detector.apply(now, down, false);
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
    pub(super) fn refute(&mut self, now: Time, incarnation: u16) {
        self.count("refutations");
        self.detector.refute(now, incarnation);
        self.burst(now);
    }
}
