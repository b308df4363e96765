//! What the command line does: run, print, and say how to run it again.

use std::{
    collections::hash_map::RandomState,
    fs::File,
    hash::BuildHasher,
    io::{self, BufWriter, Write},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kith_proto::time::Time;
use serde::Serialize;

use crate::{
    compare, lab, many,
    options::{Cli, Command, Mechanisms, RunArgs, Setup, scenario},
    progress::Progress,
    report::{Failed, Report, table},
    run, scenario as scenarios,
    trace::Trace,
};

/// How much of what happened before a failure is shown.
const AROUND: Duration = Duration::from_secs(5);
/// The most lines of it.
const LINES: usize = 120;

/// Does what was asked for. Exit code 1 if a promise was broken or the trace could not be
/// written, 2 if the scenario does not exist.
pub fn execute(cli: Cli) -> ExitCode {
    match cli.command {
        Command::List => {
            for scenario in scenarios::ALL {
                println!("{:<18} {}", scenario.name, scenario.summary);
            }
            ExitCode::SUCCESS
        }
        Command::Partitions(args) => lab::command::execute(&args),
        Command::Run(args) => match run_command(&args) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("kith-sim: {error}");
                ExitCode::from(2)
            }
        },
    }
}

fn run_command(args: &RunArgs) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let setup = Setup {
        scenario: scenario(&args.scenario)?,
        // Any seed will do; it is printed first, and decides everything from there on.
        seed: args
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000),
        nodes: args.nodes,
        minutes: args.minutes,
        mechanisms: args.mechanisms,
    };
    if let Some(other) = args.compare.filter(|other| *other != Mechanisms::All) {
        return Ok(compare::compare(
            &setup,
            other,
            args.seeds.unwrap_or(1),
            args.json,
        ));
    }
    let report = match args.seeds {
        Some(seeds) => several(&setup, seeds, args.json),
        None => one(&setup, args)?,
    };
    Ok(if report.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn one(setup: &Setup, args: &RunArgs) -> io::Result<Report> {
    let options = setup.draw();
    if !args.json {
        println!("{options}");
    }
    let trace = match &args.trace {
        Some(path) => {
            let file = BufWriter::new(File::create(path)?);
            let end = Time::from_nanos(u64::MAX);
            Some(Trace::new(Time::ZERO, end, Box::new(file)))
        }
        None => None,
    };
    let progress = Progress::start(1);
    let outcome = run::run_with(setup, options, trace, &mut |_| {});
    let report = outcome.report;
    progress.finish(Duration::from_millis(report.simulated_ms), report.happened);
    if args.json {
        print_json(&Single {
            scenario: setup.scenario.name,
            seed: setup.seed,
            nodes: outcome.options.nodes,
            options: &outcome.options.to_string(),
            report: &report,
        })?;
    } else {
        print_lines(&table::lines(&report));
    }
    if let Some(failed) = report.violations.first()
        && !args.json
    {
        explain(setup, failed, &outcome.views);
    }
    Ok(report)
}

fn several(setup: &Setup, seeds: u64, json: bool) -> Report {
    let progress = Progress::start(seeds);
    if !json {
        println!(
            "scenario {}, seeds {} to {}\n",
            setup.scenario.name,
            setup.seed,
            setup.seed.wrapping_add(seeds.saturating_sub(1))
        );
    }
    let report = many::run_seeds(setup, seeds, &progress);
    progress.finish(Duration::from_millis(report.simulated_ms), report.happened);
    if json {
        let many = Many {
            scenario: setup.scenario.name,
            first_seed: setup.seed,
            report: &report,
        };
        if let Err(error) = print_json(&many) {
            eprintln!("kith-sim: {error}");
        }
        return report;
    }
    print_lines(&table::lines(&report));
    for failed in &report.violations {
        println!(
            "\nFAILED  {}: {}\nreplay  {}",
            failed.violation.check, failed.violation.text, failed.replay
        );
    }
    report
}

#[derive(Serialize)]
struct Single<'a> {
    scenario: &'a str,
    seed: u64,
    nodes: usize,
    options: &'a str,
    #[serde(flatten)]
    report: &'a Report,
}

#[derive(Serialize)]
struct Many<'a> {
    scenario: &'a str,
    first_seed: u64,
    #[serde(flatten)]
    report: &'a Report,
}

/// Prints a value as one JSON document.
///
/// # Errors
/// If standard output is closed.
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer_pretty(&mut output, value)?;
    writeln!(output)
}

fn print_lines(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
}

// What was broken, what happened before it, who saw what, and how to see it again.
fn explain(setup: &Setup, failed: &Failed, views: &[String]) {
    let at = Time::from_millis(failed.violation.at_ms);
    let written = Written::default();
    let from = at - AROUND;
    let end = at + Duration::from_millis(1);
    let trace = Trace::events(from, end, Box::new(written.clone()));
    run::run(setup, Some(trace));
    let text = written.text();
    let lines: Vec<&str> = text.lines().collect();
    println!("\n-- what happened before it, the last {AROUND:?} --");
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        println!("{line}");
    }
    println!("\n-- how the nodes see each other --");
    for line in views {
        println!("{line}");
    }
    println!(
        "\nFAILED  {} at {:.3} s: {}\nreplay  {}\n        (--trace FILE writes down every packet)",
        failed.violation.check,
        failed.violation.at_ms as f64 / 1000.0,
        failed.violation.text,
        failed.replay
    );
}

/// Somewhere to write to that can be read afterwards.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
