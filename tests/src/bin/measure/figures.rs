//! Rows of the table: values of several trials, with their median and their worst.

use anyhow::Result;
use serde::Serialize;

use crate::subject::Subject;

/// What is measured, and in which unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// A time (seconds).
    Seconds,
    /// A time (milliseconds).
    Millis,
    /// How many times another number.
    Times,
    /// A number of things.
    Count,
    /// Bytes each second.
    BytesPerSecond,
    /// Packets each second.
    PacketsPerSecond,
    /// CPU time each second (milliseconds).
    CpuMillis,
    /// Memory (MiB).
    MiB,
    /// How many each second; the more the better, so that the worst is the least.
    PerSecond,
}

/// A row: one thing measured several times.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    who: String,
    nodes: usize,
    unit: Unit,
    /// One of each trial (or of each node, for costs) that came to an end.
    values: Vec<f64>,
    /// Trials that did not: what was awaited did not come.
    missing: Vec<String>,
}

impl Row {
    /// A row without values.
    pub(crate) fn new(what: impl Into<String>, who: &Subject, nodes: usize, unit: Unit) -> Self {
        Self::named(what, &who.to_string(), nodes, unit)
    }

    /// A row without values, about something else than what is measured mostly.
    pub(crate) fn named(what: impl Into<String>, who: &str, nodes: usize, unit: Unit) -> Self {
        Self {
            what: what.into(),
            who: who.to_owned(),
            nodes,
            unit,
            values: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Adds the outcome of a trial.
    pub(crate) fn add(&mut self, outcome: Result<f64>) {
        match outcome {
            Ok(value) => self.values.push(value),
            Err(error) => self.missing.push(format!("{error:#}")),
        }
    }

    /// Adds several values.
    pub(crate) fn extend(&mut self, values: impl IntoIterator<Item = f64>) {
        self.values.extend(values);
    }

    fn line(&self) -> String {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let (median, worst) = match median(&sorted) {
            Some(median) => {
                let worst = match self.unit {
                    Unit::PerSecond => sorted[0],
                    _ => sorted[sorted.len() - 1],
                };
                (self.show(median), self.show(worst))
            }
            None => ("–".to_owned(), "–".to_owned()),
        };
        let worst = match self.missing.len() {
            0 => worst,
            missing => format!("{worst}; {missing} did not end"),
        };
        let (what, who, nodes) = (&self.what, &self.who, self.nodes);
        let trials = self.values.len() + self.missing.len();
        format!("| {what} | {who} | {nodes} | {trials} | {median} | {worst} |")
    }

    fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Seconds => format!("{value:.3} s"),
            Unit::Millis => format!("{value:.1} ms"),
            Unit::Times => format!("{value:.2}"),
            Unit::Count => format!("{value:.1}"),
            Unit::BytesPerSecond => format!("{value:.0} B/s"),
            Unit::PacketsPerSecond => format!("{value:.2} /s"),
            Unit::CpuMillis => format!("{value:.2} ms/s"),
            Unit::MiB => format!("{value:.1} MiB"),
            Unit::PerSecond => format!("{value:.0} /s"),
        }
    }
}

/// The middle of sorted values; of an even number, the mean of the two.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[sorted.len() / 2 - 1] + upper) / 2.0)
}

/// The table: printed as it grows, for the impatient, in Markdown.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Prints the head.
    pub(crate) fn begin() -> Self {
        println!("| what | who | N | trials | median | worst |");
        println!("|---|---|---|---|---|---|");
        Self { rows: Vec::new() }
    }

    /// Prints what a scenario brought.
    pub(crate) fn add(&mut self, outcome: Result<Vec<Row>>) {
        let rows = match outcome {
            Ok(rows) => rows,
            Err(error) => {
                eprintln!("  not measured: {error:#}");
                return;
            }
        };
        for row in rows {
            println!("{}", row.line());
            for missing in &row.missing {
                eprintln!("  did not end: {missing}");
            }
            self.rows.push(row);
        }
    }

    /// Everything so far.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0]), Some(1.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
    }

    #[test]
    fn a_trial_without_end_is_shown() {
        let mut row = Row::new("kill", &Subject::Serf, 5, Unit::Seconds);
        row.add(Ok(0.25));
        row.add(Err(anyhow::anyhow!("nothing")));
        assert_eq!(
            row.line(),
            "| kill | Serf | 5 | 2 | 0.250 s | 0.250 s; 1 did not end |"
        );
    }
}
