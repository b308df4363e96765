//! Disks that fail a node: full to the last byte, or not what was written. It does not serve what
//! it cannot keep, says so, others take over, and it is back once that is mended.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use kith_tests::{
    checker::{self, Checker},
    cluster::{self, Cluster, Plan},
    small_disk::SmallDisk,
    wait,
};

/// Enough for what a node keeps in a test.
const ROOM_MIB: u32 = 64;
const KEYS: usize = 40;
const WRITERS: usize = 4;

#[test]
fn a_disk_full_to_the_last_byte_stops_its_node_alone_and_loses_nothing() {
    let mut cluster = plan().prepare().unwrap();
    let folder = cluster.folder().join("n3");
    let disk = match SmallDisk::mount(&folder, ROOM_MIB) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("skipped: a full disk needs a file system of its own: {error:#}");
            return;
        }
    };
    cluster.spec(2).through = disk.inside();
    cluster.start_all().unwrap();
    let checker = written(&cluster);
    let mark = cluster.node(2).mark();
    disk.fill().unwrap();

    // Writers go on until a page is full that it can find no other for.
    checker.through(cluster.others(2));
    assert_eq!(cluster.node(2).process().expect_code(), 1);
    // What it finds out first may be its own state or what partitions hold.
    let told = cluster.node(2).expect_line(mark, "his node stops");
    assert_eq!(told["level"], "ERROR");
    let words = last_words(&cluster, 2);
    for part in ["full", folder.to_str().unwrap()] {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
    checker.expect_progress();
    checker.expect_nothing_lost(cluster.others(2));
    cluster.expect_copies_on(&[0, 1, 3, 4]);

    disk.relieve().unwrap();
    cluster.restart(2);
    checker.expect_health(&cluster);
}

#[test]
fn a_node_whose_records_were_damaged_does_not_start_and_a_new_one_gets_its_copies() {
    let mut cluster = plan().prepare().unwrap();
    cluster.start_all().unwrap();
    let checker = written(&cluster);
    let former = cluster.node(1).expect_ready();
    checker.through(cluster.others(1));
    cluster.node(1).kill();
    checker.expect_progress();
    let folder = cluster.folder().join("n2");
    let damaged = damage(&folder);

    cluster.restart(1);
    assert_eq!(cluster.node(1).process().expect_code(), 1);
    let words = last_words(&cluster, 1);
    for part in [
        damaged.to_str().unwrap(),
        "is damaged",
        "move the whole data directory away",
    ] {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
    checker.expect_progress();

    fs::rename(&folder, cluster.folder().join("moved away")).unwrap();
    cluster.restart(1);
    cluster.expect_all_alive();
    cluster.node(0).library().evict(&former.id).unwrap();
    checker.expect_health(&cluster);
}

/// What a node prints when it ends in trouble.
fn last_words(cluster: &Cluster, index: usize) -> String {
    wait::until("its last words", || {
        let text = cluster.node(index).process().log().text();
        let found = text.lines().find(|line| line.starts_with("error: "));
        found.map(str::to_owned).ok_or(text.clone())
    })
}

/// Turns one byte over in the middle of what a node has written last.
fn damage(folder: &Path) -> PathBuf {
    let journals = fs::read_dir(folder.join("partitions/fjall")).unwrap();
    let journal = journals
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|suffix| suffix == "jnl"))
        .unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 0x55;
    fs::write(&journal, bytes).unwrap();
    journal
}

fn plan() -> Plan {
    cluster::of(5).durable().flags(&["--partitions", "64"])
}

fn written(cluster: &Cluster) -> Checker {
    cluster.expect_all_alive();
    cluster.expect_healthy();
    let through = cluster.nodes().iter().map(|node| node.library()).collect();
    let checker = Checker::begin(&checker::keys("key-", KEYS), WRITERS, through);
    checker.expect_progress();
    checker
}
