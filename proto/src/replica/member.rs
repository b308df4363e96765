//! What a member answers: promises, acceptances, installations, writes of the owner.
//!
//! Everything about the chain is on the disk before it is answered.

use bytes::Bytes;

use super::{
    chain::{Ballot, Chain, ConfigId, Configuration, Rejection},
    host::{Output, SyncToken},
    message::{Attempt, Body, Content, Message, WriteItem},
    omit::Omit,
    owner::Owner,
    shard::{Filler, Shard, Timer},
};
use crate::{
    id::{NodeId, PartitionId},
    kv::entry::Entry,
    store::partitions::Batch,
};

/// A node takes part in so many fills at a time, of those that others do to it.
const FILLS_IN: usize = 4;

impl Shard {
    pub(super) fn hear_prepare(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        ballot: Ballot,
        config: &Configuration,
        by_word: bool,
    ) {
        if config.id != id || !config.is_legal() || !config.has(from) || ballot.node != from {
            return self.counters_up("rejected_message");
        }
        // Whoever prepares has installed it, so it was chosen.
        self.learn_configuration(p, config);
        let own = self.own;
        let attempt = Attempt::Ballot(ballot);
        if let Some(present) = self.chain(p).map(|chain| chain.config.clone())
            && present.is_rival_of(config)
        {
            self.meet_rival(p, config);
            let why = Rejection::Diverged(Box::new(present));
            return self.reject(from, p, id, attempt, why);
        }
        let fencing = !self.omits(Omit::Fencing);
        let id_here = self.id_here(p, id);
        let Some(chain) = self.replica(p).chain.as_mut() else {
            return self.reject(from, p, id, attempt, Rejection::NotMember);
        };
        let before = chain.clone();
        let promised = if by_word {
            chain.prepare_by_word(own, id_here, ballot)
        } else {
            chain.prepare(own, id_here, ballot)
        };
        if let Err(why) = promised {
            return self.reject(from, p, id, attempt, why);
        }
        let accepted = chain
            .accepted
            .clone()
            .map(|(ballot, config)| (ballot, Box::new(config)));
        if !fencing {
            *chain = before;
        }
        self.give_way(p);
        let after = self.keep_ballot(p);
        let body = Body::Promise {
            ballot,
            accepted,
            root: self.root(p),
            hlc: self.largest_hlc(),
        };
        self.tell(from, p, id, body, Some(after));
    }

    pub(super) fn hear_accept(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        ballot: Ballot,
        next: &Configuration,
    ) {
        if !next.is_legal() || !next.descends_from(id) || ballot.node != from {
            return self.counters_up("rejected_message");
        }
        let own = self.own;
        let attempt = Attempt::Ballot(ballot);
        let omits_promise = self.omits(Omit::AcceptancePromises);
        let Some(chain) = self.replica(p).chain.as_mut() else {
            return self.reject(from, p, id, attempt, Rejection::NotMember);
        };
        let promised = chain.promised;
        if let Err(why) = chain.accept(own, id, ballot, next) {
            return self.reject(from, p, id, attempt, why);
        }
        if omits_promise {
            chain.promised = promised;
        }
        self.give_way(p);
        let after = self.keep_ballot(p);
        self.tell(from, p, id, Body::Accepted { ballot }, Some(after));
    }

    // The configuration that work is for: just the one that is named (rule 10).
    fn id_here(&self, p: PartitionId, id: ConfigId) -> ConfigId {
        match self.chain(p) {
            Some(chain) if self.omits(Omit::ExactEpoch) => chain.config.id,
            _ => id,
        }
    }

    fn keep_ballot(&mut self, p: PartitionId) -> SyncToken {
        if self.omits(Omit::DurableBallots) {
            return SyncToken(0);
        }
        self.keep_chain(p)
    }

    // Somebody else decides now: what this node was about is over, unless its outcome is open.
    fn give_way(&mut self, p: PartitionId) {
        let now = self.now.time;
        let replica = self.replica(p);
        replica.promised_at = Some(now);
        replica.proposal = None;
        replica.sessions.clear();
        if let Some(owner) = &mut replica.owner {
            owner.change = None;
        }
        let patience = self.config.timing.promise;
        self.timers.set(Timer::Partition(p), now + patience);
    }

    /// Installs a configuration that was chosen, if it follows what is here, or nothing is here and this
    /// node is a member. Whether it is installed now.
    pub(super) fn learn_configuration(&mut self, p: PartitionId, config: &Configuration) -> bool {
        let own = self.own;
        let (now, wall) = (self.now.time, self.now.wall);
        let keeps_votes = self.omits(Omit::FreshVotes);
        let replica = self.replica(p);
        let before = replica.chain.as_ref().map(|chain| chain.config.id);
        let was_member = replica
            .chain
            .as_ref()
            .is_some_and(|chain| chain.config.has(own));
        match &mut replica.chain {
            None if config.has(own) => replica.chain = Some(Chain::new(config.clone())),
            None => return false,
            Some(chain) => {
                let votes = (chain.promised, chain.accepted.clone());
                if !chain.install(own, config) {
                    return false;
                }
                if keeps_votes {
                    (chain.promised, chain.accepted) = votes;
                }
            }
        }
        if before == Some(config.id) {
            return true;
        }
        // A newcomer that was found equal may own it at once. If somebody else began to fill it anew
        // since, or it was dropped, what a majority has must be merged here first: see `drive`.
        // So it must in a member that may have forgotten something (rule 8).
        let learns = replica.chain.as_ref().is_some_and(|chain| chain.learner);
        let found_equal = replica.filled_by.is_some_and(|by| by.equal);
        let is_equal = (was_member && !learns) || found_equal;
        if let Some(chain) = replica.chain.as_mut().filter(|_| !was_member && is_equal) {
            chain.equal_at = wall;
            chain.learner = false;
        }
        replica.promised_at = None;
        replica.filled_by = None;
        replica.proposal = None;
        replica.sessions.clear();
        replica.telling.clear();
        replica.rival = None;
        replica.went_on.clear();
        replica.owner = None;
        if config.owner() == own && config.closed_into.is_none() && is_equal {
            replica.owner = Some(Owner::new(own, config));
        }
        if !config.has(own) {
            let pause = self.config.timing.forget;
            self.timers.set(Timer::Partition(p), now + pause);
            if self.omits(Omit::KeptCopies) {
                self.clear(p);
            }
        }
        self.timers.clear(Timer::TakeOver(p));
        self.keep_chain(p);
        self.learn_route(p, config);
        self.writes_end(p, config.id);
        self.counters_up("installed");
        true
    }

    pub(super) fn hear_install(&mut self, from: NodeId, p: PartitionId, config: &Configuration) {
        if !config.is_legal() {
            return self.counters_up("rejected_message");
        }
        let attempt = Attempt::Repair(0);
        let id = config.id;
        let present = self.chain(p).map(|chain| chain.config.clone());
        if let Some(present) = present
            && !(config.has(self.own) && config.descends_from(present.id))
            && (present.ends(id) || present.is_rival_of(config))
        {
            let why = if present.ends(id) {
                Rejection::Newer(Box::new(present))
            } else {
                self.meet_rival(p, config);
                Rejection::Diverged(Box::new(present))
            };
            return self.reject(from, p, id, attempt, why);
        }
        if !self.learn_configuration(p, config) {
            // Nothing is kept here, and nothing is to be.
            self.learn_route(p, config);
            return;
        }
        let after = self.durable();
        self.tell(from, p, id, Body::Installed, Some(after));
        if config.owner() != from {
            // The owner counts who has installed it.
            self.tell(config.owner(), p, id, Body::Installed, Some(after));
        }
        self.drive(p);
    }

    /// Writes of the owner.
    pub(super) fn hear_write(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        items: Vec<WriteItem>,
    ) {
        let numbers = || items.iter().map(|item| item.number).collect::<Vec<_>>();
        if let Err(why) = self.takes_writes(from, p, id) {
            let body = Body::NotWritten {
                numbers: numbers(),
                why,
            };
            return self.tell(from, p, id, body, None);
        }
        let mut done = Vec::new();
        let mut lacking = Vec::new();
        let mut entries: Vec<(Bytes, Entry)> = Vec::new();
        let mut checks = Vec::new();
        for item in items {
            match item.content {
                Content::Entry(entry) => {
                    done.push(item.number);
                    entries.push((item.key, entry));
                }
                Content::Check(version) => checks.push((item.number, item.key, version)),
            }
        }
        self.merge(p, entries, &[]);
        for (number, key, version) in checks {
            let place = self.place(p, &key);
            let present = self.read(&place).map(|entry| entry.version);
            // A newer one than asked about is a write that is on its way to the owner's client.
            let has = present >= version;
            if has { &mut done } else { &mut lacking }.push(number);
        }
        let after = self.data_durable();
        self.tell(from, p, id, Body::Written { done, lacking }, after);
    }

    // Rules 4, 8 and 10.
    fn takes_writes(&self, from: NodeId, p: PartitionId, id: ConfigId) -> Result<(), Rejection> {
        if self.is_broken() {
            return Err(Rejection::Broken);
        }
        let Some(replica) = self.replicas.get(&p) else {
            return Err(Rejection::NotMember);
        };
        if replica
            .filled_by
            .is_some_and(|by| by.node == from && by.id == id)
        {
            return Ok(());
        }
        let Some(chain) = &replica.chain else {
            return Err(Rejection::NotMember);
        };
        if self.omits(Omit::ExactEpoch) && chain.config.descends_from(id) {
            return Ok(());
        }
        chain.matches(id)?;
        match chain.promised {
            Some(ballot) => Err(Rejection::Promised(ballot)),
            None if chain.learner => Err(Rejection::Learner),
            None if !chain.config.has(self.own) || chain.config.owner() != from => {
                Err(Rejection::NotMember)
            }
            None => Ok(()),
        }
    }

    /// The owner wants this node to become a copy (rule 6: it is a learner until a configuration
    /// names it).
    pub(super) fn hear_fill(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        attempt: Attempt,
    ) {
        let now = self.now.time;
        let fills = self
            .replicas
            .iter()
            .filter(|(other, replica)| **other != p && replica.is_filled(now))
            .count();
        let strict = self.view.as_ref().is_some_and(|view| view.is_strict());
        let own = self.own;
        if let Some(chain) = self.chain(p)
            && chain.config.id != id
            && (chain.config.ends(id) || chain.config.has(own))
        {
            let why = match chain.matches(id) {
                Err(why) => why,
                Ok(()) => Rejection::OtherAttempt,
            };
            return self.reject(from, p, id, attempt, why);
        }
        // What a joined branch had is kept until that is settled; it may be by now.
        let kept = self
            .chain(p)
            .filter(|chain| chain.config.unmerged.is_some())
            .map(|chain| chain.matches(id).err().unwrap_or(Rejection::Busy));
        if let Some(why) = kept {
            return self.reject(from, p, id, attempt, why);
        }
        // Rule 9.
        if self.clock_ahead().is_some() {
            return self.reject(from, p, id, attempt, Rejection::ClockAhead);
        }
        if fills >= self.share(FILLS_IN) {
            return self.reject(from, p, id, attempt, Rejection::Busy);
        }
        let replica = self.replica(p);
        let present = replica.filled_by.filter(|by| by.is(from, id, attempt));
        let again = present.is_some();
        let filler = Filler {
            node: from,
            id,
            attempt,
            heard: now,
            equal: present.is_some_and(|by| by.equal),
        };
        replica.filled_by = Some(filler);
        let is_member = replica
            .chain
            .as_ref()
            .is_some_and(|chain| chain.config.has(own));
        let omit = self.omits(Omit::FreshLearner);
        if (strict || self.is_stale(p)) && !again && !is_member && !omit {
            // Rule 6: what a former member had is not merged; rule A5: nor is what is too old.
            self.clear(p);
        }
        let at = now + Filler::PATIENCE;
        self.timers.set_by(Timer::Partition(p), at);
        self.tell(from, p, id, Body::Filling { attempt }, None);
    }

    /// The owner does not want the copy any more.
    pub(super) fn hear_abandon(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        attempt: Attempt,
    ) {
        let known = self.replicas.get(&p).and_then(|replica| replica.filled_by);
        if known.is_some_and(|by| by.is(from, id, attempt)) {
            self.end_filling(p);
        }
    }

    /// Whoever filled this node has given it up: what it brought is of no use, unless this node was
    /// a member once and keeps it until it may forget.
    pub(super) fn filling_is_over(&mut self, p: PartitionId) {
        let now = self.now.time;
        let Some(replica) = self.replicas.get_mut(&p) else {
            return;
        };
        if replica.filled_by.is_none() {
            return;
        }
        if replica.is_filled(now) {
            self.timers
                .set_by(Timer::Partition(p), now + Filler::PATIENCE);
            return;
        }
        self.end_filling(p);
    }

    fn end_filling(&mut self, p: PartitionId) {
        let replica = self.replica(p);
        replica.filled_by = None;
        if replica.chain.is_none() {
            self.clear(p);
            self.replicas.remove(&p);
        }
    }

    /// Drops all entries of a partition; its chain record stays (rule 5).
    pub(super) fn clear(&mut self, p: PartitionId) {
        let digests = super::digest::Digests::new(self.buckets);
        let replica = self.replica(p);
        if replica.digests.entries() == 0 {
            return;
        }
        replica.digests = digests;
        self.write_batch(Batch {
            cleared: vec![p],
            ..Batch::default()
        });
        self.counters_up("cleared");
    }

    /// The owner found this node equal: it counts again (rule 8).
    pub(super) fn hear_vouch(&mut self, from: NodeId, p: PartitionId, id: ConfigId) {
        if let Some(chain) = self.replica(p).chain.as_mut()
            && chain.config.id == id
            && chain.config.owner() == from
            && chain.learner
        {
            chain.learner = false;
            self.keep_chain(p);
            self.counters_up("vouched");
        }
    }

    /// A former member asks whether it may drop what it has: only once all who are members have all,
    /// and it knows that it is none.
    pub(super) fn may_forget(&mut self, from: NodeId, p: PartitionId, id: ConfigId) {
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let Some(chain) = &replica.chain else {
            return;
        };
        let config = chain.config.clone();
        if config.ends(id) || (config.has(from) && config.descends_from(id)) {
            return self.tell(from, p, config.id, Body::Install(Box::new(config)), None);
        }
        if let Err(why) = chain.matches(id) {
            return self.reject(from, p, id, Attempt::Repair(0), why);
        }
        let Some(owner) = &replica.owner else {
            return;
        };
        let settled = owner.serving
            && owner.change.is_none()
            && !chain.config.has(from)
            && chain.config.unmerged.is_none()
            && chain.config.id == id
            && chain
                .config
                .members
                .iter()
                .all(|member| owner.equal.contains(member) && owner.installed.contains(member));
        if settled {
            let id = chain.config.id;
            self.tell(from, p, id, Body::Forget, None);
        }
    }

    pub(super) fn hear_forget(&mut self, from: NodeId, p: PartitionId, id: ConfigId) {
        let own = self.own;
        let now = self.now.time;
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let Some(chain) = &replica.chain else {
            return;
        };
        let follows = id == chain.config.id || self.routes.is_owner(p, from, id);
        if follows && !chain.config.has(own) && !replica.is_filled(now) {
            self.clear(p);
        }
    }

    /// A former member asks the owner whether what it keeps is still needed.
    pub(super) fn ask_to_forget(&mut self, p: PartitionId) {
        let own = self.own;
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let Some(chain) = &replica.chain else {
            return;
        };
        if chain.config.has(own) || replica.digests.entries() == 0 {
            return;
        }
        let id = chain.config.id;
        if let Some(owner) = self.routes.owner(p)
            && owner != own
        {
            self.tell(owner, p, id, Body::MayForget, None);
        }
        let at = self.now.time + self.config.timing.forget;
        self.timers.set_by(Timer::Partition(p), at);
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.emit(Output::Send {
            to,
            message,
            after: None,
        });
    }
}
