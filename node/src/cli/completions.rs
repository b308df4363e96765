//! `kith completions SHELL`.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::{Cli, Exit, Outcome, out::Out};

#[derive(Debug, Args)]
#[command(
    after_help = "Example: kith completions bash > ~/.local/share/bash-completion/completions/kith"
)]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, out: &mut Out) -> Outcome {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "kith", &mut script);
    out.line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Done)
}
