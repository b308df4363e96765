//! Records, how news spreads, and what changes in foca mean for members.

use std::{collections::BTreeMap, time::Duration};

use foca::State;

use super::{Core, Phase, join::millis, streams::MESH_LIMIT, timers::TimerKind};
use crate::{
    config::{MAX_TAGS, tags_size},
    event::{Event, Reason},
    id::NodeId,
    members::{
        record::{Phase as RecordPhase, Record},
        table::{Failure, Status},
    },
    output::{Answer, Refusal, Stop},
    swim::detector::Seen,
    time::Time,
    wire::message::News,
};

/// Pause between rounds of gossip when there is no hurry.
const CALM: Duration = Duration::from_millis(200);

impl Core {
    /// News travels at once: the next round of gossip is now, or as soon as bursts allow.
    pub(super) fn burst(&mut self, now: Time) {
        if !self.config.detection.bursts {
            self.timers.set_by(TimerKind::Gossip, now + CALM);
            return;
        }
        // Enough rounds that everybody has heard it: each round, each one tells three.
        self.burst_rounds = (self.living() as u32 + 1).ilog2() / 2 + 3;
        let at = now.max(self.last_gossip + self.config.timing.burst);
        self.timers.set_by(TimerKind::Gossip, at);
    }

    pub(super) fn gossip(&mut self, now: Time) {
        if self.detector.backlog() == 0 {
            return;
        }
        self.count("gossip_rounds");
        self.detector.gossip(now);
        self.last_gossip = now;
        let pause = if self.burst_rounds > 0 {
            self.burst_rounds -= 1;
            self.config.timing.burst
        } else {
            CALM
        };
        self.timers.set(TimerKind::Gossip, now + pause);
    }

    pub(super) fn spread(&mut self, now: Time, news: &News) {
        self.detector.spread(news);
        self.burst(now);
    }

    pub(super) fn spread_own_record(&mut self, now: Time) {
        let record = self.own_record();
        self.spread(now, &News::Record(Box::new(record)));
    }

    /// Changes the own record and tells everybody.
    pub(super) fn change_own_record(&mut self, now: Time, change: impl FnOnce(&mut Record)) {
        let own = self.table.own_id();
        if let Some(record) = self.table.get_mut(own).and_then(|own| own.record.as_mut()) {
            change(record);
            record.version += 1;
        }
        self.spread_own_record(now);
        self.timers.set_by(TimerKind::Placement, now);
    }

    pub(super) fn reload(
        &mut self,
        now: Time,
        tags: Option<BTreeMap<String, String>>,
        weight: Option<u32>,
    ) -> Answer {
        if let Some(tags) = &tags
            && tags_size(tags) > MAX_TAGS
        {
            return Answer::Refused(format!("tags take more than {MAX_TAGS} bytes together"));
        }
        if weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
            return Answer::Refused("weight: 1 to 10000 are possible".to_owned());
        }
        if let Some(tags) = &tags {
            self.config.tags.clone_from(tags);
        }
        self.config.weight = weight.unwrap_or(self.config.weight);
        self.change_own_record(now, |record| {
            record.tags = tags.unwrap_or_else(|| record.tags.clone());
            record.weight = weight.unwrap_or(record.weight);
        });
        Answer::Done
    }

    pub(super) fn hear_news(&mut self, now: Time, sender: NodeId, news: News) {
        match news {
            News::Record(record) => {
                self.offer_record(now, *record, true);
            }
            News::Accusation(accusation) => self.hear_accusation(now, accusation),
            News::Verdict(verdict) => self.hear_verdict(now, sender, verdict),
        }
    }

    /// A record came from anywhere. True if it is news.
    pub(super) fn offer_record(&mut self, now: Time, record: Record, spread: bool) -> bool {
        if !record.is_bounded() || record.life.generation == 0 {
            self.count("rejected_record");
            return false;
        }
        let id = record.id();
        if id == self.table.own_id() {
            self.own_record_came(record);
            return false;
        }
        let identity = crate::swim::identity::Identity {
            id,
            generation: record.life.generation,
            renewal: 0,
            addr: record.addr,
        };
        let Some(entry) = self.table.entry(identity, now) else {
            self.count("table_full");
            return false;
        };
        let before = entry.status();
        if entry
            .record
            .as_ref()
            .is_some_and(|known| known.rank() >= record.rank())
        {
            return false;
        }
        entry.record = Some(record.clone());
        let ends_this_life = record.is_over() && entry.life() == record.life;
        if ends_this_life && !matches!(before, Status::Left | Status::Evicted) {
            self.life_is_over(now, id, &record);
        }
        if spread {
            self.spread(now, &News::Record(Box::new(record)));
        }
        self.announce(now, id);
        self.timers.set_by(
            TimerKind::Placement,
            now + self.config.timing.placement_delay,
        );
        true
    }

    // Others know more of us than we do: only an operator's word.
    fn own_record_came(&mut self, record: Record) {
        if record.life != self.detector.identity().life() {
            return;
        }
        if let RecordPhase::Evicted { by } = record.phase {
            self.stop(Stop::Refused(Refusal::Evicted { by }));
        }
    }

    // It left, or was evicted.
    fn life_is_over(&mut self, now: Time, id: NodeId, record: &Record) {
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
        let stream = entry.stream;
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
                RecordPhase::Active | RecordPhase::Leaving => {}
            }
        }
        self.detector.set_cluster_size(self.living());
    }

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
            entry.half_blocked = false;
            entry.since = now;
            let stale = entry.stream.filter(|stream| {
                self.streams
                    .get(stream)
                    .is_none_or(|known| known.peer != Some(seen.identity.life()))
            });
            if stale.is_some() {
                entry.stream = None;
            }
            if let Some(stream) = stale {
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
                let renewal = seen.identity.renewal;
                self.begin_suspicion(now, id, renewal, seen.incarnation);
            }
            State::Down => self.is_down(now, id, was),
        }
        self.announce(now, id);
        self.detector.set_cluster_size(self.living());
        self.timers.set_by(
            TimerKind::Placement,
            now + self.config.timing.placement_delay,
        );
        self.burst(now);
    }

    // It lives: for the first time, or after a suspicion, or after it counted as failed.
    fn is_alive(&mut self, now: Time, id: NodeId, was: Option<State>) {
        self.end_suspicion(id, true);
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if was != Some(State::Down) {
            return;
        }
        entry.inquiry = None;
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
        self.timers.set_by(TimerKind::Mesh, now);
    }

    fn is_down(&mut self, now: Time, id: NodeId, was: Option<State>) {
        let own = self.table.own_id();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.inquiry = None;
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
                suspicion.order.clone(),
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
    }

    /// Tells users of a member once its life and its record are both known.
    fn announce(&mut self, now: Time, id: NodeId) {
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
        self.name_is_taken_by_elder(id);
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

    // Two sides of a split both had a node of this name: the one that started earlier keeps it.
    fn name_is_taken_by_elder(&mut self, id: NodeId) {
        let own = self.own_record();
        let Some(entry) = self.table.get(id) else {
            return;
        };
        let elder = (entry.identity.generation, id) < (own.life.generation, own.id());
        if entry.name() == own.name && elder && matches!(self.phase, Phase::Active) {
            self.stop(Stop::Refused(Refusal::NameTaken {
                name: own.name,
                holder: entry.identity.addr,
                holder_id: id,
                own: self.config.advertise,
            }));
        }
    }

    /// Forgets who has been gone for long.
    pub(super) fn forget(&mut self, now: Time) {
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
            self.mesh_failures.remove(&identity.id);
        }
        self.timers
            .set(TimerKind::Forget, now + Duration::from_secs(60));
    }
}
