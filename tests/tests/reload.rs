//! SIGHUP: what changes while the agents run, what does not, and what they say about it.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::{fs, path::PathBuf};

use kith_tests::{
    agent::Agent,
    cluster::{self, Cluster, test_key},
    process::{self, Signal},
    wait,
};
use serde_json::{Value, json};

#[test]
fn what_can_change_does_and_the_rest_is_named_with_both_values() {
    let mut cluster = cluster::of(2).config("zone = \"a\"\n").start();
    let other = "zone = \"b\"\nweight = 250\n[tags]\nrack = \"7\"\n[timing]\nburst = \"30ms\"\n";
    fs::write(config_of(&mut cluster), other).unwrap();
    let told = reload(cluster.node(0), "settings reloaded: ");
    for part in ["weight 100 -> 250", "tags unset -> {\"rack\":\"7\"}"] {
        assert!(text(&told).contains(part), "{told}");
    }
    let warned = cluster.node(0).expect_line(0, "it takes a restart");
    assert_eq!(warned["level"], "WARN");
    for part in ["zone \"a\" -> \"b\"", "timing.burst \"20ms\" -> \"30ms\""] {
        assert!(text(&warned).contains(part), "{warned}");
    }

    // What is in force is what the agent shows, and the others are told.
    let shown = cluster.node(0).about().unwrap().config;
    assert_eq!(
        [&shown["weight"], &shown["tags"], &shown["zone"]],
        [&json!(250), &json!({"rack": "7"}), &json!("a")]
    );
    wait::until("n2 to see the new weight and tags of n1", || {
        let members = cluster.node(1).members().map_err(|e| format!("{e:#}"))?;
        let n1 = members.iter().find(|m| m.name == "n1").ok_or("no n1")?;
        if n1.weight == 250 && n1.tags.get("rack").is_some_and(|rack| rack == "7") {
            Ok(())
        } else {
            Err(format!("{n1:?}"))
        }
    });
    reload(cluster.node(0), "settings reloaded: nothing to change");
}

#[test]
fn a_broken_file_changes_nothing() {
    let mut cluster = cluster::of(1).config("weight = 50\n").start();
    let config = config_of(&mut cluster);
    for (broken, part) in [
        ("weight = 60\nwieght = 70\n", "line 2"),
        ("weight = 0\n", "1 to 10000"),
        ("weight = 60\nlog = \"kith=loud\"\n", "kith=loud"),
        (
            "weight = 60\ntoken-file = \"/no/such/file\"\n",
            "/no/such/file",
        ),
    ] {
        fs::write(&config, broken).unwrap();
        let told = reload(
            cluster.node(0),
            "settings not reloaded, nothing has changed",
        );
        assert_eq!(told["level"], "ERROR");
        assert!(text(&told).contains(part), "{told}");
        let about = cluster.node(0).about().unwrap();
        assert_eq!(about.config["weight"], 50);
    }
}

#[test]
fn a_new_key_file_on_every_machine_is_the_first_phase_of_a_rotation() {
    let mut cluster = cluster::of(3).durable().start();
    let marks = cluster.marks();
    let old = cluster.node(0).expect_keys().remove(0).id;
    let key_file = cluster.spec(0).key.clone().unwrap();
    fs::write(key_file, test_key(2)).unwrap();
    for node in cluster.nodes() {
        reload(node, "settings reloaded: the key given");
    }
    let new = cluster.expect_keys(|keys| {
        keys.len() == 2 && keys.iter().all(|key| key.primary == (key.id == old))
    });
    let new = new.into_iter().find(|key| key.id != old).unwrap().id;
    let hint = format!("`kith keys use {new}`");
    for (node, &mark) in cluster.nodes().iter().zip(&marks) {
        assert_eq!(node.expect_line(mark, &hint)["level"], "INFO");
    }

    // The second phase is asked for, and the old key removed.
    cluster.change_keys(0, &["use", &new]);
    cluster.change_keys(0, &["remove", &old]);
    cluster.expect_keys(|keys| keys.len() == 1 && keys[0].id == new);
    cluster.expect_all_alive();
    let troubles = ["member_suspected", "member_failed", "member_left"];
    cluster.forbid_everywhere(&marks, &troubles);

    // Everybody comes back with what its file holds.
    cluster.node(2).kill();
    cluster.restart(2).expect_ready();
    cluster.expect_all_alive();
}

#[test]
fn a_key_that_was_removed_is_not_added_again_by_a_file_that_still_holds_it() {
    let mut cluster = cluster::of(1).durable().start();
    let first = cluster.node(0).expect_keys().remove(0).id;
    let key_file = cluster.spec(0).key.clone().unwrap();
    fs::write(&key_file, test_key(2)).unwrap();
    reload(cluster.node(0), "settings reloaded: the key given");
    let second = cluster.node(0).expect_keys().remove(1).id;
    cluster.change_keys(0, &["remove", &second]);

    let warned = reload(cluster.node(0), "is none of this node's keys");
    assert_eq!(warned["level"], "WARN");
    let held = |cluster: &Cluster| -> Vec<String> {
        cluster
            .node(0)
            .expect_keys()
            .into_iter()
            .map(|key| key.id)
            .collect()
    };
    assert_eq!(held(&cluster), [first.as_str()]);
    // Nor by a restart.
    cluster.node(0).kill();
    cluster.restart(0).expect_ready();
    assert_eq!(held(&cluster), [first.as_str()]);
}

#[test]
fn another_token_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "the-first-token-of-all\n").unwrap();
    let flag = token.to_str().unwrap();
    let cluster = cluster::of(1).flags(&["--token-file", flag]);
    // Its members cannot be asked without the token.
    let mut cluster = cluster.prepare().unwrap();
    cluster.start_all().unwrap();
    let node = cluster.node(0);
    node.expect_ready();
    let old = folder.path().join("old");
    fs::copy(&token, &old).unwrap();
    let ask = |file: &PathBuf| {
        let file = file.to_str().unwrap();
        let arguments = ["members", "--token-file", file];
        process::run(&mut node.client(&arguments).unwrap()).unwrap()
    };
    assert_eq!(ask(&old).0, 0);
    fs::write(&token, "the-second-token-of-all\n").unwrap();
    reload(node, "settings reloaded: the token");
    assert_eq!(ask(&token).0, 0);
    let (code, told) = ask(&old);
    assert_eq!(code, 4, "{told}");
}

/// Sends SIGHUP and waits for what is said then.
#[track_caller]
fn reload(node: &Agent, expected: &str) -> Value {
    let mark = node.mark();
    node.signal(Signal::HUP);
    node.expect_line(mark, expected)
}

fn text(line: &Value) -> &str {
    line["message"].as_str().unwrap()
}

fn config_of(cluster: &mut Cluster) -> PathBuf {
    cluster.spec(0).config.clone().unwrap()
}
