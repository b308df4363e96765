//! `GET /metrics`: what Prometheus reads (OpenMetrics text 1.0).
//!
//! A registry is made anew for each reading, because the numbers live elsewhere: in the
//! driver and in the views. The driver's numbers are counters but for those in [`GAUGES`],
//! [`MILLIONTHS`] and [`HELD`]; what follows a dot in a name is the value of the label `kind`.

mod help;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::Registry,
};

use super::{
    App,
    follow::{Followed, Follower},
    problem::Failure,
};
use crate::{
    handle::Handle,
    view::{AgentView, MemberView, Status, StatusView},
};

/// Numbers of the driver's that go up and down.
const GAUGES: [&str; 3] = ["health_score", "news_backlog", "peer_streams"];
/// Shares that the driver has in whole millionths, and the ratios from 0 to 1 as which they are shown.
const MILLIONTHS: [(&str, &str); 1] = [("loss_ppm", "loss_ratio")];
/// What the node keeps, which goes up and down as well.
const HELD: [&str; 2] = ["held_bytes", "held_keys"];
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many events of each name this agent has seen.
#[derive(Debug, Default)]
pub(super) struct EventCounts {
    by_name: Mutex<BTreeMap<String, u64>>,
    missed: AtomicU64,
}

/// Counts events as long as it is polled.
pub(super) async fn count_events(handle: Handle, counts: Arc<EventCounts>) -> Infallible {
    let mut follower = Follower::new(handle, Some(0));
    while let Some(next) = follower.next().await {
        match next {
            Followed::Missed(missed) => {
                counts.missed.fetch_add(missed, Ordering::Relaxed);
            }
            Followed::Event(view) => {
                let json = serde_json::to_value(&view.event).unwrap_or_default();
                let name = json["event"].as_str().unwrap_or("unknown").to_owned();
                let mut by_name = counts
                    .by_name
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *by_name.entry(name).or_default() += 1;
            }
        }
    }
    std::future::pending().await
}

/// Everything there is to measure.
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Failure> {
    let agent = app.handle.agent().await?;
    let members = app.handle.members().await?;
    let status = app.handle.status().await?;
    let counters = app.handle.counters().await?;
    let mut registry = Registry::with_prefix("kith");
    app.operations.register(&mut registry);
    let written = write(registry, &agent, &members, &status, &counters, &app.counts);
    let text = written.map_err(|e| {
        Failure::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            "error",
            e.to_string(),
        )
    })?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

type Labels = Vec<(&'static str, String)>;

fn write(
    mut registry: Registry,
    agent: &AgentView,
    members: &[MemberView],
    status: &StatusView,
    counters: &BTreeMap<&'static str, u64>,
    events: &EventCounts,
) -> Result<String, fmt::Error> {
    let build = Info::new(vec![("version", agent.version.clone())]);
    registry.register("build", "The software that runs", build);

    let by_status = Family::<Labels, Gauge>::default();
    // All of them, so that a number that falls to zero is seen as zero.
    for status in [
        Status::Alive,
        Status::Suspect,
        Status::Failed,
        Status::Leaving,
        Status::Left,
        Status::Evicted,
    ] {
        let count = members.iter().filter(|m| m.status == status).count();
        by_status
            .get_or_create(&vec![("status", format!("{status:?}").to_lowercase())])
            .set(saturated(count as u64));
    }
    registry.register(
        "members",
        "Members by how this node sees them: alive, suspect, failed, leaving, left or evicted",
        by_status,
    );

    let mut gauge = |name, help: &str, value: u64| {
        // The driver may measure the same, and it knows better.
        if !counters.contains_key(name) {
            registry.register(name, help, ConstGauge::new(saturated(value)));
        }
    };
    gauge(
        "healthy",
        "1 if nothing asks for an operator's hands, else 0 (`kith status` says why)",
        status.healthy.into(),
    );
    gauge(
        "health_score",
        &said("health_score"),
        status.health_score.into(),
    );
    gauge(
        "partitions",
        "Partitions in the cluster",
        status.partitions as u64,
    );
    gauge(
        "partitions_under_replicated",
        "Partitions with fewer places than copies wanted",
        status.under_replicated as u64,
    );
    let own = members.iter().find(|m| m.is_self);
    gauge(
        "partitions_owned",
        "Partitions that this node owns, as far as it knows",
        own.map_or(0, |m| m.owned as u64),
    );
    gauge(
        "partitions_backed_up",
        "Partitions that this node backs up, as far as it knows",
        own.map_or(0, |m| m.backups as u64),
    );

    let by_name = Family::<Labels, Counter>::default();
    {
        let counted = events
            .by_name
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (name, count) in counted.iter() {
            by_name
                .get_or_create(&vec![("event", name.clone())])
                .inc_by(*count);
        }
    }
    registry.register(
        "events",
        "Events that this node has seen, by their names in the log",
        by_name,
    );
    registry.register(
        "events_uncounted",
        "Events that went by too fast to be counted by name",
        ConstCounter::new(events.missed.load(Ordering::Relaxed)),
    );

    let mut by_kind: BTreeMap<&str, Family<Labels, Counter>> = BTreeMap::new();
    for (name, value) in counters {
        if let Some((name, kind)) = name.split_once('.') {
            let family = by_kind.entry(name).or_default();
            let labels = vec![("kind", kind.to_owned())];
            family.get_or_create(&labels).inc_by(*value);
        } else if let Some((_, ratio)) = MILLIONTHS.iter().find(|(whole, _)| whole == name) {
            let gauge = ConstGauge::new(*value as f64 / 1e6);
            registry.register(*ratio, said(ratio), gauge);
        } else if GAUGES.contains(name) || HELD.contains(name) {
            let gauge = ConstGauge::new(saturated(*value));
            registry.register(metric_name(name), said(name), gauge);
        } else {
            registry.register(metric_name(name), said(name), ConstCounter::new(*value));
        }
    }
    for (name, family) in by_kind {
        registry.register(metric_name(name), said(name), family);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// What a number says; of one that nobody has explained, its name does.
fn said(name: &str) -> String {
    help::help(name).map_or_else(|| name.replace('_', " "), str::to_owned)
}

/// Letters, digits and underscores only.
fn metric_name(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
