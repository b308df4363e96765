//! `kith recover`.

use clap::{ArgGroup, Args};

use super::{AgentAddress, Exit, Outcome, out::Out};

/// Only for strict clusters. Partitions of which most members are gone for good, or may have
/// forgotten what they acknowledged, go on with those that are here. What only the others had is
/// missing until they are back; then it is joined, and where both were written the later write
/// stays and the other is told of.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["partition", "all"]))]
#[command(after_help = "Examples:\n  \
    kith recover --partition 17     only this one\n  \
    kith recover --all              all that are blocked here\n\n\
    Bring members back instead if you can: `kith ring` tells whom a partition waits for.")]
pub(super) struct RecoverArgs {
    /// This partition
    #[arg(long, value_name = "P")]
    partition: Option<u16>,
    /// Every partition that has been blocked for some seconds and that the agent is a member of
    #[arg(long)]
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
    let noun = if done.len() == 1 {
        "partition"
    } else {
        "partitions"
    };
    out.line(format!(
        "going on with those that are here: {noun} {}",
        runs(&done)
    ))?;
    Ok(Exit::Done)
}

/// Numbers in rising order, those that follow each other as `first-last`.
fn runs(numbers: &[u16]) -> String {
    let follow = |a: &u16, b: &u16| a.checked_add(1) == Some(*b);
    let runs = numbers.chunk_by(follow).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run[0].to_string(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn partitions_that_follow_each_other_are_a_run() {
        assert_eq!(super::runs(&[3]), "3");
        assert_eq!(super::runs(&[0, 1, 2, 7, 9, 10]), "0-2, 7, 9-10");
        assert_eq!(super::runs(&[65_534, 65_535]), "65534-65535");
    }
}
