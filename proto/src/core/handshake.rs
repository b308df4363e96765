//! Hello and its answers: who may be a member.
//!
//! Whose name or id is held by somebody else waits for that holder's answer (see `holders`).

use super::{Core, Phase, streams::Purpose, sync::parcels};
use crate::{
    input::StreamId,
    members::{
        record::Record,
        table::{Entry, Status},
    },
    time::Time,
    wire::message::{DirectBody, Frame, Hello, Intent, Welcome, settings_are_possible},
};

impl Core {
    pub(super) fn hear_hello(&mut self, now: Time, stream: StreamId, hello: Hello) {
        if let Some(reason) = self.objection(&hello) {
            // A member that was cut off when it was evicted stops when it reads so, not by words.
            match self.eviction(&hello) {
                Some(record) if hello.intent == Intent::Peer => {
                    let record = record.clone();
                    self.say_taken(stream, record);
                }
                _ => self.refuse(stream, reason),
            }
            return;
        }
        if hello.identity.id == self.table.own_id() {
            self.met_own_id(now, stream, &hello);
            return;
        }
        if !matches!(self.phase, Phase::Active) {
            self.not_ready(now, stream, &hello);
            return;
        }
        let later = self
            .table
            .get(hello.identity.id)
            .filter(|present| present.identity.generation > hello.identity.generation);
        if let Some(later) = later {
            let address = later.identity.addr;
            match later.current_record().cloned() {
                Some(record) if hello.intent == Intent::Peer => self.say_taken(stream, record),
                _ => self.refuse(
                    stream,
                    format!(
                        "a later run of this node ({}) is known, at {address}",
                        hello.identity.id
                    ),
                ),
            }
            return;
        }
        match self.conflict(&hello) {
            Some((holder, text)) => self.ask_holder(now, stream, hello, holder, text),
            None => self.admit(now, stream, &hello),
        }
    }

    // What can be said at once against a caller.
    fn objection(&self, hello: &Hello) -> Option<String> {
        let (oldest, newest) = hello.protocol;
        let own = self.config.protocol;
        if newest < own.0 || oldest > own.1 {
            return Some(format!(
                "it speaks protocol versions {oldest} to {newest}, this node {} to {}: upgrade the older one",
                own.0, own.1
            ));
        }
        if hello.cluster_name != self.config.cluster {
            return Some(format!(
                "wrong cluster: the one here is {:?}, and {:?} was asked for (--cluster)",
                self.config.cluster, hello.cluster_name
            ));
        }
        let own = self.cluster.as_ref().map(|cluster| cluster.id);
        if let (Some(theirs), Some(own)) = (hello.cluster, own)
            && theirs != own
        {
            return Some(format!(
                "its data directory belongs to another cluster of that name ({theirs}; this is {own}): \
                 give it an empty --data-dir to join this one"
            ));
        }
        let record = &hello.record;
        if record.life != hello.identity.life() || !record.is_bounded() || record.is_over() {
            return Some("its record makes no sense".to_owned());
        }
        if hello.identity.generation == 0 {
            return Some("a generation is never 0".to_owned());
        }
        self.eviction(hello)
            .map(|_| "it was evicted; start it anew to let it join again".to_owned())
    }

    // What was said of a caller that was evicted in its present life.
    fn eviction(&self, hello: &Hello) -> Option<&Record> {
        let present = self.table.get(hello.identity.id)?;
        let evicted =
            present.status() == Status::Evicted && present.life() == hello.identity.life();
        present.record.as_ref().filter(|_| evicted)
    }

    fn not_ready(&mut self, now: Time, stream: StreamId, hello: &Hello) {
        if let Intent::Expect(expecting) = &hello.intent {
            self.heard_expecting(now, hello.identity.id, expecting);
        }
        if matches!(self.phase, Phase::Active) {
            // What was heard completed the number: this node has just bootstrapped.
            self.admit(now, stream, hello);
            return;
        }
        let expecting = self.expecting();
        self.send_frame(stream, &Frame::NotReady(expecting));
        self.close(stream);
    }

    pub(super) fn refuse(&mut self, stream: StreamId, reason: String) {
        self.count("refused");
        self.send_frame(stream, &Frame::Refused(reason));
        self.close(stream);
    }

    pub(super) fn admit(&mut self, now: Time, stream: StreamId, hello: &Hello) {
        let Some(cluster) = self.cluster.clone() else {
            return;
        };
        if !self.streams.contains_key(&stream) {
            return;
        }
        let joins = hello.intent != Intent::Peer;
        let id = hello.identity.id;
        let was_failed = self.is_failed(id);
        let disowned = self.disowns(&hello.identity);
        // A joiner is told of everybody; a member compares what it knows instead.
        let told = self.table.iter().filter(|_| joins).map(Entry::sync_entry);
        let mut parcels = parcels(told).collect::<Vec<_>>().into_iter();
        let welcome = Welcome {
            cluster,
            identity: self.detector.identity(),
            incarnation: self.detector.incarnation(),
            record: self.own_record(),
            keys: self.keys.iter().cloned().collect(),
            disowned,
            entries: parcels.next().unwrap_or_default(),
        };
        if was_failed {
            self.healing(now);
        }
        self.take_in(
            now,
            hello.identity,
            hello.incarnation,
            hello.record.clone(),
            true,
        );
        self.absorb(now);
        self.send_frame(stream, &Frame::Welcome(Box::new(welcome)));
        self.agree_on_version(stream, hello.protocol);
        for entries in parcels {
            self.send_frame(stream, &Frame::Newcomers(entries));
        }
        self.register(now, stream, hello.identity.life());
        if joins {
            self.greet_newcomer(now, id, stream);
        } else if self.examines(now, id) {
            // Who keeps falling silent need not learn from everybody what it missed.
            self.send_digest(stream);
        }
    }

    // The renewal at which that identity counts as down here.
    fn disowns(&self, identity: &crate::swim::identity::Identity) -> Option<u32> {
        let entry = self.table.get(identity.id)?;
        let down = entry.swim == Some(foca::State::Down)
            && entry.life() == identity.life()
            && entry.identity.renewal >= identity.renewal;
        down.then_some(entry.identity.renewal)
    }

    /// Takes in what a node says of itself: it lives.
    pub(super) fn take_in(
        &mut self,
        now: Time,
        identity: crate::swim::identity::Identity,
        incarnation: u16,
        record: Record,
        spread: bool,
    ) {
        if self.table.entry(identity, now).is_none() {
            self.count("table_full");
            return;
        }
        self.offer_record(now, record, spread);
        let alive = foca::Member::new(identity, incarnation, foca::State::Alive);
        self.detector.apply(now, alive, spread);
    }

    pub(super) fn hear_welcome(&mut self, now: Time, stream: StreamId, welcome: Welcome) {
        let Some(remote) = self.streams.get(&stream).map(|known| known.remote) else {
            return;
        };
        let nonsense = !settings_are_possible(&welcome.cluster.settings)
            || welcome.cluster.name != self.config.cluster
            || welcome.record.life != welcome.identity.life()
            || !welcome.record.is_bounded()
            || welcome.identity.id == self.table.own_id();
        let other_cluster = self
            .cluster
            .as_ref()
            .is_some_and(|own| own.id != welcome.cluster.id);
        if nonsense || other_cluster {
            self.reject(now, "rejected_welcome", &format!("a welcome from {remote}"));
            self.close(stream);
            return;
        }
        let joining = matches!(self.phase, Phase::Joining(_));
        self.learn_keys(&welcome.keys, joining);
        let lost = self
            .streams
            .get(&stream)
            .is_some_and(|known| known.purpose == Some(Purpose::Lost));
        if lost && self.is_failed(welcome.identity.id) {
            self.healing(now);
        }
        if joining {
            self.cluster = Some(welcome.cluster.clone());
        }
        if let Some(renewal) = welcome.disowned
            && renewal >= self.detector.identity().renewal
        {
            self.detector.renew(now);
        }
        let they_are_down = self.disowns(&welcome.identity);
        let (identity, incarnation) = (welcome.identity, welcome.incarnation);
        self.agree_on_version(stream, welcome.record.protocol);
        self.take_in(now, identity, incarnation, welcome.record, !joining);
        self.merge(now, welcome.entries);
        self.absorb(now);
        self.register(now, stream, identity.life());
        if let Some(renewal) = they_are_down {
            self.send_frame(stream, &Frame::Direct(DirectBody::Disowned { renewal }));
        }
        if joining {
            self.become_active(now);
        }
        // Between members the one that was dialled begins to compare what both know.
    }
}
