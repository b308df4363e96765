//! Stopping, leaving, evicting.
//!
//! ```text
//!   leave ->[Farewell: my last record] every open stream     each answers FarewellHeard, and spreads it
//!         -> enough have answered, or nobody is left -> streams closed -> stop, exit 0
//! ```
//!
//! The last record goes down every stream before that stream is closed, in order, so that
//! nobody takes the end of the stream for a failure.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::{Core, Phase, timers::TimerKind};
use crate::{
    id::NodeId,
    input::StreamId,
    members::{
        record::{Phase as RecordPhase, Record},
        table::Status,
    },
    output::{Answer, Stop},
    time::Time,
    wire::message::{DirectBody, Frame, News},
};

/// So many peers must have heard a farewell, or all there are.
const ENOUGH: usize = 3;
/// Those without a stream are told over UDP, so many of them at once, and again after this.
const MANY: usize = 16;
const AGAIN: Duration = Duration::from_millis(100);
/// Gossip goes on for so long after enough have heard.
const LINGER: Duration = Duration::from_millis(60);

/// How leaving stands.
#[derive(Debug)]
pub(super) struct Leaving {
    deadline: Time,
    waiting: BTreeSet<NodeId>,
    heard: usize,
    done_at: Option<Time>,
}

impl Core {
    /// Partitions are handed over first; for good, others shall place nothing here any more. Who
    /// will be back says so, too: others would give back what they are handed.
    pub(super) fn depart(&mut self, now: Time, returning: bool) {
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        self.partition_view.departing = true;
        self.change_own_record(now, |record| {
            record.phase = match returning {
                true => RecordPhase::Stopping,
                false => RecordPhase::Leaving,
            };
        });
        self.place_soon(now);
    }

    pub(super) fn leave(&mut self, now: Time, returning: bool) {
        match self.phase {
            Phase::Joining(_) => {
                self.stop(Stop::Left { acknowledged: 0 });
                return;
            }
            Phase::Active => {}
            Phase::Leaving(_) | Phase::Stopped => return,
        }
        self.persist();
        self.change_own_record(now, |record| {
            record.phase = RecordPhase::Left { returning };
        });
        // One round of gossip while foca still speaks, for those without a stream.
        self.detector.gossip(now);
        self.absorb(now);
        let record = self.own_record();
        // Also to those that leave at the same time, or they would see a stream break.
        let streams: Vec<StreamId> = self.table.others().filter_map(|e| e.stream).collect();
        let waiting = self.table.living_others().map(|entry| entry.identity.id);
        let waiting: BTreeSet<NodeId> = waiting.collect();
        for stream in streams {
            self.send_frame(stream, &Frame::Farewell(Box::new(record.clone())));
        }
        self.phase = Phase::Leaving(Leaving {
            deadline: now + self.config.timing.leave,
            waiting,
            heard: 0,
            done_at: None,
        });
        self.tell_those_without_stream();
        self.look_at_leaving(now);
    }

    // A datagram may be lost: told again until they answer.
    fn tell_those_without_stream(&mut self) {
        let Phase::Leaving(leaving) = &self.phase else {
            return;
        };
        let mut addresses: Vec<SocketAddr> = leaving
            .waiting
            .iter()
            .filter_map(|id| self.table.get(*id))
            .filter(|entry| entry.stream.is_none())
            .map(|entry| entry.identity.addr)
            .collect();
        addresses.truncate(MANY);
        let record = Box::new(self.own_record());
        for address in addresses {
            self.send_direct(address, DirectBody::Farewell(record.clone()));
        }
    }

    pub(super) fn hear_farewell(&mut self, now: Time, stream: StreamId, record: Record) {
        self.offer_record(now, record, true);
        self.send_frame(stream, &Frame::FarewellHeard);
    }

    /// A peer has heard our farewell, or is gone itself.
    pub(super) fn farewell_heard(&mut self, now: Time, id: NodeId) {
        let living = self.table.get(id).is_some_and(|entry| entry.is_living());
        let Phase::Leaving(leaving) = &mut self.phase else {
            return;
        };
        if leaving.waiting.remove(&id) && living {
            leaving.heard += 1;
        }
        self.look_at_leaving(now);
    }

    pub(super) fn leave_goes_on(&mut self, now: Time) {
        let gossip_only = matches!(
            &self.phase,
            Phase::Leaving(leaving) if leaving.done_at.is_some()
        );
        if !gossip_only {
            self.tell_those_without_stream();
        }
        self.look_at_leaving(now);
    }

    fn look_at_leaving(&mut self, now: Time) {
        let gone: Vec<NodeId> = match &self.phase {
            Phase::Leaving(leaving) => leaving
                .waiting
                .iter()
                .copied()
                .filter(|id| {
                    self.table.get(*id).is_none_or(|entry| {
                        matches!(
                            entry.status(),
                            Status::Failed | Status::Left | Status::Evicted
                        )
                    })
                })
                .collect(),
            _ => return,
        };
        let Phase::Leaving(leaving) = &mut self.phase else {
            return;
        };
        for id in gone {
            leaving.waiting.remove(&id);
        }
        let enough = leaving.heard >= ENOUGH || leaving.waiting.is_empty();
        if enough && leaving.done_at.is_none() {
            let linger = if leaving.heard == 0 {
                Duration::ZERO
            } else {
                LINGER
            };
            leaving.done_at = Some(now + linger);
        }
        let (heard, silent) = (leaving.heard, leaving.waiting.len());
        match leaving.done_at {
            Some(at) if now >= at => self.stop(Stop::Left {
                acknowledged: heard,
            }),
            Some(at) => self.timers.set(TimerKind::Leave, at),
            None if now >= leaving.deadline => self.stop(Stop::LeftUncleanly(format!(
                "{heard} members have heard of it in time, {silent} have not answered"
            ))),
            None => {
                let deadline = leaving.deadline;
                self.timers.set(TimerKind::Leave, deadline.min(now + AGAIN));
            }
        }
    }

    pub(super) fn evict(&mut self, now: Time, name: &str) -> Answer {
        let Some(entry) = self.table.find(name) else {
            return Answer::Refused(format!(
                "there is no member {name:?} (`kith members` lists them)"
            ));
        };
        let id = entry.identity.id;
        if id == self.table.own_id() {
            return Answer::Refused(
                "a node does not evict itself: use `kith leave` there".to_owned(),
            );
        }
        if entry.status() == Status::Evicted {
            return Answer::Done;
        }
        let Some(record) = entry.current_record() else {
            return Answer::Refused(format!(
                "too little is known of {name:?} yet; try again in a moment"
            ));
        };
        let evicted = record.evicted(&self.config.name);
        let stream = entry.stream;
        if let Some(stream) = stream {
            let news = News::Record(Box::new(evicted.clone()));
            let body = DirectBody::News(news);
            self.send_frame(stream, &Frame::Direct(body));
        }
        self.offer_record(now, evicted, true);
        Answer::Done
    }
}
