//! The command line, and what it leads to: everything that is given or drawn from the seed.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kith_proto::config::{ClusterSettings, Detection, Timing};
use serde::Serialize;

use crate::{
    check::Limits,
    lab::command::PartitionArgs,
    network::Network,
    scenario::{self, Draw, Scenario, Step},
    world::cpu::Order,
};

/// Runs clusters of real protocol cores on a virtual clock, with faults, and checks what was
/// promised. The same seed gives the same run, on every machine.
#[derive(Debug, Parser)]
#[command(name = "kith-sim", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a scenario, once or with many seeds; exit code 1 if a promise was broken.
    Run(RunArgs),
    /// List the scenarios.
    List,
    /// Run partition cores alone, with faults drawn from seeds; exit code 1 if a promise was broken.
    Partitions(PartitionArgs),
}

/// What to run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A scenario's name (`kith-sim list`); `random` draws everything.
    pub scenario: String,
    /// How many nodes, or a range from which the seed draws: `100`, `3-50`.
    #[arg(long)]
    pub nodes: Option<NodeRange>,
    /// The seed that decides everything; the first of several. Drawn if it is not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Run so many seeds, from the first one on, on all processors.
    #[arg(long, value_name = "K")]
    pub seeds: Option<u64>,
    /// How long faults go on (virtual minutes); each scenario has its own default.
    #[arg(long)]
    pub minutes: Option<u32>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Run the same seeds without some mechanisms too, and put the results side by side.
    #[arg(long, value_enum)]
    pub compare: Option<Mechanisms>,
    /// Run without some mechanisms; promises are not enforced then, only measured.
    #[arg(long, value_enum, default_value_t, conflicts_with = "compare")]
    pub mechanisms: Mechanisms,
    /// Write everything that happens to a file (one seed only).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "compare"])]
    pub trace: Option<PathBuf>,
}

/// How many nodes, at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRange {
    /// At least.
    pub least: usize,
    /// At most.
    pub most: usize,
}

impl FromStr for NodeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse::<usize>()
                .ok()
                .filter(|n| (1..=5000).contains(n))
                .ok_or_else(|| format!("{text:?} is not a number of nodes from 1 to 5000"))
        };
        let range = match text.split_once('-') {
            Some((least, most)) => Self {
                least: number(least)?,
                most: number(most)?,
            },
            None => Self {
                least: number(text)?,
                most: number(text)?,
            },
        };
        if range.least > range.most {
            return Err("the smaller number comes first".to_owned());
        }
        Ok(range)
    }
}

impl fmt::Display for NodeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.most {
            write!(f, "{}", self.least)
        } else {
            write!(f, "{}-{}", self.least, self.most)
        }
    }
}

/// Which mechanisms of failure detection are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanisms {
    /// All of them.
    #[default]
    All,
    /// Without Lifeguard, direct evidence and bursts; the windows of suspicion stay as short.
    /// Processes that were kept from running take timers and packets as they come.
    Plain,
    /// The same, with the window of suspicion that foca sets by default for a local network:
    /// four seconds up to ten members.
    FocaLan,
}

impl Mechanisms {
    fn detection(self) -> Detection {
        let on = self == Self::All;
        Detection {
            lifeguard: on,
            evidence: on,
            bursts: on,
        }
    }

    fn order(self) -> Order {
        if self == Self::All {
            Order::InputFirst
        } else {
            Order::AsItComes
        }
    }

    fn timing(self) -> Timing {
        let mut timing = Timing::default();
        if self == Self::FocaLan {
            // foca 2.0, `Config::new_lan`: 4 · max(1, log10 n) probe periods.
            timing.suspicion_min = Duration::from_secs(4);
        }
        timing
    }
}

impl fmt::Display for Mechanisms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Plain => "plain",
            Self::FocaLan => "foca-lan",
        })
    }
}

/// What was asked for: enough to run it again.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which scenario.
    pub scenario: &'static Scenario,
    /// The seed.
    pub seed: u64,
    /// How many nodes, if that was said.
    pub nodes: Option<NodeRange>,
    /// How long faults go on, if that was said.
    pub minutes: Option<u32>,
    /// Which mechanisms are on.
    pub mechanisms: Mechanisms,
}

impl Setup {
    /// The command that runs it again.
    pub fn replay(&self) -> String {
        let mut command = format!("kith-sim run {}", self.scenario.name);
        if let Some(nodes) = self.nodes {
            command += &format!(" --nodes {nodes}");
        }
        if let Some(minutes) = self.minutes {
            command += &format!(" --minutes {minutes}");
        }
        if self.mechanisms != Mechanisms::All {
            command += &format!(" --mechanisms {}", self.mechanisms);
        }
        command + &format!(" --seed {}", self.seed)
    }

    /// Draws everything that was not said.
    pub fn draw(&self) -> Options {
        let range = self.nodes.unwrap_or(self.scenario.nodes);
        let mut draw = Draw::new(self.seed, range, self.scenario.least, self.minutes);
        (self.scenario.plan)(&mut draw);
        let (plan, end) = draw.plan();
        Options {
            scenario: self.scenario.name,
            seed: self.seed,
            mechanisms: self.mechanisms,
            nodes: draw.nodes,
            network: draw.network,
            places: draw.places,
            zones: draw.zones,
            settings: draw.settings,
            detection: self.mechanisms.detection(),
            order: self.mechanisms.order(),
            timing: self.mechanisms.timing(),
            limits: draw.limits,
            plan,
            end,
        }
    }
}

/// Everything that a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The seed.
    pub seed: u64,
    /// Which mechanisms are on.
    pub mechanisms: Mechanisms,
    /// Nodes that are started at once in the beginning.
    pub nodes: usize,
    /// The network while nothing is wrong with it.
    pub network: Network,
    /// Places of the network.
    pub places: u16,
    /// Places are failure zones.
    pub zones: bool,
    /// What the cluster is bootstrapped with.
    pub settings: ClusterSettings,
    /// See [`Mechanisms`].
    pub detection: Detection,
    /// See [`Mechanisms`].
    pub order: Order,
    /// See [`Mechanisms`].
    pub timing: Timing,
    /// What is allowed.
    pub limits: Limits,
    /// What is done to the cluster, and when, counted from the moment when it was together
    /// and had settled.
    pub plan: Vec<Step>,
    /// When the faults are over, on the same clock.
    pub end: Duration,
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "scenario    {}", self.scenario)?;
        writeln!(f, "seed        {}", self.seed)?;
        writeln!(f, "nodes       {}", self.nodes)?;
        writeln!(f, "mechanisms  {}", self.mechanisms)?;
        writeln!(f, "network     {}", self.network)?;
        let places = match self.places {
            1 => "all in one place".to_owned(),
            u16::MAX => "each node in a place of its own".to_owned(),
            n if self.zones => format!("{n}, which are failure zones"),
            n => n.to_string(),
        };
        writeln!(f, "places      {places}")?;
        let ClusterSettings {
            partitions, copies, ..
        } = self.settings;
        writeln!(f, "cluster     {partitions} partitions, {copies} copies")?;
        let Limits {
            detection,
            convergence,
            false_alarms,
            ..
        } = self.limits;
        writeln!(
            f,
            "allowed     detection {detection:?}, agreement {convergence:?}, {false_alarms} false alarms"
        )?;
        writeln!(f, "faults      {:?}, {} in all", self.end, self.plan.len())?;
        const SHOWN: usize = 60;
        for step in self.plan.iter().take(SHOWN) {
            writeln!(f, "{:>10.3} s  {}", step.after.as_secs_f64(), step.action)?;
        }
        if self.plan.len() > SHOWN {
            writeln!(f, "            ... and {} more", self.plan.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// There is no such scenario.
#[derive(Debug, thiserror::Error)]
#[error("there is no scenario {0:?}; `kith-sim list` shows them")]
pub struct UnknownScenario(pub String);

/// A scenario by its name.
///
/// # Errors
/// If there is none.
pub fn scenario(name: &str) -> Result<&'static Scenario, UnknownScenario> {
    scenario::ALL
        .iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| UnknownScenario(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_nodes_is_read_and_written() {
        let range: NodeRange = "3-50".parse().unwrap();
        assert_eq!((range.least, range.most), (3, 50));
        assert_eq!(range.to_string(), "3-50");
        assert_eq!("7".parse::<NodeRange>().unwrap().to_string(), "7");
        for wrong in ["", "0", "5-3", "x", "3-", "9999"] {
            assert!(wrong.parse::<NodeRange>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_plan_for_every_scenario() {
        for scenario in scenario::ALL {
            let setup = |seed| Setup {
                scenario,
                seed,
                nodes: None,
                minutes: None,
                mechanisms: Mechanisms::All,
            };
            let text = |seed| setup(seed).draw().to_string();
            assert_eq!(text(3), text(3));
            assert_ne!(text(3), text(4));
        }
    }
}
