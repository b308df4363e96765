//! The commands there are: one table for dispatch, for the number of arguments, and for what
//! `COMMAND` tells clients.

use super::reply::Reply;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "there is a command of that name")]
pub(super) enum Command {
    Append,
    Asking,
    Auth,
    Client,
    Cluster,
    Command,
    Config,
    DbSize,
    Decr,
    DecrBy,
    Del,
    Echo,
    Exists,
    Expire,
    ExpireAt,
    Get,
    GetDel,
    GetEx,
    GetRange,
    GetSet,
    Hello,
    Incr,
    IncrBy,
    IncrByFloat,
    Info,
    MGet,
    MSet,
    PExpire,
    PExpireAt,
    PSetEx,
    PTtl,
    Persist,
    Ping,
    Quit,
    RandomKey,
    ReadOnly,
    ReadWrite,
    Reset,
    Scan,
    Select,
    Set,
    SetEx,
    SetNx,
    SetRange,
    StrLen,
    Time,
    Ttl,
    Type,
    Unlink,
    Wait,
}

/// What kind of work a command is, for metrics and for what clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads keys.
    Read,
    /// Changes keys.
    Write,
    /// Goes over many keys.
    Scan,
    /// Has nothing to do with keys.
    Connection,
}

/// What is known of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// Its name in small letters.
    pub(super) name: &'static str,
    pub(super) command: Command,
    /// Number of arguments with the name; the least number, negated, if there may be more.
    arity: i8,
    pub(super) kind: Kind,
    /// Place of the first key; 0 if it has none.
    first: i8,
    /// Place of the last key; -1 is the last argument.
    last: i8,
    /// From one key to the next.
    step: i8,
    summary: &'static str,
}

use Kind::{Connection, Read, Scan, Write};

/// Ordered by name.
#[rustfmt::skip]
pub(super) const COMMANDS: &[Spec] = &[
    one("append", Command::Append, 3, Write, "Appends to a value; creates it where there is none"),
    none("asking", Command::Asking, 1, Connection, "Accepted; nothing depends on it"),
    none("auth", Command::Auth, -2, Connection, "Shows the token"),
    none("client", Command::Client, -2, Connection, "What is known of connections"),
    none("cluster", Command::Cluster, -2, Connection, "Which node owns which slots"),
    none("command", Command::Command, -1, Connection, "What is known of commands"),
    none("config", Command::Config, -2, Connection, "Settings by the names that clients ask for"),
    none("dbsize", Command::DbSize, 1, Scan, "Counts the keys that this node owns"),
    one("decr", Command::Decr, 2, Write, "Subtracts one from an integer"),
    one("decrby", Command::DecrBy, 3, Write, "Subtracts from an integer"),
    many("del", Command::Del, -2, Write, "Deletes keys, each atomically"),
    none("echo", Command::Echo, 2, Connection, "Answers with its argument"),
    many("exists", Command::Exists, -2, Read, "Counts how many of the keys exist"),
    one("expire", Command::Expire, -3, Write, "Lets a key expire after seconds"),
    one("expireat", Command::ExpireAt, -3, Write, "Lets a key expire at a Unix time in seconds"),
    one("get", Command::Get, 2, Read, "Reads a value"),
    one("getdel", Command::GetDel, 2, Write, "Reads a value and deletes the key"),
    one("getex", Command::GetEx, -2, Write, "Reads a value and changes its expiry"),
    one("getrange", Command::GetRange, 4, Read, "Reads a part of a value"),
    one("getset", Command::GetSet, 3, Write, "Stores a value and tells the former one"),
    none("hello", Command::Hello, -1, Connection, "Chooses the version of the protocol"),
    one("incr", Command::Incr, 2, Write, "Adds one to an integer"),
    one("incrby", Command::IncrBy, 3, Write, "Adds to an integer"),
    one("incrbyfloat", Command::IncrByFloat, 3, Write, "Adds to a decimal number"),
    none("info", Command::Info, -1, Connection, "Facts about this node"),
    many("mget", Command::MGet, -2, Read, "Reads values, each atomically"),
    Spec { step: 2, ..many("mset", Command::MSet, -3, Write, "Stores values, each atomically") },
    one("persist", Command::Persist, 2, Write, "Takes a key's expiry away"),
    one("pexpire", Command::PExpire, -3, Write, "Lets a key expire after milliseconds"),
    one("pexpireat", Command::PExpireAt, -3, Write, "Lets a key expire at a Unix time in milliseconds"),
    none("ping", Command::Ping, -1, Connection, "Answers"),
    one("psetex", Command::PSetEx, 4, Write, "Stores a value that expires after milliseconds"),
    one("pttl", Command::PTtl, 2, Read, "How long a key lives, in milliseconds"),
    none("quit", Command::Quit, -1, Connection, "Closes the connection"),
    none("randomkey", Command::RandomKey, 1, Scan, "One of the keys that this node owns"),
    none("readonly", Command::ReadOnly, 1, Connection, "Asks for redirections to owners"),
    none("readwrite", Command::ReadWrite, 1, Connection, "Accepted; reads go to owners always"),
    none("reset", Command::Reset, 1, Connection, "Makes the connection as new"),
    none("scan", Command::Scan, -2, Scan, "Goes over the keys that this node owns"),
    none("select", Command::Select, 2, Connection, "Accepts database 0, the only one"),
    one("set", Command::Set, -3, Write, "Stores a value"),
    one("setex", Command::SetEx, 4, Write, "Stores a value that expires after seconds"),
    one("setnx", Command::SetNx, 3, Write, "Stores a value where there is none"),
    one("setrange", Command::SetRange, 4, Write, "Overwrites a part of a value"),
    one("strlen", Command::StrLen, 2, Read, "Length of a value"),
    none("time", Command::Time, 1, Connection, "This node's clock"),
    one("ttl", Command::Ttl, 2, Read, "How long a key lives, in seconds"),
    one("type", Command::Type, 2, Read, "Kind of a value: string, or none"),
    many("unlink", Command::Unlink, -2, Write, "Deletes keys, each atomically"),
    none("wait", Command::Wait, 3, Connection, "How many backups have every acknowledged write"),
];

const fn none(
    name: &'static str,
    command: Command,
    arity: i8,
    kind: Kind,
    summary: &'static str,
) -> Spec {
    Spec {
        name,
        command,
        arity,
        kind,
        first: 0,
        last: 0,
        step: 0,
        summary,
    }
}

const fn one(
    name: &'static str,
    command: Command,
    arity: i8,
    kind: Kind,
    summary: &'static str,
) -> Spec {
    Spec {
        first: 1,
        last: 1,
        step: 1,
        ..none(name, command, arity, kind, summary)
    }
}

const fn many(
    name: &'static str,
    command: Command,
    arity: i8,
    kind: Kind,
    summary: &'static str,
) -> Spec {
    Spec {
        last: -1,
        ..one(name, command, arity, kind, summary)
    }
}

/// The command of that name, in whatever letters.
pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    const LONGEST: usize = 16;
    let mut small = [0; LONGEST];
    let small = small.get_mut(..name.len())?;
    small.copy_from_slice(name);
    small.make_ascii_lowercase();
    let small = &*small;
    let at = COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(small));
    at.ok().map(|at| &COMMANDS[at])
}

impl Spec {
    /// Whether it may have so many arguments, its name included.
    pub(super) fn takes(&self, args: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        match self.arity {
            0.. => args == wanted,
            _ => args >= wanted,
        }
    }

    /// The places of its keys among so many arguments.
    pub(super) fn keys(&self, args: usize) -> impl Iterator<Item = usize> {
        let first = usize::try_from(self.first).unwrap_or(0);
        let end = match self.last {
            _ if first == 0 => 0,
            -1 => args,
            last => usize::try_from(last).unwrap_or(0) + 1,
        };
        let step = usize::try_from(self.step).unwrap_or(1).max(1);
        (first..end.min(args)).step_by(step)
    }

    fn flags(&self) -> Vec<Reply> {
        let words: &[&'static str] = match self.kind {
            Read => &["readonly", "fast"],
            Write => &["write", "denyoom", "fast"],
            Scan => &["readonly"],
            Connection => &["loading", "stale", "fast"],
        };
        words.iter().map(|word| Reply::Simple(word)).collect()
    }

    /// An entry of `COMMAND` and `COMMAND INFO`.
    pub(super) fn info(&self) -> Reply {
        let number = |number: i8| Reply::Integer(number.into());
        let group = match self.kind {
            Read => "@read",
            Write => "@write",
            Scan => "@keyspace",
            Connection => "@connection",
        };
        Reply::Array(vec![
            Reply::text(self.name),
            number(self.arity),
            Reply::Set(self.flags()),
            number(self.first),
            number(self.last),
            number(self.step),
            Reply::Set(vec![Reply::Simple(group)]),
            Reply::Array(Vec::new()),
            Reply::Array(Vec::new()),
            Reply::Array(Vec::new()),
        ])
    }

    /// An entry of `COMMAND DOCS`.
    pub(super) fn docs(&self) -> (Reply, Reply) {
        let group = match self.kind {
            Read | Write => "string",
            Scan => "generic",
            Connection => "connection",
        };
        let pairs = [
            ("summary", self.summary),
            ("since", "1.0.0"),
            ("group", group),
        ];
        let pairs = pairs
            .into_iter()
            .map(|(key, value)| (Reply::text(key), Reply::text(value)));
        (Reply::text(self.name), Reply::Map(pairs.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_names_are_found_in_any_letters() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
        for spec in COMMANDS {
            let loud = spec.name.to_uppercase();
            let found = find(loud.as_bytes()).map(|found| found.command);
            assert_eq!(found, Some(spec.command));
        }
        for wrong in ["", "ge", "gett", "lpush", "averyverylongcommandname"] {
            assert!(find(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_where_the_table_says() {
        for (name, args, keys) in [
            ("get", 2, &[1][..]),
            ("mget", 4, &[1, 2, 3]),
            ("mset", 5, &[1, 3]),
            ("setex", 4, &[1]),
            ("ping", 2, &[]),
        ] {
            let found: Vec<usize> = find(name.as_bytes()).unwrap().keys(args).collect();
            assert_eq!(found, keys, "{name}");
        }
    }

    #[test]
    fn the_number_of_arguments_is_exact_or_a_minimum() {
        let takes = |name: &str, args| find(name.as_bytes()).unwrap().takes(args);
        assert!(takes("get", 2) && !takes("get", 1) && !takes("get", 3));
        assert!(takes("set", 3) && takes("set", 9) && !takes("set", 2));
    }
}
