//! Events in the log: a readable line for people, a flat object for programs.
//!
//! [`log()`] emits one `tracing` event per [`EventView`], target `kith`
//! ([`READY_TARGET`] for one of them), with two fields:
//!
//! | field | holds | for |
//! |---|---|---|
//! | `message` | `member_failed member=n3 reason=refused accusers=n1,n2 …` | people, and any subscriber of an embedding program |
//! | [`FLAT`] | the event as one flat JSON object, as on `/v1/events` | the JSON format below |
//!
//! `tracing` wants the names of fields when the program is compiled, and every kind of event
//! has its own; so they travel as text that is ready. The agent's subscriber is built from
//! what follows:
//!
//! ```ignore
//! // --log-format text
//! tracing_subscriber::fmt().fmt_fields(log_event::text_fields())
//! // --log-format json
//! tracing_subscriber::fmt().event_format(log_event::JsonLines::new(&node_name))
//! ```

use std::{
    fmt::{self, Debug, Write as _},
    time::SystemTime,
};

use kith_proto::event::Severity;
use serde::{
    Deserialize, Deserializer, Serializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Writer, debug_fn},
    },
    registry::LookupSpan,
};

use crate::view::EventView;

/// The field that carries the JSON object; formats for people leave it out.
pub const FLAT: &str = "kith_event";

/// The target of `agent_ready`; `kith` is that of all other events. Whoever needs to know
/// where an agent listens can ask for that line alone.
pub const READY_TARGET: &str = "kith::ready";

/// Fields of an event that people are spared: the name beside it says as much.
const NOT_FOR_PEOPLE: [&str; 2] = ["event", "member_id"];

/// Writes an event to the log, at the level of its severity.
pub fn log(view: &EventView) {
    macro_rules! at {
        ($target:expr, $level:expr) => {
            if tracing::enabled!(target: $target, $level) {
                tracing::event!(
                    target: $target, $level,
                    kith_event = flat(view).as_str(), "{}", text(view)
                );
            }
        };
    }
    match view.level {
        Severity::Info if matches!(view.event, kith_proto::event::Event::AgentReady { .. }) => {
            at!(READY_TARGET, Level::INFO);
        }
        Severity::Debug => at!("kith", Level::DEBUG),
        Severity::Info => at!("kith", Level::INFO),
        Severity::Warn => at!("kith", Level::WARN),
        Severity::Error => at!("kith", Level::ERROR),
    }
}

/// The event as a line for people: its name, then its fields in the order in which they are
/// declared.
pub fn text(view: &EventView) -> String {
    let json = serde_json::to_string(&view.event).unwrap_or_default();
    let Fields(fields) = serde_json::from_str(&json).unwrap_or_default();
    let mut line = match fields.iter().find(|(name, _)| name == "event") {
        Some((_, Value::String(event))) => event.clone(),
        _ => String::new(),
    };
    for (name, value) in &fields {
        if !NOT_FOR_PEOPLE.contains(&name.as_str()) {
            line.push(' ');
            line.push_str(name);
            line.push('=');
            push_value(&mut line, value);
        }
    }
    line
}

/// How fields are written in the text format: `message name=value …`, without [`FLAT`].
pub fn text_fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    debug_fn(
        |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| match field.name() {
            "message" => write!(writer, "{value:?}"),
            FLAT => Ok(()),
            name => write!(writer, " {name}={value:?}"),
        },
    )
}

/// The JSON format: each line one flat object with `timestamp`, `level` and `node`. Events
/// have `event` and its fields beside these, other lines `target`, `message` and theirs.
#[derive(Clone, Debug)]
pub struct JsonLines {
    node: String,
}

impl JsonLines {
    /// The format for the log of the node with that name.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
        }
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut found = Collect::default();
        event.record(&mut found);
        if let Some(flat) = found.flat {
            return writeln!(writer, "{flat}");
        }
        let about = event.metadata();
        let now = crate::clock::rfc3339(SystemTime::now());
        let common = [
            ("timestamp", Value::from(now)),
            ("level", Value::from(about.level().as_str())),
            ("node", Value::from(self.node.as_str())),
            ("target", Value::from(about.target())),
        ];
        let mut line = Vec::new();
        serde_json::Serializer::new(&mut line)
            .collect_map(common.into_iter().chain(found.fields))
            .map_err(|_writing_to_memory| fmt::Error)?;
        writeln!(writer, "{}", String::from_utf8_lossy(&line))
    }
}

fn flat(view: &EventView) -> String {
    // Plain structs with text for keys: there is nothing that JSON could refuse.
    serde_json::to_string(view).unwrap_or_default()
}

fn push_value(line: &mut String, value: &Value) {
    match value {
        Value::String(text) if is_plain(text) => line.push_str(text),
        // Writing to a string does not fail.
        Value::String(text) => write!(line, "{text:?}").unwrap_or_default(),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    line.push(',');
                }
                push_value(line, item);
            }
        }
        other => line.push_str(&other.to_string()),
    }
}

/// May stand without quotation marks.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=' | ','))
}

/// The fields of an object in their order, which maps of `serde_json` do not keep.
#[derive(Debug, Default)]
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// Gathers the fields of a `tracing` event.
#[derive(Default)]
struct Collect {
    flat: Option<String>,
    fields: Vec<(&'static str, Value)>,
}

impl Visit for Collect {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == FLAT {
            self.flat = Some(value.to_owned());
        } else {
            self.fields.push((field.name(), value.into()));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields
            .push((field.name(), format!("{value:?}").into()));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use kith_proto::{
        event::{Event, Reason, Who},
        id::NodeId,
    };
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    fn failed() -> EventView {
        EventView {
            seq: 7,
            timestamp: "2026-11-22T10:00:00.000000Z".to_owned(),
            level: Severity::Warn,
            node: "n1".to_owned(),
            event: Event::MemberFailed {
                who: Who {
                    member: "n3".to_owned(),
                    member_id: NodeId(3),
                },
                reason: Reason::Refused,
                accusers: vec!["n1".to_owned(), "n2".to_owned()],
                last_contact_ms: 12,
                detected_ms: 63,
            },
        }
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Written {
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().unwrap().clone();
            let text = String::from_utf8(bytes).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn people_get_a_line_that_they_can_read() {
        assert_eq!(
            text(&failed()),
            "member_failed member=n3 reason=refused accusers=n1,n2 last_contact_ms=12 detected_ms=63"
        );
        let warning = EventView {
            event: Event::Warning {
                kind: "clock_ahead".to_owned(),
                text: "the clock of \"n2\" is\nahead".to_owned(),
            },
            ..failed()
        };
        assert_eq!(
            text(&warning),
            "warning kind=clock_ahead text=\"the clock of \\\"n2\\\" is\\nahead\""
        );
    }

    #[test]
    fn the_text_format_has_the_line_and_nothing_else() {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(text_fields())
            .with_writer(written.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            log(&failed());
            tracing::info!(target: "kith", count = 2, name = "n1", "started");
        });
        assert_eq!(
            written.lines(),
            [
                format!(" WARN kith: {}", text(&failed())),
                " INFO kith: started count=2 name=\"n1\"".to_owned()
            ]
        );
    }

    #[test]
    fn each_line_of_the_json_format_is_one_flat_object() {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .event_format(JsonLines::new("n1"))
            .with_writer(written.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            log(&failed());
            tracing::info!(target: "kith", count = 2, error = %io::Error::other("odd"), "started");
        });
        let lines = written.lines();
        let event: EventView = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(event, failed());
        let object: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(object["event"], "member_failed");
        assert_eq!(object["accusers"][1], "n2");
        assert_eq!(object["level"], "WARN");
        let other: Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(other["message"], "started");
        assert_eq!(
            (&other["count"], &other["error"]),
            (&2.into(), &"odd".into())
        );
        assert_eq!(
            (&other["node"], &other["level"]),
            (&"n1".into(), &"INFO".into())
        );
    }
}
