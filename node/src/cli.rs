//! The command line: one file a command.
//!
//! `agent` runs a node, `demo` several, `doctor`, `keygen` and `completions` need none. All
//! others ask a running agent through [`crate::client`] and see nothing else of it.

mod agent;
mod completions;
mod demo;
mod doctor;
mod evict;
mod keygen;
mod keys;
mod kv;
mod leave;
mod lines;
mod members;
mod out;
mod recover;
mod ring;
mod status;
mod watch;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, ClientError, DEFAULT_AGENT, token_from};
use out::Out;

/// How a command ended. Numbers are those of the interface description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// What was asked is done, or so.
    Done = 0,
    /// It is not.
    Failed = 1,
    /// It was not asked properly.
    Usage = 2,
    /// There is no agent to ask.
    Unreachable = 3,
    /// It is not allowed: wrong key, wrong cluster, duplicate name, no token.
    Refused = 4,
}

/// A command that did not end as wanted, with what to say about it.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

type Outcome = Result<Exit, Failure>;

/// Peers that keep each other's work alive
#[derive(Debug, Parser)]
#[command(
    name = "kith",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_value_name = "COMMAND",
    override_usage = "kith COMMAND [OPTIONS]   (try `kith demo`; each command's --help has an example)",
    help_template = "{about}\n\n{usage-heading} {usage}\n\nCommands:\n{subcommands}{after-help}"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node in the foreground
    Agent(Box<agent::AgentArgs>),
    /// Start a local cluster of real processes, to try what happens
    Demo(demo::DemoArgs),
    /// List the members as an agent sees them
    Members(members::MembersArgs),
    /// Follow the events of a node, one line each
    Watch(watch::WatchArgs),
    /// Who owns what, and who backs it up
    Ring(ring::RingArgs),
    /// Is the cluster healthy? May a member stop?
    Status(status::StatusArgs),
    /// Read a value
    Get(kv::GetArgs),
    /// Store a value
    Set(kv::SetArgs),
    /// Delete a key
    Del(kv::DelArgs),
    /// Add to an integer
    Incr(kv::IncrArgs),
    /// List keys
    Scan(kv::ScanArgs),
    /// Let the agent's node leave the cluster for good
    Leave(leave::LeaveArgs),
    /// Remove a member that will not come back, or must go
    Evict(evict::EvictArgs),
    /// Strict clusters: go on with partitions whose majority is lost
    Recover(recover::RecoverArgs),
    /// Make a cluster key
    Keygen(keygen::KeygenArgs),
    /// List and rotate the cluster's keys
    Keys(keys::KeysArgs),
    /// Check this machine, and say what to mend
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}

/// Which agent is asked.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Agent")]
struct AgentAddress {
    /// The agent to ask
    #[arg(long, value_name = "URL", env = "KITH_AGENT", default_value = DEFAULT_AGENT)]
    agent: String,
    /// File with the agent's token
    #[arg(long, value_name = "FILE", env = "KITH_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl AgentAddress {
    fn client(&self) -> Result<Client, Failure> {
        let token = match &self.token_file {
            Some(path) => Some(token_from(path).map_err(Failure::usage)?),
            None => None,
        };
        Ok(Client::new(&self.agent, token)?)
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are errors to clap; a closed standard output is none to us.
            let code = if e.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            return match e.print() {
                Ok(()) | Err(_) => ExitCode::from(code as u8),
            };
        }
    };
    let exit = match run(cli.command) {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("error: {}", failure.message);
            }
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Agent(args) => agent::run(*args),
        Command::Demo(args) => demo::run(&args),
        Command::Members(args) => members::run(&args, &mut Out::stdout()),
        Command::Watch(args) => watch::run(&args, &mut Out::stdout()),
        Command::Ring(args) => ring::run(&args, &mut Out::stdout()),
        Command::Status(args) => status::run(&args, &mut Out::stdout()),
        Command::Get(args) => kv::get(&args, &mut Out::stdout()),
        Command::Set(args) => kv::set(&args, &mut Out::stdout()),
        Command::Del(args) => kv::del(&args, &mut Out::stdout()),
        Command::Incr(args) => kv::incr(&args, &mut Out::stdout()),
        Command::Scan(args) => kv::scan(&args, &mut Out::stdout()),
        Command::Leave(args) => leave::run(&args, &mut Out::stdout()),
        Command::Evict(args) => evict::run(&args, &mut Out::stdout()),
        Command::Recover(args) => recover::run(&args, &mut Out::stdout()),
        Command::Keygen(args) => keygen::run(&args, &mut Out::stdout()),
        Command::Keys(args) => keys::run(&args, &mut Out::stdout()),
        Command::Doctor(args) => doctor::run(&args, &mut Out::stdout()),
        Command::Completions(args) => completions::run(&args, &mut Out::stdout()),
    }
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error {
            ClientError::Address { .. } => Exit::Usage,
            ClientError::Unreachable { .. } => Exit::Unreachable,
            ClientError::Refused { .. } => Exit::Refused,
            ClientError::Problem(_) | ClientError::Protocol { .. } => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// Standard output could not be written. That its reader has enough (`kith watch | head`)
/// is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Done, "");
        }
        Self::failed(format!("cannot write: {error}"))
    }
}

#[cfg(test)]
mod tests;
