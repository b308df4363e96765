//! What happens to a lab: faults drawn from a seed, within what is promised.
//!
//! The seed draws the size of the cluster, when data is synced, which kinds of faults there are, and
//! each of them. The mode is not drawn, so that both can be tried with the same faults.
//!
//! Whoever is down comes back with its disk. Of disks, one at a time loses something, and only while there
//! are as many copies as wanted and all are equal (in strict clusters: while no other node has to be
//! distrusted, and most members of every configuration are others that are there): that is what is promised.

mod stops;
mod streams;

use std::{collections::BTreeSet, fmt, time::Duration};

use kith_proto::{
    config::Consistency,
    id::NodeId,
    replica::{host::SyncMode, shard::Shard},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{Lab, NodeIndex, Setup, check::placement};

/// Something that is done to a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends a process.
    Kill(NodeIndex),
    /// Ends the process of whoever answers for a partition then.
    KillOwner(u16),
    /// Stops a machine, if what may be lost is promised to be kept.
    PowerCut(NodeIndex),
    /// Starts a process again, once it has stopped; its disk is well.
    Start(NodeIndex),
    /// Stops a process for a while.
    Pause(NodeIndex),
    /// Stops the process of whoever answers for a partition then, for so long.
    PauseOwner(u16, Duration),
    /// It goes on.
    Resume(NodeIndex),
    /// Cuts some from the rest.
    Split(Vec<NodeIndex>),
    /// Cuts two from each other, while others reach both.
    Cut(NodeIndex, NodeIndex),
    /// What two send each other waits for so long, and then arrives at once.
    Stall(NodeIndex, NodeIndex, Duration),
    /// Nothing arrives any more between some and the rest; after so long streams end, and each thinks that the
    /// other has failed.
    Silence(Vec<NodeIndex>, Duration),
    /// The stream between two breaks, with what is under way, and another one opens.
    Break(NodeIndex, NodeIndex),
    /// Two lose each other, and each thinks that the other has failed, while others see both.
    Part(NodeIndex, NodeIndex),
    /// That is over, or a stall.
    Restore(NodeIndex, NodeIndex),
    /// No cuts any more.
    Heal,
    /// Others come to think that it has failed.
    Accuse(NodeIndex),
    /// A node joins.
    Join,
    /// A node leaves for good.
    Leave(NodeIndex),
    /// A node is told to stop: it hands over what others can own, and will be back.
    Stop(NodeIndex),
    /// A node's wall clock is wrong by so many milliseconds.
    Clock(NodeIndex, i64),
    /// A disk takes so many more batches.
    Fill(NodeIndex, u32),
    /// A disk answers so many more reads.
    FailReads(NodeIndex, u32),
    /// A disk takes so long to sync.
    SlowDisk(NodeIndex, Duration),
    /// A node's directory is wiped, and it comes back as a new node, if all copies are equal.
    Wipe(NodeIndex),
    /// A node stops, and its disk is found to be damaged when it starts; then it is wiped. If all copies
    /// are equal.
    Damage(NodeIndex),
}

impl Action {
    // Whom it concerns, if it is one node that may not exist.
    fn node(&self) -> Option<NodeIndex> {
        match self {
            Self::Start(node) | Self::Resume(node) | Self::Clock(node, _) => Some(*node),
            Self::Cut(a, b)
            | Self::Stall(a, b, _)
            | Self::Break(a, b)
            | Self::Part(a, b)
            | Self::Restore(a, b) => Some(*a.max(b)),
            Self::Silence(side, _) => side.iter().max().copied(),
            _ => None,
        }
    }
}

pub(super) fn act(lab: &mut Lab, action: &Action) {
    if lab.verbose {
        println!("{:?} -------- {action:?}", lab.now());
    }
    if action.node().is_some_and(|node| node >= lab.len()) {
        // One that would have joined meanwhile, and did not.
        return;
    }
    match action {
        Action::Kill(node) => lab.kill(*node, false),
        Action::KillOwner(p) => {
            if let Some(owner) = lab.servers(*p).first() {
                lab.kill(*owner, false);
            }
        }
        Action::PowerCut(node) => {
            if may_lose_power(lab, *node) {
                lab.kill(*node, true);
            }
        }
        Action::Start(node) => {
            lab.disk(*node).mend();
            lab.slow_disk(*node, None);
            lab.start(*node);
        }
        Action::Pause(node) => lab.pause(*node),
        Action::PauseOwner(p, during) => {
            if let Some(owner) = lab.servers(*p).first().copied() {
                lab.pause(owner);
                lab.schedule(*during, Action::Resume(owner));
            }
        }
        Action::Resume(node) => lab.resume(*node),
        Action::Split(side) => lab.split(side),
        Action::Cut(a, b) => lab.cut(*a, *b),
        Action::Stall(a, b, during) => {
            lab.stall(*a, *b);
            lab.schedule(*during, Action::Restore(*a, *b));
        }
        Action::Silence(side, noticed_after) => lab.silence(side, *noticed_after),
        Action::Break(a, b) => lab.break_stream(*a, *b),
        Action::Part(a, b) => lab.part(*a, *b),
        Action::Restore(a, b) => lab.meet_again(*a, *b),
        Action::Heal => lab.heal(),
        Action::Accuse(node) => lab.accuse(*node),
        Action::Join => {
            lab.add();
        }
        Action::Leave(node) => lab.leave(*node),
        Action::Stop(node) => lab.stop(*node),
        Action::Clock(node, error) => lab.set_wall_error(*node, *error),
        Action::Fill(node, batches) => lab.disk(*node).fill_after(*batches),
        Action::FailReads(node, reads) => lab.disk(*node).fail_reads_after(*reads),
        Action::SlowDisk(node, takes) => lab.slow_disk(*node, Some(*takes)),
        Action::Wipe(node) => {
            if may_lose_disk(lab, *node) {
                lab.wipe(*node);
            }
        }
        Action::Damage(node) => {
            if may_lose_disk(lab, *node) && lab.is_alive(*node) {
                lab.kill(*node, false);
                lab.disk(*node).damage();
                lab.start(*node);
                lab.wipe(*node);
            }
        }
    }
}

/// Whether all members of every partition run, count, and have the same; and they are as many as there
/// shall be copies: while a cluster comes together a partition may have one copy yet, and whoever destroys
/// that one loses it in any system. So is it while a branch that went on alone has not been filled up again.
pub fn is_sound(lab: &Lab) -> bool {
    let nodes: Vec<NodeIndex> = (0..lab.len()).filter(|node| !lab.is_gone(*node)).collect();
    let runs = |node: &NodeIndex| {
        lab.is_alive(*node)
            && !lab.is_paused(*node)
            && !lab.disk(*node).is_faulty()
            && !is_distrusted(lab, *node)
    };
    let copies = usize::from(lab.setup.settings.copies);
    nodes.iter().all(runs)
        && (0..lab.setup.settings.partitions)
            .all(|p| placement::is_complete(lab, p) && placement::copies(lab, p) >= copies)
}

// In every configuration that is known, or is being decided, most members are others, and are still
// there: a member that is gone for good counts until another has taken its place.
fn others_are_majorities(lab: &Lab, node: NodeIndex) -> bool {
    let there: BTreeSet<NodeId> = (0..lab.len())
        .filter(|other| *other != node && !lab.is_gone(*other))
        .map(|other| lab.id(other))
        .collect();
    let id = lab.id(node);
    lab.living().into_iter().all(|other| {
        let chains =
            (0..lab.setup.settings.partitions).filter_map(|p| lab.shard(other)?.chain_of(p));
        let mut configs = chains.flat_map(|chain| {
            let next = chain.accepted.as_ref().map(|(_, next)| next);
            [Some(&chain.config), next].into_iter().flatten()
        });
        configs.all(|config| {
            let others = config.members.iter().filter(|it| there.contains(it));
            !config.has(id) || others.count() >= config.majority()
        })
    })
}

// Strict: it may have forgotten what it acknowledged, and counts in no majority yet (rule 8).
fn is_distrusted(lab: &Lab, node: NodeIndex) -> bool {
    let marked = lab.shard(node).map_or(lab.ended_distrusted(node), |shard| {
        distrusts_itself(lab, shard)
    });
    let forgets = lab.setup.is_strict() && lab.setup.sync != SyncMode::Always;
    forgets && (marked || !lab.disk(node).is_trusted())
}

/// Whether it has marks that it may have forgotten something.
pub(super) fn distrusts_itself(lab: &Lab, shard: &Shard) -> bool {
    (0..lab.setup.settings.partitions).any(|p| {
        shard.chain_of(p).is_some_and(|chain| chain.learner)
            || shard.held_of(p).is_some_and(|held| held.lost)
    })
}

// A strict partition of two copies goes on without one of them by an operator's word only.
fn may_lose_disk(lab: &Lab, node: NodeIndex) -> bool {
    is_sound(lab) && (!lab.setup.is_strict() || others_are_majorities(lab, node))
}

fn may_lose_power(lab: &Lab, node: NodeIndex) -> bool {
    if lab.setup.sync == SyncMode::Always {
        return true;
    }
    if !lab.setup.is_strict() {
        return is_sound(lab);
    }
    let distrusted =
        |other: NodeIndex| other != node && !lab.is_gone(other) && is_distrusted(lab, other);
    !(0..lab.len()).any(distrusted) && others_are_majorities(lab, node)
}

/// What a seed leads to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// With what the lab is built.
    pub setup: Setup,
    /// What is done to it, and when.
    pub steps: Vec<(Duration, Action)>,
    /// When everybody is alive and connected again.
    pub rest: Duration,
}

/// Kinds of faults of a run.
#[derive(Clone, Copy, Debug)]
struct Kinds {
    dead: usize,
    power: bool,
    cuts: bool,
    disks: bool,
    members: bool,
    clocks: bool,
}

/// Faults begin then: the cluster has come together.
const BEGINS: Duration = Duration::from_millis(500);
/// So long after the last fault everybody is connected again.
const HEALS: Duration = Duration::from_millis(100);

impl Plan {
    /// Draws it.
    pub fn draw(seed: u64, consistency: Consistency) -> Self {
        // Not the lab's own numbers.
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x706c_616e);
        let mut setup = Setup::new(seed, consistency);
        setup.nodes = rng.random_range(3..=7);
        setup.settings.partitions = [2, 4, 8][rng.random_range(0..3)];
        setup.repair_delay = millis(&mut rng, 1_000..10_000);
        if rng.random_bool(0.5) {
            setup.sync = SyncMode::Always;
        }
        let kinds = Kinds {
            dead: rng.random_range(1..=2),
            power: rng.random_bool(0.5),
            cuts: rng.random_bool(0.7),
            disks: rng.random_bool(0.4),
            members: rng.random_bool(0.5),
            clocks: rng.random_bool(0.5),
        };
        if !kinds.clocks && rng.random_bool(0.5) {
            // The clocks agree; otherwise so short a time would promise nothing.
            setup.tombstone_grace = millis(&mut rng, 1_000..6_000);
        }
        let end = millis(&mut rng, 3_000..12_000);
        let mut steps = Drawing::new(&setup, kinds, rng, end).draw();
        streams::add(&mut steps, &setup, end);
        Self {
            setup,
            steps,
            rest: end + HEALS,
        }
    }

    /// Nodes are told to stop, and will be back, too.
    #[must_use]
    pub fn with_stops(mut self) -> Self {
        let end = self.rest.saturating_sub(HEALS);
        stops::add(&mut self.steps, &mut self.setup, end);
        self
    }

    /// Puts it into a lab's future.
    pub fn schedule(&self, lab: &mut Lab) {
        for (at, action) in &self.steps {
            lab.schedule(*at, action.clone());
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup {
            seed,
            nodes,
            settings,
            sync,
            repair_delay,
            tombstone_grace,
            omit,
        } = &self.setup;
        writeln!(f, "seed        {seed}")?;
        writeln!(f, "nodes       {nodes}")?;
        writeln!(
            f,
            "cluster     {:?}, {} partitions, {} copies, data synced: {sync:?}, copies made again after {repair_delay:?}, \
             deletions forgotten after {tombstone_grace:?}",
            settings.consistency, settings.partitions, settings.copies
        )?;
        if let Some(omit) = omit {
            writeln!(f, "left out    {omit:?}")?;
        }
        writeln!(
            f,
            "faults      {:?}, {} in all",
            self.rest,
            self.steps.len()
        )?;
        for (at, action) in &self.steps {
            writeln!(f, "{:>10.3} s  {action:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

struct Drawing {
    rng: ChaCha8Rng,
    kinds: Kinds,
    at: Duration,
    end: Duration,
    steps: Vec<(Duration, Action)>,
    partitions: u16,
    /// Nodes that may be there by then, and those that left.
    nodes: usize,
    first: usize,
    left: Vec<NodeIndex>,
    down: Vec<(Duration, NodeIndex)>,
}

impl Drawing {
    fn new(setup: &Setup, kinds: Kinds, rng: ChaCha8Rng, end: Duration) -> Self {
        Self {
            rng,
            kinds,
            at: BEGINS,
            end,
            steps: Vec::new(),
            partitions: setup.settings.partitions,
            nodes: setup.nodes,
            first: setup.nodes,
            left: Vec::new(),
            down: Vec::new(),
        }
    }

    fn add(&mut self, at: Duration, action: Action) {
        self.steps.push((at, action));
    }

    // So much later, but not after the end.
    fn later(&mut self, range: std::ops::Range<u64>) -> Duration {
        (self.at + millis(&mut self.rng, range)).min(self.end)
    }

    fn draw(mut self) -> Vec<(Duration, Action)> {
        while self.at < self.end {
            let at = self.at;
            self.down.retain(|(until, _)| *until > at);
            self.one();
            self.at += millis(&mut self.rng, 30..1200);
        }
        let end = self.end;
        for node in 0..self.nodes + 4 {
            self.add(end, Action::Resume(node));
            self.add(end, Action::Start(node));
            self.add(end, Action::Clock(node, 0));
        }
        self.add(end + Duration::from_millis(10), Action::Heal);
        self.steps.sort_by_key(|(at, _)| *at);
        self.steps
    }

    fn one(&mut self) {
        let at = self.at;
        let node = self.rng.random_range(0..self.first);
        let p = self.rng.random_range(0..self.partitions);
        let is_down = self.down.iter().any(|(_, other)| *other == node);
        let may_die = self.down.len() < self.kinds.dead && !is_down && !self.left.contains(&node);
        match self.rng.random_range(0..20) {
            0..4 if may_die => {
                let power = self.kinds.power && self.rng.random_bool(0.4);
                let action = if power {
                    Action::PowerCut(node)
                } else {
                    Action::Kill(node)
                };
                self.dies(action, node);
            }
            4 if may_die => {
                // Nobody knows yet who that is: as many may be down as if it were another one.
                self.add(at, Action::KillOwner(p));
                let back = self.later(50..4000);
                for node in 0..self.nodes {
                    self.add(back, Action::Start(node));
                }
                self.down.push((back, usize::MAX));
            }
            5 | 6 if !is_down => {
                self.add(at, Action::Pause(node));
                let back = self.later(20..2500);
                self.add(back, Action::Resume(node));
            }
            7 => {
                let during = millis(&mut self.rng, 20..2500);
                self.add(at, Action::PauseOwner(p, during));
            }
            8 if !is_down => self.add(at, Action::Accuse(node)),
            9..12 if self.kinds.cuts => {
                let other = (node + 1 + self.rng.random_range(0..self.nodes - 1)) % self.nodes;
                let action = match self.rng.random_range(0..4) {
                    0 => Action::Split(vec![node]),
                    1 => Action::Split(vec![node, other]),
                    _ => Action::Cut(node, other),
                };
                self.add(at, action);
                let back = self.later(100..5000);
                self.add(back, Action::Heal);
            }
            12 if self.kinds.members && self.nodes < self.first + 2 => {
                self.add(at, Action::Join);
                self.nodes += 1;
            }
            13 if self.kinds.members && may_die && self.first - self.left.len() > 3 => {
                self.add(at, Action::Leave(node));
                self.left.push(node);
            }
            14 | 15 if self.kinds.clocks => {
                let most = [3_000, 30_000][self.rng.random_range(0..2)];
                let error = self.rng.random_range(-most..most);
                self.add(at, Action::Clock(node, error));
            }
            16 if self.kinds.disks && may_die => {
                let rest = self.rng.random_range(0..50);
                let action = if self.rng.random_bool(0.5) {
                    Action::Fill(node, rest)
                } else {
                    Action::FailReads(node, rest)
                };
                self.dies(action, node);
            }
            17 if self.kinds.disks => {
                let takes = millis(&mut self.rng, 20..1500);
                self.add(at, Action::SlowDisk(node, takes));
            }
            18 if self.kinds.disks && may_die && self.first - self.left.len() > 3 => {
                let action = if self.rng.random_bool(0.5) {
                    Action::Wipe(node)
                } else {
                    Action::Damage(node)
                };
                self.add(at, action);
                self.left.push(node);
                self.nodes += 1;
            }
            _ => {}
        }
    }

    fn dies(&mut self, action: Action, node: NodeIndex) {
        self.add(self.at, action);
        let back = self.later(50..5000);
        self.add(back, Action::Start(node));
        self.down.push((back, node));
    }
}

fn millis(rng: &mut ChaCha8Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}
