//! The disk is full.

use std::process::Command;

use super::*;

/// A small file system of its own; unmounted at the end.
struct Small(TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let small = Self(tempfile::tempdir().unwrap());
        small
            .run("mount", &["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
            .then_some(small)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = Command::new(program);
        command.args(arguments).arg(self.0.path());
        command.output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.run("umount", &[]);
    }
}

#[test]
fn a_full_disk_is_an_error_that_stays_and_loses_nothing_written() {
    let Some(small) = Small::mount() else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let path = small.0.path().join("partitions");
    let engine = open(&path);
    let mut store = engine.store();
    let mut written = 0;
    let first = loop {
        let place = place(1, format!("key {written}"));
        let entries = vec![(place.clone(), Some(entry(written, vec![3; 30_000])))];
        let batch = Batch {
            entries,
            ..Batch::default()
        };
        match store.write(batch) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "12 MiB took 30 MB");
    };
    assert!(first.0.contains("full"), "{first}");
    assert!(first.0.contains(path.to_str().unwrap()), "{first}");
    let place = place(1, "key 0");
    assert_eq!(store.get(&place), Err(first.clone()));
    assert_eq!(all(&store, 1), Err(first.clone()));
    assert_eq!(store.fact("fact"), Err(first.clone()));
    let mut batch = Batch::default();
    batch.facts.push(("fact", vec![1]));
    assert_eq!(store.write(batch), Err(first.clone()));
    assert_eq!(engine.sync(), Err(first.clone()));
    assert_eq!(engine.failure(), Some(first.clone()));
    assert_eq!(engine.close(), Err(first));
    drop(store);
    assert!(small.run("mount", &["-o", "remount,size=200m"]));
    let opened = open_in(&path, "boot").unwrap();
    assert!(!opened.clean && opened.same_boot);
    let found = all(&opened.engine.store(), 1).unwrap().len();
    assert!(
        found == written as usize || found == written as usize + 1,
        "{found} of {written} are there; the one that failed may be"
    );
}
