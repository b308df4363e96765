//! The same seeds with and without some mechanisms, side by side: each has to earn its place.

use std::{process::ExitCode, time::Duration};

use serde::Serialize;

use crate::{
    command::print_json,
    many,
    options::{Mechanisms, Setup},
    progress::Progress,
    report::{Report, Summary},
};

#[derive(Serialize)]
struct SideBySide<'a> {
    scenario: &'a str,
    first_seed: u64,
    seeds: u64,
    ours: &'a Report,
    other: Mechanisms,
    others: &'a Report,
}

/// Runs the seeds twice and prints both results; exit code 1 if a promise was broken with all
/// mechanisms on.
pub fn compare(setup: &Setup, other: Mechanisms, seeds: u64, json: bool) -> ExitCode {
    let progress = Progress::start(seeds * 2);
    let with = |mechanisms| {
        let setup = Setup {
            mechanisms,
            ..setup.clone()
        };
        many::run_seeds(&setup, seeds, &progress)
    };
    let ours = with(Mechanisms::All);
    let others = with(other);
    progress.finish(
        Duration::from_millis(ours.simulated_ms + others.simulated_ms),
        ours.happened + others.happened,
    );
    let all = SideBySide {
        scenario: setup.scenario.name,
        first_seed: setup.seed,
        seeds,
        ours: &ours,
        other,
        others: &others,
    };
    if json {
        if let Err(error) = print_json(&all) {
            eprintln!("kith-sim: {error}");
        }
    } else {
        all.print();
    }
    if ours.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

impl SideBySide<'_> {
    fn print(&self) {
        println!(
            "scenario {}, seeds {} to {}\n",
            self.scenario,
            self.first_seed,
            self.first_seed.wrapping_add(self.seeds.saturating_sub(1))
        );
        let row = |what: &str, ours: String, theirs: String, ratio: String| {
            println!("{what:<38} {ours:>14} {theirs:>14} {ratio:>8}");
        };
        row(
            "",
            "all".to_owned(),
            self.other.to_string(),
            "ratio".to_owned(),
        );
        let summaries = (
            self.ours.detection.summary(),
            self.others.detection.summary(),
        );
        let time = |what: &str, of: fn(&Summary) -> f64| {
            let (ours, theirs) = (summaries.0.as_ref().map(of), summaries.1.as_ref().map(of));
            let show = |time: Option<f64>| {
                time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1} ms"))
            };
            row(what, show(ours), show(theirs), ratio(ours, theirs));
        };
        time("detection, first", |summary| summary.first_ms);
        time("detection, median", |summary| summary.median_ms);
        time("detection, last", |summary| summary.last_ms);
        time("detection, p99", |summary| summary.p99_ms);
        time("detection, worst", |summary| summary.worst_ms);
        let number = |what: &str, of: fn(&Report) -> u64, unit: &str| {
            let (ours, theirs) = (of(self.ours), of(self.others));
            let show = |number: u64| format!("{number}{unit}");
            let ratio = ratio(Some(ours as f64), Some(theirs as f64));
            row(what, show(ours), show(theirs), ratio);
        };
        number(
            "false alarms about healthy nodes",
            |r| r.false_alarms.all,
            "",
        );
        number(
            "  told by members that were well",
            |r| r.false_alarms.by_the_well,
            "",
        );
        number("  healthy nodes accused", |r| r.false_alarms.accused, "");
        number(
            "suspicions of healthy nodes",
            |r| r.false_alarms.suspicions,
            "",
        );
        number(
            "sent per node and second",
            |r| r.traffic.whole.bytes_per_second(),
            " B",
        );
        number(
            "the same, idle",
            |r| r.traffic.idle.bytes_per_second(),
            " B",
        );
        number("runs", |r| r.runs, "");
        for failed in &self.ours.violations {
            println!(
                "\nFAILED  {}: {}\nreplay  {}",
                failed.violation.check, failed.violation.text, failed.replay
            );
        }
    }
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.3}", ours / theirs),
        _ => "-".to_owned(),
    }
}
