//! The library as an embedding program sees it: nodes in one process, on real sockets.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the report"
)]

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, Instant},
};

use kith::{
    handle::Handle,
    node::{Node, NodeOptions},
    view::Status,
};
use kith_proto::{config::Config, id::NodeId, output::Stop};

const PATIENCE: Duration = Duration::from_secs(30);

async fn start(number: u8, seeds: &[String]) -> Handle {
    let listen = format!("127.0.0.{number}:0").parse().unwrap();
    let mut config = Config::new(NodeId(0), &format!("n{number}"), listen);
    config.seeds = seeds.to_vec();
    let options = NodeOptions {
        config,
        listen,
        data_dir: None,
        key: None,
        certificates: None,
        insecure: false,
        settings: BTreeMap::new(),
        partitions: Default::default(),
    };
    Node::start(options).await.unwrap()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn alive(node: &Handle) -> usize {
    let members = node.members().await.unwrap();
    members
        .iter()
        .filter(|member| member.status == Status::Alive)
        .count()
}

#[tokio::test]
async fn nodes_find_each_other_share_the_work_and_leave() {
    let first = start(1, &[]).await;
    let seed = first.agent().await.unwrap().gossip.to_string();
    let mut nodes = vec![first];
    for number in 2..=5 {
        nodes.push(start(number, std::slice::from_ref(&seed)).await);
    }
    for node in &nodes {
        eventually("all see all", async || alive(node).await == 5).await;
    }
    for node in &nodes {
        eventually("every partition has three places", async || {
            let partitions = node.partitions(None).await.unwrap();
            partitions.len() == 256 && partitions.iter().all(|p| p.backups.len() == 2)
        })
        .await;
    }

    let leaver = nodes.remove(2);
    leaver.leave(false).await.unwrap();
    match leaver.stopped().await {
        Stop::Left { acknowledged } => assert!(acknowledged >= 3, "{acknowledged} have heard"),
        other => panic!("{other:?}"),
    }
    for node in &nodes {
        eventually("it left", async || {
            let members = node.members().await.unwrap();
            members
                .iter()
                .any(|member| member.name == "n3" && member.status == Status::Left)
        })
        .await;
        assert_eq!(alive(node).await, 4);
    }
}
