//! A node that comes back at another address is the same node.

use kith::view::Status;
use kith_tests::{cluster, host::Host};

#[test]
fn a_node_that_moved_is_known_at_its_new_address() {
    let mut cluster = cluster::of(4).durable().start();
    let before = cluster.node(1).expect_ready();
    let marks = cluster.marks();
    cluster.node(1).kill();
    cluster.expect_on_others(1, &marks, "member_failed");

    let elsewhere = Host::claim().unwrap();
    let address = elsewhere.free().unwrap();
    let spec = cluster.spec(1);
    spec.listen = address;
    spec.http.set_ip(elsewhere.ip());

    let marks = cluster.marks();
    let after = cluster.restart(1).expect_ready();
    assert_eq!(after.id, before.id);
    assert_eq!(after.gossip, address);
    for event in cluster.expect_on_others(1, &marks, "member_rejoined") {
        assert_eq!(event.text("address"), address.to_string(), "{}", event.body);
    }
    cluster.expect_all_alive();
    for node in cluster.nodes() {
        let view = node.expect_status("n2", Status::Alive);
        assert_eq!(view.address, address);
    }
}

#[test]
fn a_node_that_moved_at_once_is_not_taken_for_a_second_one() {
    let mut cluster = cluster::of(3).durable().start();
    let before = cluster.node(2).expect_ready();
    cluster.node(2).kill();
    let elsewhere = Host::claim().unwrap();
    let address = elsewhere.free().unwrap();
    cluster.spec(2).listen = address;
    let after = cluster.restart(2).expect_ready();
    assert_eq!(after.id, before.id);
    cluster.expect_all_alive();
    for node in cluster.nodes() {
        assert_eq!(node.expect_status("n3", Status::Alive).address, address);
    }
}
