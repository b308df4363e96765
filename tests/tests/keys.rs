//! Changing the cluster's key while nodes gossip.

use std::fs;

use kith_tests::{
    cluster::{self, test_key},
    process,
};

#[test]
fn the_key_is_changed_under_way_and_the_old_one_is_refused_afterwards() {
    let mut cluster = cluster::of(4).start();
    let marks = cluster.marks();
    let new = cluster.folder().join("new key");
    fs::write(&new, test_key(2)).unwrap();
    let new_file = new.to_str().unwrap();
    let old = cluster.node(0).expect_keys().remove(0).id;

    // Each step through another member, and each is done by all when the command returns.
    cluster.change_keys(0, &["add", "--key-file", new_file]);
    let added = cluster.expect_keys(|keys| keys.len() == 2);
    let fresh = added.into_iter().find(|key| key.id != old).unwrap();
    assert!(!fresh.primary, "added, not yet used");
    cluster.change_keys(1, &["use", &fresh.id]);
    cluster.expect_keys(|keys| keys.iter().all(|key| key.primary == (key.id == fresh.id)));
    cluster.change_keys(2, &["remove", &old]);
    cluster.expect_keys(|keys| keys.len() == 1 && keys[0].id == fresh.id);

    cluster.expect_all_alive();
    let troubles = ["member_suspected", "member_failed", "member_left"];
    cluster.forbid_everywhere(&marks, &troubles);

    // Whoever comes with the old key is refused, and with the new one welcome.
    let index = cluster.add_spec().unwrap();
    let late = cluster.spec(index).start().unwrap();
    assert_eq!(late.process().expect_code(), 4);
    assert!(late.process().log().text().contains("key"));
    cluster.spec(index).key = Some(new);
    cluster.start_all().unwrap();
    cluster.expect_all_alive();
}

#[test]
fn the_key_in_use_cannot_be_removed() {
    let cluster = cluster::of(2).start();
    let only = cluster.node(0).expect_keys().remove(0).id;
    let mut command = cluster.node(0).client(&["keys", "remove", &only]).unwrap();
    let (code, text) = process::run(&mut command).unwrap();
    assert_eq!(code, 1, "{text}");
    assert_eq!(cluster.node(1).expect_keys().len(), 1);
    cluster.expect_all_alive();
}
