//! `kith leave`.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{AgentAddress, Exit, Failure, Outcome, out::Out};
use crate::{
    client::{Client, ClientError},
    config_file::values::Span,
    view::{AgentView, LeavingView},
};

/// How often it is looked whether the agent is gone.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is said what is left.
const TOLD: Duration = Duration::from_secs(5);
/// How much longer than the agent's own limit is waited for its end.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "Example: kith leave --agent http://127.0.0.1:7402")]
pub(super) struct LeaveArgs {
    /// The node will be back: others wait before they make new copies (as SIGTERM does)
    #[arg(long)]
    returning: bool,
    /// Do not wait until the agent has stopped
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(args: &LeaveArgs, out: &mut Out) -> Outcome {
    let client = args.agent.client()?;
    let before = client.agent()?;
    client.leave(args.returning)?;
    if args.no_wait {
        out.line(format!("{} is leaving", before.name))?;
        return Ok(Exit::Done);
    }
    let limit = leave_timeout(&before) + GRACE;
    wait_until_gone(&client, &before, limit, out)?;
    out.line(format!(
        "{} has left, and its agent has stopped",
        before.name
    ))?;
    Ok(Exit::Done)
}

/// The agent itself says how it went when it ends, in its log and exit code.
fn wait_until_gone(
    client: &Client,
    before: &AgentView,
    limit: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut begun = Instant::now();
    let mut told = begun;
    loop {
        match client.agent() {
            Err(ClientError::Unreachable { .. }) => return Ok(()),
            // Its supervisor has started it anew meanwhile.
            Ok(now) if (now.id, now.generation) != (before.id, before.generation) => return Ok(()),
            // It takes as long as it takes, while something is handed over.
            Ok(AgentView {
                leaving: Some(leaving),
                ..
            }) => {
                let idle = Duration::from_millis(leaving.idle_ms);
                begun = Instant::now().checked_sub(idle).unwrap_or(begun);
                if told.elapsed() >= TOLD {
                    told = Instant::now();
                    out.line(still_there(&leaving))?;
                }
            }
            // While it stops, its interface may say so.
            Ok(_) | Err(ClientError::Problem(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if begun.elapsed() > limit {
            return Err(Failure::failed(format!(
                "{} is still running, and nothing has moved for {}; its log says what it waits for",
                before.name,
                Span(limit)
            )));
        }
        thread::sleep(LOOK);
    }
}

/// What is left, for people.
fn still_there(leaving: &LeavingView) -> String {
    format!(
        "still to be handed over: {} partitions, {} MB on this node",
        leaving.partitions,
        leaving.bytes / 1_000_000
    )
}

fn leave_timeout(agent: &AgentView) -> Duration {
    let told = agent.config.get("leave-timeout").and_then(|v| v.as_str());
    let span = told.and_then(|text| text.parse::<Span>().ok());
    span.map_or(Duration::from_secs(30), |span| span.0)
}
