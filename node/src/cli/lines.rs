//! A line of a log, or an event, for people: from its JSON object, so that fields and events
//! of newer versions are shown as well.

use serde::Deserialize as _;
use serde_json::Value;

use super::out::{Colour, Out};
use crate::{log_event, view::EventView};

/// `12:00:00.123 WARN  n1 member_failed member=n3 reason=refused ...`; the node is left out if
/// it is known from elsewhere.
pub(super) fn describe(out: &Out, object: &Value, with_node: bool) -> String {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let level = text("level");
    let colour = match level {
        "ERROR" => Colour::Bad,
        "WARN" => Colour::Odd,
        "INFO" => Colour::Good,
        _ => Colour::Faint,
    };
    let mut parts = vec![
        out.paint(Colour::Faint, time_of_day(text("timestamp"))),
        out.paint(colour, &format!("{level:<5}")),
    ];
    if with_node {
        parts.push(text("node").to_owned());
    }
    // An event that this version knows has its fields in their order, as in the log.
    if let Ok(view) = EventView::deserialize(object) {
        parts.push(log_event::text(&view));
        return parts.join(" ");
    }
    for main in ["event", "message"] {
        if !text(main).is_empty() {
            parts.push(text(main).to_owned());
        }
    }
    for (name, value) in object.as_object().into_iter().flatten() {
        let known = [
            "timestamp",
            "level",
            "node",
            "event",
            "message",
            "seq",
            "target",
        ];
        if !known.contains(&name.as_str()) {
            parts.push(format!("{name}={}", plain(value)));
        }
    }
    parts.join(" ")
}

/// `12:00:00.123` of `2026-11-22T12:00:00.123456Z`; the whole if it is something else.
fn time_of_day(timestamp: &str) -> &str {
    match timestamp.split_once('T') {
        Some((_, time)) => time.get(..12).unwrap_or(time),
        None => timestamp,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::out::tests::Written, *};

    #[test]
    fn events_look_as_in_the_log_and_newer_ones_are_shown_too() {
        let out = Out::to(Written::default());
        let mut event = serde_json::json!({"seq": 4, "timestamp": "2026-11-22T12:00:00.123456Z",
            "level": "WARN", "node": "n1", "event": "member_evicted", "member": "n3",
            "member_id": "0000000000000003", "by": "n2"});
        assert_eq!(
            describe(&out, &event, true),
            "12:00:00.123 WARN  n1 member_evicted member=n3 by=n2"
        );
        event["event"] = "member_promoted".into();
        event["ranks"] = serde_json::json!([1, 2]);
        assert_eq!(
            describe(&out, &event, false),
            "12:00:00.123 WARN  member_promoted by=n2 member=n3 member_id=0000000000000003 ranks=1,2"
        );
        let line = serde_json::json!({"timestamp": "x", "level": "INFO", "message": "hello",
            "target": "kith"});
        assert_eq!(describe(&out, &line, false), "x INFO  hello");
    }
}
