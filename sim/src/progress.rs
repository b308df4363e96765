//! How far it is: a bar on a terminal, and the speed; both on standard error, since they depend
//! on the machine.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar, if there is a terminal, and a stopwatch.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Begins with so many runs to do.
    pub fn start(runs: u64) -> Self {
        let bar = if runs > 1 && std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {eta} left")
                .unwrap_or_else(|_built_in| ProgressStyle::default_bar());
            ProgressBar::new(runs).with_style(style)
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            started: Instant::now(),
        }
    }

    /// A run is done, and this was wrong with it.
    pub fn one_more(&self, wrong: impl IntoIterator<Item = String>) {
        self.bar.inc(1);
        for line in wrong {
            if self.bar.is_hidden() {
                eprintln!("{line}");
            } else {
                self.bar.println(line);
            }
        }
    }

    /// All are done: says how fast it went.
    pub fn finish(&self, simulated: Duration, happened: u64) {
        self.bar.finish_and_clear();
        let wall = self.started.elapsed().as_secs_f64();
        let seconds = simulated.as_secs_f64();
        eprintln!(
            "simulated {seconds:.0} s in {wall:.2} s: {:.0} simulated seconds and {:.0} events a second",
            seconds / wall.max(1e-9),
            happened as f64 / wall.max(1e-9)
        );
    }
}
