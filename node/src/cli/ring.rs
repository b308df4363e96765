//! `kith ring`.

use clap::Args;

use super::{
    AgentAddress, Exit, Failure, Outcome,
    out::{Cell, Colour, Out},
};
use crate::view::PartitionView;

#[derive(Debug, Args)]
#[command(after_help = "Example: kith ring --key user:42")]
pub(super) struct RingArgs {
    /// Only the partition of that number
    #[arg(long, value_name = "P", conflicts_with = "key")]
    partition: Option<u16>,
    /// Only the partition that holds that key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(args: &RingArgs, out: &mut Out) -> Outcome {
    let mut partitions = args.agent.client()?.partitions(args.key.as_deref())?;
    if let Some(wanted) = args.partition {
        let count = partitions.len();
        partitions.retain(|partition| partition.id == wanted);
        if partitions.is_empty() {
            return Err(Failure::failed(format!(
                "there is no partition {wanted}: the cluster has {count}, counted from 0"
            )));
        }
    }
    if args.json {
        out.json(&partitions)?;
    } else {
        let rows: Vec<[Cell; 6]> = partitions.into_iter().map(row).collect();
        out.table(
            ["partition", "slots", "owner", "backups", "state", "reason"],
            &rows,
        )?;
    }
    Ok(Exit::Done)
}

fn row(partition: PartitionView) -> [Cell; 6] {
    let [first, last] = partition.slots;
    let owner = match partition.owner {
        Some(owner) => owner.into(),
        None => Cell::coloured("nobody", Colour::Bad),
    };
    [
        partition.id.to_string().into(),
        format!("{first}-{last}").into(),
        owner,
        partition.backups.join(" ").into(),
        partition.state.into(),
        partition.reason.into(),
    ]
}
