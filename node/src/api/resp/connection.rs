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
//! (see `window`) and what they carry is small, answers are written before more is read, and a
//! client that does not take its answers is cut off.

mod dispatch;
mod window;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Sleep, sleep, timeout},
};

use super::{
    Server,
    frame::Parser,
    pending::{Pending, State},
    reply::Reply,
    session::{Client, Session},
    spec::Kind,
    wait::{Step, Written},
};
use crate::api::operations::{Ended, Interface, Work};
use window::Window;

/// What requests that are under way may carry (bytes).
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
/// Who is refused in the middle of a request may go on sending it for so long, and so many bytes.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 256 << 20;
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
    window: Window,
    /// What was written, for `WAIT`.
    written: Written,
    out: Vec<u8>,
    flush: Pin<Box<Sleep>>,
    /// Nothing more is read.
    closing: bool,
    /// Because a request cannot be understood, of which there may be more to come.
    refused: bool,
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
            window: Window::default(),
            written: Written::default(),
            out: Vec::new(),
            flush: Box::pin(sleep(FLUSH_AFTER)),
            closing: false,
            refused: false,
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
        // One for all rounds: whoever begins to wait anew takes a lock that all connections share.
        let stopped = server.stop.cancelled();
        tokio::pin!(stopped);
        loop {
            self.begin_what_came().await;
            self.go_on_waiting().await?;
            if self.pending.is_empty() {
                self.write_out().await?;
                if self.closing {
                    self.stream.shutdown().await?;
                    return match self.refused {
                        true => self.linger().await,
                        false => Ok(()),
                    };
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
                () = stopped.as_mut(), if may_read => Woken::Ended,
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
        self.window.has_room(self.pending.len()) && self.under_way < MAX_UNDER_WAY
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
        self.refused = true;
    }

    /// Throws away what a client still sends that has been refused: if the stream were closed before that
    /// is read, the kernel would break it, and most clients would never see why.
    async fn linger(&mut self) -> io::Result<()> {
        self.buffer = BytesMut::new();
        self.account();
        let mut left = LINGER_BYTES;
        let server = Arc::clone(&self.server);
        let read_out = async {
            while left > 0 {
                self.buffer.clear();
                self.make_room(true);
                match self.stream.read_buf(&mut self.buffer).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok(())
        };
        tokio::select! {
            // Who takes longer is cut off.
            ended = timeout(LINGER, read_out) => ended.unwrap_or(Ok(())),
            () = server.stop.cancelled() => Ok(()),
        }
    }

    fn push(&mut self, kind: Kind, cost: usize, state: State) {
        self.under_way += cost;
        self.pending.push_back(Pending {
            since: Instant::now(),
            kind,
            protocol: self.session.protocol,
            cost,
            wrote: self.written.last(),
            version: None,
            state,
        });
        self.window.reaches(self.pending.len());
    }

    /// If the oldest request is a `WAIT`, asks those who know; it is answered once that is
    /// known, or its time is over.
    async fn go_on_waiting(&mut self) -> io::Result<()> {
        while let Some(Pending {
            state: State::Wait(wait),
            ..
        }) = self.pending.front_mut()
        {
            let server = &self.server;
            match wait.step(&mut self.written, &server.kv, server.ack, self.closing) {
                Step::Answer(count) => {
                    if let Some(pending) = self.pending.front_mut() {
                        pending.state = State::Ready(Reply::count(count));
                    }
                    self.finish_what_is_ready().await?;
                }
                Step::Ask => {
                    wait.ask(&self.written, &server.kv, server.ack).await;
                    return Ok(());
                }
                Step::Rest => return Ok(()),
            }
        }
        Ok(())
    }

    /// Writes the answers that are there, up to the first that is not.
    async fn finish_what_is_ready(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let mut began = self.out.is_empty();
        while let Some(oldest) = self.pending.front_mut() {
            if !oldest.is_ready() {
                break;
            }
            let Some(Pending {
                since,
                kind,
                protocol,
                cost,
                wrote,
                version,
                state: State::Ready(reply),
            }) = self.pending.pop_front()
            else {
                unreachable!("it was there, and ready");
            };
            self.under_way -= cost;
            if let (Kind::Write, Some(number), Some(version)) = (kind, wrote, version) {
                self.written.learn(number, version);
            }
            self.server.operations.ended(
                Interface::Resp,
                work(kind),
                ended(&reply),
                now.saturating_duration_since(since),
            );
            let connections = self.server.clients.len();
            self.window.answered(reply.size(), connections);
            reply.write(protocol, &mut self.out);
            if self.out.len() >= FLUSH_AT {
                self.write_out().await?;
                began = true;
            }
        }
        // When nothing is pending they are written at once.
        if began && !self.out.is_empty() && !self.pending.is_empty() {
            self.flush.as_mut().reset((now + FLUSH_AFTER).into());
        }
        Ok(())
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
