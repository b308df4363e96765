use std::{collections::BTreeMap, fs, path::PathBuf};

use kith_proto::config::Timing;

use super::*;
use crate::config_file::layer::LogFormat;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

struct Case {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl Case {
    fn new() -> Self {
        let flags = Layer {
            name: Some("n1".to_owned()),
            ephemeral: Some(true),
            ..Layer::default()
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            sources: Sources {
                flags,
                ..Sources::default()
            },
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn file(mut self, text: &str) -> Self {
        self.sources.file = Some(self.write("kith.toml", text));
        self
    }

    fn env(mut self, pairs: &[(&str, &str)]) -> Self {
        for (key, value) in pairs {
            self.sources
                .env
                .insert((*key).to_owned(), (*value).to_owned());
        }
        self
    }

    fn flags(mut self, change: impl FnOnce(&mut Layer)) -> Self {
        change(&mut self.sources.flags);
        self
    }

    fn load(&self) -> Settings {
        self.sources.load().unwrap()
    }

    #[track_caller]
    fn refused(&self, expected: &[&str]) {
        let text = self.sources.load().unwrap_err().to_string();
        for part in expected {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
}

#[test]
fn the_later_source_wins() {
    let case = Case::new()
        .file("weight = 10\nzone = \"a\"\ncluster = \"file\"\n[tags]\nrack = \"1\"")
        .env(&[
            ("KITH_WEIGHT", "20"),
            ("KITH_ZONE", "b"),
            ("KITH_TAG", "rack=2,row=3"),
        ])
        .flags(|flags| flags.weight = Some(30));
    let settings = case.load();
    let core = &settings.core;
    assert_eq!(
        (core.weight, core.zone.as_str(), core.cluster.as_str()),
        (30, "b", "file")
    );
    let tags = BTreeMap::from([("rack", "2"), ("row", "3")]);
    assert!(
        core.tags
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .eq(tags)
    );
}

#[test]
fn defaults_are_those_of_the_interface_description() {
    let settings = Case::new().load();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:7400");
    assert_eq!(settings.http.to_string(), "127.0.0.1:7402");
    assert_eq!(settings.resp.to_string(), "127.0.0.1:7401");
    assert_eq!(
        (settings.max_value, settings.partitions().sync),
        (16 << 20, None)
    );
    assert_eq!(settings.core.advertise, settings.listen);
    assert_eq!(settings.core.timing, Timing::default());
    assert_eq!(
        (settings.log.as_str(), settings.log_format),
        ("info", LogFormat::Text)
    );
    assert_eq!(settings.data_dir, None);
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn the_data_directory_follows_the_name_unless_given() {
    let case = Case::new().flags(|flags| flags.ephemeral = None);
    let dir = case.load().data_dir.unwrap();
    assert!(dir.ends_with("kith/n1"), "{}", dir.display());

    let case = case.flags(|flags| flags.data_dir = Some("/d".into()));
    assert_eq!(case.load().data_dir, Some("/d".into()));
    // A later source replaces both halves of a pair; one source may not give both.
    let case = Case::new().file("data-dir = \"/d\"");
    assert_eq!(case.load().data_dir, None);
    Case::new()
        .flags(|flags| flags.data_dir = Some("/d".into()))
        .refused(&["--data-dir", "--ephemeral", "exclude each other"]);
}

#[test]
fn unknown_keys_are_refused_with_their_place() {
    Case::new().file("name = \"n1\"\nwieght = 3").refused(&[
        "kith.toml",
        "line 2",
        "wieght",
        "weight",
    ]);
    Case::new()
        .file("[timing]\nprobe-periodd = \"1s\"")
        .refused(&["line 2", "probe-periodd", "probe-period"]);
}

#[test]
fn variables_that_are_no_settings_are_told_unless_others_made_them() {
    let case = Case::new().env(&[
        ("KITH_WIEGHT", "3"),
        ("KITH_AGENT", "http://127.0.0.1:7402"),
        ("KITH_SERVICE_HOST", "10.0.0.1"),
        ("KITH_PORT_7400_TCP_ADDR", "10.0.0.1"),
        ("KITH_HTTP_PORT", "tcp://10.0.0.1:7402"),
    ]);
    let warnings = case.sources.load().unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("KITH_WIEGHT"), "{warnings:?}");
}

#[test]
fn impossible_values_are_refused_with_place_and_range() {
    Case::new().file("name = \"n1\"\n\nweight = 0").refused(&[
        "kith.toml line 3",
        "weight",
        "0",
        "1 to 10000",
    ]);
    Case::new()
        .env(&[("KITH_WEIGHT", "20000")])
        .refused(&["KITH_WEIGHT", "20000", "1 to 10000"]);
    Case::new()
        .flags(|flags| flags.partitions = Some(100_000))
        .refused(&["--partitions", "100000", "a power of two up to 16384"]);
    Case::new()
        .file("[timing]\npush-pull = \"31s\"\nprobe-period = \"10ms\"")
        .refused(&["line 3", "probe-period", "10ms", "50ms to 60s"]);
    Case::new()
        .file("[timing]\nknock-timeout = \"0s\"")
        .refused(&["line 2", "knock-timeout", "10ms to 1m"]);
    Case::new()
        .file("[timing]\nredial = \"3s\"\nredial-max = \"100000000000 years\"")
        .refused(&["line 3", "redial-max", "to 24h"]);
    Case::new()
        .env(&[("KITH_WEIGHT", "heavy")])
        .refused(&["KITH_WEIGHT", "heavy", "whole number"]);
    Case::new().file("leave-timeout = \"1ms\"").refused(&[
        "line 1",
        "leave-timeout",
        "100ms to 24h",
    ]);
    Case::new()
        .file("seeds = [\"somewhere\"]")
        .refused(&["line 1", "somewhere", "HOST:PORT"]);
    Case::new()
        .file("max-datagram = \"1MB\"")
        .refused(&["line 1", "1MB", "2KiB"]);
    for size in ["1KB", "17MiB", "1023"] {
        Case::new()
            .env(&[("KITH_MAX_VALUE", size)])
            .refused(&["KITH_MAX_VALUE", "iB"]);
    }
    Case::new()
        .file("resp-moved = \"sometimes\"")
        .refused(&["line 1", "sometimes", "auto"]);
    Case::new()
        .env(&[("KITH_LEAVE_TIMEOUT", "soon")])
        .refused(&["KITH_LEAVE_TIMEOUT", "soon", "200ms"]);
}

#[test]
fn values_of_the_wrong_kind_are_explained_in_words_of_the_file() {
    for (text, words) in [
        ("weight = \"heavy\"", "a whole number"),
        ("leave-timeout = 5", "such as \"200ms\""),
        ("seeds = \"a:1\"", "a list"),
        ("ephemeral = \"yes\"", "a boolean"),
        ("listen = \"localhost:7400\"", "such as 127.0.0.1:7400"),
    ] {
        let setting = text.split(' ').next().unwrap();
        Case::new().file(text).refused(&["line 1", setting, words]);
    }
    Case::new()
        .env(&[("KITH_INSECURE", "maybe")])
        .refused(&["KITH_INSECURE", "true or false"]);
    let case = Case::new();
    let path = case.write("bad.key", "no key");
    let named = path.display().to_string();
    case.flags(|flags| flags.key_file = Some(path))
        .refused(&["--key-file", &named, "kith keygen"]);
}

#[test]
fn what_platforms_put_into_the_environment_is_let_be() {
    let case = Case::new().env(&[
        ("KITH_PORT", "tcp://10.0.0.1:7400"),
        ("KITH_SERVICE_HOST", "x"),
    ]);
    assert!(case.sources.load().is_ok());
}

#[test]
fn client_ports_beyond_loopback_need_a_token() {
    let public = |flags: &mut Layer| flags.http = Some("0.0.0.0:7402".parse().unwrap());
    Case::new()
        .flags(public)
        .refused(&["no token", "--token-file", "--insecure"]);
    Case::new()
        .flags(|flags| flags.resp = Some("0.0.0.0:7401".parse().unwrap()))
        .refused(&["no token", "0.0.0.0:7401", "Redis", "--token-file"]);
    let case = Case::new().flags(public);
    let path = case.write("token", "0123456789abcdef\n");
    let case = case.flags(|flags| flags.token_file = Some(path));
    assert!(case.load().token.is_some());
    let short = case.write("token", "short");
    assert!(short.exists());
    case.refused(&["--token-file", "16"]);
}

#[test]
fn keys_come_from_files_and_the_environment_and_are_never_shown() {
    let case = Case::new();
    let path = case.write("kith.key", &format!("{KEY}\n"));
    let case = case
        .flags(|flags| flags.key_file = Some(path))
        .env(&[("KITH_KEY", "nonsense")]);
    let settings = case.load();
    assert!(settings.key.is_some(), "the flag wins over the environment");

    let wrong = Case::new().env(&[("KITH_KEY", "c2VjcmV0")]);
    wrong.refused(&["KITH_KEY", "kith keygen"]);
    let text = wrong.sources.load().unwrap_err().to_string();
    assert!(!text.contains("c2VjcmV0"), "the key is shown: {text}");

    let in_file = Case::new().file(&format!("key = \"{KEY}\"")).load();
    assert!(in_file.key.is_some());
    let shown = effective::to_toml(&in_file.effective).unwrap() + &format!("{in_file:?}");
    assert!(!shown.contains(KEY), "the key is shown: {shown}");
    Case::new()
        .file(&format!("key = \"{KEY}\"\nkey-file = \"k\""))
        .refused(&["line 1", "line 2", "both give a key"]);
}

#[test]
fn an_address_that_stands_for_all_needs_one_that_can_be_told() {
    let any = |flags: &mut Layer| {
        flags.listen = Some("0.0.0.0:7400".parse().unwrap());
        flags.insecure = Some(true);
    };
    let told = Case::new()
        .flags(any)
        .flags(|flags| flags.advertise = Some("192.0.2.7:7400".parse().unwrap()));
    assert_eq!(told.load().core.advertise.to_string(), "192.0.2.7:7400");
    // The way to a seed on this machine tells an address that nobody else can use.
    Case::new()
        .flags(any)
        .flags(|flags| flags.seeds = Some(vec!["127.0.0.1:7400".to_owned()]))
        .refused(&["--advertise"]);
    Case::new()
        .flags(|flags| flags.advertise = Some("0.0.0.0:1".parse().unwrap()))
        .refused(&["--advertise", "nobody can reach"]);
}

#[test]
fn settings_in_force_can_be_given_back() {
    let first = Case::new()
        .file("seeds = [\"[::1]:7400\"]\nmax-datagram = \"2KiB\"\n[tags]\na = \"b\"\n[detection]\nbursts = false")
        .env(&[("KITH_CONSISTENCY", "strict"), ("KITH_LEAVE_TIMEOUT", "90s")])
        .load();
    let text = effective::to_toml(&first.effective).unwrap();
    let mut case = Case::new().file(&text);
    case.sources.flags = Layer::default();
    let second = case.load();
    assert_eq!(second.effective, first.effective, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    for (above, line) in lines.iter().zip(&lines[1..]) {
        let is_setting = line.contains(" = ") && !line.starts_with('#');
        let in_tags = *line == "a = \"b\"";
        assert!(
            !is_setting || in_tags || above.starts_with("# "),
            "{line} says nothing"
        );
    }
    assert!(!second.core.detection.bursts);
    assert_eq!(
        effective::to_json(&second.effective)["leave-timeout"],
        "1m 30s"
    );
}

#[test]
fn a_node_that_only_listens_to_itself_is_told_when_its_seed_is_elsewhere() {
    let settings = Case::new()
        .flags(|flags| flags.seeds = Some(vec!["192.0.2.9:7400".to_owned()]))
        .load();
    assert!(settings.warnings.iter().any(|w| w.contains("192.0.2.9")));
}

#[test]
fn when_data_reaches_the_disk_is_the_clusters_affair_unless_told_otherwise() {
    use kith_proto::{config::Consistency, replica::host::SyncMode};
    // Only the founder is told the consistency: who joins a strict cluster keeps its promise, too.
    let strict = |flags: &mut Layer| flags.consistency = Some(Consistency::Strict);
    assert_eq!(Case::new().load().partitions().sync, None);
    assert_eq!(Case::new().flags(strict).load().partitions().sync, None);
    let never = Case::new()
        .flags(strict)
        .flags(|f| f.sync = Some(Sync::Never));
    assert_eq!(never.load().partitions().sync, Some(SyncMode::Never));
}

#[test]
fn what_only_founders_decide_is_told_to_have_no_effect_elsewhere() {
    use kith_proto::config::{ClusterSettings, Consistency};
    let fixed = ClusterSettings {
        partitions: 64,
        copies: 3,
        consistency: Consistency::Strict,
    };
    let told = |case: Case| case.load().founding.without_effect("shop", &fixed);
    assert_eq!(told(Case::new()), Vec::<String>::new());
    let same = Case::new().flags(|flags| {
        flags.cluster = Some("shop".to_owned());
        flags.consistency = Some(Consistency::Strict);
        flags.partitions = Some(64);
    });
    assert_eq!(told(same), Vec::<String>::new());
    let other = Case::new().flags(|flags| {
        flags.consistency = Some(Consistency::Available);
        flags.copies = Some(5);
    });
    assert_eq!(
        told(other),
        [
            "consistency available has no effect: this cluster was founded with strict",
            "copies 5 has no effect: this cluster was founded with 3"
        ]
    );
}
