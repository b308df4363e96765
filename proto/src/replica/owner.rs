//! The owner of a partition: from installation to serving, and the care of its copies.
//!
//! ```text
//!   installed here ──majority has installed it──> serving
//!        |   (a closed branch is joined first)       |  copies compared: equal, or repaired
//!        |                                           |  a change wanted by placement: see `change`
//!        └────── most members are gone (available): a proposal of its own ──> a branch of its own
//! ```

use std::{collections::BTreeSet, time::Duration};

use super::{
    chain::{ConfigId, Configuration, Rejection},
    change::Change,
    host::View,
    join::Joining,
    message::Body,
    proposal::Purpose,
    shard::{Shard, Timer},
    sweep::Complete,
};
use crate::{
    event::Event,
    id::{NodeId, PartitionId},
    kv::version::Wall,
    time::Time,
};

/// Nothing more was taken over for so long: what was is told in one line.
const SUMMARY: Duration = Duration::from_millis(100);

/// What an owner knows of its members.
#[derive(Debug)]
pub(super) struct Owner {
    /// Those that have installed the configuration.
    pub(super) installed: BTreeSet<NodeId>,
    /// Those that were found equal, and have had every write since.
    pub(super) equal: BTreeSet<NodeId>,
    /// Those that may have forgotten something, and do not count yet (rule 8).
    pub(super) learners: BTreeSet<NodeId>,
    /// Whether requests are answered. Also a sole member begins with [`Shard::serve`], which tells others.
    pub(super) serving: bool,
    /// What is being changed.
    pub(super) change: Option<Change>,
    /// A closed branch whose entries are being taken over.
    pub(super) joining: Option<Joining>,
    /// How this configuration came about, if this node knows.
    pub(super) led: Option<Led>,
    pub(super) told_install: Option<Time>,
    /// When all members were equal, for what may be dropped.
    pub(super) complete: Complete,
    /// What died before was dropped, as far as anything was.
    pub(super) purged: Option<Wall>,
    /// Since when a member takes nothing because of a promise.
    pub(super) fenced_since: Option<Time>,
    /// When the owner of a rival branch was told of this one.
    pub(super) told_rival: Option<Time>,
}

/// How a configuration came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Led {
    /// The owner before.
    pub(super) from: NodeId,
    /// When it began.
    pub(super) began: Time,
    /// It was a take-over.
    pub(super) taken_over: bool,
    /// An operator wanted it.
    pub(super) by_word: bool,
}

impl Owner {
    pub(super) fn new(own: NodeId) -> Self {
        Self {
            installed: BTreeSet::from([own]),
            equal: BTreeSet::from([own]),
            learners: BTreeSet::new(),
            serving: false,
            change: None,
            joining: None,
            led: None,
            told_install: None,
            complete: Complete::default(),
            purged: None,
            fenced_since: None,
            told_rival: None,
        }
    }
}

impl Shard {
    /// What is known of how the work under way came about.
    pub(super) fn lead(&mut self, p: PartitionId) -> Led {
        let now = self.now.time;
        let own = self.own;
        match self.replicas.get(&p).and_then(|r| r.proposal.as_ref()) {
            Some(proposal) => Led {
                from: proposal.from,
                began: proposal.began,
                taken_over: proposal.purpose == Purpose::TakeOver,
                by_word: proposal.purpose == Purpose::Recover,
            },
            None => Led {
                from: own,
                began: self
                    .replicas
                    .get(&p)
                    .and_then(|replica| replica.owner.as_ref()?.change.as_ref())
                    .map_or(now, |change| change.began),
                taken_over: false,
                by_word: false,
            },
        }
    }

    /// Does for a partition what is to be done now. Can be called at any time, and sets its own
    /// timer while something is left to do.
    pub(super) fn drive(&mut self, p: PartitionId) {
        let own = self.own;
        let now = self.now.time;
        if self.view.is_none() || self.is_broken() {
            return;
        }
        self.filling_is_over(p);
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        if replica.chain.is_none() {
            return self.ask_to_forget(p);
        }
        if !replica.telling.is_empty() {
            self.tell_of_configuration(p);
        }
        let Some(chain) = self.chain(p) else { return };
        let config = chain.config.clone();
        if !config.has(own) {
            return self.ask_to_forget(p);
        }
        if config.closed_into.is_some() {
            return self.closed_goes_on(p, &config);
        }
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        if let Some(proposal) = &replica.proposal {
            let purpose = proposal.purpose;
            if self.proposal_is_late(p) {
                return self.propose(p, purpose);
            }
            self.ask_again(p);
            return self.proposal_goes_on(p);
        }
        if replica.chain.as_ref().is_some_and(|chain| chain.learner) {
            return self.learner_asks(p);
        }
        let fenced = replica.chain.as_ref().and_then(|chain| chain.promised);
        let changing = replica
            .owner
            .as_ref()
            .is_some_and(|owner| owner.change.is_some());
        if fenced.is_some() && !changing {
            return self.promise_leads_nowhere(p);
        }
        if replica.owner.is_some() {
            return self.own(p, &config);
        }
        if config.owner() == own {
            // An earlier life owned it: what it had is found out anew (rule 1).
            return match replica.backoff.filter(|at| now < *at) {
                Some(at) => self.timers.set_by(Timer::Partition(p), at),
                None => self.propose(p, Purpose::TakeOver),
            };
        }
        self.watch_owner(p, &config);
    }

    // A promise fences; if nothing follows, this node has to find out itself.
    fn promise_leads_nowhere(&mut self, p: PartitionId) {
        let now = self.now.time;
        let patience = self.config.timing.promise;
        let rank = self.rank(p);
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let since = replica.promised_at.unwrap_or(now);
        let due = (since + patience + self.config.timing.rank * rank)
            .max(replica.backoff.unwrap_or(Time::ZERO));
        if now >= due {
            self.propose(p, Purpose::TakeOver);
        } else {
            self.timers.set_by(Timer::Partition(p), due);
        }
    }

    // Among members that are not gone, in their order.
    pub(super) fn rank(&self, p: PartitionId) -> u32 {
        let Some(chain) = self.chain(p) else {
            return 0;
        };
        let before = chain
            .config
            .members
            .iter()
            .take_while(|member| **member != self.own)
            .filter(|member| !self.is_gone(**member));
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }

    fn watch_owner(&mut self, p: PartitionId, config: &Configuration) {
        // Others speak of another configuration: perhaps this node has missed some.
        if let Some(route) = self.routes.get(p)
            && route.id != config.id
            && let Some(owner) = route.members.first().copied()
            && owner != self.own
        {
            let now = self.now.time;
            let pause = self.config.timing.proposal;
            self.timers.set_by(Timer::Partition(p), now + pause);
            if self.replica(p).backoff.is_none_or(|at| now >= at) {
                self.replica(p).backoff = Some(now + pause);
                let member = true;
                self.tell(owner, p, config.id, Body::MayForget { member }, None);
                self.tell(
                    config.owner(),
                    p,
                    config.id,
                    Body::MayForget { member },
                    None,
                );
            }
        }
        if self.is_gone(config.owner()) || self.owner_went_on_alone(p) {
            let at = self.now.time + self.config.timing.rank * self.rank(p);
            self.timers.set_by(Timer::TakeOver(p), at);
        } else {
            self.timers.clear(Timer::TakeOver(p));
            if self
                .view
                .as_ref()
                .is_some_and(|view| view.standing(config.owner()).is_none())
            {
                // Nobody has told of it yet; see `is_gone`.
                let at = self.now.time + self.config.timing.unknown;
                self.timers.set_by(Timer::Partition(p), at);
            }
        }
    }

    pub(super) fn take_over_is_due(&mut self, p: PartitionId) {
        let own = self.own;
        let due = self.replicas.get(&p).is_some_and(|replica| {
            replica.proposal.is_none()
                && replica.chain.as_ref().is_some_and(|chain| {
                    chain.config.has(own)
                        && chain.config.owner() != own
                        && !chain.is_fenced()
                        && chain.config.closed_into.is_none()
                        && (self.is_gone(chain.config.owner()) || self.owner_went_on_alone(p))
                })
        });
        if due {
            self.propose(p, Purpose::TakeOver);
        }
    }

    // Who installs a configuration that another owns tells the others, until the owner has it.
    fn tell_of_configuration(&mut self, p: PartitionId) {
        let now = self.now.time;
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        let due = self.replica(p).tell_at.is_none_or(|at| now >= at);
        let retry = now + self.config.timing.retry;
        self.timers.set_by(Timer::Partition(p), retry);
        if !due {
            return;
        }
        self.replica(p).tell_at = Some(retry);
        let after = self.durable();
        for member in self.replica(p).telling.clone() {
            let body = Body::Install(Box::new(config.clone()));
            self.tell(member, p, config.id, body, Some(after));
        }
    }

    /// Whoever refuses something because of where it is need not be told again what is here; unless it knows an
    /// earlier configuration only, and has a part in this one.
    pub(super) fn told_or_not(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        why: &Rejection,
    ) {
        let at = self.now.time + self.config.timing.retry;
        let own = self.own;
        let Some(replica) = self.replicas.get_mut(&p) else {
            return;
        };
        let Some(chain) = replica.chain.as_ref().filter(|it| it.config.id == id) else {
            return;
        };
        let config = &chain.config;
        if !matches!(why, Rejection::Older(_) | Rejection::NotMember) {
            self.need_not_be_told(p, |member| member == from);
        } else if config.has(from) && config.owner() != own && !replica.telling.contains(&from) {
            replica.telling.push(from);
            replica.tell_at = Some(at);
            self.timers.set_by(Timer::Partition(p), at);
        }
    }

    /// These members know the configuration here.
    pub(super) fn need_not_be_told(&mut self, p: PartitionId, knows: impl Fn(NodeId) -> bool) {
        let replica = self.replica(p);
        let before = replica.telling.len();
        replica.telling.retain(|member| !knows(*member));
        if replica.telling.len() < before {
            self.routes.is_held_otherwise(p);
        }
    }

    pub(super) fn hear_installed(&mut self, from: NodeId, p: PartitionId, id: ConfigId) {
        let Some(chain) = self.chain(p).filter(|chain| chain.config.id == id) else {
            return;
        };
        // What the owner knows it tells all others itself.
        let owner_knows = from == chain.config.owner();
        let has = chain.config.has(from);
        self.need_not_be_told(p, |member| owner_knows || member == from);
        if has
            && let Some(owner) = &mut self.replica(p).owner
            && owner.installed.insert(from)
        {
            self.drive(p);
        }
    }

    fn own(&mut self, p: PartitionId, config: &Configuration) {
        // Quorums stay possible down to the last copy: the survivors go on in a branch of their own.
        if !self.is_strict() && self.most_went_on(p, config) {
            return self.propose(p, Purpose::TakeOver);
        }
        self.install_at_members(p, config);
        let Some(owner) = self.replicas.get(&p).and_then(|r| r.owner.as_ref()) else {
            return;
        };
        if !owner.serving {
            if owner.installed.len() >= config.majority() {
                if config.unmerged.is_some() {
                    return self.join_goes_on(p, config);
                }
                self.serve(p, config);
            } else if config.unmerged.is_none() {
                // Members may be in another branch for good: then it never will be served.
                self.close_or_keep(p, config);
            }
            return;
        }
        self.claim(p, config);
        self.repair(p, config);
        if self.close_or_keep(p, config) {
            return;
        }
        self.change_goes_on(p, config);
    }

    fn install_at_members(&mut self, p: PartitionId, config: &Configuration) {
        let now = self.now.time;
        let retry = self.config.timing.retry;
        let Some(view) = self.view.clone() else {
            return;
        };
        let Some(owner) = &mut self.replica(p).owner else {
            return;
        };
        let missing: Vec<NodeId> = config
            .members
            .iter()
            .copied()
            .filter(|member| !owner.installed.contains(member) && view.is_reachable(*member))
            .collect();
        if missing.is_empty() {
            return;
        }
        self.timers.set_by(Timer::Partition(p), now + retry);
        let Some(owner) = &mut self.replica(p).owner else {
            return;
        };
        if owner.told_install.is_some_and(|at| now < at + retry) {
            return;
        }
        owner.told_install = Some(now);
        let after = self.durable();
        for member in missing {
            let body = Body::Install(Box::new(config.clone()));
            self.tell(member, p, config.id, body, Some(after));
        }
    }

    // Enough have installed it: requests are answered from now on.
    pub(super) fn serve(&mut self, p: PartitionId, config: &Configuration) {
        let now = self.now.time;
        let entries = self.replica(p).digests.entries();
        let Some(owner) = &mut self.replica(p).owner else {
            return;
        };
        owner.serving = true;
        let led = owner.led.take();
        self.counters_up("served");
        self.announce(p, config);
        if let Some(led) = led.filter(|led| led.taken_over) {
            self.counters_up("taken_over");
            let took_ms = millis(now.saturating_since(led.began));
            let taken = self.taken_over.entry(led.from).or_default();
            *taken = (taken.0 + 1, taken.1.max(took_ms));
            self.summary_soon();
            self.event(Event::PartitionTakenOver {
                partition: p,
                from: self.name(led.from),
                epoch: config.id.epoch,
                took_ms,
                entries,
            });
        }
        self.release(p);
        self.drive(p);
    }

    /// Others may follow at once: they are told in one line.
    pub(super) fn summary_soon(&mut self) {
        self.timers.set(Timer::Summary, self.now.time + SUMMARY);
    }

    /// One line each for people about what was taken over, and what went on by an operator's word.
    pub(super) fn summarise(&mut self) {
        for (without, partitions) in std::mem::take(&mut self.recovered) {
            self.event(Event::RecoverySummary {
                partitions,
                without,
            });
        }
        for (from, (partitions, took_ms)) in std::mem::take(&mut self.taken_over) {
            // Its own, after a restart: no take-over to speak of.
            if from == self.own {
                continue;
            }
            self.event(Event::TakeoverSummary {
                from: self.name(from),
                partitions,
                took_ms,
            });
        }
    }

    pub(super) fn name(&self, node: NodeId) -> String {
        self.view()
            .map_or_else(|| node.to_string(), |view| view.name(node))
    }

    pub(super) fn view(&self) -> Option<&View> {
        self.view.as_deref()
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
