//! Blows at every point of a script: it runs once and every step is counted, and then once more for each step and
//! node, whose process (or machine) ends right there, or stands still while others take it for dead, or whose
//! streams stall, or which is cut off. Then everybody comes back, and everything is checked.
//!
//! | script | what goes on meanwhile |
//! |---|---|
//! | write | nothing but writes |
//! | take-over | the owner has been killed |
//! | hand-over | a node is back that placement wants as the owner |
//! | copy | a member is gone for good, and another node becomes one |
//! | leave | the owner leaves |
//! | restart | the owner is told to stop, and is started again as soon as it has |
//! | restart-pair | the same with two copies |
//! | grow | the only node is back after a restart, and another joins it |
//! | join | two branches meet after a split (available clusters only) |
//!
//! A write begins every 100 ms, through another node each time.

use std::time::Duration;

use kith_proto::{config::Consistency, replica::host::SyncMode};
use serde::Serialize;

use super::{
    Blow, How, Lab, NodeIndex, Omit, Setup,
    check::{self, placement},
    client::{self, Asked, Only},
};

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Script {
    /// Nothing but writes.
    Write,
    /// The owner was killed.
    TakeOver,
    /// A node is back that placement wants as the owner.
    HandOver,
    /// A member is gone for good.
    Copy,
    /// The owner leaves.
    Leave,
    /// The owner is told to stop, and started again.
    Restart,
    /// The same with two copies.
    RestartPair,
    /// Two branches meet.
    Join,
    /// The only node is back, and another joins it.
    Grow,
}

impl Script {
    /// All that there are in a mode.
    pub fn of(consistency: Consistency) -> &'static [Self] {
        const ALL: [Script; 9] = [
            Script::Write,
            Script::TakeOver,
            Script::HandOver,
            Script::Copy,
            Script::Leave,
            Script::Restart,
            Script::RestartPair,
            Script::Grow,
            Script::Join,
        ];
        match consistency {
            Consistency::Available => &ALL,
            Consistency::Strict => &ALL[..8],
        }
    }
}

/// The one partition.
const P: u16 = 0;
const KEYS: usize = 6;
/// Between two writes.
const PACE: Duration = Duration::from_millis(100);
/// A node that ended is down for so long.
const DOWN: Duration = Duration::from_millis(1500);
/// A process stands still for so long.
const PAUSED: Duration = Duration::from_millis(1200);
/// What waits in streams arrives after so long.
const STALLED: Duration = Duration::from_millis(700);
/// A node that is cut off is missed after so long.
const MISSED: Duration = Duration::from_millis(300);
const KINDS: [How; 5] = [
    How::Killed,
    How::PowerCut,
    How::Paused(PAUSED),
    How::Stalled(STALLED),
    How::CutOff(MISSED),
];
/// The longest script; one that has no end is over after [`WRITES`].
const LIMIT: Duration = Duration::from_secs(8);
const WRITES: Duration = Duration::from_millis(500);

/// A script, and in what it is played.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What goes on.
    pub script: Script,
    /// In which mode.
    pub consistency: Consistency,
    /// The rule that is left out, if one is.
    pub omit: Option<Omit>,
    /// Decides everything else: when things arrive, and who has what.
    pub seed: u64,
}

/// What a script did without a blow.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Steps.
    pub points: u64,
    /// How long it took.
    pub took: Duration,
    /// Nodes that may be struck.
    pub nodes: NodeIndex,
}

fn lab(case: Case) -> Lab {
    let script = case.script;
    let mut setup = Setup::new(case.seed << 8 | script as u64, case.consistency);
    setup.omit = case.omit;
    setup.settings.partitions = 1;
    setup.nodes = match script {
        Script::Write | Script::TakeOver | Script::HandOver => 3,
        Script::Restart | Script::RestartPair => 3,
        Script::Copy | Script::Leave | Script::Join => 4,
        Script::Grow => 1,
    };
    if script == Script::RestartPair {
        setup.settings.copies = 2;
    }
    setup.repair_delay = Duration::from_secs(1);
    if setup.is_strict() {
        setup.sync = SyncMode::Always;
    }
    let mut lab = Lab::new(setup);
    let limit = Duration::from_secs(20);
    lab.run_until(limit, Duration::from_millis(20), |lab| {
        placement::missing(lab).is_none()
    });
    for _ in 0..KEYS {
        write(&mut lab);
    }
    lab.run(Duration::from_millis(150));
    lab
}

// A write of the next key, through the next node that lives.
fn write(lab: &mut Lab) {
    let number = lab.clients.history.len();
    let living = lab.living();
    let Some(node) = living.get(number % living.len().max(1)).copied() else {
        return;
    };
    let value = client::value(lab);
    let key = client::key(number % KEYS);
    let asked = match number % 5 {
        4 => Asked::Delete,
        3 => Asked::Read,
        _ => Asked::Write(value, Only::Always),
    };
    client::ask(lab, None, node, key, asked);
}

fn owner(lab: &Lab) -> NodeIndex {
    lab.servers(P).first().copied().unwrap_or(0)
}

// Brings a lab to the moment from which steps are counted.
fn begin(lab: &mut Lab, script: Script) {
    let owner = owner(lab);
    match script {
        Script::Write => {}
        Script::TakeOver => lab.kill(owner, false),
        Script::HandOver => {
            lab.kill(owner, false);
            go_on(lab, Duration::from_millis(800), |lab| {
                !lab.servers(P).is_empty()
            });
            lab.start(owner);
        }
        Script::Copy => {
            let members = lab.shard(owner).and_then(|shard| shard.chain_of(P));
            let backup = members.and_then(|chain| chain.config.members.last().copied());
            let backup = backup.and_then(|id| lab.index_of(id)).unwrap_or(0);
            lab.kill(backup, false);
            let delay = lab.setup.repair_delay;
            go_on(lab, delay, |_| false);
        }
        Script::Leave => lab.leave(owner),
        Script::Restart | Script::RestartPair => {
            lab.stop(owner);
            lab.start(owner);
        }
        Script::Grow => {
            lab.kill(owner, false);
            lab.start(owner);
            lab.add();
        }
        Script::Join => {
            lab.split(&[owner]);
            go_on(lab, Duration::from_millis(3500), |_| false);
            lab.heal();
        }
    }
}

// Writes go on for so long, or until something holds.
fn go_on(lab: &mut Lab, limit: Duration, mut holds: impl FnMut(&mut Lab) -> bool) -> bool {
    let until = lab.now() + limit;
    while lab.now() < until {
        write(lab);
        let rest = until.saturating_since(lab.now()).min(PACE);
        if lab.run_until(rest, Duration::from_millis(5), &mut holds) {
            return true;
        }
    }
    false
}

// Whether the script is over.
fn is_over(lab: &mut Lab, script: Script) -> bool {
    match script {
        Script::Write => false,
        Script::TakeOver => !lab.servers(P).is_empty(),
        _ => placement::missing(lab).is_none(),
    }
}

/// Runs a script without a blow, and counts.
pub fn reference(case: Case) -> Reference {
    let script = case.script;
    let mut lab = lab(case);
    begin(&mut lab, script);
    let nodes = lab.len();
    let since = lab.now();
    lab.count_points(true, None);
    let limit = match script {
        Script::Write => WRITES,
        _ => LIMIT,
    };
    go_on(&mut lab, limit, |lab| is_over(lab, script));
    // The last steps, such as what is told to others afterwards.
    go_on(&mut lab, PACE, |_| false);
    Reference {
        points: lab.points(),
        took: lab.now().saturating_since(since),
        nodes,
    }
}

/// Runs it with a blow. What was wrong.
pub fn with_blow(case: Case, reference: &Reference, blow: Blow) -> Vec<String> {
    let Case {
        script,
        consistency,
        ..
    } = case;
    let mut lab = lab(case);
    begin(&mut lab, script);
    lab.count_points(true, Some(blow));
    go_on(&mut lab, reference.took, |_| false);
    lab.count_points(false, None);
    let served = go_on(&mut lab, DOWN, |lab| !lab.servers(P).is_empty());
    if !served && goes_on_without(case, blow) {
        lab.object(
            "service",
            "a node ended, and nobody serves its partition".to_owned(),
        );
    }
    go_on(&mut lab, DOWN, |_| false);
    for node in 0..lab.len() {
        lab.start(node);
    }
    lab.heal();
    lab.run(Duration::from_millis(3100));
    check::at_rest(&mut lab, Duration::from_secs(60));
    let objections = lab.objections().iter();
    objections
        .map(|objection| format!("{script:?} {consistency:?} {blow:?}: {objection}"))
        .collect()
}

// Whether others serve what they have while a node is down. Of two copies the other one may be away, too; and where a
// member is away already, a strict cluster has lost its majority.
fn goes_on_without(case: Case, blow: Blow) -> bool {
    let ends = matches!(blow.how, How::Killed | How::PowerCut);
    let strict = case.consistency == Consistency::Strict;
    let others_have_it = match case.script {
        Script::Grow | Script::RestartPair => false,
        Script::TakeOver | Script::Copy => !strict,
        _ => true,
    };
    ends && others_have_it
}

/// All blows of a script: after every step (every `stride`th), at every node, of every kind.
pub fn blows(reference: &Reference, stride: u64) -> Vec<Blow> {
    let mut all = Vec::new();
    for point in (1..=reference.points).step_by(usize::try_from(stride).unwrap_or(1)) {
        for node in 0..reference.nodes {
            for how in KINDS {
                all.push(Blow { point, node, how });
            }
        }
    }
    all
}
