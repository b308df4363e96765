//! `kith status`: its exit code is what scripts ask for.

use clap::Args;

use super::{
    AgentAddress, Exit, Outcome,
    out::{Colour, Out},
};
use crate::view::StatusView;

#[derive(Debug, Args)]
#[command(
    after_help = "Example: kith status --safe-to-stop n3 && systemctl stop kith\n\
                        Exits with 1 if the cluster is not healthy, or the member may not stop."
)]
pub(super) struct StatusArgs {
    /// May that member (name or id) stop now without a partition losing its last copy?
    #[arg(long, value_name = "NAME")]
    safe_to_stop: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(args: &StatusArgs, out: &mut Out) -> Outcome {
    let client = args.agent.client()?;
    let well = if let Some(member) = &args.safe_to_stop {
        let answer = client.safe_to_stop(member)?;
        if args.json {
            out.json(&answer)?;
        } else {
            let (word, colour) = if answer.safe {
                ("safe to stop", Colour::Good)
            } else {
                ("not safe to stop", Colour::Bad)
            };
            let word = out.paint(colour, word);
            out.line(format!("{}: {word}: {}", answer.member, answer.reason))?;
        }
        answer.safe
    } else {
        let status = client.status()?;
        if args.json {
            out.json(&status)?;
        } else {
            show(out, &status)?;
        }
        status.healthy
    };
    Ok(if well { Exit::Done } else { Exit::Failed })
}

fn show(out: &mut Out, status: &StatusView) -> std::io::Result<()> {
    let word = if status.healthy {
        out.paint(Colour::Good, "healthy")
    } else {
        out.paint(Colour::Bad, "not healthy")
    };
    let id = status
        .cluster_id
        .map_or_else(|| "not joined yet".to_owned(), |id| id.to_string());
    out.line(format!("cluster {} ({id}): {word}", status.cluster))?;
    let members: Vec<String> = status
        .members
        .iter()
        .map(|(status, count)| format!("{count} {status}"))
        .collect();
    out.line(format!("members      {}", members.join(", ")))?;
    out.line(format!(
        "partitions   {} with {} copies each, {} of them with fewer",
        status.partitions, status.copies, status.under_replicated
    ))?;
    out.line(format!(
        "this node    health score {} (0 is well, 8 is worst)",
        status.health_score
    ))?;
    for problem in &status.problems {
        out.line(format!("{} {problem}", out.paint(Colour::Bad, "problem:")))?;
    }
    Ok(())
}
