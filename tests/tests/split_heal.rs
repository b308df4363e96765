//! A network that is cut in two, and mended: everybody finds everybody again.

use kith_tests::{
    agent::{Agent, Spec},
    cluster::{self, Cluster},
    netns::{self, Lan},
    process, wait,
};
use serde_json::Value;

/// Behind the proxy a cut looks like a host whose kernel answers (see [`kith_tests::proxy`]),
/// for which the patience is long by default.
const SETTINGS: &str = "[timing]\nunresponsive = \"500ms\"\n";

#[test]
fn two_sides_declare_each_other_failed_and_meet_again() {
    split_and_heal(5, 2);
}

#[test]
fn two_nodes_that_lost_each_other_meet_again() {
    split_and_heal(2, 1);
}

/// Cuts the first `left` nodes from the rest, until all on both sides have noticed; then heals.
fn split_and_heal(nodes: usize, left: usize) {
    let cluster = cluster::of(nodes).proxied().config(SETTINGS).start();
    let marks = cluster.marks();
    let names = cluster.names();
    let (ours, theirs) = names.split_at(left);

    cluster.network().split(ours, theirs);
    for (node, mark) in cluster.nodes().iter().zip(&marks) {
        for lost in other_side(node, ours, theirs) {
            node.expect_event(*mark, "member_failed", lost);
        }
    }
    cluster.expect_alive_on(&(0..left).collect::<Vec<_>>());
    cluster.expect_alive_on(&(left..nodes).collect::<Vec<_>>());

    let healing = cluster.marks();
    cluster.network().heal();
    cluster.expect_all_alive();
    expect_healed(&cluster, &healing, ours, theirs);
    // The same lives went on all the time.
    cluster.forbid_everywhere(&marks, &["member_left", "member_joined", "member_rejoined"]);
}

fn expect_healed(cluster: &Cluster, marks: &[usize], ours: &[&str], theirs: &[&str]) {
    for (node, mark) in cluster.nodes().iter().zip(marks) {
        for regained in other_side(node, ours, theirs) {
            let event = node.expect_event(*mark, "member_recovered", regained);
            assert!(event.number("failed_ms").is_some(), "{}", event.body);
        }
        let healed = node.expect_named(*mark, "cluster_healed");
        let regained = healed.list("members");
        assert!(!regained.is_empty(), "{}", healed.body);
    }
}

fn other_side<'a>(node: &Agent, ours: &'a [&str], theirs: &'a [&str]) -> &'a [&'a str] {
    if ours.contains(&node.name()) {
        theirs
    } else {
        ours
    }
}

#[test]
fn a_cut_between_machines_is_noticed_as_such_and_heals() {
    if !netns::or_skip("a cut between machines") {
        return;
    }
    let lan = Lan::new(5).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, cluster::test_key(1)).unwrap();
    let agents: Vec<Agent> = (0..lan.len())
        .map(|index| {
            let mut spec = Spec::new(&format!("n{}", index + 1), lan.address(index, 7400));
            spec.http = "127.0.0.1:7402".parse().unwrap();
            spec.key = Some(key.clone());
            spec.namespace = Some(lan.namespace(index).to_owned());
            if index > 0 {
                spec.seeds = vec![lan.address(0, 7400).to_string()];
            }
            spec.start().unwrap()
        })
        .collect();
    let everybody = ["n1", "n2", "n3", "n4", "n5"];
    for index in 0..5 {
        expect_alive_inside(&lan, index, &everybody);
    }
    let marks: Vec<usize> = agents.iter().map(Agent::mark).collect();

    lan.split(&[0, 1], &[2, 3, 4]).unwrap();
    let (ours, theirs) = everybody.split_at(2);
    for (agent, mark) in agents.iter().zip(&marks) {
        for lost in other_side(agent, ours, theirs) {
            let event = agent.expect_event(*mark, "member_failed", lost);
            assert_eq!(event.text("reason"), "unreachable", "{}", event.body);
        }
    }
    expect_alive_inside(&lan, 0, ours);
    expect_alive_inside(&lan, 4, theirs);

    lan.heal().unwrap();
    for (index, (agent, mark)) in agents.iter().zip(&marks).enumerate() {
        for regained in other_side(agent, ours, theirs) {
            agent.expect_event(*mark, "member_recovered", regained);
        }
        agent.expect_named(*mark, "cluster_healed");
        expect_alive_inside(&lan, index, &everybody);
    }
}

/// Asks a node in its namespace, where this process has no way in but the command line.
fn expect_alive_inside(lan: &Lan, index: usize, names: &[&str]) {
    let what = format!("node {} to see exactly {names:?} alive", index + 1);
    let ask = || -> Result<Vec<String>, String> {
        let kith = kith_tests::binary::kith().map_err(|e| format!("{e:#}"))?;
        let mut command = lan.enter(index, kith);
        command.args(["members", "--json", "--agent", "http://127.0.0.1:7402"]);
        let (code, out, err) = process::run_apart(&mut command).map_err(|e| format!("{e:#}"))?;
        if code != 0 {
            return Err(format!("code {code}: {err}"));
        }
        let members: Value = serde_json::from_str(&out).map_err(|e| format!("{e}: {out}"))?;
        let members = members
            .as_array()
            .ok_or_else(|| format!("no list: {out}"))?;
        let alive = members.iter().filter(|m| m["status"] == "alive");
        Ok(alive
            .filter_map(|m| m["name"].as_str().map(str::to_owned))
            .collect())
    };
    wait::until(&what, || {
        let mut alive = ask()?;
        alive.sort();
        if alive == names {
            Ok(())
        } else {
            Err(format!("{alive:?}"))
        }
    });
}
