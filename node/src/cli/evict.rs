//! `kith evict NAME`.

use clap::Args;

use super::{AgentAddress, Exit, Outcome, out::Out};

#[derive(Debug, Args)]
#[command(after_help = "Example: kith evict n3")]
pub(super) struct EvictArgs {
    /// Its name, or its id
    #[arg(value_name = "NAME")]
    member: String,
    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(args: &EvictArgs, out: &mut Out) -> Outcome {
    args.agent.client()?.evict(&args.member)?;
    out.line(format!("{} is evicted", args.member))?;
    Ok(Exit::Done)
}
