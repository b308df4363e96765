//! Scenarios: what is done to a cluster, drawn from a seed.
//!
//! A scenario is a function that draws a plan: actions with their moments. The moments are
//! counted from when the cluster was together and had settled; when the plan ends, all that is
//! left of its faults is mended (whoever died stays dead), and the cluster has to come to rest.
//!
//! | file | scenarios |
//! |---|---|
//! | `gone` | crash, mass-crash, black-hole |
//! | `lossy` | loss-5, loss-10, loss-20, loss-30 |
//! | `starving` | starved |
//! | `cut` | one-way-cut, partial-partition, flapping-link, split, two-node-split |
//! | `coming` | join, mass-join, mass-restart, rolling-restart, rolling-upgrade, key-rotation |
//! | `churn` | churn |
//! | `random` | random: everything, together |

mod churn;
mod coming;
mod cut;
mod gone;
mod lossy;
mod random;
mod starving;

use std::time::Duration;

use kith_proto::config::ClusterSettings;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};

use crate::{check::Limits, fault::Action, host::HostId, network::Network, options::NodeRange};

/// Keeps what a seed decides about the plan apart from what it decides about the world.
const PLAN: u64 = 0x6b69_7468_706c_616e;

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What happens in it, in one line.
    pub summary: &'static str,
    /// How many nodes it has unless told otherwise.
    pub nodes: NodeRange,
    /// The fewest nodes that make sense.
    pub least: usize,
    /// Draws its plan.
    pub plan: fn(&mut Draw),
}

/// Every scenario there is.
pub static ALL: &[Scenario] = &[
    scenario(
        "crash",
        "processes are killed, one after the other",
        32,
        2,
        gone::crash,
    ),
    scenario(
        "mass-crash",
        "a third of all processes is killed at once",
        32,
        3,
        gone::mass_crash,
    ),
    scenario(
        "black-hole",
        "machines vanish, one after the other: nothing answers",
        32,
        3,
        gone::black_hole,
    ),
    scenario(
        "loss-5",
        "5 % of all packets are lost, and a process is killed meanwhile",
        32,
        3,
        lossy::loss_5,
    ),
    scenario(
        "loss-10",
        "10 % of all packets are lost, and a process is killed meanwhile",
        32,
        3,
        lossy::loss_10,
    ),
    scenario(
        "loss-20",
        "20 % of all packets are lost, and a process is killed meanwhile",
        32,
        3,
        lossy::loss_20,
    ),
    scenario(
        "loss-30",
        "30 % of all packets are lost, and a process is killed meanwhile",
        32,
        3,
        lossy::loss_30,
    ),
    scenario(
        "starved",
        "a quarter of all nodes gets a share of 60 ms of CPU every 8 s",
        32,
        4,
        starving::starved,
    ),
    scenario(
        "one-way-cut",
        "packets pass in one direction only, between some pairs of nodes",
        16,
        4,
        cut::one_way,
    ),
    scenario(
        "partial-partition",
        "some pairs of nodes cannot talk, while others reach both",
        16,
        4,
        cut::partial,
    ),
    scenario(
        "flapping-link",
        "a node's network comes and goes",
        16,
        3,
        cut::flapping,
    ),
    scenario(
        "split",
        "the cluster is in two parts for 30 s to a day",
        10,
        2,
        cut::split,
    ),
    scenario(
        "two-node-split",
        "two nodes lose each other for 30 s to a day",
        2,
        2,
        cut::split,
    ),
    scenario(
        "join",
        "nodes join a cluster that is there, one after the other",
        32,
        1,
        coming::join,
    ),
    scenario(
        "mass-join",
        "as many nodes as there are join at once",
        32,
        1,
        coming::mass_join,
    ),
    scenario(
        "mass-restart",
        "all lose power, and come back at once",
        32,
        2,
        coming::mass_restart,
    ),
    scenario(
        "rolling-restart",
        "each node is stopped and started again, in turn",
        16,
        2,
        coming::rolling_restart,
    ),
    scenario(
        "rolling-upgrade",
        "each node comes back with a newer version of the protocol",
        16,
        2,
        coming::rolling_upgrade,
    ),
    scenario(
        "key-rotation",
        "the cluster key is changed, while nodes come and go",
        16,
        3,
        coming::key_rotation,
    ),
    scenario(
        "churn",
        "nodes join, leave, crash and restart all the time",
        32,
        6,
        churn::churn,
    ),
    Scenario {
        name: "random",
        summary: "everything, drawn from the seed",
        nodes: NodeRange { least: 3, most: 50 },
        least: 3,
        plan: random::random,
    },
];

const fn scenario(
    name: &'static str,
    summary: &'static str,
    nodes: usize,
    least: usize,
    plan: fn(&mut Draw),
) -> Scenario {
    Scenario {
        name,
        summary,
        nodes: NodeRange {
            least: nodes,
            most: nodes,
        },
        least,
        plan,
    }
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, from the beginning of the plan.
    pub after: Duration,
    /// What.
    pub action: Action,
}

/// Draws a plan.
#[derive(Debug)]
pub struct Draw {
    rng: ChaCha8Rng,
    /// Nodes in the beginning.
    pub nodes: usize,
    /// The network while nothing is wrong with it.
    pub network: Network,
    /// Places of the network; see [`crate::network`].
    pub places: u16,
    /// Places are failure zones.
    pub zones: bool,
    /// What the cluster is bootstrapped with.
    pub settings: ClusterSettings,
    /// What is allowed.
    pub limits: Limits,
    minutes: Option<u32>,
    steps: Vec<Step>,
    end: Duration,
    /// Hosts that there are, with those that join.
    hosts: usize,
}

impl Draw {
    /// Begins with the number of nodes.
    pub fn new(seed: u64, nodes: NodeRange, least: usize, minutes: Option<u32>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ PLAN);
        let nodes = rng.random_range(nodes.least..=nodes.most).max(least);
        Self {
            rng,
            nodes,
            network: Network::lan(),
            places: 1,
            zones: false,
            settings: ClusterSettings::default(),
            limits: Limits::for_nodes(nodes),
            minutes,
            steps: Vec::new(),
            end: Duration::ZERO,
            hosts: nodes,
        }
    }

    /// What was drawn: all steps in order, and when the faults are over.
    pub fn plan(&mut self) -> (Vec<Step>, Duration) {
        let mut steps = std::mem::take(&mut self.steps);
        steps.sort_by_key(|step| step.after);
        (steps, self.end)
    }

    /// How long faults go on: as was said, or that many minutes.
    fn minutes(&self, default: u32) -> Duration {
        Duration::from_secs(60) * self.minutes.unwrap_or(default).max(1)
    }

    /// Something is done at that moment.
    fn at(&mut self, after: Duration, action: Action) {
        self.end = self.end.max(after);
        self.steps.push(Step { after, action });
    }

    /// The plan goes on until then at least.
    fn until(&mut self, end: Duration) {
        self.end = self.end.max(end);
    }

    /// A new host joins at that moment; its number.
    fn join(&mut self, after: Duration, seeds: Vec<HostId>, name_of: Option<HostId>) -> HostId {
        self.at(after, Action::Join { seeds, name_of });
        self.hosts += 1;
        self.hosts - 1
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.random_range(nanos(least)..=nanos(most)))
    }

    fn below(&mut self, most: Duration) -> Duration {
        self.between(Duration::ZERO, most)
    }

    fn number(&mut self, least: u32, most: u32) -> u32 {
        self.rng.random_range(least..=most)
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Some of the first hosts, each once.
    fn some(&mut self, count: usize) -> Vec<HostId> {
        let mut hosts: Vec<HostId> = (0..self.nodes).collect();
        hosts.shuffle(&mut self.rng);
        hosts.truncate(count);
        hosts
    }

    /// One of the first hosts.
    fn one(&mut self) -> HostId {
        self.rng.random_range(0..self.nodes)
    }

    /// Two of the first hosts.
    fn two(&mut self) -> (HostId, HostId) {
        let a = self.one();
        let b = (a + self.rng.random_range(1..self.nodes)) % self.nodes;
        (a, b)
    }

    /// From a small time to a large one, all orders of magnitude alike.
    fn magnitude(&mut self, least: Duration, most: Duration) -> Duration {
        let doublings = (most.as_secs() / least.as_secs().max(1)).max(1).ilog2();
        let low = least * (1 << self.rng.random_range(0..=doublings));
        self.between(low, low * 2).min(most)
    }
}
