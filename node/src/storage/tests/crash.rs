//! The process is killed while it writes.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use super::*;

const DIRECTORY: &str = "KITH_TEST_STORE";
const WRITERS: u16 = 2;
const ENTRIES: u64 = 5;
const WORD: &str = "wrote ";

fn batch_of(writer: u16, number: u64) -> Batch {
    let mut batch = Batch::default();
    for i in 0..ENTRIES {
        let place = place(writer, format!("{number}.{i}"));
        batch
            .entries
            .push((place, Some(entry(number, vec![7; 200]))));
    }
    let last = number.to_be_bytes();
    let last = (place(writer, "last"), Some(entry(number, last.to_vec())));
    batch.entries.push(last);
    batch
}

/// What the child does: writes for ever and tells of each batch once it is written.
#[test]
#[ignore = "runs as a child of the test below"]
fn child() {
    let directory = PathBuf::from(env::var_os(DIRECTORY).expect("only run as a child"));
    let engine = open(&directory);
    let _syncer = Syncer::start(&engine, Some(Duration::from_millis(10))).unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let mut store = engine.store();
        let next = last_of(&store, writer) + 1;
        std::thread::spawn(move || {
            for number in next.. {
                store.write(batch_of(writer, number)).unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "{WORD}{writer} {number}").unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        writer.join().unwrap();
    }
}

fn start(directory: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "storage::tests::crash::child"])
        .args(["--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The last batch of a writer that the store knows of.
fn last_of(store: &EngineStore, writer: u16) -> u64 {
    let Some(entry) = store.get(&place(writer, "last")).unwrap() else {
        return 0;
    };
    let value = entry.value.unwrap();
    u64::from_be_bytes(value.as_ref().try_into().unwrap())
}

#[test]
fn what_was_reported_as_written_survives_kill_9() {
    let (_parent, path) = directory();
    for round in 0..4_usize {
        let mut child = start(&path);
        let out = child.stdout.take().unwrap();
        let mut reported = [0; WRITERS as usize];
        let mut lines = 0;
        for line in BufReader::new(out).lines() {
            let line = line.unwrap();
            // The test harness's own words may stand before it.
            let Some(at) = line.find(WORD) else {
                continue;
            };
            let mut words = line[at + WORD.len()..].split(' ');
            let writer: usize = words.next().unwrap().parse().unwrap();
            let Some(Ok(number)) = words.next().map(str::parse) else {
                continue;
            };
            reported[writer] = number;
            lines += 1;
            if lines == 50 + 400 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(lines >= 50, "the child wrote {lines} batches");
        let opened = open_in(&path, "boot").unwrap();
        assert!(!opened.clean && opened.same_boot);
        let store = opened.engine.store();
        for writer in 0..WRITERS {
            let last = last_of(&store, writer);
            let reported = reported[usize::from(writer)];
            assert!(last >= reported, "{last} is there, {reported} was reported");
            let found = all(&store, writer).unwrap();
            let expected = last * ENTRIES + u64::from(last > 0);
            assert_eq!(found.len() as u64, expected, "batches are whole");
        }
    }
}
