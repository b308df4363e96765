//! What a member answers: promises, acceptances, installations, writes of the owner.
//!
//! Everything about the chain is on the disk before it is answered.

use bytes::Bytes;

use super::{
    chain::{Ballot, Chain, ConfigId, Configuration, Rejection},
    held::is_next,
    host::{Output, SyncToken},
    message::{Attempt, Body, Content, Message, WriteItem},
    omit::Omit,
    owner::Owner,
    shard::{Shard, Timer},
};
use crate::{
    id::{NodeId, PartitionId},
    kv::entry::Entry,
};

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
        self.keep_record(p)
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
        let strict = self.is_strict();
        let installs_again = self.omits(Omit::InstalledOnce);
        if self.chain(p).is_none() && !config.has(own) {
            self.held_in_vain(p, config);
            return false;
        }
        let was_member = self.is_member(p);
        let replica = self.replica(p);
        let before = replica.chain.as_ref().map(|chain| chain.config.id);
        match &mut replica.chain {
            None => replica.chain = Some(Chain::new(config.clone())),
            Some(chain) => {
                let promised = chain.promised;
                if !chain.install(own, config) {
                    return false;
                }
                if keeps_votes {
                    chain.promised = promised;
                }
                if installs_again && before == Some(config.id) {
                    (chain.promised, chain.accepted) = (None, None);
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
        // By the members of the configuration before, not by an owner that had missed it.
        let filled = replica.filled_by.filter(|by| by.equal);
        let held = replica.held.take();
        let found_equal = filled.is_some_and(|by| is_next(config, by.id))
            || held.is_some_and(|held| held.is_counted_by(config));
        let is_equal = (was_member && !learns) || found_equal;
        let knows_enough = was_member || is_equal || held.is_some_and(|held| held.leads_to(config));
        // Its copy was counted on and is gone: like one that forgot what it acknowledged (rule 8).
        let is_lacking = strict && !knows_enough && config.members.len() > 1;
        if let Some(chain) = &mut replica.chain
            && is_lacking
            && config.has(own)
        {
            chain.learner = true;
        }
        let counts = found_equal || (!was_member && is_equal);
        if let Some(chain) = &mut replica.chain {
            if counts {
                chain.equal_at = wall;
                chain.learner = false;
            } else if let Some(held) = held {
                chain.equal_at = chain.equal_at.max(held.at);
            }
        }
        replica.promised_at = None;
        // What was to wait was about the configuration before.
        replica.backoff = None;
        replica.filled_by = None;
        replica.proposal = None;
        replica.sessions.clear();
        replica.telling.clear();
        replica.rival = None;
        replica.went_on.clear();
        replica.owner = None;
        // The next one may count on it, though this one does not name this node.
        if !config.has(own) {
            replica.held = held.filter(|held| !config.ends(held.id));
        }
        if config.owner() == own && config.closed_into.is_none() && is_equal {
            replica.owner = Some(Owner::new(own));
        }
        self.care.goes_on(p);
        if !config.has(own) {
            let pause = self.config.timing.forget;
            self.timers.set(Timer::Partition(p), now + pause);
            if self.omits(Omit::KeptCopies) {
                self.clear(p);
            }
        }
        self.timers.clear(Timer::TakeOver(p));
        self.keep_record(p);
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
        let own = self.own;
        let here = self.chain(p).filter(|chain| !chain.takes(own, config));
        if let Some(present) = here.map(|chain| chain.config.clone())
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
        self.owner_may_not_know(p, from, config);
        if config.owner() != from {
            // The owner counts who has installed it.
            self.tell(config.owner(), p, id, Body::Installed, Some(after));
        }
        self.drive(p);
    }

    // Whoever chose it may have stopped before it told the owner: whoever has heard of it does, unless the
    // owner is sooner.
    fn owner_may_not_know(&mut self, p: PartitionId, from: NodeId, config: &Configuration) {
        let at = self.now.time + self.config.timing.retry;
        let own = self.own;
        let owner = config.owner();
        let replica = self.replica(p);
        if owner == from {
            self.need_not_be_told(p, |member| member == owner);
        } else if owner != own && config.has(own) && !replica.telling.contains(&owner) {
            replica.telling.push(owner);
            replica.tell_at = Some(at);
            self.timers.set_by(Timer::Partition(p), at);
        }
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

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.emit(Output::Send {
            to,
            message,
            after: None,
        });
    }
}
