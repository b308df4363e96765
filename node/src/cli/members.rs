//! `kith members`.

use std::{thread, time::Duration};

use clap::Args;

use super::{
    AgentAddress, Exit, Outcome,
    out::{Cell, Colour, Out},
};
use crate::view::{MemberView, Status};

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "Example: kith members --watch --agent http://127.0.0.1:7402")]
pub(super) struct MembersArgs {
    /// Show it again whenever it changes
    #[arg(long)]
    watch: bool,
    /// As JSON; with --watch one array a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(args: &MembersArgs, out: &mut Out) -> Outcome {
    let client = args.agent.client()?;
    let mut shown = Vec::new();
    loop {
        let members = client.members()?;
        let now: Vec<MemberView> = members.iter().map(without_rtt).collect();
        if !args.watch || now != shown {
            if args.json && args.watch {
                out.json_line(&members)?;
            } else if args.json {
                out.json(&members)?;
            } else {
                if args.watch {
                    out.clear()?;
                }
                table(out, &members)?;
                if args.watch && !out.terminal {
                    out.line("")?;
                }
            }
            shown = now;
        }
        if !args.watch {
            return Ok(Exit::Done);
        }
        thread::sleep(WATCH);
    }
}

/// Round-trip times change all the time, which is no news.
fn without_rtt(member: &MemberView) -> MemberView {
    MemberView {
        rtt_ms: None,
        ..member.clone()
    }
}

fn table(out: &mut Out, members: &[MemberView]) -> std::io::Result<()> {
    let rows: Vec<[Cell; 9]> = members.iter().map(row).collect();
    out.table(
        [
            "name",
            "id",
            "status",
            "address",
            "zone",
            "generation",
            "owned",
            "backups",
            "rtt",
        ],
        &rows,
    )
}

fn row(member: &MemberView) -> [Cell; 9] {
    let (status, colour) = word(member.status);
    let name = if member.is_self {
        format!("{}*", member.name)
    } else {
        member.name.clone()
    };
    let rtt = member.rtt_ms.map(|ms| format!("{ms:.2}ms"));
    [
        name.into(),
        member.id.to_string().into(),
        Cell::coloured(status, colour),
        member.address.to_string().into(),
        member.zone.clone().into(),
        member.generation.to_string().into(),
        member.owned.to_string().into(),
        member.backups.to_string().into(),
        rtt.unwrap_or_else(|| "-".to_owned()).into(),
    ]
}

/// A status as it is written everywhere.
fn word(status: Status) -> (&'static str, Colour) {
    match status {
        Status::Alive => ("alive", Colour::Good),
        Status::Suspect => ("suspect", Colour::Odd),
        Status::Failed => ("failed", Colour::Bad),
        Status::Leaving => ("leaving", Colour::Odd),
        Status::Left => ("left", Colour::Faint),
        Status::Evicted => ("evicted", Colour::Faint),
    }
}
