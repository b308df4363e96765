//! Counts and times what clients do with keys, whichever interface they use.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::Registry,
};

/// Upper bounds of the histograms (seconds).
const BOUNDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];

type Labels = Vec<(&'static str, &'static str)>;

/// Through which door a client came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interface {
    Resp,
    Http,
}

/// What kind of work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Reads keys.
    Read,
    /// Changes keys.
    Write,
    /// Goes over many keys.
    Scan,
    /// Has nothing to do with keys.
    Other,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// As asked, or with a condition that did not hold.
    Done,
    /// It could not be, or was not allowed; nothing changed.
    Refused,
    /// The client was sent to the owner.
    Moved,
    /// The partition could not be served; nothing changed.
    Unavailable,
    /// Whether it was done is not known.
    Indeterminate,
}

const INTERFACES: [(Interface, &str); 2] = [(Interface::Resp, "resp"), (Interface::Http, "http")];
const WORKS: [(Work, &str); 4] = [
    (Work::Read, "read"),
    (Work::Write, "write"),
    (Work::Scan, "scan"),
    (Work::Other, "other"),
];
const ENDS: [(Ended, &str); 5] = [
    (Ended::Done, "done"),
    (Ended::Refused, "refused"),
    (Ended::Moved, "moved"),
    (Ended::Unavailable, "unavailable"),
    (Ended::Indeterminate, "indeterminate"),
];

/// The counts of one agent.
pub struct Operations {
    counts: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    /// Clones of what is in the families, so that counting takes no look-up.
    cells: Vec<Cell>,
    connections: AtomicU64,
    rejected: AtomicU64,
    open: AtomicI64,
}

struct Cell {
    counts: [Counter; ENDS.len()],
    seconds: Histogram,
}

impl Default for Operations {
    fn default() -> Self {
        let counts = Family::<Labels, Counter>::default();
        let seconds: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BOUNDS));
        let mut cells = Vec::with_capacity(INTERFACES.len() * WORKS.len());
        for (_, interface) in INTERFACES {
            for (_, work) in WORKS {
                let labels = vec![("interface", interface), ("class", work)];
                let counts = ENDS.map(|(_, result)| {
                    let mut labels = labels.clone();
                    labels.push(("result", result));
                    counts.get_or_create_owned(&labels)
                });
                let seconds = seconds.get_or_create_owned(&labels);
                cells.push(Cell { counts, seconds });
            }
        }
        Self {
            counts,
            seconds,
            cells,
            connections: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            open: AtomicI64::new(0),
        }
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations").finish_non_exhaustive()
    }
}

impl Operations {
    /// One has ended.
    pub(super) fn ended(&self, interface: Interface, work: Work, ended: Ended, took: Duration) {
        let cell = &self.cells[interface as usize * WORKS.len() + work as usize];
        cell.counts[ended as usize].inc();
        cell.seconds.observe(took.as_secs_f64());
    }

    /// A RESP connection was taken; it counts as open until the guard is dropped.
    pub(super) fn opened(self: &std::sync::Arc<Self>) -> Open {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(std::sync::Arc::clone(self))
    }

    /// A RESP connection was refused, because there are too many.
    pub(super) fn refused_connection(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// RESP connections taken so far.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// RESP connections refused so far.
    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// RESP commands so far.
    pub(super) fn commands(&self) -> u64 {
        let resp = &self.cells[..WORKS.len()];
        resp.iter()
            .flat_map(|cell| &cell.counts)
            .map(Counter::get)
            .sum()
    }

    /// Shows them.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "operations",
            "What clients asked for, by interface, kind of work and result",
            self.counts.clone(),
        );
        registry.register(
            "operation_seconds",
            "How long it took to answer clients (seconds)",
            self.seconds.clone(),
        );
        registry.register(
            "resp_connections_open",
            "RESP connections that are open",
            ConstGauge::new(self.open.load(Ordering::Relaxed)),
        );
        registry.register(
            "resp_connections",
            "RESP connections that were taken",
            ConstCounter::new(self.connections()),
        );
        registry.register(
            "resp_connections_refused",
            "RESP connections that were refused because there were too many",
            ConstCounter::new(self.rejected()),
        );
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open(std::sync::Arc<Operations>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_under_its_own_labels() {
        for (at, (interface, _)) in INTERFACES.iter().enumerate() {
            assert_eq!(*interface as usize, at);
        }
        for (at, (work, _)) in WORKS.iter().enumerate() {
            assert_eq!(*work as usize, at);
        }
        for (at, (ended, _)) in ENDS.iter().enumerate() {
            assert_eq!(*ended as usize, at);
        }
        let operations = Operations::default();
        let took = Duration::from_micros(300);
        operations.ended(Interface::Http, Work::Write, Ended::Indeterminate, took);
        operations.ended(Interface::Resp, Work::Other, Ended::Done, took);
        let mut registry = Registry::default();
        operations.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "operations_total{interface=\"http\",class=\"write\",result=\"indeterminate\"} 1",
            "operations_total{interface=\"resp\",class=\"write\",result=\"indeterminate\"} 0",
            "operation_seconds_bucket{le=\"0.00025\",interface=\"http\",class=\"write\"} 0",
            "operation_seconds_bucket{le=\"0.0005\",interface=\"http\",class=\"write\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in: {text}");
        }
        assert_eq!(operations.commands(), 1);
    }
}
