//! A firewall between two nodes lets only one of UDP and TCP through: both say so, and nobody
//! is declared failed.

use kith_tests::{
    agent::{Agent, Spec},
    cluster,
    netns::{self, Lan, Transport},
};

/// Three nodes, of which the first is the seed of the others; `before` alters the network
/// before the last one starts.
fn start(folder: &tempfile::TempDir, before: impl Fn(&Lan)) -> (Lan, Vec<Agent>) {
    let lan = Lan::new(3).expect("three namespaces");
    let key = folder.path().join("key");
    std::fs::write(&key, cluster::test_key(1)).expect("the key file");
    let mut agents: Vec<Agent> = Vec::new();
    for index in 0..lan.len() {
        let mut spec = Spec::new(&format!("n{}", index + 1), lan.address(index, 7400));
        spec.http = "127.0.0.1:7402".parse().expect("an address");
        spec.key = Some(key.clone());
        spec.namespace = Some(lan.namespace(index).to_owned());
        if index > 0 {
            spec.seeds = vec![lan.address(0, 7400).to_string()];
        }
        if index == 2 {
            before(&lan);
        }
        let agent = spec.start().expect("an agent");
        agent.expect_ready();
        agents.push(agent);
    }
    (lan, agents)
}

/// Both ends of the way between the last two say that it is blocked, and that it is not any
/// more once it is not; nothing else happens.
fn expect_told(lan: &Lan, agents: &[Agent], blocked: &str) {
    for (agent, other) in [(&agents[1], "n3"), (&agents[2], "n2")] {
        let event = agent.expect_event(0, "member_half_blocked", other);
        assert_eq!(event.text("blocked"), blocked, "{}", event.body);
    }
    lan.heal().expect("no firewall any more");
    for (agent, other) in [(&agents[1], "n3"), (&agents[2], "n2")] {
        let event = agent.expect_event(0, "member_unblocked", other);
        assert_eq!(event.text("blocked"), blocked, "{}", event.body);
        assert!(event.number("blocked_ms").is_some(), "{}", event.body);
    }
    for agent in agents {
        agent.forbid(0, "a failure", |event| event.name() == "member_failed");
    }
}

#[test]
fn tcp_that_does_not_pass_between_two_nodes_is_told_by_both() {
    if !netns::or_skip("blocked TCP") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (lan, agents) = start(&folder, |lan| lan.block(1, 2, Transport::Tcp).unwrap());
    expect_told(&lan, &agents, "tcp");
}

#[test]
fn udp_that_does_not_pass_between_two_nodes_is_told_by_both() {
    if !netns::or_skip("blocked UDP") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (lan, agents) = start(&folder, |_| {});
    for (agent, other) in [(&agents[1], "n3"), (&agents[2], "n2")] {
        agent.expect_event(0, "member_joined", other);
    }
    lan.block(1, 2, Transport::Udp).unwrap();
    expect_told(&lan, &agents, "udp");
}
