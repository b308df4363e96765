//! One connection: requests are begun in the order in which they come, and answered in that
//! order, while many are under way.
//!
//! ```text
//!   socket ──► buffer ──► parser ──► begin ──► pending: oldest ... newest ──► out ──► socket
//!                                      │              ▲
//!                                      └─► shards ────┘  in any order
//! ```
//!
//! One key always goes to the same shard, which does what it gets in order: so a pipeline
//! reads its own writes although nothing waits for anything.
//!
//! What a client can make this node hold is bounded: requests are read while few are pending
//! and what they carry is small, answers are written before more is read, and a client that
//! does not take its answers is cut off.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kith_proto::{
    kv::{
        op::Outcome,
        request::{Ack, RequestError},
    },
    placement::slot,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Sleep, sleep, timeout},
};

use super::{
    RespMoved, Server, cluster, facts,
    frame::Parser,
    keyspace,
    pending::{Pending, State},
    reply::{OK, Reply},
    session::{Client, Session},
    spec::{Command, Kind, Spec, find},
    strings::{Plan, Refused, error_text, number, plan},
};
use crate::api::operations::{Ended, Interface, Work};

/// The most requests of one connection under way.
const MAX_PIPELINE: usize = 1024;
/// The same before anything is known of how large answers are.
const FIRST_PIPELINE: usize = 64;
/// What answers that are under way may take together, judged by the largest one lately, and
/// what requests that are under way may carry (bytes).
const MAX_UNDER_WAY: usize = 4 << 20;
/// Keys of one request that are under way at the same time.
const MAX_KEYS: usize = 64;
/// The largest answer (bytes).
const MAX_REPLY: usize = 256 << 20;
/// Answers are written once there are so many bytes.
const FLUSH_AT: usize = 64 << 10;
/// Answers wait at most this long for others to be written with.
const FLUSH_AFTER: Duration = Duration::from_millis(1);
/// A client that takes nothing for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for reading (bytes).
const READ_ROOM: usize = 16 << 10;
/// Buffers larger than this are given back once they are empty (bytes).
const KEPT_ROOM: usize = 256 << 10;

/// What made a connection go on.
enum Woken {
    /// The oldest request has its answer.
    Answered,
    /// Answers have waited long enough.
    Flush,
    Read,
    /// The client sends no more, or the node stops.
    Ended,
}

/// A connection.
pub(super) struct Connection {
    server: Arc<Server>,
    session: Session,
    stream: TcpStream,
    parser: Parser,
    buffer: BytesMut,
    pending: VecDeque<Pending>,
    /// What the pending ones carried (bytes).
    under_way: usize,
    /// How many may be pending.
    window: usize,
    /// The largest answer lately (bytes).
    largest: usize,
    out: Vec<u8>,
    flush: Pin<Box<Sleep>>,
    /// Nothing more is read.
    closing: bool,
    /// What is counted of the buffer against the limit of all connections (bytes).
    held: usize,
}

impl Connection {
    pub(super) fn new(server: Arc<Server>, stream: TcpStream, client: Arc<Client>) -> Self {
        let session = Session::new(client);
        let limits = server.limits(&session);
        Self {
            session,
            stream,
            parser: Parser::new(limits),
            buffer: BytesMut::new(),
            pending: VecDeque::new(),
            under_way: 0,
            window: FIRST_PIPELINE,
            largest: 0,
            out: Vec::new(),
            flush: Box::pin(sleep(FLUSH_AFTER)),
            closing: false,
            held: 0,
            server,
        }
    }

    /// Serves it until it ends, by the client's or by the node's wish.
    ///
    /// # Errors
    /// It ended otherwise; nobody can be told.
    pub(super) async fn serve(mut self) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        loop {
            self.begin_what_came().await;
            if self.pending.is_empty() {
                self.write_out().await?;
                if self.closing {
                    return self.stream.shutdown().await;
                }
            }
            let may_read = !self.closing && self.has_room();
            self.make_room(may_read);
            let Self {
                pending,
                out,
                flush,
                buffer,
                stream,
                ..
            } = &mut self;
            let oldest = async {
                match pending.front_mut() {
                    Some(oldest) => oldest.wait().await,
                    None => std::future::pending().await,
                }
            };
            let woken = tokio::select! {
                biased;
                () = oldest => Woken::Answered,
                () = flush, if !out.is_empty() => Woken::Flush,
                read = stream.read_buf(buffer), if may_read => match read? {
                    0 => Woken::Ended,
                    _ => Woken::Read,
                },
                () = server.stop.cancelled(), if may_read => Woken::Ended,
            };
            match woken {
                Woken::Answered => self.finish_what_is_ready().await?,
                Woken::Flush => self.write_out().await?,
                Woken::Read => self.account(),
                Woken::Ended => self.closing = true,
            }
        }
    }

    fn has_room(&self) -> bool {
        self.pending.len() < self.window && self.under_way < MAX_UNDER_WAY
    }

    fn make_room(&mut self, reads: bool) {
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_ROOM {
            self.buffer = BytesMut::new();
            self.account();
        }
        if reads && self.buffer.capacity() - self.buffer.len() < READ_ROOM / 4 {
            self.buffer.reserve(READ_ROOM);
        }
    }

    /// Counts a large buffer against the limit of all connections together.
    fn account(&mut self) {
        let holds = self.buffer.capacity() + self.parser.cost();
        let counted = if holds > KEPT_ROOM { holds } else { 0 };
        if counted != self.held {
            let fits = self.server.hold(self.held, counted);
            self.held = counted;
            if !fits {
                let text = "ERR too many large requests at the same time";
                self.refuse_all(text.to_owned());
            }
        }
    }

    /// Begins every request that is complete, as long as there is room.
    async fn begin_what_came(&mut self) {
        while !self.closing && self.has_room() {
            match self.parser.next(&mut self.buffer) {
                Ok(Some(args)) => self.begin(args).await,
                Ok(None) => return,
                Err(error) => self.refuse_all(format!("ERR Protocol error: {error}")),
            }
        }
    }

    /// The last answer of this connection.
    fn refuse_all(&mut self, text: String) {
        self.push(Kind::Connection, 0, State::Ready(Reply::Error(text)));
        self.closing = true;
    }

    fn push(&mut self, kind: Kind, cost: usize, state: State) {
        self.under_way += cost;
        self.pending.push_back(Pending {
            since: Instant::now(),
            kind,
            protocol: self.session.protocol,
            cost,
            state,
        });
    }

    async fn begin(&mut self, args: Vec<Bytes>) {
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
                None => Ok(self.ask(plan(spec, args)?).await),
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
        let kv = &self.server.kv;
        let refused = |error: &RequestError| State::Ready(Reply::Error(error_text(error)));
        match plan {
            Plan::One { key, op, shape } => match kv.begin(key, op, Ack::default()).await {
                Ok(begun) => State::One(begun, shape),
                Err(error) => refused(&error),
            },
            Plan::Many { calls, join } => {
                let mut waiting = VecDeque::new();
                let mut outcomes = Vec::new();
                let mut size = 0;
                for (key, op) in calls {
                    // The first that cannot be begun has its place among the others.
                    match kv.begin(key, op, Ack::default()).await {
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
            Command::Wait => {
                number(&args[1])?;
                number(&args[2])?;
                Reply::count(server.surely_copied())
            }
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

    /// Writes the answers that are there, up to the first that is not.
    async fn finish_what_is_ready(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while let Some(oldest) = self.pending.front_mut() {
            if !oldest.is_ready() {
                break;
            }
            let Some(Pending {
                since,
                kind,
                protocol,
                cost,
                state: State::Ready(reply),
            }) = self.pending.pop_front()
            else {
                unreachable!("it was there, and ready");
            };
            self.under_way -= cost;
            if self.out.is_empty() {
                self.flush.as_mut().reset((now + FLUSH_AFTER).into());
            }
            self.server.operations.ended(
                Interface::Resp,
                work(kind),
                ended(&reply),
                now.saturating_duration_since(since),
            );
            self.resize_window(reply.size());
            reply.write(protocol, &mut self.out);
            if self.out.len() >= FLUSH_AT {
                self.write_out().await?;
            }
        }
        Ok(())
    }

    /// Large answers are asked for one after the other, small ones in large numbers.
    fn resize_window(&mut self, size: usize) {
        // Forgets an eighth of the largest with each answer.
        self.largest = (self.largest - self.largest / 8).max(size).max(1);
        self.window = (MAX_UNDER_WAY / self.largest).clamp(1, MAX_PIPELINE);
    }

    async fn write_out(&mut self) -> io::Result<()> {
        let mut rest = self.out.as_slice();
        while !rest.is_empty() {
            let written = timeout(WRITE_TIMEOUT, self.stream.write(rest))
                .await
                .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[written..];
        }
        self.out.clear();
        if self.out.capacity() > KEPT_ROOM {
            self.out = Vec::new();
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.hold(self.held, 0);
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

fn work(kind: Kind) -> Work {
    match kind {
        Kind::Read => Work::Read,
        Kind::Write => Work::Write,
        Kind::Scan => Work::Scan,
        Kind::Connection => Work::Other,
    }
}

fn ended(reply: &Reply) -> Ended {
    let Reply::Error(text) = reply else {
        return Ended::Done;
    };
    match text.split(' ').next() {
        Some("MOVED") => Ended::Moved,
        Some("CLUSTERDOWN") => Ended::Unavailable,
        Some("INDETERMINATE") => Ended::Indeterminate,
        _ => Ended::Refused,
    }
}
