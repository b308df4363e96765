//! The settings in force, as a file that could be given back with `--config`.

use std::collections::BTreeMap;

use clap::Args as _;
use kith_proto::config::Timing;
use serde_json::Value;

use super::{
    Settings,
    layer::{DetectionLayer, Layer, TimingLayer},
    values::{Size, Span},
};

/// Every setting with its value in force; secrets are left out. `given` has the paths of
/// files that were read.
pub(super) fn layer(settings: &Settings, given: &Layer) -> Layer {
    let core = &settings.core;
    let seeds = core.seeds.clone();
    let tags = core.tags.clone();
    Layer {
        name: Some(core.name.clone()),
        cluster: Some(core.cluster.clone()),
        listen: Some(settings.listen),
        advertise: Some(core.advertise),
        http: Some(settings.http),
        resp: Some(settings.resp),
        resp_moved: Some(settings.resp_moved),
        resp_ack: Some(settings.resp_ack),
        max_value: Some(Size(settings.max_value)),
        shards: Some(u32::from(settings.shards)),
        sync: settings.sync,
        seeds: (!seeds.is_empty()).then_some(seeds),
        expect: core.expect,
        data_dir: settings.data_dir.clone(),
        ephemeral: settings.data_dir.is_none().then_some(true),
        key_file: given.key_file.clone(),
        key: None,
        tls_cert: given.tls_cert.clone(),
        tls_key: given.tls_key.clone(),
        tls_ca: given.tls_ca.clone(),
        token_file: given.token_file.clone(),
        insecure: settings.insecure.then_some(true),
        zone: (!core.zone.is_empty()).then(|| core.zone.clone()),
        weight: Some(core.weight),
        tag: None,
        tags: (!tags.is_empty()).then_some(tags),
        consistency: Some(core.settings.consistency),
        partitions: Some(u32::from(core.settings.partitions)),
        copies: Some(u32::from(core.settings.copies)),
        leave_timeout: Some(Span(core.timing.leave)),
        max_datagram: Some(Size(core.max_datagram)),
        log_format: Some(settings.log_format),
        log: Some(settings.log.clone()),
        timing: Some(timing(&core.timing)),
        detection: Some(DetectionLayer {
            lifeguard: Some(core.detection.lifeguard),
            evidence: Some(core.detection.evidence),
            bursts: Some(core.detection.bursts),
        }),
    }
}

fn timing(timing: &Timing) -> TimingLayer {
    macro_rules! each {
        ($($field:ident)*) => {
            TimingLayer {
                suspicion_max_factor: Some(timing.suspicion_max_factor),
                $($field: Some(Span(timing.$field)),)*
            }
        };
    }
    each!(probe_period probe_timeout_min probe_timeout_max suspicion_min unresponsive push_pull
        burst dial_timeout knock_timeout redial redial_max join_report forget_failed forget_left
        placement_delay)
}

/// The file, as text; above each setting stands what it means, its bounds and what it costs.
///
/// # Errors
/// None that is known: every setting can be written.
pub fn to_toml(layer: &Layer) -> Result<String, toml::ser::Error> {
    let plain = toml::to_string(layer)?;
    let command = Layer::augment_args(clap::Command::new("settings"));
    let mut text = String::with_capacity(4 * plain.len());
    let mut table = String::new();
    for line in plain.lines() {
        let key = line.split(" =").next().unwrap_or_default();
        let comment = match table.as_str() {
            _ if line.starts_with('[') => {
                table = line.trim_matches(['[', ']']).to_owned();
                None
            }
            "" => help(&command, if key == "seeds" { "seed" } else { key }),
            table => documented(table, key).map(str::to_owned),
        };
        if let Some(comment) = comment {
            text.push_str("# ");
            text.push_str(&comment.replace('\n', " "));
            text.push('\n');
        }
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

/// What `--help` says about a flag.
fn help(command: &clap::Command, flag: &str) -> Option<String> {
    let arg = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(flag))?;
    arg.get_help().map(ToString::to_string)
}

fn documented(table: &str, key: &str) -> Option<&'static str> {
    let in_table = TABLES.iter().find(|(name, _)| *name == table)?.1;
    in_table
        .iter()
        .find(|(name, _)| *name == key)
        .map(|(_, text)| *text)
}

/// The settings by name, for `GET /v1/agent`.
pub fn to_json(layer: &Layer) -> BTreeMap<String, Value> {
    let Ok(Value::Object(all)) = serde_json::to_value(layer) else {
        unreachable!("a struct of plain values is a JSON object");
    };
    all.into_iter().filter(|(_, v)| !v.is_null()).collect()
}

/// The settings by name, those in `[timing]` and `[detection]` as `timing.burst`.
pub type Flat = BTreeMap<String, Value>;

/// The settings by name, one by one, to be compared.
pub fn flat(layer: &Layer) -> Flat {
    let mut flat = Flat::new();
    for (name, value) in to_json(layer) {
        match value {
            Value::Object(table) if TABLES.iter().any(|(t, _)| *t == name) => {
                let inner = table.into_iter().filter(|(_, value)| !value.is_null());
                flat.extend(inner.map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => drop(flat.insert(name, value)),
        }
    }
    flat
}

/// What is said of the settings that are in files only.
#[rustfmt::skip]
const TABLES: [(&str, &[(&str, &str)]); 2] = [
    ("timing", &[
        ("probe-period", "One member is probed this often, 50ms to 60s. Shorter finds silent failures sooner and costs packets in proportion"),
        ("probe-timeout-min", "The least a probe waits, however fast the network seems, 5ms to 10s. Shorter mistakes a busy machine for a dead one"),
        ("probe-timeout-max", "The most a probe waits: from probe-timeout-min to less than probe-period"),
        ("suspicion-min", "How long a silent host stays suspected once others confirm it, 50ms to 10m, in a cluster of up to ten. Longer forgives more, and finds real failures later"),
        ("suspicion-max-factor", "The same without any confirmation, as a multiple, 1 to 100"),
        ("unresponsive", "How long a member may say nothing while its host's kernel answers, 100ms to 1h. Longer lets paused processes come back; stuck ones are replaced later"),
        ("push-pull", "State is compared with one other member this often, 1s to 1h. Shorter mends lost news sooner and costs bytes"),
        ("burst", "News waits at most this long to travel with other news, 1ms to 1s"),
        ("dial-timeout", "A dial is given up after this, 1ms or more"),
        ("knock-timeout", "A knock at a silent member's host is given up after this, 1ms or more"),
        ("redial", "The least pause between dials to lost members and seeds, 100ms to 10m. Shorter heals sooner and costs packets"),
        ("redial-max", "The same for those lost for long: at least redial"),
        ("join-report", "A joiner that reaches no seed says so this often, 1ms or more"),
        ("forget-failed", "Failed members are forgotten after this, 1ms or more: until then they are redialled"),
        ("forget-left", "Members that left or were evicted are forgotten after this, 1ms or more"),
        ("placement-delay", "Changes of membership are gathered this long before ownership is computed anew, 1ms or more"),
    ]),
    ("detection", &[
        ("lifeguard", "Local health, own stalls noticed, confirmations that shorten suspicion, the buddy"),
        ("evidence", "What broken streams and refused connections tell"),
        ("bursts", "News is gossiped when it is learnt, not at the next tick"),
    ]),
];
