//! What the client commands print, and how they end.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::process::Command;

use kith_tests::{
    binary,
    cluster::{self, Cluster},
    host::Host,
    process::{self, Process},
    wait,
};
use serde_json::Value;

#[test]
fn tables_for_people_and_json_for_programs() {
    let cluster = cluster::of(3).start();
    expect_a_share_for_all(&cluster);

    let table = expect_success(&mut cluster.node(1).client(&["members"]).unwrap());
    for (index, name) in cluster.names().into_iter().enumerate() {
        assert!(table.contains(name), "{table}");
        let address = cluster.node(index).spec().address().to_string();
        assert!(table.contains(&address), "{table}");
    }
    assert!(
        !table.contains('\u{1b}'),
        "colour without a terminal: {table:?}"
    );

    let members = expect_json(&cluster, &["members", "--json"]);
    let members = members.as_array().unwrap();
    assert_eq!(members.len(), 3);
    assert!(
        members.iter().all(|m| m["status"] == "alive"),
        "{members:?}"
    );

    let table = expect_success(&mut cluster.node(1).client(&["ring"]).unwrap());
    assert!(
        cluster.names().iter().all(|name| table.contains(name)),
        "{table}"
    );
    let ring = expect_json(&cluster, &["ring", "--json"]);
    assert_eq!(ring.as_array().unwrap().len(), 256);
    let one = expect_json(&cluster, &["ring", "--json", "--partition", "7"]);
    assert!(one.to_string().contains("\"id\":7"), "{one}");
    // Redis Cluster's well-known example: the slot of "foo" is 12182, so partition 190 of 256.
    let one = expect_json(&cluster, &["ring", "--json", "--key", "foo"]);
    assert!(one.to_string().contains("\"id\":190"), "{one}");

    let status = wait::until("all copies to be made", || {
        let status = cluster.node(1).status().map_err(|e| format!("{e:#}"))?;
        if status.healthy {
            Ok(expect_json(&cluster, &["status", "--json"]))
        } else {
            Err(format!("{:?}", status.problems))
        }
    });
    assert_eq!(status["healthy"], true, "{status}");
    // Once owners have compared all copies.
    let safe = ["status", "--safe-to-stop", "n3"];
    wait::until("n3 to be safe to stop", || {
        let run = process::run(&mut cluster.node(1).client(&safe).unwrap());
        match run.map_err(|e| format!("{e:#}"))? {
            (0, _) => Ok(()),
            (_, text) => Err(text),
        }
    });
}

#[test]
fn the_last_member_is_not_safe_to_stop() {
    let cluster = cluster::of(1).start();
    let asked = ["status", "--safe-to-stop", "n1"];
    let (code, text) = process::run(&mut cluster.node(0).client(&asked).unwrap()).unwrap();
    assert_eq!(code, 1, "{text}");
}

#[test]
fn watch_follows_events() {
    let mut cluster = cluster::of(2).start();
    let mut command = cluster.node(0).client(&["watch"]).unwrap();
    let watch = Process::start("kith watch", &mut command).unwrap();
    // New members until one is seen: the watch may have begun after the first.
    let seen = |line: &kith_tests::log::Line| {
        let text = &line.text;
        (text.contains("member_joined") || text.contains("joined")).then_some(())
    };
    cluster.grow().unwrap();
    if watch
        .log()
        .wait("a member", 0, wait::PATIENCE / 20, seen)
        .is_err()
    {
        cluster.grow().unwrap();
        watch
            .log()
            .wait("a member", 0, wait::PATIENCE, seen)
            .unwrap();
    }
}

#[test]
fn without_an_agent_the_code_is_3() {
    let host = Host::claim().unwrap();
    let nobody = format!("http://{}", host.free().unwrap());
    for arguments in [
        &["members"][..],
        &["ring"],
        &["status"],
        &["leave"],
        &["watch"],
    ] {
        let mut command = binary::command().unwrap();
        command.args(arguments).args(["--agent", &nobody]);
        let (code, text) = process::run(&mut command).unwrap();
        assert_eq!(code, 3, "{arguments:?}: {text}");
        assert!(text.contains(&nobody[7..]), "{arguments:?}: {text}");
    }
}

#[test]
fn the_agent_can_be_named_by_the_environment() {
    let cluster = cluster::of(1).start();
    let mut command = binary::command().unwrap();
    command
        .arg("members")
        .env("KITH_AGENT", cluster.node(0).url());
    assert!(expect_success(&mut command).contains("n1"));
}

#[test]
fn the_doctor_tells_whether_a_seed_holds_the_same_key() {
    let mut cluster = cluster::of(1).start();
    let seed = cluster.spec(0).address().to_string();
    let key = cluster.spec(0).key.clone().unwrap();
    let other = cluster.folder().join("another key");
    std::fs::write(&other, cluster::test_key(2)).unwrap();
    let data = cluster.folder().join("new");
    let ask = |key: &std::path::Path| {
        let mut command = binary::command().unwrap();
        command.args([
            "doctor",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--seed",
            &seed,
        ]);
        command.arg("--key-file").arg(key);
        command.arg("--data-dir").arg(&data);
        let (_, out, _) = process::run_apart(&mut command).unwrap();
        let findings: Value = serde_json::from_str(&out).unwrap();
        let about_seed = |finding: &&Value| finding["check"] == "seed";
        let found = findings.as_array().unwrap().iter().find(about_seed);
        found.unwrap().clone()
    };
    assert_eq!(ask(&key)["verdict"], "ok");
    let found = ask(&other);
    assert_eq!(found["verdict"], "fail");
    let text = found["text"].as_str().unwrap();
    assert!(
        text.contains("does not hold the same cluster key"),
        "{text}"
    );
}

#[test]
fn keys_that_are_made_differ_and_are_keys() {
    let make = || expect_success(binary::command().unwrap().arg("keygen"));
    let (one, other) = (make(), make());
    assert_ne!(one, other);
    assert_eq!(one.trim().len(), 44, "32 bytes in base64: {one}");
}

#[test]
fn help_and_completions_name_the_commands() {
    let help = expect_success(binary::command().unwrap().arg("--help"));
    let completions = expect_success(binary::command().unwrap().args(["completions", "bash"]));
    for command in [
        "agent", "demo", "members", "ring", "status", "leave", "evict", "keygen",
    ] {
        assert!(help.contains(command), "{help}");
        assert!(completions.contains(command));
    }
    assert!(help.lines().count() <= 50, "help should fit a screen");
}

fn expect_success(command: &mut Command) -> String {
    let (code, out, err) = process::run_apart(command).unwrap();
    assert_eq!(code, 0, "{command:?}: {out}{err}");
    out
}

fn expect_json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let text = expect_success(&mut cluster.node(1).client(arguments).unwrap());
    serde_json::from_str(&text).unwrap()
}

/// Ownership is computed a moment after the members are known.
fn expect_a_share_for_all(cluster: &Cluster) {
    for node in cluster.nodes() {
        wait::until("every node to own partitions", || {
            let members = node.members().map_err(|e| format!("{e:#}"))?;
            let owned: Vec<usize> = members.iter().map(|m| m.owned).collect();
            if owned.iter().all(|&n| n > 0) {
                Ok(())
            } else {
                Err(format!("{owned:?}"))
            }
        });
    }
}
