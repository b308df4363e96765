//! `kith recover`.

use clap::Args;

use super::{AgentAddress, Exit, Outcome, out::Out};

/// Only for strict clusters. Partitions of which most members are gone for good, or may have
/// forgotten what they acknowledged, go on with those that are here. What only the others had is
/// missing until they are back; then it is joined, and where both were written the later write
/// stays and the other is told of.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kith recover --partition 17     only this one\n  \
    kith recover --all              all that are blocked here\n\n\
    Bring members back instead if you can: `kith ring` tells whom a partition waits for.")]
pub(super) struct RecoverArgs {
    /// This partition
    #[arg(long, value_name = "P", required_unless_present = "all")]
    partition: Option<u16>,
    /// Every partition that has been blocked for some seconds and that the agent is a member of
    #[arg(long, conflicts_with = "partition")]
    all: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(args: &RecoverArgs, out: &mut Out) -> Outcome {
    let done = args.agent.client()?.recover(args.partition)?.partitions;
    if done.is_empty() {
        let what = match args.partition {
            Some(partition) => format!("partition {partition} is not blocked at this agent"),
            None => "no partition is blocked at this agent".to_owned(),
        };
        out.line(format!(
            "{what}, or has not been for some seconds; `kith ring` tells what partitions wait for"
        ))?;
        return Ok(Exit::Failed);
    }
    let partitions: Vec<String> = done.iter().map(ToString::to_string).collect();
    out.line(format!(
        "going on with those that are here: partition {}",
        partitions.join(", ")
    ))?;
    Ok(Exit::Done)
}
