//! The settings in force, as a file that could be given back with `--config`.

use kith_proto::config::Timing;

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
        seeds: (!seeds.is_empty()).then_some(seeds),
        expect: core.expect,
        data_dir: settings.data_dir.clone(),
        ephemeral: settings.data_dir.is_none().then_some(true),
        key_file: given.key_file.clone(),
        key: None,
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

/// The file, as text.
///
/// # Errors
/// None that is known: every setting can be written.
pub fn to_toml(layer: &Layer) -> Result<String, toml::ser::Error> {
    toml::to_string(layer)
}

/// The settings by name, for `GET /v1/agent`.
pub fn to_json(layer: &Layer) -> std::collections::BTreeMap<String, serde_json::Value> {
    let Ok(serde_json::Value::Object(all)) = serde_json::to_value(layer) else {
        unreachable!("a struct of plain values is a JSON object");
    };
    all.into_iter().filter(|(_, v)| !v.is_null()).collect()
}
