//! One open stream: a task that reads frames, writes frames, and tells of its end once.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use kith_proto::{
    input::{StreamId, Token},
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

use super::{CLOSE_DEADLINE, MAX_QUEUED, Report, Shared};

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
    frames: mpsc::UnboundedSender<Vec<u8>>,
    state: Arc<State>,
}

/// What a stream and its outbox share.
#[derive(Debug, Default)]
struct State {
    queued: AtomicUsize,
    is_closing: AtomicBool,
    closing: Notify,
    cut: Notify,
}

/// A frame was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotQueued {
    /// The queue is full: the peer does not read.
    TooSlow,
    /// It is longer than a peer would take; it is lost, and the stream goes on.
    TooLong,
}

impl Outbox {
    fn new() -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        // Bounded by bytes: see `push`.
        let (frames, queue) = mpsc::unbounded_channel();
        let state = Arc::default();
        (Self { frames, state }, queue)
    }

    /// Queues a frame. On a stream that has ended by itself it is lost, and `StreamClosed` is
    /// on its way.
    pub(super) fn push(&self, frame: Vec<u8>) -> Result<(), NotQueued> {
        if frame.len() > MAX_DATA_FRAME {
            return Err(NotQueued::TooLong);
        }
        let size = frame.len() + LENGTH_PREFIX;
        let queued = self.state.queued.load(Relaxed);
        // One frame always fits, however long it is.
        if queued > 0 && queued + size > MAX_QUEUED {
            return Err(NotQueued::TooSlow);
        }
        self.state.queued.fetch_add(size, Relaxed);
        // Fails only if the stream's task has ended, see above.
        drop(self.frames.send(frame));
        Ok(())
    }

    /// Ends the stream at once.
    pub(super) fn cut(self) {
        self.state.cut.notify_one();
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
    let (outbox, queue) = Outbox::new();
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
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    state: &State,
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
    state: &State,
) -> &'static str {
    while let Some(result) = reader.next().await {
        let frame = match result {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                shared.counters.streams_broken.up();
                tracing::debug!(target: "kith", stream = stream.0, %error, "a peer stream is broken");
                return "broken framing";
            }
            Err(_reset_or_truncated) => return "the connection broke",
        };
        if !state.is_closing.load(Relaxed) {
            hand_over(shared, stream, &frame).await;
        }
        drop(frame);
        shrink(reader.read_buffer_mut());
    }
    "the peer closed it"
}

async fn hand_over(shared: &Shared, stream: StreamId, frame: &BytesMut) {
    // At most `MAX_DATA_FRAME`, so that it always fits in 32 bits and in the room there is.
    let share = u32::try_from(frame.len()).unwrap_or(u32::MAX).max(1);
    let Ok(room) = Arc::clone(&shared.room).acquire_many_owned(share).await else {
        return;
    };
    let report = Report::Frame {
        stream,
        frame: frame.to_vec(),
        room,
    };
    if shared.report(report).await.is_err() {
        tracing::trace!(target: "kith::packet", stream = stream.0, "nobody reads that stream any more");
    }
}

/// Writes what is queued until the outbox is dropped, then closes this direction and leaves
/// it to the other side to end the stream.
async fn send(
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    mut writer: Writer,
    state: &State,
) -> &'static str {
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(frame) = next {
            let size = frame.len() + LENGTH_PREFIX;
            let result = writer.feed(Bytes::from(frame)).await;
            state.queued.fetch_sub(size, Relaxed);
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
