//! `kith keys`: rotation in two phases, each of which every living member must confirm.

use std::{
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use kith_proto::wire::keyring::{Key, KeyId};

use super::{
    AgentAddress, Exit, Failure, Outcome,
    out::{Cell, Colour, Out},
};
use crate::view::{KeyView, KeysChangeView};

/// Much more than a key takes (bytes).
const MAX_INPUT: u64 = 4096;

#[derive(Debug, Args)]
#[command(after_help = "Example, a rotation:\n  kith keygen --out new.key\n  \
                        kith keys add --key-file new.key\n  kith keys use 1a2b3c4d\n  \
                        kith keys remove 0badcafe")]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// List the ids of the keys that the agent's node holds
    #[command(after_help = "Example: kith keys list")]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        agent: AgentAddress,
    },
    /// Give every member a new key, without using it yet
    #[command(after_help = "Example: kith keygen | kith keys add")]
    Add {
        /// File with the key in base64; standard input otherwise
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        agent: AgentAddress,
    },
    /// Seal with a key from now on, which every member must hold
    #[command(after_help = "Example: kith keys use 1a2b3c4d")]
    Use(OneKey),
    /// Forget a key that no member seals with
    #[command(after_help = "Example: kith keys remove 0badcafe")]
    Remove(OneKey),
}

#[derive(Debug, Args)]
struct OneKey {
    /// Its id, as `kith keys list` shows it
    id: KeyId,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn run(args: &KeysArgs, out: &mut Out) -> Outcome {
    match &args.command {
        KeysCommand::List { json, agent } => list(out, &agent.client()?.keys()?, *json),
        KeysCommand::Add {
            key_file,
            json,
            agent,
        } => {
            let client = agent.client()?;
            let key = read_key(key_file.as_deref())?;
            changed(out, "added", &client.key_add(&key)?, *json)
        }
        KeysCommand::Use(one) => {
            let change = one.agent.client()?.key_use(&one.id.to_string())?;
            changed(out, "in use", &change, one.json)
        }
        KeysCommand::Remove(one) => {
            let change = one.agent.client()?.key_remove(&one.id.to_string())?;
            changed(out, "removed", &change, one.json)
        }
    }
}

fn list(out: &mut Out, keys: &[KeyView], json: bool) -> Outcome {
    if json {
        out.json(&keys)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<[Cell; 2]> = keys
        .iter()
        .map(|key| {
            let role = if key.primary { "in use" } else { "accepted" };
            [key.id.clone().into(), role.into()]
        })
        .collect();
    out.table(["id", "role"], &rows)?;
    Ok(Exit::Done)
}

/// A change that some members did not make is not done: the next phase would lose them.
fn changed(out: &mut Out, what: &str, change: &KeysChangeView, json: bool) -> Outcome {
    let done = change.missing.is_empty();
    if json {
        out.json(change)?;
    } else {
        let (id, count) = (&change.id, change.confirmed.len());
        out.line(format!("key {id} is {what}: {count} members confirmed"))?;
        for (member, reason) in &change.missing {
            let not = out.paint(Colour::Bad, "not by");
            out.line(format!("  {not} {member}: {reason}"))?;
        }
        if !done {
            out.line("run it again once they are back, before anything else is done with keys")?;
        }
    }
    Ok(if done { Exit::Done } else { Exit::Failed })
}

fn read_key(path: Option<&Path>) -> Result<Key, Failure> {
    let mut text = String::new();
    let (read, from) = match path {
        Some(path) => {
            let opened = std::fs::File::open(path);
            let read = opened.and_then(|file| file.take(MAX_INPUT).read_to_string(&mut text));
            (read, path.display().to_string())
        }
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                eprintln!("the key in base64, then Ctrl-D:");
            }
            let read = stdin.lock().take(MAX_INPUT).read_to_string(&mut text);
            (read, "standard input".to_owned())
        }
    };
    read.map_err(|e| Failure::usage(format!("cannot read {from}: {e}")))?;
    Key::parse(text.trim()).map_err(|e| Failure::usage(format!("{from}: {e}")))
}
