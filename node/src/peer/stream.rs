//! One open stream: a task that reads frames, writes frames, and tells of its end once.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use kith_proto::{
    id::NodeId,
    input::{StreamId, Token},
    replica::message::is_marked,
    wire::MAX_DATA_FRAME,
};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::TcpStream,
    sync::{Notify, mpsc},
    time::sleep,
};
use tokio_rustls::TlsStream;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::{
    CLOSE_DEADLINE, Report, Shared,
    lane::{Detour, LongWay},
    queue::{Queue, Queued},
};
use crate::counters::{About, HostCounters};

/// What each direction's buffer holds at first, and between large frames (bytes). Most
/// streams are silent most of the time, and a node has many.
const SMALL_BUFFER: usize = 1024;
/// A buffer that grew beyond this (bytes) is given back once it is empty.
const LARGE_BUFFER: usize = 64 << 10;
/// Frames are gathered up to this (bytes) before they are encrypted.
const GATHERED: usize = 16 << 10;
/// Bytes that a frame's length takes on the wire.
const LENGTH_PREFIX: usize = 4;

type Reader = FramedRead<ReadHalf<TlsStream<TcpStream>>, LengthDelimitedCodec>;
type Writer = FramedWrite<WriteHalf<TlsStream<TcpStream>>, LengthDelimitedCodec>;

/// Where frames for a stream are put. Dropping it closes the stream once they are sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    frames: mpsc::UnboundedSender<Queued>,
    state: Arc<State>,
}

/// What a stream, its outbox and the lanes into that share.
#[derive(Debug)]
struct State {
    stream: StreamId,
    counters: Arc<HostCounters>,
    queue: Queue,
    is_closing: AtomicBool,
    closing: Notify,
    is_cut: AtomicBool,
    cut: Notify,
    /// Who is at the other end, once the driver has said so.
    peer: OnceLock<NodeId>,
    /// What was received for partitions and is on its way through the driver.
    detours: LongWay,
}

/// A way into an outbox that does not keep the stream open.
#[derive(Debug)]
pub(super) struct Lane {
    frames: mpsc::WeakUnboundedSender<Queued>,
    state: Arc<State>,
}

/// The stream is over; the frame was not sent.
#[derive(Debug)]
pub(super) struct Closed(pub(super) Vec<u8>);

impl Outbox {
    pub(super) fn new(
        stream: StreamId,
        counters: &Arc<HostCounters>,
    ) -> (Self, mpsc::UnboundedReceiver<Queued>) {
        // Bounded by bytes: see `State::send`.
        let (frames, queue) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            stream,
            counters: Arc::clone(counters),
            queue: Queue::new(Instant::now()),
            is_closing: AtomicBool::default(),
            closing: Notify::default(),
            is_cut: AtomicBool::default(),
            cut: Notify::default(),
            peer: OnceLock::default(),
            detours: LongWay::default(),
        });
        (Self { frames, state }, queue)
    }

    /// Queues a frame. On a stream that has ended by itself it is lost, and `StreamClosed` is
    /// on its way. One that is longer than a peer would take is lost, and a stream whose peer
    /// does not read is cut.
    pub(super) fn send(&self, frame: Vec<u8>) {
        self.state.send(&self.frames, frame);
    }

    /// Another way into it.
    pub(super) fn lane(&self) -> Lane {
        Lane {
            frames: self.frames.downgrade(),
            state: Arc::clone(&self.state),
        }
    }
}

impl Lane {
    /// Queues a frame, as [`Outbox::send`] does, as long as the outbox is there.
    pub(super) fn send(&self, frame: Vec<u8>) -> Result<(), Closed> {
        match self.frames.upgrade() {
            Some(frames) => {
                self.state.send(&frames, frame);
                Ok(())
            }
            None => Err(Closed(frame)),
        }
    }

    /// Whether the outbox is there.
    pub(super) fn is_open(&self) -> bool {
        self.frames.strong_count() > 0
    }
}

impl State {
    fn send(&self, frames: &mpsc::UnboundedSender<Queued>, frame: Vec<u8>) {
        let stream = self.stream.0;
        if frame.len() > MAX_DATA_FRAME {
            self.counters.frames_too_long.up();
            tracing::error!(
                target: "kith", stream, size = frame.len(),
                "a frame is longer than a peer would take, and is not sent"
            );
            return;
        }
        let size = frame.len() + LENGTH_PREFIX;
        // Shards count their own, by what they are about.
        let told = (!is_marked(&frame)).then_some(frame.len());
        let Ok(queued) = self.queue.push(Instant::now(), frame, size) else {
            // Until the driver learns that it is cut, more may come for it.
            if !self.is_cut.swap(true, Relaxed) {
                self.counters.streams_too_slow.up();
                tracing::debug!(target: "kith", stream, "a peer reads too slowly: its stream is cut");
                self.cut.notify_one();
            }
            return;
        };
        if let Some(bytes) = told {
            self.counters.traffic.sent(About::Membership, bytes);
        }
        // Fails only if the stream's task has ended, see `Outbox::send`.
        drop(frames.send(queued));
    }
}

/// What was received for partitions is on its way through the driver.
#[derive(Debug)]
pub(crate) struct Introduction {
    state: Arc<State>,
    _detour: Detour,
}

impl Introduction {
    fn begin(state: &Arc<State>) -> Self {
        Self {
            state: Arc::clone(state),
            _detour: state.detours.set_out(),
        }
    }

    /// The driver has seen to it; what comes next need not take this way.
    pub(crate) fn comes_from(self, peer: NodeId) {
        // Who is at the other end of a stream does not change.
        self.state.peer.get_or_init(|| peer);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.state.is_closing.store(true, Relaxed);
        self.state.closing.notify_one();
    }
}

/// Opens the stream to the driver, runs it, and reports its end: whatever happens in
/// between, exactly once.
pub(super) async fn run(
    shared: Arc<Shared>,
    tls: TlsStream<TcpStream>,
    remote: SocketAddr,
    dial: Option<Token>,
) {
    let stream = shared.next_stream();
    let (outbox, queue) = Outbox::new(stream, &shared.counters);
    let state = Arc::clone(&outbox.state);
    let opened = Report::Opened {
        stream,
        remote,
        dial,
        outbox,
    };
    if shared.report(opened).await.is_err() {
        return;
    }
    let end = exchange(&shared, stream, tls, queue, &state).await;
    tracing::trace!(target: "kith::packet", stream = stream.0, %remote, end, "stream closed");
    if shared.report(Report::Closed { stream }).await.is_err() {
        tracing::trace!(target: "kith::packet", stream = stream.0, "nobody minds that stream any more");
    }
}

/// Runs both directions until the stream is over, and tells why it is.
async fn exchange(
    shared: &Shared,
    stream: StreamId,
    tls: TlsStream<TcpStream>,
    queue: mpsc::UnboundedReceiver<Queued>,
    state: &Arc<State>,
) -> &'static str {
    let (read, write) = tokio::io::split(tls);
    let reader = FramedRead::with_capacity(read, codec(), SMALL_BUFFER);
    let mut writer = FramedWrite::with_capacity(write, codec(), SMALL_BUFFER);
    writer.set_backpressure_boundary(GATHERED);
    tokio::select! {
        end = receive(shared, stream, reader, state) => end,
        end = send(queue, writer, state) => end,
        () = state.cut.notified() => "the peer reads too slowly",
        () = async { state.closing.notified().await; sleep(CLOSE_DEADLINE).await } => {
            "the peer did not take in time what was queued"
        }
    }
}

/// Reads frames until the other side ends.
///
/// Of a stream that we are closing, the rest is read and thrown away: closing a socket with
/// unread bytes would reset the connection, and what we sent last might be lost with it.
async fn receive(
    shared: &Shared,
    stream: StreamId,
    mut reader: Reader,
    state: &Arc<State>,
) -> &'static str {
    while let Some(result) = reader.next().await {
        let frame = match result {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                shared.counters.streams_garbled.up();
                tracing::debug!(target: "kith", stream = stream.0, %error, "a peer stream is broken");
                return "broken framing";
            }
            Err(_reset_or_truncated) => return "the connection broke",
        };
        if !state.is_closing.load(Relaxed) && !hand_over(shared, stream, state, &frame).await {
            shared.counters.streams_garbled.up();
            return "a frame that cannot be read";
        }
        drop(frame);
        shrink(reader.read_buffer_mut());
    }
    "the peer closed it"
}

/// False: the peer says what cannot be read.
async fn hand_over(
    shared: &Shared,
    stream: StreamId,
    state: &Arc<State>,
    frame: &BytesMut,
) -> bool {
    // At most `MAX_DATA_FRAME`, so that it always fits in 32 bits and in the room there is.
    let share = u32::try_from(frame.len()).unwrap_or(u32::MAX).max(1);
    let Ok(room) = Arc::clone(&shared.room).acquire_many_owned(share).await else {
        return true;
    };
    let mut introduction = None;
    if is_marked(frame) {
        if let Some(peer) = state.peer.get()
            && state.detours.is_empty()
        {
            return (shared.take_frame)(*peer, frame, room);
        }
        introduction = Some(Introduction::begin(state));
    } else {
        let traffic = &shared.counters.traffic;
        traffic.received(About::Membership, frame.len());
    }
    let report = Report::Frame {
        stream,
        frame: frame.to_vec(),
        room,
        introduction,
    };
    if shared.report(report).await.is_err() {
        tracing::trace!(target: "kith::packet", stream = stream.0, "nobody reads that stream any more");
    }
    true
}

/// Writes what is queued until the outbox is dropped, then closes this direction and leaves
/// it to the other side to end the stream.
async fn send(
    mut queue: mpsc::UnboundedReceiver<Queued>,
    mut writer: Writer,
    state: &State,
) -> &'static str {
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(queued) = next {
            state.queue.goes(&queued);
            let size = queued.frame.len() + LENGTH_PREFIX;
            let result = writer.feed(Bytes::from(queued.frame)).await;
            state.queue.gone(size);
            if result.is_err() {
                return "writing failed";
            }
            next = queue.try_recv().ok();
        }
        if SinkExt::<Bytes>::flush(&mut writer).await.is_err() {
            return "writing failed";
        }
        shrink(writer.write_buffer_mut());
    }
    if SinkExt::<Bytes>::close(&mut writer).await.is_err() {
        return "closing failed";
    }
    std::future::pending().await
}

/// Gives the memory of a large frame back.
fn shrink(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > LARGE_BUFFER {
        *buffer = BytesMut::with_capacity(SMALL_BUFFER);
    }
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_type::<u32>()
        .max_frame_length(MAX_DATA_FRAME)
        .new_codec()
}
