//! What the store promises, against a model, crashes, damage and a full disk.

mod crash;
mod damage;
mod full;
mod model;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kith_proto::{
    id::PartitionId,
    kv::{
        entry::Entry,
        version::{Hlc, Version},
    },
    store::partitions::{Batch, Page, Place, Store, StoreError},
};
use tempfile::TempDir;

use super::*;

const CACHE: u64 = 4 << 20;

fn directory() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("partitions");
    (parent, path)
}

fn open_in(directory: &Path, boot: &str) -> Result<Opened, OpenError> {
    Engine::open(Options {
        directory: directory.to_owned(),
        cache_bytes: CACHE,
        boot: Some(boot.to_owned()),
    })
}

fn open(directory: &Path) -> Engine {
    open_in(directory, "boot").unwrap().engine
}

fn place(partition: PartitionId, key: impl Into<Bytes>) -> Place {
    let key = key.into();
    let bucket = u16::from(key.first().copied().unwrap_or(0) % 4);
    Place {
        partition,
        bucket,
        key,
    }
}

fn entry(number: u64, value: impl Into<Bytes>) -> Entry {
    Entry {
        version: Version {
            epoch: 1,
            hlc: Hlc(number),
            branch: 0,
        },
        value: Some(value.into()),
        expires: None,
    }
}

fn all(store: &impl Store, partition: PartitionId) -> Result<Page, StoreError> {
    store.page(partition, None, usize::MAX, usize::MAX)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_second_opening_is_refused() {
    let (_parent, path) = directory();
    let engine = open(&path);
    let error = open_in(&path, "boot").unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    let store = engine.store();
    engine.close().unwrap();
    let error = open_in(&path, "boot").unwrap_err();
    assert!(
        matches!(error, OpenError::InUse(_)),
        "a store lives: {error}"
    );
    drop(store);
    open(&path);
}

#[test]
fn other_formats_and_foreign_directories_are_refused_untouched() {
    let (_parent, path) = directory();
    open(&path).close().unwrap();
    std::fs::write(path.join("FORMAT"), "kith partitions, format 9\n").unwrap();
    let error = open_in(&path, "boot").unwrap_err();
    let newer = matches!(error, OpenError::OtherFormat { found: 9, .. });
    assert!(newer, "{error}");
    let (_parent, path) = directory();
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("photo.jpg"), "").unwrap();
    let error = open_in(&path, "boot").unwrap_err();
    assert!(matches!(error, OpenError::Foreign(_)), "{error}");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
}

#[test]
fn a_missing_mark_or_engine_is_damage() {
    let (_parent, path) = directory();
    open(&path).close().unwrap();
    std::fs::rename(path.join("mark"), path.join("mark.away")).unwrap();
    let error = open_in(&path, "boot").unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    std::fs::rename(path.join("mark.away"), path.join("mark")).unwrap();
    std::fs::rename(path.join("fjall"), path.join("away")).unwrap();
    let error = open_in(&path, "boot").unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    std::fs::rename(path.join("away"), path.join("fjall")).unwrap();
    open(&path);
}

#[test]
fn an_interrupted_making_is_begun_anew() {
    let (_parent, path) = directory();
    open(&path).close().unwrap();
    let (mut file, mark) = mark::MarkFile::open(&path.join("mark")).unwrap();
    let making = mark::Mark {
        making: true,
        ..mark.unwrap()
    };
    file.settle(making).unwrap();
    drop(file);
    std::fs::remove_file(path.join("fjall/version")).unwrap();
    let opened = open_in(&path, "boot").unwrap();
    assert!(opened.clean && opened.same_boot);
}

/// How a store was left is known, and the boot in which something may have been forgotten
/// stays until that has been dealt with.
#[test]
fn the_last_stop_is_known() {
    let (_parent, path) = directory();
    let stop = |boot: &str| {
        let Opened {
            engine,
            clean,
            same_boot,
        } = open_in(&path, boot).unwrap();
        (engine, (clean, same_boot))
    };
    let (engine, how) = stop("A");
    assert_eq!(how, (true, true), "new");
    drop(engine);
    let (engine, how) = stop("A");
    assert_eq!(how, (false, true), "killed");
    engine.close().unwrap();
    let (engine, how) = stop("B");
    assert_eq!(how, (true, false), "stopped, then booted");
    drop(engine);
    for again in 0..3 {
        let (engine, how) = stop("C");
        assert_eq!(how, (false, false), "power cut, opened {again} times");
        if again == 1 {
            engine.close().unwrap();
        }
    }
    let (engine, _) = stop("C");
    engine.trust_this_boot().unwrap();
    drop(engine);
    let (engine, how) = stop("C");
    assert_eq!(how, (false, true), "killed");
    drop(engine);
    let nowhere = Options {
        directory: path.clone(),
        cache_bytes: CACHE,
        boot: None,
    };
    let opened = Engine::open(nowhere.clone()).unwrap();
    assert!(!opened.clean && !opened.same_boot);
    opened.engine.trust_this_boot().unwrap();
    drop(opened);
    let opened = Engine::open(nowhere).unwrap();
    assert!(!opened.same_boot, "nobody knows which boot it is");
}

#[test]
fn the_syncer_answers_everybody_and_flushes_by_itself() {
    let (_parent, path) = directory();
    let engine = open(&path);
    let syncer = Syncer::start(&engine, Some(Duration::from_millis(5))).unwrap();
    let shards = [0, 1].map(|shard: u16| {
        let (answers, inbox) = std::sync::mpsc::channel();
        let requests = syncer.connect(move |synced| answers.send(synced).unwrap());
        let mut store = engine.store();
        let written = std::thread::spawn(move || {
            for token in 0..100 {
                let mut batch = Batch::default();
                let place = place(shard, token.to_string());
                batch.entries.push((place, Some(entry(token, "v"))));
                store.write(batch).unwrap();
                requests.request(token);
            }
            requests
        });
        (written, inbox)
    });
    let mut requests = None;
    for (written, inbox) in shards {
        requests = Some(written.join().unwrap());
        for token in 0..100 {
            let synced = inbox.recv_timeout(Duration::from_secs(60)).unwrap();
            let expected = Synced {
                token,
                result: Ok(()),
            };
            assert_eq!(synced, expected);
        }
    }
    let stats = engine.stats().unwrap();
    assert_eq!((stats.written, stats.synced), (200, 200));
    assert!(stats.disk_bytes > 0);
    let mut batch = Batch::default();
    batch.facts.push(("fact", vec![1]));
    engine.store().write(batch).unwrap();
    until("flushed by itself", || {
        engine.stats().unwrap().synced == 201
    });
    engine.close().unwrap();
    drop(syncer);
    let (answers, inbox) = std::sync::mpsc::channel();
    let mut requests = requests.unwrap();
    requests.answer_with(move |synced| answers.send(synced).unwrap());
    requests.request(7);
    assert!(inbox.recv().unwrap().result.is_err(), "the syncer is gone");
}

/// A cleared partition is empty at once, and what was in it goes from the disk too, even if
/// the process ends meanwhile.
#[test]
fn what_was_cleared_is_swept() {
    let (_parent, path) = directory();
    let engine = open(&path);
    let mut store = engine.store();
    for partition in [6, 7, 8] {
        for begin in (0..3000).step_by(500) {
            let mut batch = Batch::default();
            for number in begin..begin + 500 {
                let place = place(partition, format!("key {number}"));
                batch.entries.push((place, Some(entry(number, "v"))));
            }
            store.write(batch).unwrap();
        }
    }
    let mut batch = Batch {
        cleared: vec![7],
        ..Batch::default()
    };
    let kept = (place(7, "key 5"), entry(9999, "new"));
    batch.entries.push((kept.0.clone(), Some(kept.1.clone())));
    store.write(batch).unwrap();
    let check = |store: &EngineStore| {
        assert_eq!(all(store, 7).unwrap(), std::slice::from_ref(&kept));
        assert_eq!(store.get(&place(7, "key 4")).unwrap(), None);
        assert_eq!(all(store, 6).unwrap().len(), 3000);
        assert_eq!(all(store, 8).unwrap().len(), 3000);
    };
    check(&store);
    drop((store, engine));
    let engine = open(&path);
    check(&engine.store());
    let inner = engine.shared();
    let leftovers = || {
        let range = layout::life_start(7, 0)..layout::life_start(7, 1);
        inner.keyspace.range(range).count()
    };
    until("swept", || leftovers() == 0);
    check(&engine.store());
}

/// The numbers of lives outgrow the four bytes of a place.
#[test]
fn a_partition_may_be_cleared_often() {
    const OFTEN: u64 = 70;
    let (_parent, path) = directory();
    let mut engine = open(&path);
    for life in 0..OFTEN {
        let mut batch = Batch {
            cleared: vec![7],
            ..Batch::default()
        };
        for number in 0..3 {
            let place = place(7, format!("key {}", life + number));
            batch.entries.push((place, Some(entry(life, "v"))));
        }
        let expected: Page = batch
            .entries
            .iter()
            .cloned()
            .map(|(p, e)| (p, e.unwrap()))
            .collect();
        let mut store = engine.store();
        store.write(batch).unwrap();
        for (place, there) in &expected {
            assert_eq!(store.get(place).unwrap().as_ref(), Some(there));
        }
        let there = all(&store, 7).unwrap();
        assert!(
            there.len() == 3 && expected.iter().all(|one| there.contains(one)),
            "life {life}"
        );
        if life % 16 == 0 {
            drop((store, engine));
            engine = open(&path);
            assert_eq!(all(&engine.store(), 7).unwrap(), there, "life {life}");
        }
    }
    let inner = engine.shared();
    let range = layout::life_start(7, 0)..layout::life_start(8, 0);
    until("swept", || inner.keyspace.range(range.clone()).count() == 3);
}

#[test]
fn keys_too_long_are_refused_without_breaking_anything() {
    let (_parent, path) = directory();
    let engine = open(&path);
    let mut store = engine.store();
    let longest = place(1, vec![b'k'; kith_proto::kv::MAX_KEY]);
    let longer = place(1, vec![b'k'; usize::from(u16::MAX)]);
    let write = |store: &mut EngineStore, place: &Place| {
        let entries = vec![(place.clone(), Some(entry(1, "v")))];
        store.write(Batch {
            entries,
            ..Batch::default()
        })
    };
    write(&mut store, &longest).unwrap();
    assert!(write(&mut store, &longer).is_err());
    assert_eq!(store.get(&longest).unwrap(), Some(entry(1, "v")));
    drop((store, engine));
    assert_eq!(all(&open(&path).store(), 1).unwrap().len(), 1);
}
