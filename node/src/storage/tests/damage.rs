//! Files that are not what was written.

use std::fs;

use super::*;

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Copies a store, but of its files only what is not zeros at the end.
fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        if file.extension().is_some_and(|suffix| suffix == "jnl") {
            bytes.truncate(journal::used(&bytes));
        }
        fs::write(target, bytes).unwrap();
    }
}

/// A first copy: journals begin with 64 MiB of zeros, which need not be copied each time.
fn trimmed(parent: &TempDir, path: &Path) -> PathBuf {
    let trimmed = parent.path().join("trimmed");
    copy(path, &trimmed);
    trimmed
}

fn newest(directory: &Path) -> PathBuf {
    directory.join("fjall/0.jnl")
}

fn write(store: &mut EngineStore, number: u64) {
    let mut batch = Batch::default();
    batch
        .entries
        .push((place(1, "last"), Some(entry(number, "v"))));
    let key = format!("key {number:04}");
    let value = vec![b'v'; 50];
    batch
        .entries
        .push((place(1, key), Some(entry(number, value))));
    store.write(batch).unwrap();
}

/// How many batches are there, if what is there is exactly those.
fn batches(store: &EngineStore) -> Result<u64, StoreError> {
    let last = store.get(&place(1, "last"))?;
    let last = last.map_or(0, |entry| entry.version.hlc.0);
    let found = all(store, 1)?;
    assert_eq!(found.len() as u64, last + u64::from(last > 0));
    for number in 1..=last {
        let there = store.get(&place(1, format!("key {number:04}")))?;
        assert_eq!(there, Some(entry(number, vec![b'v'; 50])));
    }
    Ok(last)
}

/// Where the journal ends after each batch of a store; 10 are flushed, 6 more are not.
fn written(path: &Path) -> Vec<usize> {
    let engine = open(path);
    let mut store = engine.store();
    let mut ends = vec![0];
    for number in 1..=16 {
        write(&mut store, number);
        ends.push(journal::used(&fs::read(newest(path)).unwrap()));
        if number == 10 {
            engine.sync().unwrap();
        }
    }
    ends
}

fn found(path: &Path, boot: &str) -> Result<u64, String> {
    let opened = open_in(path, boot).map_err(|error| error.to_string())?;
    batches(&opened.engine.store()).map_err(|error| error.to_string())
}

#[test]
fn an_end_cut_off_is_found_if_it_was_flushed() {
    let (parent, path) = directory();
    let ends = written(&path);
    let path = trimmed(&parent, &path);
    let copied = parent.path().join("copy");
    for number in [1_u64, 2, 9, 10, 11, 12, 15, 16] {
        let end = ends[number as usize];
        let begin = ends[number as usize - 1];
        for len in [begin + 1, (begin + end) / 2, end - 1] {
            for boot in ["boot", "another"] {
                copy(&path, &copied);
                let file = fs::File::options().write(true).open(newest(&copied));
                file.unwrap().set_len(len as u64).unwrap();
                match found(&copied, boot) {
                    Ok(there) => assert_eq!((there, number > 10), (number - 1, true)),
                    Err(error) => assert!(number <= 10, "{number}, {len}: {error}"),
                }
            }
        }
    }
}

#[test]
fn a_flipped_byte_before_the_end_is_never_taken_for_the_end() {
    let (parent, path) = directory();
    let ends = written(&path);
    let path = trimmed(&parent, &path);
    let copied = parent.path().join("copy");
    for number in [1_u64, 2, 9, 10, 11, 12, 15, 16] {
        let begin = ends[number as usize - 1];
        let end = ends[number as usize];
        for at in (begin..end).step_by((end - begin) / 5) {
            for boot in ["boot", "another"] {
                copy(&path, &copied);
                let mut bytes = fs::read(newest(&copied)).unwrap();
                bytes[at] ^= 0x10;
                fs::write(newest(&copied), bytes).unwrap();
                // After a power cut what was not flushed may be gone. After the end of the
                // process only what was being written when it ended.
                let may_open = number == 16 || (number > 10 && boot == "another");
                match found(&copied, boot) {
                    Ok(there) => assert_eq!((there, may_open), (number - 1, true)),
                    Err(error) => assert!(!may_open, "{number}, {at}: {error}"),
                }
            }
        }
    }
}

/// In any file of a closed store: an error, or all of it as it was.
#[test]
fn a_flipped_byte_anywhere_is_an_error_or_harmless() {
    const BATCHES: u64 = 200;
    const FLIPS: usize = 12;
    let (parent, path) = directory();
    let engine = open(&path);
    let mut store = engine.store();
    for number in 1..=BATCHES {
        write(&mut store, number);
        if number == BATCHES / 2 {
            // So that there is a table as well as a journal.
            let inner = engine.shared();
            inner.keyspace.rotate_memtable_and_wait().unwrap();
        }
    }
    drop(store);
    engine.close().unwrap();
    let path = trimmed(&parent, &path);
    let copied = parent.path().join("copy");
    let mut refused = 0;
    for file in files(&path) {
        let target = copied.join(file.strip_prefix(&path).unwrap());
        copy(&path, &copied);
        let whole = fs::read(&target).unwrap();
        let step = (whole.len() / FLIPS).max(1);
        for at in (0..whole.len()).step_by(step) {
            copy(&path, &copied);
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&target, bytes).unwrap();
            match found(&copied, "boot") {
                Ok(there) => assert_eq!(there, BATCHES, "{} at {at}", file.display()),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 3 * FLIPS, "only {refused} flips were noticed");
}

/// A value that is damaged where the engine below does not see it: see [`layout`].
#[test]
fn what_lies_under_the_wrong_key_is_never_served() {
    let (_parent, path) = directory();
    let engine = open(&path);
    let mut store = engine.store();
    write(&mut store, 1);
    let inner = engine.shared();
    let key = |key: &'static str| layout::entry_key(&place(1, key), 0).unwrap();
    let value = inner.keyspace.get(key("key 0001")).unwrap().unwrap();
    inner.keyspace.insert(key("last"), value).unwrap();
    let error = store.get(&place(1, "last")).unwrap_err();
    assert!(
        error.0.contains("partition 1, bucket 0, key b\"last\""),
        "{error}"
    );
    assert_eq!(all(&store, 1), Err(error.clone()), "it stays broken");
    assert_eq!(engine.failure(), Some(error));
}
