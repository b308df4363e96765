//! `INFO`, `CONFIG GET`, `COMMAND`, `TIME`: facts that clients and tools ask for.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    Server,
    glob::Glob,
    keyspace,
    reply::Reply,
    spec::{COMMANDS, find},
    strings::Refused,
};

/// Settings by the names under which Redis's tools ask for them. Data is kept on disk by a
/// journal of its own, which is what `appendonly` says to who asks.
fn settings(server: &Server) -> [(&'static str, String); 10] {
    [
        ("appendonly", "yes".to_owned()),
        ("cluster-enabled", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", server.max_connections.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", server.kv.max_value().to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
        ("port", server.address.port().to_string()),
    ]
}

/// `CONFIG GET pattern...`.
pub(super) fn config(server: &Server, args: &[Bytes]) -> Result<Reply, Refused> {
    let [_, what, patterns @ ..] = args else {
        return Err(Refused::Arity("config"));
    };
    if !what.eq_ignore_ascii_case(b"GET") {
        let what = String::from_utf8_lossy(what).to_uppercase();
        return Err(Refused::Other(format!(
            "ERR 'CONFIG {what}' is not supported: settings are those of `kith agent`"
        )));
    }
    if patterns.is_empty() {
        return Err(Refused::Arity("config|get"));
    }
    let globs: Vec<Glob> = patterns
        .iter()
        .filter_map(|pattern| Glob::new(&pattern.to_ascii_lowercase()))
        .collect();
    let fits = |name: &str| {
        // Names are short, and so are patterns that fit one.
        let mut budget = 100_000;
        globs
            .iter()
            .any(|glob| glob.matches(name.as_bytes(), &mut budget) == Ok(true))
    };
    let found = settings(server).into_iter().filter(|(name, _)| fits(name));
    Ok(Reply::Map(
        found
            .map(|(name, value)| (Reply::text(name), Reply::bulk(value)))
            .collect(),
    ))
}

/// `COMMAND [COUNT | INFO name... | DOCS name... | LIST | GETKEYS command...]`.
pub(super) fn command(args: &[Bytes]) -> Result<Reply, Refused> {
    let Some((what, names)) = args.get(1..).and_then(|args| args.split_first()) else {
        return Ok(Reply::Array(COMMANDS.iter().map(|c| c.info()).collect()));
    };
    Ok(match what.to_ascii_uppercase().as_slice() {
        b"COUNT" => Reply::count(COMMANDS.len()),
        b"LIST" => Reply::Array(COMMANDS.iter().map(|c| Reply::text(c.name)).collect()),
        b"INFO" if names.is_empty() => Reply::Array(COMMANDS.iter().map(|c| c.info()).collect()),
        b"INFO" => {
            let info = |name: &Bytes| find(name).map_or(Reply::Null, |spec| spec.info());
            Reply::Array(names.iter().map(info).collect())
        }
        b"DOCS" if names.is_empty() => Reply::Map(COMMANDS.iter().map(|c| c.docs()).collect()),
        b"DOCS" => {
            let found = names.iter().filter_map(|name| find(name));
            Reply::Map(found.map(|spec| spec.docs()).collect())
        }
        b"GETKEYS" => {
            let wrong = || Refused::Other("ERR Invalid command specified".to_owned());
            let spec = names
                .first()
                .and_then(|name| find(name))
                .ok_or_else(wrong)?;
            if !spec.takes(names.len()) {
                return Err(Refused::Other(
                    "ERR Invalid number of arguments specified for command".to_owned(),
                ));
            }
            let keys: Vec<Reply> = spec
                .keys(names.len())
                .map(|at| Reply::Bulk(names[at].clone()))
                .collect();
            if keys.is_empty() {
                return Err(Refused::Other(
                    "ERR The command has no key arguments".to_owned(),
                ));
            }
            Reply::Array(keys)
        }
        other => {
            let other = String::from_utf8_lossy(other);
            let text = format!("ERR 'COMMAND {other}' is not supported");
            return Err(Refused::Other(text));
        }
    })
}

/// `TIME`: seconds since 1970, and microseconds.
pub(super) fn time() -> Reply {
    let now = since_1970();
    let parts = [now.as_secs(), now.subsec_micros().into()];
    Reply::Array(parts.map(|part| Reply::bulk(part.to_string())).into())
}

pub(super) fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// `INFO [section...]`.
pub(super) async fn info(server: &Server, args: &[Bytes]) -> Reply {
    let wanted: Vec<String> = args
        .iter()
        .skip(1)
        .map(|name| String::from_utf8_lossy(name).to_lowercase())
        .collect();
    let has = |section: &str| {
        let all = ["all", "everything", "default"];
        wanted.is_empty()
            || wanted
                .iter()
                .any(|w| w == section || all.contains(&w.as_str()))
    };
    let mut text = String::new();
    let mut section = |name: &str, lines: &[(&str, String)]| {
        let mut title = name.to_owned();
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        // Writing to a String cannot fail.
        write!(text, "# {title}\r\n").unwrap_or_default();
        for (key, value) in lines {
            write!(text, "{key}:{value}\r\n").unwrap_or_default();
        }
    };
    if has("server") {
        let uptime = server.started.elapsed().as_secs();
        section(
            "server",
            &[
                ("redis_version", super::REDIS_VERSION.to_owned()),
                ("redis_mode", "cluster".to_owned()),
                ("kith_version", env!("CARGO_PKG_VERSION").to_owned()),
                ("process_id", std::process::id().to_string()),
                ("tcp_port", server.address.port().to_string()),
                ("uptime_in_seconds", uptime.to_string()),
                ("uptime_in_days", (uptime / 86_400).to_string()),
            ],
        );
    }
    if has("clients") {
        section(
            "clients",
            &[
                ("connected_clients", server.clients.len().to_string()),
                ("maxclients", server.max_connections.to_string()),
            ],
        );
    }
    if has("stats") {
        let counts = &server.operations;
        section(
            "stats",
            &[
                (
                    "total_connections_received",
                    counts.connections().to_string(),
                ),
                ("total_commands_processed", counts.commands().to_string()),
                ("rejected_connections", counts.rejected().to_string()),
            ],
        );
    }
    if has("replication") {
        section(
            "replication",
            &[
                ("role", "master".to_owned()),
                ("connected_slaves", "0".to_owned()),
            ],
        );
    }
    if has("cluster") {
        section("cluster", &[("cluster_enabled", "1".to_owned())]);
    }
    if has("keyspace") {
        // What cannot be counted now is left out, as an empty database is.
        let lines = match keyspace::count(&server.kv).await {
            Ok(keys) if keys > 0 => vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))],
            Ok(_) | Err(_) => Vec::new(),
        };
        section("keyspace", &lines);
    }
    Reply::Text(text)
}
