//! What the data directory promises, and what it refuses.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt};

use kith_proto::{config::ClusterSettings, id::ClusterId, store::Cluster, wire::keyring::Key};
use tempfile::TempDir;

use super::*;

fn directory() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    (parent, path)
}

fn refused(directory: &Path) -> (DiskError, String) {
    let error = Disk::open(directory).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(directory.to_str().unwrap()), "{text}");
    (error, text)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Permissions mean nothing to root.
fn permissions_hold(path: &Path) -> bool {
    fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
    let hold = File::create(path.join("probe")).is_err();
    if !hold {
        println!("skipped: this user may write everywhere");
    }
    hold
}

#[test]
fn a_node_keeps_its_id_and_state_and_its_generation_grows() {
    let (_parent, path) = directory();
    let Opened {
        mut disk,
        node,
        generation,
        restored,
        keys,
    } = Disk::open(&path).unwrap();
    assert_eq!((restored, keys), (Restored::default(), None));
    let cluster = Some(Cluster {
        id: ClusterId(7),
        name: "kith".to_owned(),
        settings: ClusterSettings::default(),
    });
    let peers: Vec<SocketAddr> = vec!["10.0.0.1:7400".parse().unwrap(), "[::1]:1".parse().unwrap()];
    // A clock that has gone back since: the last generation lies in the future.
    let future = generation + 1_000_000_000;
    disk.store(&Durable {
        node,
        generation: future,
        cluster: cluster.clone(),
        peers: peers.clone(),
        founder: true,
    })
    .unwrap();
    drop(disk);

    let again = Disk::open(&path).unwrap();
    assert_eq!((again.node, again.generation), (node, future + 1));
    assert_eq!(
        again.restored,
        Restored {
            cluster,
            peers,
            founder: true,
        }
    );
    drop(again);
    assert_eq!(Disk::open(&path).unwrap().generation, future + 2);
}

#[test]
fn keys_are_kept_for_their_owner_only() {
    let (_parent, path) = directory();
    let mut disk = Disk::open(&path).unwrap().disk;
    let key = |n| Key::from_bytes([n; 32]);
    let mut ring = Keyring::new(key(2));
    ring.add(key(1)).unwrap();
    disk.set_given(Some(key(1).id()));
    disk.store_keys(&ring).unwrap();
    drop(disk);
    let keys = Disk::open(&path).unwrap().keys.unwrap();
    assert_eq!((keys.ring, keys.given), (ring, Some(key(1).id())));
    assert_eq!(mode(&path.join(KEYS_FILE)), 0o600);
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn an_ephemeral_node_is_new_each_time() {
    let (a, b) = (Disk::ephemeral().unwrap(), Disk::ephemeral().unwrap());
    assert_ne!(a.node, b.node);
}

#[test]
fn a_second_process_is_refused_and_told_who_the_first_is() {
    let (_parent, path) = directory();
    let first = Disk::open(&path).unwrap();
    let (error, text) = refused(&path);
    assert!(matches!(error, DiskError::InUse { .. }), "{text}");
    assert!(
        text.contains(&format!("(pid {})", std::process::id())),
        "{text}"
    );
    drop(first);
    Disk::open(&path).unwrap();
}

#[test]
fn a_directory_of_somebody_else_is_refused_and_left_as_it_is() {
    let (_parent, path) = directory();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("thesis.tex"), "").unwrap();
    let (error, text) = refused(&path);
    assert!(matches!(error, DiskError::Foreign(_)), "{text}");
    assert!(text.contains("is not a Kith data directory"), "{text}");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    // One with a marker, but not ours, is no better.
    fs::write(path.join(FORMAT_FILE), "7\n").unwrap();
    assert!(matches!(refused(&path).0, DiskError::Foreign(_)));
}

#[test]
fn a_start_that_was_interrupted_does_not_make_the_directory_foreign() {
    let (_parent, path) = directory();
    fs::create_dir(&path).unwrap();
    for name in HARMLESS.iter().filter(|name| **name != NODE_FILE) {
        fs::write(path.join(name), "").unwrap();
    }
    let node = Disk::open(&path).unwrap().node;
    fs::remove_file(path.join(FORMAT_FILE)).unwrap();
    assert_eq!(Disk::open(&path).unwrap().node, node);
}

#[test]
fn a_newer_format_is_refused() {
    let (_parent, path) = directory();
    drop(Disk::open(&path).unwrap());
    fs::write(path.join(FORMAT_FILE), format!("{FORMAT_PREFIX}2\n")).unwrap();
    assert!(matches!(
        refused(&path).0,
        DiskError::Newer { found: 2, .. }
    ));
}

#[test]
fn damage_is_found_and_never_becomes_a_new_node() {
    let (_parent, path) = directory();
    let mut disk = Disk::open(&path).unwrap().disk;
    disk.set_given(None);
    disk.store_keys(&Keyring::new(Key::from_bytes([1; 32])))
        .unwrap();
    drop(disk);
    for name in [NODE_FILE, KEYS_FILE] {
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        let last = flipped.len() - 2;
        flipped[last] ^= 1;
        for broken in [
            &flipped,
            &whole[..whole.len() - 3],
            &[],
            &[0xff; 40],
            &whole[..30],
        ] {
            fs::write(&file, broken).unwrap();
            let (error, text) = refused(&path);
            assert!(matches!(error, DiskError::Damaged { .. }), "{text}");
            assert!(text.contains("Restore the file from a backup"), "{text}");
        }
        fs::write(&file, &whole).unwrap();
    }
    fs::rename(path.join(NODE_FILE), path.join("elsewhere")).unwrap();
    assert!(matches!(refused(&path).0, DiskError::Damaged { .. }));
    fs::rename(path.join("elsewhere"), path.join(NODE_FILE)).unwrap();
    Disk::open(&path).unwrap();
}

#[test]
fn leftovers_of_an_interrupted_write_do_not_count() {
    let (_parent, path) = directory();
    let node = Disk::open(&path).unwrap().node;
    fs::write(path.join("node.toml.tmp"), "half a fi").unwrap();
    assert_eq!(Disk::open(&path).unwrap().node, node);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_clearly() {
    let (_parent, path) = directory();
    fs::create_dir(&path).unwrap();
    if permissions_hold(&path) {
        let (error, text) = refused(&path);
        assert!(matches!(error, DiskError::Access { .. }), "{text}");
    }
}

#[test]
fn a_path_that_is_no_directory_is_refused_clearly() {
    let (_parent, path) = directory();
    fs::write(&path, "a file").unwrap();
    let (error, text) = refused(&path);
    assert!(matches!(error, DiskError::Access { .. }), "{text}");
}

#[test]
fn storing_fails_loudly_when_the_directory_is_gone() {
    let (_parent, path) = directory();
    let Opened {
        mut disk,
        node,
        generation,
        ..
    } = Disk::open(&path).unwrap();
    fs::remove_dir_all(&path).unwrap();
    let durable = Durable {
        node,
        generation,
        cluster: None,
        peers: Vec::new(),
        founder: false,
    };
    assert!(matches!(
        disk.store(&durable),
        Err(DiskError::Access { .. })
    ));
}
