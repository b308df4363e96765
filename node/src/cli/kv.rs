//! `kith get`, `set`, `del`, `incr`, `scan`: keys and values through any agent.
//!
//! A key that is not there, and a condition that does not hold, are exit code 1. Values are
//! bytes: they leave and come as they are.

use std::{
    ffi::{OsStr, OsString},
    io::Read as _,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use kith_proto::kv::{MAX_VALUE, request::Ack, version::Version};
use serde_json::json;

use super::{AgentAddress, Exit, Failure, Outcome, out::Out};
use crate::{client::kv::Precondition, config_file::values::Span};

/// Keys that one request of `kith scan` asks for.
const PAGE: u32 = 1000;

#[derive(Debug, Args)]
#[command(after_help = "Example: kith get user:42 > value")]
pub(super) struct GetArgs {
    /// The key
    key: OsString,
    /// As JSON, with version and expiry; a value that is not UTF-8 in base64
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: kith set user:42 Ann --ttl 30s --if-absent\n         \
                        kith set picture - < picture.png"
)]
pub(super) struct SetArgs {
    /// The key
    key: OsString,
    /// The value; - reads it from standard input
    #[arg(allow_hyphen_values = true)]
    value: OsString,
    /// It expires after this, such as 200ms, 30s or 1h
    #[arg(long, value_name = "TIME")]
    ttl: Option<Span>,
    /// Only if there is no value yet
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: kith del user:42")]
pub(super) struct DelArgs {
    /// The key
    key: OsString,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: kith incr visits 10")]
pub(super) struct IncrArgs {
    /// The key
    key: OsString,
    /// How much to add
    #[arg(default_value_t = 1, allow_hyphen_values = true)]
    by: i64,
    /// Which copies must have it before it counts as done
    #[arg(long, value_name = "one|quorum|all", default_value = "quorum")]
    ack: Ack,
    /// As JSON, with its version
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: kith scan user: --limit 100")]
pub(super) struct ScanArgs {
    /// Only keys that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// At most so many keys [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// As JSON, one object a line, with versions
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

/// What every change may be told.
#[derive(Debug, Args)]
struct Change {
    /// Only if the value has that version, as `kith get --json` shows it
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,
    /// Which copies must have it before it counts as done
    #[arg(long, value_name = "one|quorum|all", default_value = "quorum")]
    ack: Ack,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentAddress,
}

pub(super) fn get(args: &GetArgs, out: &mut Out) -> Outcome {
    let found = args.agent.client()?.read(bytes(&args.key))?;
    let value = found.ok_or_else(|| absent(&args.key))?;
    if !args.json {
        out.raw(&value.bytes)?;
        return Ok(Exit::Done);
    }
    let mut view = json!({ "version": value.version, "expires": value.expires });
    match String::from_utf8(value.bytes) {
        Ok(text) => view["value"] = text.into(),
        Err(error) => view["value_base64"] = STANDARD.encode(error.as_bytes()).into(),
    }
    out.json(&view)?;
    Ok(Exit::Done)
}

pub(super) fn set(args: &SetArgs, out: &mut Out) -> Outcome {
    let client = args.change.agent.client()?;
    let value = match args.value.as_encoded_bytes() {
        b"-" => from_stdin()?,
        value => value.to_vec(),
    };
    let ttl = args.ttl.map(|ttl| ttl.to_string().replace(' ', ""));
    let only = if args.if_absent {
        Precondition::Absent
    } else {
        args.change.precondition()
    };
    let key = bytes(&args.key);
    let written = client.write(key, &value, ttl.as_deref(), &only, args.change.ack)?;
    if args.change.json {
        out.json(&json!({ "created": written.created, "version": written.version }))?;
    } else {
        let key = args.key.display();
        out.line(format!("{key} is stored, version {}", written.version))?;
    }
    Ok(Exit::Done)
}

pub(super) fn del(args: &DelArgs, out: &mut Out) -> Outcome {
    let change = &args.change;
    let client = change.agent.client()?;
    let was = client.delete(bytes(&args.key), &change.precondition(), change.ack)?;
    if change.json {
        out.json(&json!({ "deleted": was }))?;
    } else if was {
        out.line(format!("{} is deleted", args.key.display()))?;
    } else {
        return Err(absent(&args.key));
    }
    Ok(if was { Exit::Done } else { Exit::Failed })
}

pub(super) fn incr(args: &IncrArgs, out: &mut Out) -> Outcome {
    let client = args.agent.client()?;
    let counted = client.increment(bytes(&args.key), args.by, args.ack)?;
    if args.json {
        out.json(&counted)?;
    } else {
        out.line(counted.value.to_string())?;
    }
    Ok(Exit::Done)
}

pub(super) fn scan(args: &ScanArgs, out: &mut Out) -> Outcome {
    let client = args.agent.client()?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut after = None;
    while left > 0 {
        let limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let page = client.scan(&args.prefix, limit, after.as_deref())?;
        for key in &page.keys {
            if args.json {
                out.json_line(key)?;
            } else {
                let mut line = key.bytes().unwrap_or_default();
                line.push(b'\n');
                out.raw(&line)?;
            }
        }
        left = left.saturating_sub(page.keys.len() as u64);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    Ok(Exit::Done)
}

impl Change {
    fn precondition(&self) -> Precondition {
        self.if_version
            .map_or(Precondition::None, |v| Precondition::Version(v.to_string()))
    }
}

fn from_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    // One byte more than any cluster takes, so that the agent can say that it is too large.
    let limit = MAX_VALUE as u64 + 1;
    std::io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut value)
        .map_err(|e| Failure::failed(format!("cannot read standard input: {e}")))?;
    Ok(value)
}

fn bytes(key: &OsStr) -> &[u8] {
    key.as_encoded_bytes()
}

fn absent(key: &OsStr) -> Failure {
    Failure::failed(format!("there is no key {}", key.display()))
}
