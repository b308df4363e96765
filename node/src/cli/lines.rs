//! A line of a log, or an event, for people: from its JSON object, so that fields and events
//! of newer versions are shown as well.

use serde_json::Value;

use super::out::{Colour, Out};

/// `12:00:00.123  WARN  n1  member_failed  n3  reason=refused ...`; the node is left out if
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
    for main in ["event", "member", "message", "text"] {
        if !text(main).is_empty() {
            parts.push(text(main).to_owned());
        }
    }
    let rest = object.as_object().into_iter().flatten();
    for (name, value) in rest {
        let shown = match name.as_str() {
            "timestamp" | "level" | "node" | "event" | "member" | "message" | "text" | "seq"
            | "member_id" | "target" => continue,
            _ => plain(value),
        };
        if !shown.is_empty() {
            parts.push(format!(
                "{}{shown}",
                out.paint(Colour::Faint, &format!("{name}="))
            ));
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
    fn the_main_things_come_first_and_unknown_fields_are_shown() {
        let out = Out::to(Written::default());
        let event = serde_json::json!({"seq": 4, "timestamp": "2026-11-22T12:00:00.123456Z",
            "level": "WARN", "node": "n1", "event": "member_failed", "member": "n3",
            "member_id": "00", "reason": "refused", "accusers": ["n1", "n2"], "new": 7});
        assert_eq!(
            describe(&out, &event, true),
            "12:00:00.123 WARN  n1 member_failed n3 accusers=n1,n2 new=7 reason=refused"
        );
        let line = serde_json::json!({"timestamp": "x", "level": "INFO", "message": "hello",
            "target": "kith"});
        assert_eq!(describe(&out, &line, false), "x INFO  hello");
    }
}
