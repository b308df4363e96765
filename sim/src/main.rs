//! `kith-sim`: see the library's text, and `sim/README.md`.

use std::process::ExitCode;

use clap::Parser;
use kith_sim::{command, options::Cli};

fn main() -> ExitCode {
    command::execute(Cli::parse())
}
