//! Changing the cluster's key while nodes gossip.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::fs;

use kith::view::KeyView;
use kith_tests::{
    agent::Agent,
    cluster::{self, Cluster, test_key},
    http, process, wait,
};

#[test]
fn the_key_is_changed_under_way_and_the_old_one_is_refused_afterwards() {
    let mut cluster = cluster::of(4).start();
    let marks = cluster.marks();
    let new = cluster.folder().join("new key");
    fs::write(&new, test_key(2)).unwrap();
    let new_file = new.to_str().unwrap();
    let old = keys(cluster.node(0)).remove(0).id;

    // Each step through another member, and each is done by all when the command returns.
    keys_command(&cluster, 0, &["add", "--key-file", new_file]);
    let added = expect_keys(&cluster, |keys| keys.len() == 2);
    let fresh = added.into_iter().find(|key| key.id != old).unwrap();
    assert!(!fresh.primary, "added, not yet used");
    keys_command(&cluster, 1, &["use", &fresh.id]);
    expect_keys(&cluster, |keys| {
        keys.iter().all(|key| key.primary == (key.id == fresh.id))
    });
    keys_command(&cluster, 2, &["remove", &old]);
    expect_keys(&cluster, |keys| keys.len() == 1 && keys[0].id == fresh.id);

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
    let only = keys(cluster.node(0)).remove(0).id;
    let mut command = cluster.node(0).client(&["keys", "remove", &only]).unwrap();
    let (code, text) = process::run(&mut command).unwrap();
    assert_eq!(code, 1, "{text}");
    assert_eq!(keys(cluster.node(1)).len(), 1);
    cluster.expect_all_alive();
}

/// Runs a `kith keys` command until it is done: while streams are still being opened, it
/// changes nothing and says so.
fn keys_command(cluster: &Cluster, index: usize, arguments: &[&str]) {
    let arguments = [&["keys"], arguments].concat();
    wait::until(&arguments.join(" "), || {
        let mut command = cluster.node(index).client(&arguments).unwrap();
        let (code, text) = process::run(&mut command).unwrap();
        match code {
            0 => Ok(()),
            1 => Err(text),
            _ => panic!("code {code}: {text}"),
        }
    });
}

fn keys(node: &Agent) -> Vec<KeyView> {
    http::view(node.http().unwrap(), "/v1/keys").unwrap()
}

/// Waits until the keys of every node are such; gives back the first node's.
fn expect_keys(cluster: &Cluster, wanted: impl Fn(&[KeyView]) -> bool) -> Vec<KeyView> {
    for node in cluster.nodes() {
        wait::until(&format!("the keys of {}", node.name()), || {
            let keys = keys(node);
            if wanted(&keys) {
                Ok(())
            } else {
                Err(format!("{keys:?}"))
            }
        });
    }
    keys(cluster.node(0))
}
