//! `kith watch`.

use clap::Args;

use super::{
    AgentAddress, Exit, Outcome,
    lines::describe,
    out::{Colour, Out},
};
use crate::client::Followed;

#[derive(Debug, Args)]
#[command(after_help = "Example: kith watch --since 0 --json | jq .event")]
pub(super) struct WatchArgs {
    /// Begin after the event of that number; 0 shows all that the agent still has
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

/// Events go to standard output; what happens to the connection to standard error.
pub(super) fn run(args: &WatchArgs, out: &mut Out) -> Outcome {
    for followed in args.agent.client()?.follow(args.since) {
        match followed? {
            Followed::Event(event) if args.json => out.json_line(&event.data)?,
            Followed::Event(event) => {
                let line = describe(out, &event.data, true);
                out.line(line)?;
            }
            Followed::Missed(missed) if args.json => {
                out.json_line(&serde_json::json!({ "event": "missed", "missed": missed }))?;
            }
            Followed::Missed(missed) => {
                let line = format!("{missed} events are missing: the agent does not keep them");
                out.line(out.paint(Colour::Odd, &line))?;
            }
            Followed::Lost(error) => eprintln!("{error}; trying again"),
            Followed::Back { restarted: false } => eprintln!("the agent is reached again"),
            Followed::Back { restarted: true } => {
                eprintln!("the agent was started anew; its events count from 1 again");
            }
        }
    }
    Ok(Exit::Done)
}
