//! Strict clusters: going on by an operator's word.

use std::time::Duration;

use kith_proto::{
    config::Consistency, event::Event, kv::request::RequestError, replica::host::Standing,
};

use crate::cluster::Cluster;

const A_WHILE: Duration = Duration::from_secs(30);

fn recovered(cluster: &Cluster) -> Vec<(Vec<String>, Vec<String>)> {
    let of = |event: &Event| match event {
        Event::PartitionRecovered {
            members, without, ..
        } => Some((members.clone(), without.clone())),
        _ => None,
    };
    cluster
        .events
        .iter()
        .filter_map(|(_, event)| of(event))
        .collect()
}

fn one_failed_and_two_may_have_forgotten() -> Cluster {
    let mut cluster = Cluster::new(3, Consistency::Strict);
    cluster.set(0, "key", "before").expect("all are there");
    cluster.standing[0] = Standing::Failed;
    for node in [1, 2] {
        cluster.machine_restarts(node);
    }
    cluster.show_with_places_kept();
    cluster.run(A_WHILE);
    cluster
}

fn all_serve(cluster: &mut Cluster) {
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        for node in 0..cluster.shards.len() {
            let set = cluster.set(node, key, "value");
            assert!(set.is_ok(), "{key} by n{node}: {set:?}");
        }
    }
}

#[test]
fn a_minority_goes_on_when_told_to_and_the_others_join_it_later() {
    let mut cluster = Cluster::new(3, Consistency::Strict);
    cluster.set(0, "key", "before").unwrap();
    for node in [0, 1] {
        cluster.standing[node] = Standing::Failed;
    }
    cluster.show_with_places_kept();
    cluster.run(Duration::from_secs(2));
    let early = cluster.recover(2);
    assert!(
        early.begun.is_empty() && !early.waiting.is_empty(),
        "not at once: {early:?}"
    );
    cluster.run(A_WHILE);
    let refused = cluster.set(2, "key", "refused");
    assert!(
        matches!(refused, Err(RequestError::Unavailable(_))),
        "{refused:?}"
    );
    assert_eq!(cluster.recover(2).begun.len(), 4);
    cluster.run(A_WHILE);
    cluster.set(2, "key", "alone").unwrap();
    let told = recovered(&cluster);
    assert_eq!(told.len(), 4);
    let summaries = cluster.events.iter().filter_map(|(_, event)| match event {
        Event::RecoverySummary {
            partitions,
            without,
        } => Some((*partitions, without.join(" "))),
        _ => None,
    });
    let summaries: Vec<(usize, String)> = summaries.collect();
    let partitions = summaries.iter().map(|(partitions, _)| partitions);
    assert_eq!(partitions.sum::<usize>(), 4);
    assert!(
        summaries.iter().all(|(_, without)| without == "n0 n1"),
        "{summaries:?}"
    );
    for (members, mut without) in told {
        without.sort();
        assert_eq!(
            (members, without),
            (
                vec!["n2".to_owned()],
                vec!["n0".to_owned(), "n1".to_owned()]
            )
        );
    }
    // The others come back as a majority of what was: they go on, meet the other branch, and are joined.
    for node in [0, 1] {
        cluster.standing[node] = Standing::Living;
    }
    cluster.show();
    cluster.run(A_WHILE * 2);
    all_serve(&mut cluster);
    for node in 0..3 {
        let entry = cluster.entry(node, "key").unwrap();
        assert_eq!(entry.value.unwrap(), "alone", "n{node}");
    }
}

#[test]
fn machines_that_may_have_forgotten_go_on_when_told_to_and_a_late_one_follows() {
    let mut cluster = one_failed_and_two_may_have_forgotten();
    let refused = cluster.set(1, "key", "refused");
    assert!(
        matches!(refused, Err(RequestError::Unavailable(_))),
        "{refused:?}"
    );
    let at_both = cluster.recover(1).begun.len();
    assert_eq!(at_both, 4, "learners are told as well");
    cluster.run(A_WHILE);
    cluster.set(1, "key", "after").unwrap();
    // The one that was away can decide nothing with the two others gone on: it follows.
    cluster.standing[0] = Standing::Living;
    cluster.show();
    cluster.run(A_WHILE * 2);
    all_serve(&mut cluster);
    for node in 0..3 {
        let entry = cluster.entry(node, "key").unwrap();
        assert_eq!(entry.value.unwrap(), "after", "n{node}");
    }
}

#[test]
fn an_available_cluster_needs_no_word() {
    let mut cluster = Cluster::new(3, Consistency::Available);
    for node in [0, 1] {
        cluster.standing[node] = Standing::Failed;
    }
    cluster.show_with_places_kept();
    cluster.run(A_WHILE);
    let recovery = cluster.recover(2);
    assert!(recovery.begun.is_empty() && recovery.waiting.is_empty());
    assert_eq!(recovery.unneeded, 4);
    cluster.set(2, "key", "alone").unwrap();
}

/// The word is said at every member, and again at once: what goes on already is left alone.
#[test]
fn what_has_just_gone_on_is_not_recovered_anew() {
    let mut cluster = one_failed_and_two_may_have_forgotten();
    assert_eq!(cluster.recover(1).begun.len(), 4);
    for node in [1, 2, 1, 2] {
        let again = cluster.recover(node);
        assert_eq!(again.begun, [0; 0], "at n{node}");
        cluster.run(Duration::from_millis(300));
    }
    cluster.run(A_WHILE);
    assert_eq!(recovered(&cluster).len(), 4, "each once");
    assert_eq!(cluster.recover(2).unneeded, 4);
    cluster.set(1, "key", "after").unwrap();
}
