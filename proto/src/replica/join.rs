//! Joining branches: what was written on both sides of a split comes together again.
//!
//! ```text
//!   rival owners meet; the smaller (epoch, branch) gives up, if its members agree:
//!     L: Close ──chosen by L's members──> closed: nobody serves it, and it does not change any more
//!     L ->[Closed] K
//!     K: fences itself, and K's members choose the joined configuration, with both parents
//!     K: not serving yet; compares with a member of L, decides key by key, writes anew
//!     K: once a majority has that, the next configuration: joined, and served
//!        or nobody of L is left: the next configuration without it, and served; joined anew when L is back
//! ```
//!
//! Rule A4: first the losing side's members choose to be joined; only then is what they have
//! fetched. They follow once that is settled: as members of a configuration whose owner ends before, they would merge
//! what they have by version. Rule A2: every difference is exchanged; the fork only serves to say what is a
//! conflict. Rule A3: every key that differs is written anew under the joined epoch, larger than
//! both, with the clock that it was written by, so that a leftover of the closed branch can never win by its epoch. Which of two
//! versions stays is decided once, by the clock, by the keeping owner; a crash in between is
//! followed by the same decisions, since the source is closed and stays until it is settled.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    chain::{Ancestor, Configuration, Source},
    message::{Attempt, Body, Carried},
    omit::Omit,
    proposal::Purpose,
    session::BYTES_AT_ONCE,
    shard::{Shard, Timer},
};
use crate::{
    event::Event,
    id::{NodeId, PartitionId},
    kv::{entry::Entry, version::Version},
};

/// How far the joining of a closed branch is.
#[derive(Debug, Default)]
pub(super) struct Joining {
    number: u64,
    /// Everything was looked through.
    over: bool,
    taken: u64,
    conflicts: u64,
}

impl Shard {
    /// Another branch of a partition exists.
    pub(super) fn meet_rival(&mut self, p: PartitionId, rival: &Configuration) {
        let Some(chain) = self.chain(p) else {
            return;
        };
        if !rival.is_rival_of(&chain.config) || rival.closed_into.is_some() {
            return;
        }
        self.learn_route(p, rival);
        let replica = self.replica(p);
        let larger = replica
            .rival
            .as_ref()
            .is_none_or(|known| rival.id > known.id);
        if larger {
            replica.rival = Some(rival.clone());
            self.counters_up("rivals_met");
        }
        let now = self.now.time;
        self.timers.set_by(Timer::Partition(p), now);
        if self.owner_went_on_alone(p) {
            // Those that it left decide what becomes of their branch.
            let at = now + self.config.timing.rank * self.rank(p);
            self.timers.set_by(Timer::TakeOver(p), at);
        }
    }

    /// Whether the owner of this node's configuration is in a branch of its own by now, which
    /// this node is no member of.
    pub(super) fn owner_went_on_alone(&self, p: PartitionId) -> bool {
        let Some(replica) = self.replicas.get(&p) else {
            return false;
        };
        let Some(chain) = &replica.chain else {
            return false;
        };
        if replica.deserted == Some(chain.config.id) {
            return true;
        }
        let Some(rival) = &replica.rival else {
            return false;
        };
        let config = &chain.config;
        // It may have joined that branch before this configuration was chosen without it.
        let left = rival.has(config.owner()) && rival.id.branch != config.id.branch;
        config.owner() != self.own && left
    }

    /// The owner of this node's configuration says that it is in another branch, or will not serve it again.
    pub(super) fn owner_is_elsewhere(&mut self, p: PartitionId, from: NodeId) {
        let own = self.own;
        let Some(replica) = self.replicas.get_mut(&p) else {
            return;
        };
        let Some(chain) = &replica.chain else {
            return;
        };
        if chain.config.owner() == from && from != own && chain.config.has(own) {
            replica.deserted = Some(chain.config.id);
            let at = self.now.time + self.config.timing.rank * self.rank(p);
            self.timers.set_by(Timer::TakeOver(p), at);
        }
    }

    /// An owner that has a rival gives up its branch, or tells the rival to. True if it gives up.
    pub(super) fn close_or_keep(&mut self, p: PartitionId, config: &Configuration) -> bool {
        let now = self.now.time;
        let Some(replica) = self.replicas.get(&p) else {
            return false;
        };
        let Some(rival) = replica.rival.clone() else {
            return false;
        };
        if let Some(at) = replica.backoff.filter(|at| now < *at) {
            self.timers.set_by(Timer::Partition(p), at);
            return false;
        }
        let nobody_serves_it = self.has_its_owner(p, &rival);
        // A node that stops may go on alone in its last moments: what was closed into that would be served by
        // nobody until it is back.
        let somebody_is_left = self.somebody_is_left(&rival.members);
        if rival.id > config.id && !nobody_serves_it && somebody_is_left {
            self.counters_up("branches_given_up");
            if self.omits(Omit::ChosenClose) {
                let closed = config.closed(config.members.clone(), rival.id.branch);
                return self.learn_configuration(p, &closed);
            }
            self.propose(p, Purpose::Close(rival.id.branch));
            return true;
        }
        // Its answer is what made it a rival: not more often than it can do something about it.
        let retry = self.config.timing.retry;
        let Some(owner) = &mut self.replica(p).owner else {
            return false;
        };
        if let Some(told) = owner.told_rival
            && now < told + retry
        {
            self.timers.set_by(Timer::Partition(p), told + retry);
            return false;
        }
        owner.told_rival = Some(now);
        self.replica(p).rival = None;
        let mut told = vec![rival.owner()];
        if nobody_serves_it {
            told = rival.members;
            told.retain(|member| *member != self.own);
        }
        for member in told {
            let body = Body::Install(Box::new(config.clone()));
            self.tell(member, p, config.id, body, None);
        }
        false
    }

    // Whether the owner of a rival is in this node's branch: it never serves the other one, and nobody could
    // join anything into that. Whoever else is named there goes on without it, or has a branch of its own.
    fn has_its_owner(&self, p: PartitionId, rival: &Configuration) -> bool {
        let owner = rival.owner();
        let Some(replica) = self.replicas.get(&p) else {
            return false;
        };
        let installed = replica.owner.as_ref().map(|own| &own.installed);
        let is_here = installed.is_some_and(|it| it.contains(&owner));
        is_here && !replica.went_on.contains(&owner)
    }

    /// A closed branch waits to be joined: its first living member tells the keeper. The others do so
    /// less often: the first may have followed already, and what would have brought them along may
    /// have been lost.
    pub(super) fn closed_goes_on(&mut self, p: PartitionId, config: &Configuration) {
        let now = self.now.time;
        let first = config
            .members
            .iter()
            .copied()
            .find(|member| *member == self.own || !self.is_gone(*member));
        let pause = if first == Some(self.own) {
            self.config.timing.retry * 2
        } else {
            self.config.timing.proposal
        };
        if let Some(at) = self.replica(p).backoff.filter(|at| now < *at) {
            return self.timers.set_by(Timer::Partition(p), at);
        }
        self.timers.set_by(Timer::Partition(p), now + pause);
        self.replica(p).backoff = Some(now + pause);
        if let Some(keeper) = self.routes.owner(p) {
            let after = self.durable();
            let body = Body::Closed(Box::new(config.clone()));
            self.tell(keeper, p, config.id, body, Some(after));
        }
    }

    /// A branch is closed, and to be joined into this node's.
    pub(super) fn hear_closed(&mut self, from: NodeId, p: PartitionId, closed: Configuration) {
        if !closed.is_legal() || closed.closed_into.is_none() {
            return self.counters_up("rejected_message");
        }
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let (Some(chain), Some(owner)) = (&replica.chain, &replica.owner) else {
            return;
        };
        let config = chain.config.clone();
        if config.ends(closed.id) {
            if owner.serving {
                // It is joined and settled: its members may follow.
                for member in &closed.members {
                    let body = Body::Install(Box::new(config.clone()));
                    self.tell(*member, p, config.id, body, None);
                }
                self.tell(from, p, config.id, Body::Install(Box::new(config)), None);
            }
            return;
        }
        // It decided to be joined into one branch, or into what became of that one: if all its members
        // went on in branches of their own, nobody else can. Two that do so meet, and decide alike.
        let chosen = closed.closed_into.is_some_and(|into| {
            let from = |ancestor: &Ancestor| ancestor.id.branch == into;
            config.id.branch == into || config.comes_from(from)
        });
        // If all that have it count as gone it cannot be had: it would be put off again at once.
        if !chosen || !self.somebody_is_left(&closed.members) {
            return;
        }
        // Newcomers can wait. A change for them may itself wait for a member that is in the closed branch.
        let change = owner.change.as_ref();
        let changing = change.is_some_and(|change| !change.can_wait(&config));
        let busy = changing || replica.proposal.is_some() || !owner.serving;
        if busy || closed.ends(config.id) || config.unmerged.is_some() {
            return;
        }
        self.drop_change(p);
        let next = config.joined(closed.source());
        self.begin_change(p, &config, next);
    }

    /// The owner of a joined configuration takes over what the closed branch had.
    pub(super) fn join_goes_on(&mut self, p: PartitionId, config: &Configuration) {
        let now = self.now.time;
        let Some(source) = config.unmerged.clone() else {
            return;
        };
        let number = self.number();
        let own = self.own;
        let Some(owner) = &mut self.replica(p).owner else {
            return;
        };
        let joining = owner.joining.get_or_insert_with(|| Joining {
            number,
            ..Joining::default()
        });
        let (over, number) = (joining.over, joining.number);
        let changing = owner.change.is_some();
        if over || changing {
            self.repair(p, config);
            if changing {
                return self.change_goes_on(p, config);
            }
            return self.begin_change(p, config, config.settled());
        }
        self.timers
            .set_by(Timer::Partition(p), now + self.config.timing.retry);
        let view = self.view.clone();
        let reachable = |member: &NodeId| {
            *member != own && view.as_ref().is_some_and(|view| view.is_reachable(*member))
        };
        if let Some(peer) = source.members.iter().copied().find(reachable) {
            self.compare_with(p, peer, source.id, Attempt::Join(number));
        } else if source.members == [own] {
            self.join_what_is_here(p, config);
        } else if self.is_settled_elsewhere(p, &source) {
            self.join_is_over(p);
        } else if !self.is_strict() && !self.somebody_is_left(&source.members) {
            // It may be long until one of them is back.
            self.counters_up("joins_put_off");
            self.begin_change(p, config, config.put_off());
        }
    }

    // Whether a rival branch has all that the closed one had: it comes from there, when the two are joined.
    fn is_settled_elsewhere(&self, p: PartitionId, source: &Source) -> bool {
        let rival = self.replicas.get(&p).and_then(|it| it.rival.as_ref());
        rival.is_some_and(|rival| rival.settles(source))
    }

    // The only one that has what the closed branch had owns the joined configuration, having gone on alone
    // from it: all of that is here, and nobody else can tell what is not.
    fn join_what_is_here(&mut self, p: PartitionId, config: &Configuration) {
        for bucket in 0..self.buckets {
            let Some(ours) = self.versions(p, &[bucket]) else {
                return;
            };
            let earlier = ours
                .into_iter()
                .filter(|(_, own)| own.epoch < config.id.epoch);
            self.all_anew(p, config, earlier.map(|(key, _)| key).collect());
        }
        self.join_is_over(p);
    }

    /// Some buckets of the closed branch, decided key by key.
    pub(super) fn join_listed(
        &mut self,
        p: PartitionId,
        peer: NodeId,
        attempt: Attempt,
        buckets: &[u16],
        keys: Vec<(Bytes, Version)>,
    ) {
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        let Some(source) = config.unmerged.clone() else {
            return;
        };
        let Some(mut ours) = self.versions(p, buckets) else {
            return;
        };
        debug_assert!(matches!(attempt, Attempt::Join(_)));
        let mut fetch = VecDeque::new();
        let mut anew = VecDeque::new();
        for (key, theirs) in keys {
            if self.omits(Omit::JoinsAll) && theirs.branch != source.id.branch {
                continue;
            }
            match ours.remove(&key) {
                Some(own) if own == theirs || own.epoch >= config.id.epoch => {}
                Some(own) => {
                    let keep = own.hlc >= theirs.hlc;
                    if is_conflict(&config, &source, &own, &theirs) {
                        self.conflict(p, &key, own, theirs, keep);
                    }
                    if keep { &mut anew } else { &mut fetch }.push_back(key);
                }
                None => fetch.push_back(key),
            }
        }
        let rest = ours
            .into_iter()
            .filter(|(_, own)| own.epoch < config.id.epoch);
        anew.extend(rest.map(|(key, _)| key));
        self.all_anew(p, &config, anew);
        self.session_fetches(p, peer, fetch);
    }

    /// Entries of the closed branch that stay.
    pub(super) fn join_entries(&mut self, p: PartitionId, entries: Vec<Carried>) {
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        if let Some(joining) = self.joining(p) {
            joining.taken += entries.len() as u64;
        }
        self.write_anew(p, &config, entries);
    }

    fn joining(&mut self, p: PartitionId) -> Option<&mut Joining> {
        self.replicas.get_mut(&p)?.owner.as_mut()?.joining.as_mut()
    }

    fn all_anew(&mut self, p: PartitionId, config: &Configuration, mut keys: VecDeque<Bytes>) {
        while !keys.is_empty() {
            let entries = self.carried(p, &mut keys, BYTES_AT_ONCE);
            self.write_anew(p, config, entries);
        }
    }

    // Rule A3.
    pub(super) fn write_anew(
        &mut self,
        p: PartitionId,
        config: &Configuration,
        entries: Vec<Carried>,
    ) {
        let mut anew = BTreeMap::new();
        let as_it_was = self.omits(Omit::WrittenAnew);
        for Carried { key, entry } in entries {
            // With the clock of the write itself: a third branch may have to be compared yet.
            let version = Version {
                epoch: config.id.epoch,
                branch: config.id.branch,
                ..entry.version
            };
            let version = if as_it_was { entry.version } else { version };
            anew.insert(key, Entry { version, ..entry });
        }
        self.merge(p, anew, &[]);
        for member in &config.members {
            self.is_unequal(p, *member);
        }
    }

    /// A key was written on both sides of a split, and one of the versions stays.
    pub(super) fn conflict(
        &mut self,
        p: PartitionId,
        key: &Bytes,
        own: Version,
        theirs: Version,
        keep: bool,
    ) {
        let (kept, lost) = if keep { (own, theirs) } else { (theirs, own) };
        self.counters_up("conflicts");
        if let Some(joining) = self.joining(p) {
            joining.conflicts += 1;
        }
        self.event(Event::PartitionConflict {
            partition: p,
            key: String::from_utf8_lossy(key).into_owned(),
            kept: kept.to_string(),
            lost: lost.to_string(),
        });
    }

    /// The closed branch was looked through from beginning to end.
    pub(super) fn join_is_over(&mut self, p: PartitionId) {
        if let Some(joining) = self.joining(p) {
            joining.over = true;
            let (taken, conflicts) = (joining.taken, joining.conflicts);
            self.counters_up("branches_joined");
            self.event(Event::PartitionJoined {
                partition: p,
                entries: taken,
                conflicts,
            });
        }
        self.drive(p);
    }
}

// Both were written since the branches parted. On the side that kept its owner the epoch may not
// have grown since, so that this may name a key that was only written before; never the reverse.
fn is_conflict(config: &Configuration, source: &Source, own: &Version, theirs: &Version) -> bool {
    let before = |version: &Version| {
        let parting = source
            .ancestors
            .iter()
            .find(|a| a.id.branch == version.branch);
        parting.is_some_and(|parting| version.epoch < parting.id.epoch)
    };
    let of_source = theirs.branch == source.id.branch || !before(theirs);
    of_source && !before(own) && (own.branch == config.id.branch || own.branch != theirs.branch)
}
