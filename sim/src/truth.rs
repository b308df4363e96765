//! What really happened, as no node can know it: the checkers' measure.
//!
//! Lives begin and end, processes are paused and starved, clocks jump, the network is cut: the
//! world notes each of these here, with its time. Whoever wants to judge what a node said
//! asks whether the one it spoke of was *well* (its process ran undisturbed), and since when.

use std::collections::BTreeMap;

use kith_proto::{id::NodeId, output::Stop, time::Time};

use crate::host::HostId;

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its process was killed; the host's kernel lives.
    Killed,
    /// Its machine lost power: nothing answers any more.
    PoweredOff,
    /// It stopped by itself.
    Stopped(Stop),
}

/// One life of a node.
#[derive(Clone, Debug)]
pub struct LifeTruth {
    /// Where it ran.
    pub host: HostId,
    /// The node.
    pub id: NodeId,
    /// Which of its lives.
    pub generation: u64,
    /// The name it claimed.
    pub name: String,
    /// When its process started.
    pub started: Time,
    /// When and how it ended, if it did.
    pub ended: Option<(Time, End)>,
    /// When it was told to leave, if it was.
    pub leaving: Option<Time>,
    /// When its process was last paused, starved or the like, or that ended.
    pub disturbed: Option<Time>,
}

/// Something that a checker may have to know at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// A process was started on a host.
    Started(HostId),
    /// A host's process ended, and with it that life.
    Ended {
        /// Where it ran.
        host: HostId,
        /// The node.
        id: NodeId,
        /// Which of its lives.
        generation: u64,
        /// How it ended.
        end: End,
    },
    /// A process was stopped, starved, or its clock was moved: it is not to blame for a while.
    Troubled(HostId),
    /// That is over.
    Recovered(HostId),
}

/// How a host's process has been doing.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    troubled: bool,
    since: Time,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct Truth {
    lives: Vec<LifeTruth>,
    by_life: BTreeMap<(NodeId, u64), usize>,
    current: Vec<Option<usize>>,
    condition: Vec<Condition>,
    occurrences: Vec<(Time, Occurrence)>,
}

impl Truth {
    /// All lives, in the order in which they began.
    pub fn lives(&self) -> &[LifeTruth] {
        &self.lives
    }

    /// All hosts that run a node, or have it paused.
    pub fn running_hosts(&self) -> impl Iterator<Item = HostId> {
        self.current
            .iter()
            .enumerate()
            .filter_map(|(host, life)| life.map(|_| host))
    }

    /// One life.
    pub fn life(&self, id: NodeId, generation: u64) -> Option<&LifeTruth> {
        Some(&self.lives[*self.by_life.get(&(id, generation))?])
    }

    /// The life that a host runs now.
    pub fn current(&self, host: HostId) -> Option<&LifeTruth> {
        Some(&self.lives[(*self.current.get(host)?)?])
    }

    /// The life that runs now, of a node.
    pub fn running(&self, id: NodeId) -> Option<&LifeTruth> {
        let range = (id, 0)..=(id, u64::MAX);
        self.by_life
            .range(range)
            .map(|(_, index)| &self.lives[*index])
            .rfind(|life| life.ended.is_none())
    }

    /// Since when a host's process has run undisturbed; `None` if it does not.
    pub fn well_since(&self, host: HostId) -> Option<Time> {
        let condition = self.condition.get(host)?;
        (self.current[host].is_some() && !condition.troubled).then_some(condition.since)
    }

    /// What happened since the last call, oldest first.
    pub fn take_occurrences(&mut self) -> Vec<(Time, Occurrence)> {
        std::mem::take(&mut self.occurrences)
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.occurrences.is_empty()
    }

    pub(crate) fn add_host(&mut self) {
        self.current.push(None);
        self.condition.push(Condition::default());
    }

    pub(crate) fn started(
        &mut self,
        now: Time,
        host: HostId,
        id: NodeId,
        generation: u64,
        name: &str,
    ) {
        let index = self.lives.len();
        self.lives.push(LifeTruth {
            host,
            id,
            generation,
            name: name.to_owned(),
            started: now,
            ended: None,
            leaving: None,
            disturbed: None,
        });
        self.by_life.insert((id, generation), index);
        self.current[host] = Some(index);
        self.condition[host] = Condition {
            troubled: false,
            since: now,
        };
        self.occurrences.push((now, Occurrence::Started(host)));
    }

    pub(crate) fn ended(&mut self, now: Time, host: HostId, end: End) {
        if let Some(index) = self.current[host].take() {
            let life = &mut self.lives[index];
            life.ended = Some((now, end.clone()));
            let (id, generation) = (life.id, life.generation);
            self.occurrences.push((
                now,
                Occurrence::Ended {
                    host,
                    id,
                    generation,
                    end,
                },
            ));
        }
    }

    pub(crate) fn leaving(&mut self, now: Time, host: HostId) {
        if let Some(index) = self.current[host] {
            self.lives[index].leaving.get_or_insert(now);
        }
    }

    pub(crate) fn troubled(&mut self, now: Time, host: HostId) {
        self.disturbed(now, host);
        if !std::mem::replace(&mut self.condition[host].troubled, true) {
            self.occurrences.push((now, Occurrence::Troubled(host)));
        }
    }

    pub(crate) fn recovered(&mut self, now: Time, host: HostId) {
        self.disturbed(now, host);
        if std::mem::replace(&mut self.condition[host].troubled, false) {
            self.occurrences.push((now, Occurrence::Recovered(host)));
        }
    }

    /// For a moment, or until it recovers, a host's process is not to blame.
    pub(crate) fn disturbed(&mut self, now: Time, host: HostId) {
        self.condition[host].since = now;
        if let Some(index) = self.current[host] {
            self.lives[index].disturbed = Some(now);
        }
    }
}
