//! What a request means: which command it is, and how it begins.

use std::collections::VecDeque;

use bytes::Bytes;
use kith_proto::{
    kv::{op::Outcome, request::RequestError},
    placement::slot,
};

use super::{Connection, MAX_KEYS, MAX_REPLY};
use crate::api::resp::{
    RespMoved, cluster, facts, keyspace,
    pending::State,
    reply::{OK, Reply},
    spec::{Command, Kind, Spec, find},
    strings::{Plan, Refused, error_text, number, plan},
    wait::Wait,
};

impl Connection {
    pub(super) async fn begin(&mut self, args: Vec<Bytes>) {
        let cost = args.iter().map(Bytes::len).sum();
        let Some(spec) = find(&args[0]) else {
            if is_http(&args[0]) {
                // A web page that makes a browser speak to this port. It gets no answer, and
                // what follows, its body, is not looked at.
                self.closing = true;
                return;
            }
            let name = String::from_utf8_lossy(&args[0][..args[0].len().min(128)]).into_owned();
            let text = format!("ERR unknown command '{name}': Kith does not have it");
            return self.push(Kind::Connection, cost, State::Ready(Reply::Error(text)));
        };
        let state = match self.done(spec, args).await {
            Ok(state) => state,
            Err(refused) => State::Ready(Reply::Error(refused.to_string())),
        };
        self.push(spec.kind, cost, state);
    }

    /// What a later `WAIT` asks about.
    fn remember(&mut self, plan: &Plan) {
        match plan {
            Plan::One { key, .. } => self.written.add(key),
            Plan::Many { calls, .. } => calls.iter().for_each(|(key, _)| self.written.add(key)),
        }
    }

    async fn done(&mut self, spec: &Spec, args: Vec<Bytes>) -> Result<State, Refused> {
        let greets = matches!(
            spec.command,
            Command::Auth | Command::Hello | Command::Quit | Command::Reset
        );
        if !greets && !self.session.may_speak(&self.server) {
            return Err(Refused::Other("NOAUTH Authentication required.".to_owned()));
        }
        if !spec.takes(args.len()) {
            return Err(Refused::Arity(spec.name));
        }
        match spec.kind {
            Kind::Read | Kind::Write => match self.moved(spec, &args) {
                Some(moved) => Ok(State::Ready(moved)),
                None => {
                    let plan = plan(spec, args)?;
                    if spec.kind == Kind::Write {
                        self.remember(&plan);
                    }
                    Ok(self.ask(plan).await)
                }
            },
            Kind::Scan => {
                let kv = &self.server.kv;
                let reply = match spec.command {
                    Command::Scan => keyspace::scan(kv, &args).await?,
                    Command::DbSize => keyspace::size(kv).await,
                    _ => keyspace::random(kv).await,
                };
                Ok(State::Ready(reply))
            }
            Kind::Connection if spec.command == Command::Wait => {
                Wait::new(&args, self.written.next()).map(State::Wait)
            }
            Kind::Connection => self.about_connection(spec, &args).await.map(State::Ready),
        }
    }

    /// Where to ask instead, if this client wants to know. Keys of different slots have no
    /// owner in common, so that they are asked for from here.
    fn moved(&self, spec: &Spec, args: &[Bytes]) -> Option<Reply> {
        let wanted = match self.server.moved {
            RespMoved::Auto => self.session.redirects,
            RespMoved::Always => true,
            RespMoved::Never => false,
        };
        if !wanted {
            return None;
        }
        let mut keys = spec.keys(args.len()).map(|at| &args[at]);
        let first = keys.next()?;
        let moved = cluster::moved(&self.server.kv.topology(), first)?;
        let first = slot(first);
        keys.all(|key| slot(key) == first).then_some(moved)
    }

    async fn ask(&self, plan: Plan) -> State {
        let (kv, ack) = (&self.server.kv, self.server.ack);
        let refused = |error: &RequestError| State::Ready(Reply::Error(error_text(error)));
        match plan {
            Plan::One { key, op, shape } => match kv.begin(key, op, ack).await {
                Ok(begun) => State::One(begun, shape),
                Err(error) => refused(&error),
            },
            Plan::Many { calls, join } => {
                let mut waiting = VecDeque::new();
                let mut outcomes = Vec::new();
                let mut size = 0;
                for (key, op) in calls {
                    // The first that cannot be begun has its place among the others.
                    match kv.begin(key, op, ack).await {
                        Ok(begun) => waiting.push_back(begun),
                        Err(error) => {
                            while let Some(mut first) = waiting.pop_front() {
                                outcomes.push(first.outcome().await);
                            }
                            outcomes.push(Err(error));
                        }
                    }
                    if waiting.len() == MAX_KEYS
                        && let Some(mut first) = waiting.pop_front()
                    {
                        let outcome = first.outcome().await;
                        size += value_size(&outcome);
                        outcomes.push(outcome);
                    }
                    if size > MAX_REPLY {
                        let text = format!("ERR the answer would have more than {MAX_REPLY} bytes");
                        return State::Ready(Reply::Error(text));
                    }
                }
                State::Many {
                    waiting,
                    outcomes,
                    join,
                }
            }
        }
    }

    async fn about_connection(&mut self, spec: &Spec, args: &[Bytes]) -> Result<Reply, Refused> {
        let server = &self.server;
        let reply = match spec.command {
            Command::Ping => match args {
                [_] => Reply::Simple("PONG"),
                [_, text] => Reply::Bulk(text.clone()),
                _ => return Err(Refused::Arity(spec.name)),
            },
            Command::Echo => Reply::Bulk(args[1].clone()),
            Command::Auth => self.session.auth(server, args)?,
            Command::Hello => self.session.hello(server, args)?,
            Command::Reset => self.session.reset(),
            Command::Client => self.session.client(server, args)?,
            Command::Quit => {
                self.closing = true;
                OK
            }
            Command::Select => match number(&args[1])? {
                0 => OK,
                _ => {
                    let text = "ERR SELECT is not allowed in cluster mode".to_owned();
                    return Err(Refused::Other(text));
                }
            },
            Command::Asking | Command::ReadWrite => OK,
            Command::ReadOnly => {
                self.session.redirects = true;
                OK
            }
            Command::Cluster => {
                let reply = cluster::answer(&server.kv.topology(), args)?;
                self.session.redirects |= args.get(1).is_some_and(|what| {
                    [&b"SLOTS"[..], b"SHARDS", b"NODES"]
                        .iter()
                        .any(|w| what.eq_ignore_ascii_case(w))
                });
                reply
            }
            Command::Command => facts::command(args)?,
            Command::Config => facts::config(server, args)?,
            Command::Info => facts::info(server, args).await,
            Command::Time => facts::time(),
            other => {
                let text = format!("ERR {other:?} is not about connections");
                return Err(Refused::Other(text));
            }
        };
        if matches!(
            spec.command,
            Command::Auth | Command::Hello | Command::Reset
        ) {
            self.parser.set_limits(self.server.limits(&self.session));
        }
        Ok(reply)
    }
}

fn value_size(outcome: &Result<Outcome, RequestError>) -> usize {
    let item = outcome.as_ref().ok().and_then(|o| o.before.as_ref());
    item.and_then(|item| item.value.as_ref())
        .map_or(0, Bytes::len)
}

/// How browsers begin, which never speak RESP.
fn is_http(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"POST") || word.eq_ignore_ascii_case(b"HOST:")
}
