//! An operator's own certificates on the streams between nodes.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::fs;

use kith_tests::{
    agent::Agent,
    authority::Authority,
    cluster::{self, Cluster, test_key},
    process::{self, Signal},
    wait,
};

/// A cluster with certificates of one authority, each node with its own.
fn start(nodes: usize) -> (Cluster, Authority) {
    let mut cluster = cluster::of(nodes).prepare().unwrap();
    let authority = Authority::new("company", cluster.folder()).unwrap();
    for index in 0..nodes {
        certify(&mut cluster, index, &authority);
    }
    cluster.start_all().unwrap();
    cluster.expect_all_alive();
    (cluster, authority)
}

fn certify(cluster: &mut Cluster, index: usize, authority: &Authority) {
    let name = cluster.spec(index).name.clone();
    cluster.spec(index).more = authority.flags(&name).unwrap();
}

/// How a newcomer is refused: what it printed, with code 4.
#[track_caller]
fn refused(cluster: &mut Cluster, index: usize) -> String {
    let newcomer = cluster.spec(index).start().unwrap();
    let code = newcomer.process().expect_code();
    let text = wait::until("its last words", || {
        let text = newcomer.process().log().text();
        if text.contains("error: ") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    assert_eq!(code, 4, "{text}");
    text
}

#[test]
fn nodes_with_certificates_of_one_authority_form_a_cluster_and_others_are_refused() {
    let (mut cluster, _authority) = start(3);
    let marks = cluster.marks();
    let first = cluster.spec(0).address().to_string();

    // Of another authority.
    let index = cluster.add_spec().unwrap();
    let other = Authority::new("other", cluster.folder()).unwrap();
    certify(&mut cluster, index, &other);
    let text = refused(&mut cluster, index);
    for part in ["wrong certificate", "--tls-ca", &first] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(!text.contains("wrong key"), "{text}");
    let warned = cluster
        .node(0)
        .expect_line(marks[0], "because of certificates");
    assert_eq!(warned["level"], "WARN");

    // Without any.
    cluster.spec(index).more.clear();
    let text = refused(&mut cluster, index);
    assert!(text.contains("certificates of its own"), "{text}");
    cluster.expect_all_alive();
}

#[test]
fn a_certificate_of_the_right_authority_does_not_stand_for_the_key() {
    let (mut cluster, authority) = start(1);
    let marks = cluster.marks();
    let index = cluster.add_spec().unwrap();
    certify(&mut cluster, index, &authority);
    let key = cluster.folder().join("another key");
    fs::write(&key, test_key(2)).unwrap();
    cluster.spec(index).key = Some(key);
    let text = refused(&mut cluster, index);
    assert!(text.contains("wrong key"), "{text}");
    let warned = "turned away a node that does not hold this cluster's key";
    cluster.node(0).expect_line(marks[0], warned);
    cluster.node(0).expect_alive(&["n1"]);
}

#[test]
fn the_authority_is_replaced_without_a_restart() {
    let (mut cluster, old) = start(3);
    let marks = cluster.marks();
    let new = Authority::new("successor", cluster.folder()).unwrap();
    let next = fs::read(new.ca()).unwrap();

    // First both are accepted everywhere, then certificates of the new one are shown.
    let both = [fs::read(old.ca()).unwrap(), next.clone()].concat();
    fs::write(old.ca(), &both).unwrap();
    reload_all(&cluster);
    for name in ["n1", "n2", "n3"] {
        new.flags(name).unwrap();
    }
    reload_all(&cluster);
    fs::write(old.ca(), &next).unwrap();
    reload_all(&cluster);

    let index = cluster.add_spec().unwrap();
    certify(&mut cluster, index, &new);
    cluster.start_all().unwrap();
    cluster.expect_all_alive();
    let troubles = ["member_suspected", "member_failed", "member_left"];
    cluster.forbid_everywhere(&marks, &troubles);
}

#[test]
fn a_certificate_that_cannot_be_used_changes_nothing_at_a_reload() {
    let (mut cluster, _authority) = start(1);
    let cert = cluster.spec(0).more[1].clone();
    fs::write(&cert, "no certificate").unwrap();
    let mark = cluster.node(0).mark();
    cluster.node(0).signal(Signal::HUP);
    let told = cluster.node(0).expect_line(mark, "nothing has changed");
    assert_eq!(told["level"], "ERROR");
    assert!(told["message"].as_str().unwrap().contains(&cert), "{told}");
    cluster.node(0).expect_alive(&["n1"]);
}

#[test]
fn certificates_that_cannot_be_used_are_told_at_the_start() {
    let mut cluster = cluster::of(1).prepare().unwrap();
    let authority = Authority::new("company", cluster.folder()).unwrap();
    let flags = authority.flags("n1").unwrap();
    let expired = authority.flags_until("expired", 2020).unwrap();
    let other = authority.flags("other").unwrap();
    let mut mismatch = flags.clone();
    mismatch[3].clone_from(&other[3]);
    let mut missing = flags.clone();
    missing[5] = "/no/such/file".into();
    for (flags, code, parts) in [
        (&flags[..4], 2, ["--tls-ca", "all three"]),
        (&flags[4..], 2, ["--tls-cert and --tls-key", "all three"]),
        (&expired, 1, [expired[1].as_str(), "expired on 2020-12-31"]),
        (&mismatch, 1, [other[3].as_str(), "does not belong to"]),
        (&missing, 1, ["/no/such/file", "--tls-ca"]),
    ] {
        cluster.spec(0).more = flags.to_vec();
        let mut command = cluster.spec(0).command().unwrap();
        let (ended, text) = process::run(&mut command).unwrap();
        assert_eq!(ended, code, "{flags:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
}

/// Each in its turn: what changed is told once it is in force.
fn reload_all(cluster: &Cluster) {
    let reload = |node: &Agent| {
        let mark = node.mark();
        node.signal(Signal::HUP);
        node.expect_line(mark, "settings reloaded: the certificates");
    };
    cluster.nodes().iter().for_each(reload);
}
