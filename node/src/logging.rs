//! The log: what goes to standard output, and how it looks.
//!
//! ```text
//!   tracing ──filter──► one line, as text or as JSON ──► queue ──► a thread ──► stdout
//! ```
//!
//! The thread is there because whoever reads standard output may stop reading (a paused
//! terminal, a full pipe), and a failure detector must not stop with it. The queue is
//! bounded; lines that find it full are dropped, counted, and the count is logged.
//!
//! Two kinds of lines:
//!
//! - *events* of the cluster have the target [`EVENT_TARGET`], a message for people, and the
//!   field `json` with the whole [`crate::view::EventView`]. As JSON that object is the line.
//! - everything else: as JSON `timestamp`, `level`, `message`, `target` and its own fields,
//!   flat.

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use serde::ser::{SerializeMap, Serializer as _};
use serde_json::Value;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer, time::FormatTime},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use crate::{clock::rfc3339, config_file::layer::LogFormat};

/// The target of lines that are events of the cluster.
pub const EVENT_TARGET: &str = "kith::event";

/// How many lines may wait for a slow reader of standard output.
const QUEUE: usize = 8192;
/// How long the end of the process waits for a reader to take the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log could not be set up, or its filter not changed; the log is as before.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "log filter {filter:?}: {source}; allowed: error, warn, info, debug, trace, off, or \
         such as kith::api=debug,info"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("cannot set up the log: {0}")]
    Twice(String),
}

/// The log of this process. Dropping it writes what is still queued.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    writer: Option<(SyncSender<Vec<u8>>, JoinHandle<()>)>,
    finished: Receiver<()>,
}

impl Logging {
    /// Sets the log of the process up. `colour` is for text only.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn start(format: LogFormat, filter: &str, colour: bool) -> Result<Self, LogError> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let (lines, queue) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let queued = Queued {
            lines: lines.clone(),
            dropped: Arc::clone(&dropped),
        };
        let (done, finished) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                write_lines(&queue, &dropped, format);
                drop(done);
            })
            .map_err(|e| LogError::Twice(e.to_string()))?;
        let layer = tracing_subscriber::fmt::layer().with_writer(queued);
        let layer = match format {
            LogFormat::Json => layer.with_ansi(false).event_format(Json).boxed(),
            LogFormat::Text => layer
                .with_ansi(colour)
                .fmt_fields(HideJson)
                .with_timer(Utc)
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init()
            .map_err(|e| LogError::Twice(e.to_string()))?;
        Ok(Self {
            filter: handle,
            writer: Some((lines, thread)),
            finished,
        })
    }

    /// Changes what is logged.
    ///
    /// # Errors
    /// [`LogError::Filter`].
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let new = parse(filter)?;
        self.filter
            .reload(new)
            .map_err(|e| LogError::Twice(e.to_string()))
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let Some((lines, thread)) = self.writer.take() else {
            return;
        };
        // The subscriber lives as long as the process and holds the queue open, so that the
        // end is a line of its own: an empty one.
        if lines.try_send(Vec::new()).is_ok() {
            let wait = self.finished.recv_timeout(LAST_LINES);
            if matches!(wait, Err(RecvTimeoutError::Disconnected)) && thread.join().is_err() {
                eprintln!("error: the log's thread panicked");
            }
        }
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })
}

/// Writes until the empty line. A standard output that is closed ends nothing: whoever
/// started the agent wanted it to run.
fn write_lines(queue: &Receiver<Vec<u8>>, dropped: &AtomicU64, format: LogFormat) {
    let mut out = io::stdout().lock();
    let mut broken = false;
    while let Ok(line) = queue.recv() {
        let end = line.is_empty();
        let lost = dropped.swap(0, Ordering::Relaxed);
        if !broken && !end {
            broken = out.write_all(&line).and_then(|()| out.flush()).is_err();
        }
        if !broken && lost > 0 {
            broken = out.write_all(lost_line(lost, format).as_bytes()).is_err();
        }
        if end {
            break;
        }
    }
}

fn lost_line(lost: u64, format: LogFormat) -> String {
    let timestamp = rfc3339(SystemTime::now());
    let message = "standard output is read too slowly: lines were dropped";
    match format {
        LogFormat::Text => format!("{timestamp}  WARN kith::logging: {message} lost={lost}\n"),
        LogFormat::Json => {
            let line = serde_json::json!({"timestamp": timestamp, "level": "WARN",
                "message": message, "target": "kith::logging", "lost": lost});
            format!("{line}\n")
        }
    }
}

/// Hands lines to the thread that writes them.
#[derive(Clone, Debug)]
struct Queued {
    lines: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl Write for Queued {
    /// Called once a line by the formatting layer, which collects it first.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line.to_vec()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queued {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Times as everywhere else: RFC 3339, UTC, microseconds.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        w.write_str(&rfc3339(SystemTime::now()))
    }
}

/// Fields as `key=value` after the message; the object of an event is for programs.
struct HideJson;

impl<'w> FormatFields<'w> for HideJson {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        writer: Writer<'w>,
        fields: R,
    ) -> fmt::Result {
        let mut visitor = TextVisitor {
            writer,
            first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct TextVisitor<'w> {
    writer: Writer<'w>,
    first: bool,
    result: fmt::Result,
}

impl Visit for TextVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Quotes only where a reader could not tell where the value ends.
        if field.name() == "message" || !value.is_empty() && !value.contains(char::is_whitespace) {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_err() || field.name() == "json" {
            return;
        }
        let space = if self.first { "" } else { " " };
        self.first = false;
        self.result = match field.name() {
            "message" => write!(self.writer, "{space}{value:?}"),
            name => write!(self.writer, "{space}{name}={value:?}"),
        };
    }
}

/// One flat object a line.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = JsonVisitor::default();
        event.record(&mut fields);
        let meta = event.metadata();
        if meta.target() == EVENT_TARGET
            && let Some(Value::String(line)) = fields.get("json")
        {
            return writeln!(writer, "{line}");
        }
        let mut line = Vec::with_capacity(256);
        fields
            .write(&mut line, meta.level().as_str(), meta.target())
            .map_err(|_impossible| fmt::Error)?;
        writeln!(writer, "{}", String::from_utf8_lossy(&line))
    }
}

#[derive(Default)]
struct JsonVisitor {
    fields: Vec<(&'static str, Value)>,
}

impl JsonVisitor {
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    fn write(&self, line: &mut Vec<u8>, level: &str, target: &str) -> serde_json::Result<()> {
        let mut serializer = serde_json::Serializer::new(line);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &rfc3339(SystemTime::now()))?;
        map.serialize_entry("level", level)?;
        if let Some(message) = self.get("message") {
            map.serialize_entry("message", message)?;
        }
        map.serialize_entry("target", target)?;
        for (name, value) in &self.fields {
            match *name {
                "message" => {}
                // A field of such a name must not make the object have it twice.
                "timestamp" | "level" | "target" => {
                    map.serialize_entry(&format!("field_{name}"), value)?;
                }
                name => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }

    fn push(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name(), value));
    }
}

impl Visit for JsonVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn captured(format: LogFormat, log: impl FnOnce()) -> String {
        let out = Captured::default();
        let writer = out.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let layer = match format {
            LogFormat::Json => layer.event_format(Json).boxed(),
            LogFormat::Text => layer
                .with_ansi(false)
                .fmt_fields(HideJson)
                .with_timer(Utc)
                .boxed(),
        };
        with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = out.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn ordinary_lines_are_flat_objects() {
        let line = captured(LogFormat::Json, || {
            tracing::warn!(target: "kith", count = 3, ok = true, level = "x", "what \"happened\"");
        });
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["level"], "WARN");
        assert_eq!(object["message"], "what \"happened\"");
        assert_eq!(
            (&object["target"], &object["count"]),
            (&"kith".into(), &3.into())
        );
        assert_eq!(
            (&object["ok"], &object["field_level"]),
            (&true.into(), &"x".into())
        );
        assert!(humantime::parse_rfc3339(object["timestamp"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn an_event_is_its_object_in_json_and_its_message_in_text() {
        let log = || {
            let json = r#"{"event":"member_failed","accusers":["n1"]}"#;
            tracing::warn!(target: EVENT_TARGET, json, member = "n 3", "n3 failed");
        };
        let line = captured(LogFormat::Json, log);
        assert_eq!(
            line,
            "{\"event\":\"member_failed\",\"accusers\":[\"n1\"]}\n"
        );
        let line = captured(LogFormat::Text, log);
        assert!(
            line.ends_with("WARN kith::event: n3 failed member=\"n 3\"\n"),
            "{line}"
        );
        assert!(line.contains("Z "), "{line}");
    }

    #[test]
    fn a_full_queue_drops_lines_and_counts_them() {
        let (lines, queue) = sync_channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut queued = Queued {
            lines,
            dropped: Arc::clone(&dropped),
        };
        for _ in 0..3 {
            queued.write_all(b"line\n").unwrap();
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
        assert_eq!(queue.try_iter().count(), 1);
        assert!(lost_line(2, LogFormat::Json).contains("\"lost\":2"));
    }

    #[test]
    fn a_wrong_filter_says_what_is_allowed() {
        let text = parse("kith=loud").unwrap_err().to_string();
        assert!(
            text.contains("kith=loud") && text.contains("debug"),
            "{text}"
        );
    }
}
