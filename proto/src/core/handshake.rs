//! Hello and its answers: who may be a member.
//!
//! A name or an id that a living member has already is not simply refused: the present holder
//! may be dead and not yet known to be. It is asked, over UDP and by a knock; if it answers the
//! newcomer is refused with both addresses named, if it does not within a second the newcomer
//! takes over. A newcomer at the holder's own address needs no asking: two processes cannot
//! listen there.

use std::time::Duration;

use super::{Core, Phase, streams::Purpose, timers::TimerKind};
use crate::{
    config::PROTOCOL,
    id::NodeId,
    input::{Knock, StreamId},
    members::table::Status,
    output::Output,
    time::Time,
    wire::message::{
        DirectBody, Frame, Health, Hello, Intent, SyncEntry, Welcome, settings_are_possible,
    },
};

/// How long a holder of a name or id has to answer.
const HOLDER_PATIENCE: Duration = Duration::from_secs(1);
/// Newcomers that may wait for a holder's answer at once.
const MAX_PENDING: usize = 64;

/// A newcomer that waits until the holder of its name or id has answered, or has not.
#[derive(Debug)]
pub(super) struct Pending {
    stream: StreamId,
    hello: Hello,
    holder: NodeId,
    nonce: u32,
    text: String,
}

impl Core {
    pub(super) fn hear_hello(&mut self, now: Time, stream: StreamId, hello: Hello) {
        if let Some(reason) = self.objection(&hello) {
            self.refuse(stream, reason);
            return;
        }
        if !matches!(self.phase, Phase::Active) {
            self.not_ready(now, stream, &hello);
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
        if newest < PROTOCOL.0 || oldest > PROTOCOL.1 {
            return Some(format!(
                "it speaks protocol versions {oldest} to {newest}, this node {} to {}: upgrade the older one",
                PROTOCOL.0, PROTOCOL.1
            ));
        }
        if hello.cluster_name != self.config.cluster {
            return Some(format!(
                "wrong cluster: it wants {:?}, this is {:?} (--cluster)",
                hello.cluster_name, self.config.cluster
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
        if hello.identity.id == self.table.own_id() {
            return Some(format!(
                "its node id {} is this node's own, at {}: a data directory was copied; give it its own",
                hello.identity.id, self.config.advertise
            ));
        }
        let record = &hello.record;
        if record.life != hello.identity.life() || !record.is_bounded() || record.is_over() {
            return Some("its record makes no sense".to_owned());
        }
        if hello.identity.generation == 0 {
            return Some("a generation is never 0".to_owned());
        }
        let present = self.table.get(hello.identity.id)?;
        if present.identity.generation > hello.identity.generation {
            return Some(format!(
                "a later run of this node ({}) is known, at {}",
                hello.identity.id, present.identity.addr
            ));
        }
        if present.status() == Status::Evicted && present.life() == hello.identity.life() {
            return Some("it was evicted; start it anew to let it join again".to_owned());
        }
        None
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

    // A living member that has the caller's name or id.
    fn conflict(&self, hello: &Hello) -> Option<(NodeId, String)> {
        let identity = &hello.identity;
        let own = self.table.get(self.table.own_id())?;
        if own.name() == hello.record.name {
            let text = self.taken(&hello.record.name, own, identity.addr);
            return Some((own.identity.id, text));
        }
        self.table
            .living_others()
            .find(|entry| {
                let same_id = entry.identity.id == identity.id
                    && entry.identity.generation < identity.generation;
                let same_name =
                    entry.identity.id != identity.id && entry.name() == hello.record.name;
                (same_id || same_name) && entry.identity.addr != identity.addr
            })
            .map(|entry| {
                let text = if entry.identity.id == identity.id {
                    format!(
                        "another process runs with this node's id {} at {}; this one is at {}. A data \
                         directory was copied: give this node its own",
                        identity.id, entry.identity.addr, identity.addr
                    )
                } else {
                    self.taken(&hello.record.name, entry, identity.addr)
                };
                (entry.identity.id, text)
            })
    }

    fn taken(
        &self,
        name: &str,
        holder: &crate::members::table::Entry,
        newcomer: std::net::SocketAddr,
    ) -> String {
        format!(
            "the name {name:?} is taken by the node at {} ({}); this one is at {newcomer}. Give it \
             another --name",
            holder.identity.addr, holder.identity.id
        )
    }

    fn ask_holder(
        &mut self,
        now: Time,
        stream: StreamId,
        hello: Hello,
        holder: NodeId,
        text: String,
    ) {
        if holder == self.table.own_id() {
            self.refuse(stream, text);
            return;
        }
        if self.holders.len() >= MAX_PENDING {
            self.refuse(stream, "too many newcomers at once; try again".to_owned());
            return;
        }
        let Some(identity) = self.table.get(holder).map(|entry| entry.identity) else {
            return;
        };
        let nonce = self.nonce();
        let body = DirectBody::Ping {
            to: identity.life(),
            nonce,
            suspected: None,
        };
        self.send_direct(identity.addr, body);
        let knock = self.token();
        self.knocks.insert(knock, hello.identity.id);
        self.outputs.push_back(Output::Knock {
            knock,
            to: identity.addr,
        });
        let newcomer = hello.identity.id;
        self.holders.insert(
            newcomer,
            Pending {
                stream,
                hello,
                holder,
                nonce,
                text,
            },
        );
        self.timers
            .set(TimerKind::Holder(newcomer), now + HOLDER_PATIENCE);
    }

    /// A holder answered: its name stays its own.
    pub(super) fn holder_answered(&mut self, holder: NodeId, nonce: u32) {
        let newcomer = self
            .holders
            .iter()
            .find(|(_, pending)| pending.holder == holder && pending.nonce == nonce)
            .map(|(newcomer, _)| *newcomer);
        if let Some(newcomer) = newcomer
            && let Some(pending) = self.holders.remove(&newcomer)
        {
            self.timers.clear(TimerKind::Holder(newcomer));
            self.refuse(pending.stream, pending.text);
        }
    }

    /// A holder's host answered a knock: refused means that the holder is no more.
    pub(super) fn holder_knocked(&mut self, now: Time, newcomer: NodeId, answer: Knock) -> bool {
        if !self.holders.contains_key(&newcomer) {
            return false;
        }
        if answer == Knock::Refused {
            self.holder_is_silent(now, newcomer);
        }
        true
    }

    pub(super) fn holder_is_silent(&mut self, now: Time, newcomer: NodeId) {
        self.timers.clear(TimerKind::Holder(newcomer));
        if let Some(pending) = self.holders.remove(&newcomer) {
            self.admit(now, pending.stream, &pending.hello);
        }
    }

    fn refuse(&mut self, stream: StreamId, reason: String) {
        self.count("refused");
        self.send_frame(stream, &Frame::Refused(reason));
        self.close(stream);
    }

    fn admit(&mut self, now: Time, stream: StreamId, hello: &Hello) {
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
        let welcome = Welcome {
            cluster,
            identity: self.detector.identity(),
            incarnation: self.detector.incarnation(),
            record: self.own_record(),
            keys: self.keys.iter().cloned().collect(),
            disowned,
            entries: if joins {
                self.table.iter().map(|entry| entry.sync_entry()).collect()
            } else {
                Vec::new()
            },
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
        self.register(now, stream, hello.identity.life());
        if joins {
            self.greet_newcomer(now, id, stream);
        } else {
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
        record: crate::members::record::Record,
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
        for key in welcome.keys.iter().take(crate::wire::keyring::MAX_KEYS) {
            self.learn_key(key.clone(), welcome.keys.first() == Some(key));
        }
        let lost = self
            .streams
            .get(&stream)
            .is_some_and(|known| known.purpose == Some(Purpose::Lost));
        if lost && self.is_failed(welcome.identity.id) {
            self.healing(now);
        }
        let joining = matches!(self.phase, Phase::Joining(_));
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
        self.take_in(now, identity, incarnation, welcome.record, !joining);
        self.merge(now, welcome.entries);
        self.absorb(now);
        self.register(now, stream, identity.life());
        if let Some(renewal) = they_are_down {
            self.send_frame(stream, &Frame::Direct(DirectBody::Disowned { renewal }));
        }
        if joining {
            self.become_active(now);
        } else {
            self.send_digest(stream);
        }
    }

    /// What a peer knows of others.
    pub(super) fn merge(&mut self, now: Time, entries: Vec<SyncEntry>) {
        for entry in entries {
            self.merge_entry(now, entry);
        }
    }

    fn merge_entry(&mut self, now: Time, theirs: SyncEntry) {
        let id = theirs.identity.id;
        if theirs.identity.generation == 0 {
            self.count("rejected_entry");
            return;
        }
        let down = theirs.health == Health::Down;
        if id == self.table.own_id() {
            let own = self.detector.identity();
            if down
                && theirs.identity.life() == own.life()
                && theirs.identity.renewal >= own.renewal
            {
                self.detector.renew(now);
            }
            if let Some(record) = theirs.record {
                self.offer_record(now, record, false);
            }
            return;
        }
        let over = theirs
            .record
            .as_ref()
            .is_some_and(|record| record.is_over());
        if self.table.entry(theirs.identity, now).is_none() {
            self.count("table_full");
            return;
        }
        if let Some(record) = theirs.record {
            self.offer_record(now, record, false);
        }
        let Some(ours) = self.table.get(id) else {
            return;
        };
        let rank = ours.identity.rank();
        let news = ours.swim.is_none() || theirs.identity.rank() > rank;
        if !down && !over {
            let newer =
                news || (theirs.identity.rank() == rank && theirs.incarnation > ours.incarnation);
            if newer {
                let alive =
                    foca::Member::new(theirs.identity, theirs.incarnation, foca::State::Alive);
                self.detector.apply(now, alive, false);
            }
        } else if news && ours.swim.is_none() {
            // Gone before we came: shown, but no event.
            let down = foca::Member::new(theirs.identity, theirs.incarnation, foca::State::Down);
            self.detector.apply(now, down, false);
        } else if down && theirs.identity.rank() == rank && ours.is_living() {
            // Hearsay: it counts as down elsewhere and lives here. Down is final for an identity, so
            // it is asked to take a new one. Should it really be gone, that is found out anyway.
            self.disown(now, id);
        }
    }

    fn disown(&mut self, now: Time, id: NodeId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if entry
            .disowned
            .is_some_and(|last| now < last + Duration::from_millis(500))
        {
            return;
        }
        entry.disowned = Some(now);
        let (address, stream) = (entry.identity.addr, entry.stream);
        let body = DirectBody::Disowned {
            renewal: entry.identity.renewal,
        };
        match stream {
            Some(stream) => self.send_frame(stream, &Frame::Direct(body)),
            None => self.send_direct(address, body),
        }
    }
}
