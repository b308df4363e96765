//! A name or an id that a living member has already.
//!
//! The newcomer is not simply refused: the present holder may be dead and not yet known to be.
//! It is asked, over UDP and by a knock; if it answers the newcomer is refused with both
//! addresses named, if it does not within a second the newcomer takes over. A newcomer at the
//! holder's own address needs no asking: two processes cannot listen there.

use std::time::Duration;

use super::{Core, timers::TimerKind};
use crate::{
    id::NodeId,
    input::{Knock, StreamId},
    output::Output,
    time::Time,
    wire::message::{DirectBody, Hello, Intent},
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
    // A living member that has the caller's name or id.
    pub(super) fn conflict(&self, hello: &Hello) -> Option<(NodeId, String)> {
        let identity = &hello.identity;
        let own = self.table.get(self.table.own_id())?;
        if own.is_named(&hello.record.name) {
            if self.gives_way(&self.own_record(), hello) {
                return None;
            }
            let text = self.taken(&hello.record.name, own, identity.addr);
            return Some((own.identity.id, text));
        }
        self.table
            .living_others()
            .find(|entry| {
                let same_id = entry.identity.id == identity.id
                    && entry.identity.generation <= identity.generation;
                let same_name =
                    entry.identity.id != identity.id && entry.is_named(&hello.record.name);
                let gives_way = entry
                    .record
                    .as_ref()
                    .is_some_and(|holder| self.gives_way(holder, hello));
                (same_id || same_name) && entry.identity.addr != identity.addr && !gives_way
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

    pub(super) fn taken(
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

    pub(super) fn ask_holder(
        &mut self,
        now: Time,
        stream: StreamId,
        hello: Hello,
        holder: NodeId,
        text: String,
    ) {
        if holder == self.table.own_id() {
            self.refuse_for(stream, &hello, holder, text);
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
            self.refuse_for(pending.stream, &pending.hello, holder, pending.text);
        }
    }

    // A joiner reads why and stops; a member decides by the holder's record.
    fn refuse_for(&mut self, stream: StreamId, hello: &Hello, holder: NodeId, text: String) {
        let record = self
            .table
            .get(holder)
            .and_then(|entry| entry.record.clone());
        match record {
            Some(record) if hello.intent == Intent::Peer => self.say_taken(stream, record),
            _ => self.refuse(stream, text),
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
}
