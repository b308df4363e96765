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
    view::AgentView,
};

/// How often it is looked whether the agent is gone.
const LOOK: Duration = Duration::from_millis(100);
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
    wait_until_gone(&client, &before, limit)?;
    out.line(format!(
        "{} has left, and its agent has stopped",
        before.name
    ))?;
    Ok(Exit::Done)
}

/// The agent itself says how it went when it ends, in its log and exit code.
fn wait_until_gone(client: &Client, before: &AgentView, limit: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match client.agent() {
            Err(ClientError::Unreachable { .. }) => return Ok(()),
            // Its supervisor has started it anew meanwhile.
            Ok(now) if (now.id, now.generation) != (before.id, before.generation) => return Ok(()),
            // While it stops, its interface may say so.
            Ok(_) | Err(ClientError::Problem(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if begun.elapsed() > limit {
            return Err(Failure::failed(format!(
                "{} is still running after {}; its log says what it waits for",
                before.name,
                Span(limit)
            )));
        }
        thread::sleep(LOOK);
    }
}

fn leave_timeout(agent: &AgentView) -> Duration {
    let told = agent.config.get("leave-timeout").and_then(|v| v.as_str());
    let span = told.and_then(|text| text.parse::<Span>().ok());
    span.map_or(Duration::from_secs(30), |span| span.0)
}
