//! Faults drawn from a seed, and one whole run.

use std::time::Duration;

use rand::RngExt;

use super::{Lab, NodeIndex, Setup, client, verdict};

/// Something that is done to the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends a process.
    Kill(NodeIndex),
    /// Stops a machine.
    PowerCut(NodeIndex),
    /// Starts a process again.
    Start(NodeIndex),
    /// Stops a process for a while.
    Pause(NodeIndex),
    /// It goes on.
    Resume(NodeIndex),
    /// Cuts some from the rest.
    Split(Vec<NodeIndex>),
    /// Cuts two from each other, while others reach both.
    Cut(NodeIndex, NodeIndex),
    /// No cuts any more.
    Heal,
    /// Others come to think that it has failed.
    Accuse(NodeIndex),
    /// A node joins.
    Join,
    /// A node's wall clock is wrong by so many milliseconds.
    Clock(NodeIndex, i64),
}

pub(super) fn act(lab: &mut Lab, action: &Action) {
    if lab.verbose {
        println!("{:?} -------- {action:?}", lab.now());
    }
    match action {
        Action::Kill(node) => lab.kill(*node, false),
        Action::PowerCut(node) => lab.kill(*node, true),
        Action::Start(node) => lab.start(*node),
        Action::Pause(node) => lab.pause(*node),
        Action::Resume(node) => lab.resume(*node),
        Action::Split(side) => lab.split(side),
        Action::Cut(a, b) => lab.cut(*a, *b),
        Action::Heal => lab.heal(),
        Action::Accuse(node) => lab.accuse(*node),
        Action::Join => {
            lab.add();
        }
        Action::Clock(node, error) => lab.set_wall_error(*node, *error),
    }
}

/// Which faults a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How many nodes may be dead at a time.
    pub dead: usize,
    /// Whether machines stop, so that what was not synced is lost.
    pub power: bool,
    /// Whether the network is cut.
    pub cuts: bool,
    /// For how long.
    pub seconds: u64,
}

/// Draws faults and puts them into the lab's future; returns when they are over. Everybody is
/// alive and connected then.
pub fn draw(lab: &mut Lab, faults: Faults) -> Duration {
    let end = Duration::from_secs(faults.seconds);
    let mut at = Duration::from_millis(500);
    let mut dead: Vec<(Duration, NodeIndex)> = Vec::new();
    let mut nodes = lab.len();
    while at < end {
        dead.retain(|(until, _)| *until > at);
        let first = nodes.min(lab.setup.nodes);
        let node = lab.rng().random_range(0..first);
        let is_dead = dead.iter().any(|(_, other)| *other == node);
        match lab.rng().random_range(0..12) {
            0..5 if dead.len() < faults.dead && !is_dead => {
                let power = faults.power && lab.rng().random_bool(0.3);
                let action = if power {
                    Action::PowerCut(node)
                } else {
                    Action::Kill(node)
                };
                lab.schedule(at, action);
                let back = at + millis(lab, 50..6000);
                lab.schedule(back, Action::Start(node));
                dead.push((back, node));
            }
            5 | 6 if !is_dead => {
                lab.schedule(at, Action::Pause(node));
                let back = at + millis(lab, 20..2500);
                lab.schedule(back, Action::Resume(node));
            }
            7 if !is_dead => lab.schedule(at, Action::Accuse(node)),
            8 if faults.cuts => {
                let other = (node + 1 + lab.rng().random_range(0..nodes - 1)) % nodes;
                let action = if lab.rng().random_bool(0.5) {
                    Action::Split(vec![node, other])
                } else {
                    Action::Cut(node, other)
                };
                lab.schedule(at, action);
                let back = at + millis(lab, 200..6000);
                lab.schedule(back, Action::Heal);
            }
            9 if nodes < lab.setup.nodes + 2 => {
                lab.schedule(at, Action::Join);
                nodes += 1;
            }
            10 => {
                let error = lab.rng().random_range(-3000..3000);
                lab.schedule(at, Action::Clock(node, error));
            }
            _ => {}
        }
        at += millis(lab, 50..2500);
    }
    let rest = end + Duration::from_secs(7);
    for node in 0..nodes {
        lab.schedule(rest, Action::Resume(node));
        lab.schedule(rest, Action::Start(node));
    }
    lab.schedule(rest + Duration::from_millis(10), Action::Heal);
    rest
}

fn millis(lab: &mut Lab, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(lab.rng().random_range(range))
}

/// A whole run: nodes come together, clients begin, faults happen, end, and all comes to rest.
/// Returns what was wrong.
pub fn run(setup: Setup, faults: Faults) -> (Lab, Vec<String>) {
    run_verbosely(setup, faults, false)
}

/// The same, and prints everything that happens.
pub fn run_verbosely(setup: Setup, faults: Faults, verbose: bool) -> (Lab, Vec<String>) {
    let mut lab = Lab::new(setup);
    lab.verbose = verbose;
    lab.run(Duration::from_millis(300));
    client::begin(&mut lab, 6, 12);
    let rest = draw(&mut lab, faults);
    lab.run(rest + Duration::from_secs(2));
    client::stop(&mut lab);
    verdict::at_rest(&mut lab, Duration::from_secs(60));
    let objections = lab.verdict().objections.clone();
    (lab, objections)
}
