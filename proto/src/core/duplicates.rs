//! Two living processes with one id, or with one name: the one that started earlier keeps it.
//!
//! Where they meet at a join, the holder is asked (see `holders`). They can also meet when a
//! split heals, each a member of its side. Larger generations win everywhere and at once, because
//! that is what a restart is, so the younger one displaces the elder first:
//!
//! ```text
//!   elder (started 5, generation 5)                 younger (started 9, generation 9)
//!     |  <--- its record, from whoever took it in ---
//!     |  "I live, and started earlier"
//!     |  takes generation 10, still started 5
//!     |  --- its new record, to the younger and to all --->
//!     |                         "above mine, and not mine, and started before me:
//!     |                          it lived when it had heard of me" -> stops, and says why
//! ```
//!
//! A record of a *smaller* generation proves nothing: it may be that of a process which is long
//! dead. One of a larger generation whose process started earlier can only come from a process
//! that was alive after the younger one began. So nobody stops for a dead one, both sides apply
//! one rule to the same two records, whoever speaks first, and a process takes a new generation
//! at most once for each double.

use std::{net::SocketAddr, time::Duration};

use super::{Core, Phase, streams::Purpose, timers::TimerKind};
use crate::{
    id::NodeId,
    input::StreamId,
    members::record::{Phase as RecordPhase, Record},
    output::{Refusal, Stop},
    time::Time,
    wire::{
        codec,
        message::{Direct, DirectBody, Frame, Hello, Intent, KIND_DIRECT, News},
    },
};

/// A new generation is taken at most this often; who has to hear of it hears of it again.
const CLAIM_PAUSE: Duration = Duration::from_millis(500);
/// Peers dialled at once under a new generation; the mesh dials the others.
const DIALLED_AT_ONCE: usize = 3;
/// A member is told at most this often that another life of its id is known.
const TOLD_PAUSE: Duration = Duration::from_millis(500);

impl Core {
    /// A record of this node's own id came from somewhere.
    pub(super) fn own_record_came(&mut self, now: Time, record: &Record) {
        let own = self.detector.identity();
        let is_this_process = record.life == own.life() && record.addr == own.addr;
        if is_this_process {
            if let RecordPhase::Evicted { by } = &record.phase {
                let by = by.clone();
                self.stop(Stop::Refused(Refusal::Evicted { by }));
            }
            return;
        }
        if record.life.generation < own.generation || !matches!(self.phase, Phase::Active) {
            return;
        }
        if !self.is_elder(record) {
            self.take_new_generation(now, record);
        } else if record.life.generation > own.generation {
            self.stop_as_double(record.addr);
        }
    }

    /// Another living process was met that has this node's own id.
    pub(super) fn met_own_id(&mut self, now: Time, stream: StreamId, hello: &Hello) {
        let is_member = matches!(self.phase, Phase::Active) && hello.intent == Intent::Peer;
        if !is_member || !hello.record.is_bounded() || hello.record.life != hello.identity.life() {
            let text = format!(
                "its node id {} is this node's own, at {}: a data directory was copied; give it its own",
                hello.identity.id, self.config.advertise
            );
            self.refuse(stream, text);
            return;
        }
        if self.is_elder(&hello.record) {
            self.close(stream);
            self.stop_as_double(hello.identity.addr);
            return;
        }
        self.own_record_came(now, &hello.record);
        let record = self.own_record();
        self.say_taken(stream, record);
    }

    /// A member that was dialled says that this node's id or name is taken.
    pub(super) fn hear_taken(&mut self, now: Time, stream: StreamId, record: &Record) {
        let purpose = self.streams.get(&stream).and_then(|known| known.purpose);
        self.close(stream);
        if let Some(Purpose::Mesh(id) | Purpose::Keys(id)) = purpose {
            self.no_stream_for_keys(
                now,
                id,
                "it holds that another node has this one's id or name",
            );
        }
        if !record.is_bounded() || !matches!(self.phase, Phase::Active) {
            self.count("rejected_frame");
            return;
        }
        if record.id() != self.table.own_id() {
            self.name_is_held(record);
        } else if self.is_elder(record) {
            // It said this either of a larger generation, or of a holder that has just answered.
            self.stop_as_double(record.addr);
        } else {
            self.own_record_came(now, record);
        }
    }

    /// Says to a member that its id or name is taken.
    pub(super) fn say_taken(&mut self, stream: StreamId, record: Record) {
        self.count("refused");
        self.send_frame(stream, &Frame::Taken(Box::new(record)));
        self.close(stream);
    }

    /// A sealed datagram came from this node's own id. The one thing that another process with
    /// that id has to say is its record.
    pub(super) fn own_id_speaks(&mut self, now: Time, kind: u8, payload: &[u8]) {
        if kind == KIND_DIRECT
            && let Ok(direct) = codec::decode::<Direct>(payload)
            && let DirectBody::News(News::Record(record)) = direct.body
            && record.id() == self.table.own_id()
            && record.is_bounded()
        {
            self.own_record_came(now, &record);
        } else {
            self.count("rejected_own_id");
        }
    }

    /// A member speaks with a life that a later one has displaced: it has to know, since it lives.
    pub(super) fn tell_of_later_life(&mut self, now: Time, id: NodeId, to: SocketAddr) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if entry
            .told_of_later
            .is_some_and(|last| now < last + TOLD_PAUSE)
        {
            return;
        }
        if let Some(record) = entry.current_record().cloned() {
            entry.told_of_later = Some(now);
            self.send_direct(to, DirectBody::News(News::Record(Box::new(record))));
        }
    }

    /// A member is known to live whose name may be this node's own.
    pub(super) fn look_for_own_name(&mut self, id: NodeId) {
        if let Some(record) = self
            .table
            .get(id)
            .and_then(|entry| entry.record.clone())
            .filter(|record| !record.is_over())
        {
            self.name_is_held(&record);
        }
    }

    /// Whether a member that has a name or an id already has to give way to the caller, which
    /// is one too.
    pub(super) fn gives_way(&self, holder: &Record, hello: &Hello) -> bool {
        let caller = &hello.record;
        hello.intent == Intent::Peer
            && if holder.id() == caller.id() {
                (caller.started, caller.addr) < (holder.started, holder.addr)
            } else {
                (caller.started, caller.id()) < (holder.started, holder.id())
            }
    }

    // Two sides of a split both had a node of this name.
    fn name_is_held(&mut self, record: &Record) {
        let own = self.own_record();
        let elder = (record.started, record.id()) < (own.started, own.id());
        if record.name == own.name && elder && matches!(self.phase, Phase::Active) {
            self.stop(Stop::Refused(Refusal::NameTaken {
                name: own.name,
                holder: record.addr,
                holder_id: record.id(),
                own: self.config.advertise,
            }));
        }
    }

    // Whether the process behind a record of this node's id started before this one.
    fn is_elder(&self, record: &Record) -> bool {
        let own = self.own_record();
        (record.started, record.addr) < (own.started, own.addr)
    }

    fn stop_as_double(&mut self, other: SocketAddr) {
        self.stop(Stop::Refused(Refusal::IdTaken {
            id: self.table.own_id(),
            other,
            own: self.config.advertise,
        }));
    }

    // A younger process has this node's id: this one goes on with a generation above both.
    fn take_new_generation(&mut self, now: Time, younger: &Record) {
        if self.claimed.is_some_and(|last| now < last + CLAIM_PAUSE) {
            return;
        }
        self.claimed = Some(now);
        let generation = younger.life.generation.saturating_add(1);
        self.count("generations_taken");
        self.warn(
            "duplicate_id",
            format!(
                "another process at {} runs with this node's id {}: a data directory was copied. This \
                 node, at {}, started earlier and keeps the id; the other one has to stop",
                younger.addr,
                younger.id(),
                self.config.advertise
            ),
        );
        self.config.generation = generation;
        // What was being found out about others was asked in the former life's name, and so would
        // the answers be.
        let others: Vec<NodeId> = self.table.others().map(|entry| entry.identity.id).collect();
        for id in others {
            self.end_inquiry(id);
        }
        self.detector.take_generation(now, generation);
        let identity = self.detector.identity();
        if let Some(own) = self.table.get_mut(identity.id) {
            own.identity = identity;
            if let Some(record) = &mut own.record {
                record.life = identity.life();
            }
        }
        self.persist();
        self.say_hello_anew(now);
        self.change_own_record(now, |_| {});
        let record = Box::new(self.own_record());
        self.send_direct(younger.addr, DirectBody::News(News::Record(record)));
    }

    // The peers at the other ends of all streams know a life that is no more.
    fn say_hello_anew(&mut self, now: Time) {
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        for stream in streams {
            self.send_frame(stream, &Frame::Superfluous);
            self.close(stream);
        }
        let peers: Vec<(NodeId, SocketAddr)> = self
            .table
            .living_others()
            .take(DIALLED_AT_ONCE)
            .map(|entry| (entry.identity.id, entry.identity.addr))
            .collect();
        for (id, address) in peers {
            self.dial(address, Purpose::Mesh(id));
        }
        self.timers.set_by(TimerKind::Mesh, now);
    }
}
