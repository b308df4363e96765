//! `kith watch`.

use clap::Args;
use kith_proto::event::Severity;
use serde::Deserialize as _;

use super::{
    AgentAddress, Exit, Outcome,
    lines::describe,
    out::{Colour, Out},
};
use crate::client::{Followed, Received};

#[derive(Debug, Args)]
#[command(after_help = "Example: kith watch --since 0 --json | jq .event")]
pub(super) struct WatchArgs {
    /// Begin after the event of that number; 0 shows all that the agent still has
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    /// The least that is shown; debug shows each partition whose place changes
    #[arg(long, value_name = "debug|info|warn|error", default_value = "info",
          value_parser = parse_level, hide_default_value = true)]
    level: Severity,
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
            Followed::Event(event) if level(&event) < args.level => {}
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

/// Of one whose level this version does not know: the highest, so that it is shown.
fn level(event: &Received) -> Severity {
    Severity::deserialize(&event.data["level"]).unwrap_or(Severity::Error)
}

fn parse_level(text: &str) -> Result<Severity, String> {
    Severity::deserialize(serde_json::Value::from(text.to_uppercase()))
        .map_err(|_unknown| "expected debug, info, warn or error".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_compared() {
        let event = |level: &str| Received {
            seq: None,
            name: String::new(),
            data: serde_json::json!({ "level": level }),
        };
        assert!(level(&event("DEBUG")) < parse_level("info").unwrap());
        assert!(level(&event("WARN")) >= parse_level("warn").unwrap());
        assert!(level(&event("FATAL")) >= parse_level("error").unwrap());
        assert!(parse_level("loud").is_err());
    }
}
