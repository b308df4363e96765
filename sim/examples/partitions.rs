//! Many seeds of the partition lab.
//!
//! ```text
//! cargo run --release -p kith-sim --example partitions -- --strict --seeds 1000 [--first N]
//!     [--dead 2] [--power] [--cuts] [--seconds 15] [--always] [--omit fencing|merge|quorum]
//! ```

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use kith_proto::{
    config::Consistency,
    replica::{host::SyncMode, shard::Omit},
};
use kith_sim::lab::{
    Setup,
    plan::{self, Faults},
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: u64| {
        value(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let consistency = if has("--strict") {
        Consistency::Strict
    } else {
        Consistency::Available
    };
    let omitted = value("--omit").unwrap_or_default();
    let omit = Omit {
        fencing: omitted == "fencing",
        merge: omitted == "merge",
        quorum: omitted == "quorum",
    };
    let faults = Faults {
        dead: usize::try_from(number("--dead", 1)).unwrap_or(1),
        power: has("--power"),
        cuts: has("--cuts"),
        seconds: number("--seconds", 15),
    };
    let sync = if has("--always") {
        SyncMode::Always
    } else {
        SyncMode::Interval
    };
    let (first, seeds) = (number("--first", 0), number("--seeds", 100));
    let next = AtomicU64::new(0);
    let failed: Mutex<Vec<(u64, Vec<String>)>> = Mutex::new(Vec::new());
    let operations = AtomicU64::new(0);
    let began = Instant::now();
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let setup = Setup {
                        omit,
                        sync,
                        ..Setup::new(first + number, consistency)
                    };
                    let (lab, objections) = plan::run(setup, faults);
                    operations.fetch_add(lab.clients.history.len() as u64, Relaxed);
                    if !objections.is_empty() {
                        println!("seed {}: {}", first + number, objections[0]);
                        if let Ok(mut failed) = failed.lock() {
                            failed.push((first + number, objections));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    let mut numbers: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    numbers.sort_unstable();
    println!(
        "{} of {seeds} seeds failed: {numbers:?}; {} operations, {:.1} s",
        numbers.len(),
        operations.into_inner(),
        began.elapsed().as_secs_f64()
    );
    std::process::exit(i32::from(!numbers.is_empty()));
}
