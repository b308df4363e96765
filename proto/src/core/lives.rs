//! Lives of members: what changes in foca and in records mean for them, and what users are told.
//!
//! ```text
//!   unknown -> alive <-> suspected -> failed -> forgotten
//!                |  ^                    |
//!                |  +-- (same life:  ----+     recovered, a false alarm
//!                |       later life)           rejoined
//!                +---> left, evicted ---> forgotten
//! ```

use std::time::Duration;

use foca::State;

use super::{Core, join::millis, mesh::MESH_LIMIT, timers::TimerKind};
use crate::{
    event::{Event, Reason},
    id::NodeId,
    members::{
        record::{Phase as RecordPhase, Record},
        table::{Failure, Status},
        unsteady::Returns,
    },
    swim::{detector::Seen, limits::AccuserLimit},
    time::Time,
    wire::message::{DirectBody, Frame, News},
};

impl Core {
    /// foca may see a member otherwise than before.
    pub(super) fn reconcile(&mut self, now: Time, seen: Seen) {
        let id = seen.identity.id;
        if id == self.table.own_id() {
            return;
        }
        let Some(entry) = self.table.entry(seen.identity, now) else {
            self.count("table_full");
            return;
        };
        let before = (entry.identity, entry.incarnation, entry.swim);
        if before == (seen.identity, seen.incarnation, Some(seen.state)) {
            return;
        }
        let new_life = seen.identity.generation > entry.identity.generation;
        let was = if new_life { None } else { entry.swim };
        if new_life {
            entry.known_before |= entry.announced;
            entry.announced = false;
            entry.suspicion = None;
            entry.inquiry = None;
            entry.failure = None;
            entry.hearsay = None;
            entry.limit = AccuserLimit::default();
            entry.returns = Returns::default();
            entry.blocked.forget();
            self.dial_failures.remove(&id);
            entry.since = now;
            let stale = entry.stream.filter(|stream| {
                self.streams
                    .get(stream)
                    .is_none_or(|known| known.peer != Some(seen.identity.life()))
            });
            if stale.is_some() {
                entry.stream = None;
            }
            let record = entry.current_record().cloned();
            if let Some(stream) = stale {
                // Should that life go on after all, it has to know that there is another.
                if let Some(record) = record {
                    let body = DirectBody::News(News::Record(Box::new(record)));
                    self.send_frame(stream, &Frame::Direct(body));
                }
                self.close(stream);
            }
        }
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.identity = seen.identity;
        entry.incarnation = seen.incarnation;
        entry.swim = Some(seen.state);
        match seen.state {
            State::Alive => self.is_alive(now, id, was),
            State::Suspect => {
                if was == Some(State::Down) {
                    // It is not gone, whatever is said of it now.
                    self.is_alive(now, id, was);
                }
                let renewal = seen.identity.renewal;
                self.begin_suspicion(now, id, renewal, seen.incarnation);
            }
            State::Down => self.is_down(now, id, was),
        }
        self.announce(now, id);
        self.detector.set_cluster_size(self.living());
        self.place_soon(now);
        if self.is_unsteady(now, id) {
            self.tell_with_leisure(now);
        } else {
            self.burst(now);
        }
    }

    // It lives: for the first time, or after a suspicion, or after it counted as failed.
    pub(super) fn is_alive(&mut self, now: Time, id: NodeId, was: Option<State>) {
        if let Some(entry) = self.table.get_mut(id)
            && (entry.suspicion.is_some() || was == Some(State::Down))
        {
            entry.returns.note(now);
        }
        self.end_suspicion(id, true);
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if was != Some(State::Down) {
            return;
        }
        entry.inquiry = None;
        self.dial_failures.remove(&id);
        let failed = entry.failure.take();
        let who = entry.who();
        let since = std::mem::replace(&mut entry.since, now);
        let over = entry.current_record().is_some_and(Record::is_over);
        if entry.announced && !over {
            self.count("false_alarms");
            self.emit(Event::MemberRecovered {
                who,
                suspected_ms: None,
                failed_ms: Some(millis(
                    now.saturating_since(failed.map_or(since, |failure| failure.at)),
                )),
            });
            // Others of that side are reported with it, at every member, also at those that hear
            // of it from others.
            if !self.healing {
                self.healing(now);
            }
            self.regained.insert(id);
        }
        self.look_for_own_name(id);
        self.timers.set_by(TimerKind::Mesh, now);
    }

    pub(super) fn is_down(&mut self, now: Time, id: NodeId, was: Option<State>) {
        let own = self.table.own_id();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.inquiry = None;
        entry.blocked.forget();
        let suspicion = entry.suspicion.take();
        let over = entry.current_record().is_some_and(Record::is_over);
        let stream = entry.stream;
        entry.since = now;
        self.timers.clear(TimerKind::Suspicion(id));
        self.timers.clear(TimerKind::Inquiry(id));
        // Who leaves closes its streams itself, once everybody has answered.
        let left = self.table.get(id).map(|entry| entry.status()) == Some(Status::Left);
        if let Some(stream) = stream.filter(|_| !left) {
            self.close(stream);
        }
        if over || matches!(was, None | Some(State::Down)) {
            return;
        }
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let reason = match (entry.failure, &suspicion) {
            (Some(failure), _) => failure.reason,
            (None, Some(suspicion)) => suspicion.reason(),
            (None, None) => Reason::Unreachable,
        };
        entry.failure = Some(Failure { at: now, reason });
        let announced = entry.announced;
        let who = entry.who();
        let last_contact_ms = entry
            .last_contact
            .map_or(0, |last| millis(now.saturating_since(last)));
        let (accusers, detected_ms) = match &suspicion {
            Some(suspicion) => (
                // Suspicions also come without a word of who found what.
                if suspicion.order.is_empty() {
                    vec![own]
                } else {
                    suspicion.order.clone()
                },
                millis(now.saturating_since(suspicion.silent_since)),
            ),
            None => (vec![own], 0),
        };
        for accuser in &accusers {
            if let Some(entry) = self.table.get_mut(*accuser) {
                entry.limit.upheld();
            }
        }
        if announced {
            self.count("failures");
            let accusers = accusers.iter().map(|id| self.table.name_of(*id)).collect();
            self.emit(Event::MemberFailed {
                who,
                reason,
                accusers,
                last_contact_ms,
                detected_ms,
            });
        }
        self.timers
            .set_by(TimerKind::Redial, now + self.config.timing.redial);
        self.farewell_heard(now, id);
        self.no_keys_for(now, id, "it failed meanwhile");
    }

    // It left, or was evicted.
    pub(super) fn life_is_over(&mut self, now: Time, id: NodeId, record: &Record) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let who = entry.who();
        let told = entry.announced;
        let active = matches!(entry.swim, Some(State::Alive | State::Suspect));
        let member = foca::Member::new(entry.identity, entry.incarnation, State::Down);
        entry.since = now;
        entry.suspicion = None;
        entry.inquiry = None;
        entry.failure = None;
        entry.blocked.forget();
        let stream = entry.stream;
        self.left_without_keys(now, id);
        self.timers.clear(TimerKind::Suspicion(id));
        self.timers.clear(TimerKind::Inquiry(id));
        if let Some(known) = stream.and_then(|stream| self.streams.get_mut(&stream)) {
            known.expected_to_end = true;
        }
        if active {
            // Its own word travels as its record; "down" alone would look like a failure.
            self.detector.apply(now, member, false);
        }
        if told {
            match &record.phase {
                RecordPhase::Left { returning } => self.emit(Event::MemberLeft {
                    who,
                    returning: *returning,
                }),
                RecordPhase::Evicted { by } => self.emit(Event::MemberEvicted {
                    who,
                    by: by.clone(),
                }),
                RecordPhase::Active | RecordPhase::Leaving | RecordPhase::Stopping => {}
            }
        }
        self.detector.set_cluster_size(self.living());
    }

    /// Tells users of a member once its life and its record are both known.
    pub(super) fn announce(&mut self, now: Time, id: NodeId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let ready = !entry.announced
            && matches!(entry.swim, Some(State::Alive | State::Suspect))
            && entry
                .record
                .as_ref()
                .is_some_and(|record| record.life == entry.life() && !record.is_over());
        if !ready {
            return;
        }
        entry.announced = true;
        entry.since = now;
        let (who, address) = (entry.who(), entry.identity.addr);
        let generation = entry.identity.generation;
        if entry.known_before {
            self.emit(Event::MemberRejoined {
                who,
                address,
                generation,
            });
        } else {
            self.emit(Event::MemberJoined {
                who,
                address,
                generation,
            });
        }
        self.count("joins_seen");
        self.look_for_own_name(id);
        self.detector.set_cluster_size(self.living());
        let patience = if self.living() <= MESH_LIMIT {
            Duration::from_millis(50)
        } else {
            Duration::from_secs(1)
        };
        self.timers.set_by(TimerKind::Mesh, now + patience);
        self.timers
            .set_by(TimerKind::Persist, now + Duration::from_secs(5));
    }

    /// Forgets who has been gone for long.
    pub(super) fn forget(&mut self, now: Time) {
        self.timers
            .set(TimerKind::Forget, now + Duration::from_secs(60));
        if self.table.living() + 1 == self.table.len() {
            return;
        }
        let timing = &self.config.timing;
        let gone: Vec<_> = self
            .table
            .others()
            .filter(|entry| {
                let limit = match entry.status() {
                    Status::Failed => timing.forget_failed,
                    Status::Left | Status::Evicted => timing.forget_left,
                    Status::Alive if entry.swim.is_none() => timing.forget_left,
                    Status::Alive | Status::Suspect | Status::Leaving => return false,
                };
                now >= entry.since + limit
            })
            .map(|entry| entry.identity)
            .collect();
        for identity in gone {
            self.table.forget(identity.id);
            self.detector.forget(now, identity);
            self.dial_failures.remove(&identity.id);
        }
    }
}
