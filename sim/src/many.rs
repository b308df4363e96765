//! Many seeds at once, on all processors.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use crate::{options::Setup, progress::Progress, report::Report, run};

/// Does something for each of `seeds` seeds, from `first` on. What comes back is in the order of seeds,
/// however many processors there are.
pub fn each_seed<T: Send>(first: u64, seeds: u64, one: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let done: Mutex<Vec<(u64, T)>> = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let result = one(first.wrapping_add(number));
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Runs `seeds` seeds, from the setup's on, and merges their reports.
pub fn run_seeds(setup: &Setup, seeds: u64, progress: &Progress) -> Report {
    let reports = each_seed(setup.seed, seeds, |seed| {
        let setup = Setup {
            seed,
            ..setup.clone()
        };
        let report = run::run(&setup, None).report;
        let broken = report.violations.iter().map(|failed| {
            let violation = &failed.violation;
            format!(
                "seed {}: {}: {}",
                failed.seed, violation.check, violation.text
            )
        });
        progress.one_more(broken);
        report
    });
    let mut all = Report::default();
    for report in &reports {
        all.merge(report);
    }
    all
}
