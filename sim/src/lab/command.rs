//! `kith-sim partitions`: seeds of the lab, and what they showed.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::BuildHasher,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};
use kith_proto::config::Consistency;
use serde::Serialize;

use super::{
    Omit, availability,
    plan::Plan,
    points::{self, Case, Script},
    run::{self, Outcome},
};
use crate::{
    command::print_json,
    many,
    progress::Progress,
    report::{Latencies, Summary},
};

/// What to run.
#[derive(Debug, Args)]
pub struct PartitionArgs {
    /// Which mode; both if it is not given.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// The seed that decides everything; the first of several. Drawn if it is not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Run so many seeds, from the first one on, on all processors.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub seeds: u64,
    /// Leave out a rule of the protocol, to see whether the checkers notice.
    #[arg(long, value_parser = rule)]
    pub omit: Option<Omit>,
    /// Nodes are told to stop and will be back, too: one, two, all in turn, all at once.
    #[arg(long, conflicts_with_all = ["availability", "points"])]
    pub stops: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Measure the time without service after a crash, a black hole and a partition, so many times
    /// each, instead of running random faults.
    #[arg(long, value_name = "TIMES", conflicts_with_all = ["omit", "seeds", "verbose"])]
    pub availability: Option<u64>,
    /// Run scripts with a blow (crash, power cut, pause, stall, cut) after every step (every n-th one) of every node, instead of random
    /// faults; with the seed 0 if none is given.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1",
          conflicts_with_all = ["seeds", "verbose", "availability"])]
    pub points: Option<u64>,
    /// Print everything that happens (one seed and mode only).
    #[arg(long, conflicts_with_all = ["seeds", "json"], requires_all = ["mode", "seed"])]
    pub verbose: bool,
}

/// The two modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Both sides of a split go on.
    Available,
    /// One owner, always.
    Strict,
}

impl From<Mode> for Consistency {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Available => Self::Available,
            Mode::Strict => Self::Strict,
        }
    }
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Strict => "strict",
        }
    }
}

fn rule(text: &str) -> Result<Omit, String> {
    let named = |rule: &&Omit| format!("{rule:?}").eq_ignore_ascii_case(text);
    Omit::ALL.iter().find(named).copied().ok_or_else(|| {
        let all: Vec<String> = Omit::ALL.iter().map(|rule| format!("{rule:?}")).collect();
        format!("there is no rule {text:?}, but {}", all.join(", "))
    })
}

/// What seeds of one mode showed. Nothing of the wall clock is in it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which mode.
    pub mode: Mode,
    /// The first seed.
    pub first_seed: u64,
    /// How many.
    pub seeds: u64,
    /// Simulated seconds in all.
    pub simulated_s: u64,
    /// Answers: done, refused (nothing has changed), indeterminate.
    pub answers: [u64; 3],
    /// From the end of the faults until all was at rest.
    pub settled: Option<Summary>,
    /// One number for everything that happened.
    pub digest: u64,
    /// Seeds in which something was wrong.
    pub failed: Vec<Failed>,
}

/// A seed in which something was wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What was wrong.
    pub objections: Vec<String>,
    /// The command that runs it again.
    pub replay: String,
}

/// What seeds lead to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Variant {
    /// Without that rule.
    pub omit: Option<Omit>,
    /// Nodes are told to stop, too.
    pub stops: bool,
}

impl Variant {
    fn plan(self, mode: Mode, seed: u64) -> Plan {
        let plan = Plan::draw(seed, mode.into());
        let mut plan = match self.stops {
            true => plan.with_stops(),
            false => plan,
        };
        plan.setup.omit = self.omit;
        plan
    }

    fn replay(self, mode: Mode, seed: u64) -> String {
        let omit = self.omit.map(|rule| format!(" --omit {rule:?}"));
        let stops = if self.stops { " --stops" } else { "" };
        format!(
            "kith-sim partitions --mode {} --seed {seed}{stops}{}",
            mode.name(),
            omit.unwrap_or_default()
        )
    }
}

/// Runs so many seeds of a mode.
pub fn run_seeds(
    mode: Mode,
    first: u64,
    seeds: u64,
    variant: Variant,
    progress: &Progress,
) -> Report {
    let outcomes: Vec<Outcome> = many::each_seed(first, seeds, |seed| {
        let outcome = run::run(&variant.plan(mode, seed));
        let wrong = outcome.objections.first();
        progress.one_more(wrong.map(|first| format!("{} seed {seed}: {first}", mode.name())));
        outcome
    });
    let mut report = Report {
        mode,
        first_seed: first,
        seeds,
        simulated_s: 0,
        answers: [0; 3],
        settled: None,
        digest: 0,
        failed: Vec::new(),
    };
    let mut settled = Vec::new();
    let mut simulated = Duration::ZERO;
    for (seed, outcome) in (first..).zip(outcomes) {
        simulated += outcome.simulated;
        settled.extend(outcome.settled);
        for (all, these) in report.answers.iter_mut().zip(outcome.answers) {
            *all += these;
        }
        report.digest = report.digest.rotate_left(5) ^ outcome.digest;
        if !outcome.objections.is_empty() {
            report.failed.push(Failed {
                seed,
                objections: outcome.objections.iter().map(ToString::to_string).collect(),
                replay: variant.replay(mode, seed),
            });
        }
    }
    report.simulated_s = simulated.as_secs();
    report.settled = Latencies::of(&settled).summary();
    report
}

impl Report {
    fn print(&self) {
        let passed = self.seeds - self.failed.len() as u64;
        let [done, refused, unknown] = self.answers;
        println!(
            "{:<10} {passed} of {} seeds passed; {} simulated s; {done} answers, {refused} refusals, {unknown} indeterminate",
            self.mode.name(),
            self.seeds,
            self.simulated_s
        );
        if let Some(settled) = self.settled {
            println!(
                "{:<10} at rest after the faults: median {} p99 {} worst {} ms",
                "", settled.median_ms, settled.p99_ms, settled.worst_ms
            );
        }
        let mut by_check: BTreeMap<&str, usize> = BTreeMap::new();
        for failed in &self.failed {
            if let Some(first) = failed.objections.first() {
                let check = first.split(' ').next().unwrap_or_default();
                *by_check.entry(check).or_default() += 1;
            }
        }
        if !by_check.is_empty() {
            println!("{:<10} first objections by {by_check:?}", "");
        }
        for failed in self.failed.iter().take(10) {
            println!("\nFAILED  {}", failed.objections.join("\n        "));
            println!("replay  {}", failed.replay);
        }
    }
}

/// Does what was asked for. Exit code 1 if a promise was broken.
pub fn execute(args: &PartitionArgs) -> ExitCode {
    let modes: Vec<Mode> = match args.mode {
        Some(mode) => vec![mode],
        None => vec![Mode::Available, Mode::Strict],
    };
    let first = args
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000);
    if let Some(times) = args.availability {
        return availability::execute(&modes, first, times, args.json);
    }
    if let Some(stride) = args.points {
        return blows_at_points(&modes, args, stride);
    }
    let variant = Variant {
        omit: args.omit,
        stops: args.stops,
    };
    if args.verbose {
        let plan = variant.plan(modes[0], first);
        println!("{plan}");
        let (lab, _) = run::run_lab(&plan, true);
        for objection in lab.objections() {
            println!("{objection}");
        }
        return code(lab.objections().is_empty());
    }
    if !args.json {
        if args.seeds == 1 {
            println!("{}", variant.plan(modes[0], first));
        } else {
            println!("seeds {first} to {}\n", first.wrapping_add(args.seeds - 1));
        }
    }
    let progress = Progress::start(args.seeds * modes.len() as u64);
    let reports: Vec<Report> = modes
        .iter()
        .map(|mode| run_seeds(*mode, first, args.seeds, variant, &progress))
        .collect();
    let simulated = reports.iter().map(|report| report.simulated_s).sum();
    let answers = reports.iter().flat_map(|report| report.answers).sum();
    progress.finish(Duration::from_secs(simulated), answers);
    if args.json {
        if let Err(error) = print_json(&reports) {
            eprintln!("kith-sim: {error}");
        }
    } else {
        for report in &reports {
            report.print();
        }
    }
    code(reports.iter().all(|report| report.failed.is_empty()))
}

/// What blows after every step of a script showed.
#[derive(Debug, Serialize)]
struct Enumerated {
    mode: Mode,
    script: Script,
    /// Steps of the script without a blow.
    steps: u64,
    /// Blows that were tried.
    blows: usize,
    /// After how many something was wrong.
    failed: usize,
    /// What was wrong.
    objections: Vec<String>,
}

fn blows_at_points(modes: &[Mode], args: &PartitionArgs, stride: u64) -> ExitCode {
    let mut all = Vec::new();
    for mode in modes {
        for script in Script::of((*mode).into()) {
            let case = Case {
                script: *script,
                consistency: (*mode).into(),
                omit: args.omit,
                seed: args.seed.unwrap_or(0),
            };
            let reference = points::reference(case);
            let blows = points::blows(&reference, stride);
            let progress = Progress::start(blows.len() as u64);
            let each = many::each_seed(0, blows.len() as u64, |number| {
                let blow = usize::try_from(number).ok().and_then(|n| blows.get(n));
                let wrong = blow.map(|blow| points::with_blow(case, &reference, *blow));
                let wrong = wrong.unwrap_or_default();
                progress.one_more(wrong.first().cloned());
                wrong
            });
            progress.finish(Duration::ZERO, blows.len() as u64);
            all.push(Enumerated {
                mode: *mode,
                script: *script,
                steps: reference.points,
                blows: blows.len(),
                failed: each.iter().filter(|wrong| !wrong.is_empty()).count(),
                objections: each.into_iter().flatten().collect(),
            });
        }
    }
    if args.json {
        if let Err(error) = print_json(&all) {
            eprintln!("kith-sim: {error}");
        }
    } else {
        println!("mode       script       steps    blows   failed");
        for one in &all {
            println!(
                "{:<10} {:<10} {:>7} {:>8} {:>8}",
                one.mode.name(),
                format!("{:?}", one.script),
                one.steps,
                one.blows,
                one.failed
            );
        }
    }
    code(all.iter().all(|one| one.objections.is_empty()))
}

pub(super) fn code(passed: bool) -> ExitCode {
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}
