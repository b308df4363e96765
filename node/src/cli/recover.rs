//! `kith recover`.

use clap::{ArgGroup, Args};

use super::{AgentAddress, Exit, Outcome, out::Out};
use crate::view::RecoverView;

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
    let recovery = args.agent.client()?.recover(args.partition)?;
    for line in told(&recovery, args.partition) {
        out.line(line)?;
    }
    Ok(match recovery.partitions.is_empty() {
        true => Exit::Failed,
        false => Exit::Done,
    })
}

/// What came of it, for people.
fn told(recovery: &RecoverView, only: Option<u16>) -> Vec<String> {
    let mut lines = Vec::new();
    let begun = &recovery.partitions;
    if !begun.is_empty() {
        lines.push(format!(
            "{} {} with those that are here: {}",
            counted(begun.len()),
            if begun.len() == 1 { "goes on" } else { "go on" },
            runs(begun)
        ));
    }
    let waiting = &recovery.waiting;
    if !waiting.is_empty() {
        lines.push(format!(
            "{} blocked, but not for some seconds yet, or with an earlier `kith recover` under way: {}. \
             Try again in a moment",
            counted(waiting.len()),
            runs(waiting)
        ));
    }
    match (recovery.unneeded, only) {
        (0, Some(partition)) if lines.is_empty() => lines.push(format!(
            "this agent is no member of partition {partition}; `kith ring` tells who is"
        )),
        (0, None) if lines.is_empty() => {
            lines.push("this agent is a member of no partition".to_owned());
        }
        (0, _) => {}
        (_, Some(partition)) => {
            lines.push(format!("partition {partition} is not blocked here"));
        }
        (unneeded, None) => {
            let verb = if unneeded == 1 { "needs" } else { "need" };
            lines.push(format!("{} {verb} nothing", counted(unneeded)));
        }
    }
    lines
}

fn counted(partitions: usize) -> String {
    match partitions {
        1 => "1 partition".to_owned(),
        many => format!("{many} partitions"),
    }
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
    use super::*;

    #[test]
    fn what_was_done_and_what_was_not_is_counted() {
        let recovery = RecoverView {
            partitions: vec![1, 2, 3, 9],
            waiting: vec![12],
            unneeded: 251,
        };
        let lines = told(&recovery, None);
        assert_eq!(
            lines[0],
            "4 partitions go on with those that are here: 1-3, 9"
        );
        assert!(
            lines[1].starts_with("1 partition blocked, but"),
            "{lines:?}"
        );
        assert_eq!(lines[2..], ["251 partitions need nothing"]);
        let unneeded = RecoverView {
            unneeded: 1,
            ..RecoverView::default()
        };
        assert_eq!(
            told(&unneeded, Some(7)),
            ["partition 7 is not blocked here"]
        );
        assert_eq!(told(&unneeded, None), ["1 partition needs nothing"]);
        let elsewhere = told(&RecoverView::default(), Some(7));
        assert!(
            elsewhere[0].contains("no member of partition 7"),
            "{elsewhere:?}"
        );
    }

    #[test]
    fn partitions_that_follow_each_other_are_a_run() {
        assert_eq!(runs(&[3]), "3");
        assert_eq!(runs(&[0, 1, 2, 7, 9, 10]), "0-2, 7, 9-10");
        assert_eq!(runs(&[65_534, 65_535]), "65534-65535");
    }
}
