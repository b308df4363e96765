//! A report for people.

use crate::report::{Rate, Report, Summary};

/// The report as lines of text.
pub fn lines(report: &Report) -> Vec<String> {
    rows(report)
        .into_iter()
        .map(|(what, value)| format!("{what:<34} {value}"))
        .collect()
}

/// What is said, and its value.
pub fn rows(report: &Report) -> Vec<(String, String)> {
    let mut rows = vec![
        (
            "runs".to_owned(),
            format!(
                "{}, {} of them passed",
                report.runs,
                report.runs - report.violations.len() as u64
            ),
        ),
        (
            "simulated".to_owned(),
            format!("{:.0} s", report.simulated_ms as f64 / 1000.0),
        ),
        (
            "together after the start".to_owned(),
            seconds(Some(report.formed_ms)),
        ),
    ];
    rows.extend(times("detection", "crashes", report.detection.summary()));
    let alarms = &report.false_alarms;
    rows.push((
        "false alarms".to_owned(),
        format!(
            "{} ({} by the well) about {} nodes; {} suspicions",
            alarms.all, alarms.by_the_well, alarms.accused, alarms.suspicions
        ),
    ));
    rows.push((
        "agreement after the last fault".to_owned(),
        seconds(report.converged_ms),
    ));
    let arrival = &report.arrival;
    rows.extend(times(
        "a newcomer knows all",
        "newcomers",
        arrival.complete.summary(),
    ));
    rows.extend(times(
        "all know a newcomer",
        "newcomers",
        arrival.known.summary(),
    ));
    let traffic = &report.traffic;
    rows.push(("sent per node and second".to_owned(), rate(&traffic.whole)));
    rows.push(("the same, idle".to_owned(), rate(&traffic.idle)));
    rows.push((
        "most in one second by one node".to_owned(),
        format!("{} B", traffic.peak_bytes),
    ));
    rows.push((
        "most that waited at one node".to_owned(),
        format!(
            "{} pieces of news, {} inputs",
            traffic.backlog, traffic.waiting
        ),
    ));
    if let Some([moved, least]) = report.copies_moved {
        rows.push((
            "copies moved / least possible".to_owned(),
            format!("{moved} / {least}"),
        ));
    }
    rows.push(("events told".to_owned(), report.events.to_string()));
    rows.push(("digest".to_owned(), format!("{:016x}", report.digest)));
    rows
}

fn times(what: &str, occasions: &str, summary: Option<Summary>) -> Vec<(String, String)> {
    let Some(summary) = summary else {
        return Vec::new();
    };
    vec![(
        what.to_owned(),
        format!(
            "first {} median {} p99 {} last {} worst {} ms ({} {occasions})",
            summary.first_ms,
            summary.median_ms,
            summary.p99_ms,
            summary.last_ms,
            summary.worst_ms,
            summary.occasions
        ),
    )]
}

/// Bytes and packets.
pub fn rate(rate: &Rate) -> String {
    format!(
        "{} B, {} packets",
        rate.bytes_per_second(),
        rate.packets_per_second()
    )
}

fn seconds(millis: Option<u64>) -> String {
    millis.map_or_else(
        || "-".to_owned(),
        |millis| format!("{:.2} s", millis as f64 / 1000.0),
    )
}
