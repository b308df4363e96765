//! `--expect N`: a cluster is bootstrapped once, by nodes that list each other.

use std::collections::BTreeSet;

use kith_tests::{agent::Agent, cluster};

const SETTINGS: &str = "[timing]\njoin-report = \"300ms\"\nredial = \"200ms\"\n";

#[test]
fn three_nodes_that_list_each_other_bootstrap_one_cluster_when_all_are_there() {
    let plan = cluster::of(3).config(SETTINGS).flags(&["--expect", "3"]);
    let mut cluster = plan.prepare().unwrap();
    let everybody: Vec<String> = (0..3)
        .map(|i| cluster.spec(i).address().to_string())
        .collect();
    for index in 0..3 {
        cluster.spec(index).seeds = everybody.clone();
    }
    let mut agents = Vec::new();
    for index in [0, 1] {
        agents.push(cluster.spec(index).start().unwrap());
    }
    for agent in &agents {
        agent.expect_named(0, "join_waiting");
    }
    // Two are not enough, however long they wait.
    for agent in &agents {
        let mark = agent.mark();
        agent.expect_named(mark, "join_waiting");
        agent.forbid(0, "that it is a member", |e| e.name() == "agent_ready");
    }

    agents.push(cluster.spec(2).start().unwrap());
    for agent in &agents {
        agent.expect_alive(&["n1", "n2", "n3"]);
    }
    assert_eq!(clusters(&agents).len(), 1, "{:?}", clusters(&agents));
}

#[test]
fn a_node_that_comes_late_joins_the_cluster_that_is_there() {
    let plan = cluster::of(2).config(SETTINGS).flags(&["--expect", "2"]);
    let mut cluster = plan.prepare().unwrap();
    let both: Vec<String> = (0..2)
        .map(|i| cluster.spec(i).address().to_string())
        .collect();
    for index in 0..2 {
        cluster.spec(index).seeds = both.clone();
    }
    cluster.start_all().unwrap();
    cluster.expect_all_alive();
    let index = cluster.add_spec().unwrap();
    cluster.spec(index).seeds = both;
    cluster.start_all().unwrap();
    cluster.expect_all_alive();
    assert_eq!(clusters(cluster.nodes()).len(), 1);
}

fn clusters(agents: &[Agent]) -> BTreeSet<String> {
    let ready = agents.iter().map(Agent::expect_ready);
    ready
        .map(|r| r.event.text("cluster_id").to_owned())
        .collect()
}
