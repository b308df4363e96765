//! The mark: what must be found at the next opening, beside the engine's own files.
//!
//! The engine takes a damaged end of its journal for a write that a crash cut short, and drops
//! it without a word. So how far was written, and how far it was flushed to the disk, is
//! noted elsewhere; and in which boot of the machine, for what was not flushed has survived
//! the end of the process but not that of the machine.
//!
//! ```text
//!   offset 0      slot        counter u64 | written u64 | synced u64 | flags u8
//!   offset 4096   slot          | length u8 | boot id, 64 bytes | checksum u64
//! ```
//!
//! The slots are written in turn and the valid one with the larger counter counts, so a write
//! that is cut short leaves the one before. Notes of progress are not flushed: after a power
//! cut an older one may be found, which asks for less. What must not be forgotten (`settle`)
//! is written to both slots, and flushed.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use xxhash_rust::xxh3::xxh3_64;

/// Bytes kept of the boot id; the kernel's has 36.
const BOOT_LEN: usize = 64;
const SLOT_LEN: usize = 8 + 8 + 8 + 1 + 1 + BOOT_LEN + 8;
const OFFSETS: [u64; 2] = [0, 4096];
const CLEAN: u8 = 1;
const MAKING: u8 = 2;

/// What is noted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The boot of the machine in which all was written.
    pub(super) boot: Option<String>,
    /// The last process closed the store, with everything on the disk.
    pub(super) clean: bool,
    /// The store is being made: nothing has been kept in it yet.
    pub(super) making: bool,
    /// Batches up to this one were written.
    pub(super) written: u64,
    /// Batches up to this one were on the disk.
    pub(super) synced: u64,
}

/// The file, locked as long as it is open.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    counter: u64,
    mark: Mark,
}

/// The file could not be opened.
#[derive(Debug)]
pub(super) enum MarkError {
    /// Another process, or another engine of this one, has it.
    InUse,
    /// The system does not let us.
    Access(io::Error),
}

impl MarkFile {
    /// Opens the file, or makes it; the mark is `None` if no slot is valid.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<Mark>), MarkError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(MarkError::Access)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MarkError::InUse),
            Err(TryLockError::Error(error)) => return Err(MarkError::Access(error)),
        }
        let mut newest: Option<(u64, Mark)> = None;
        for offset in OFFSETS {
            let mut slot = [0; SLOT_LEN];
            match file.read_exact_at(&mut slot, offset) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(MarkError::Access(error)),
            }
            if let Some(found) = decode(&slot)
                && newest
                    .as_ref()
                    .is_none_or(|(counter, _)| *counter < found.0)
            {
                newest = Some(found);
            }
        }
        let (counter, mark) = newest.clone().unwrap_or_default();
        let file = Self {
            file,
            counter,
            mark,
        };
        Ok((file, newest.map(|(_, mark)| mark)))
    }

    /// What was noted last.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Notes progress, without flushing it.
    pub(super) fn note(&mut self, written: u64, synced: u64) -> io::Result<()> {
        self.mark.written = self.mark.written.max(written);
        self.mark.synced = self.mark.synced.max(synced);
        self.put()
    }

    /// Replaces the mark; it is on the disk when this returns.
    pub(super) fn settle(&mut self, mark: Mark) -> io::Result<()> {
        self.mark = mark;
        // One after the other: at every moment one slot on the disk is whole.
        for _slot in OFFSETS {
            self.put()?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    fn put(&mut self) -> io::Result<()> {
        self.counter += 1;
        let offset = OFFSETS[usize::from(!self.counter.is_multiple_of(2))];
        self.file
            .write_all_at(&encode(self.counter, &self.mark), offset)
    }
}

fn encode(counter: u64, mark: &Mark) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    let boot = mark.boot.as_deref().unwrap_or_default().as_bytes();
    let boot = &boot[..boot.len().min(BOOT_LEN)];
    slot[..8].copy_from_slice(&counter.to_be_bytes());
    slot[8..16].copy_from_slice(&mark.written.to_be_bytes());
    slot[16..24].copy_from_slice(&mark.synced.to_be_bytes());
    let clean = if mark.clean { CLEAN } else { 0 };
    let making = if mark.making { MAKING } else { 0 };
    slot[24] = clean | making;
    slot[25] = u8::try_from(boot.len()).unwrap_or(0);
    slot[26..26 + boot.len()].copy_from_slice(boot);
    let sum = xxh3_64(&slot[..SLOT_LEN - 8]);
    slot[SLOT_LEN - 8..].copy_from_slice(&sum.to_be_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_LEN]) -> Option<(u64, Mark)> {
    let (content, sum) = slot.split_last_chunk::<8>()?;
    if xxh3_64(content).to_be_bytes() != *sum {
        return None;
    }
    let number = |at: usize| content[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    let boot = content.get(26..26 + usize::from(content[25]))?;
    let boot = String::from_utf8(boot.to_vec()).ok()?;
    let mark = Mark {
        boot: (!boot.is_empty()).then_some(boot),
        clean: content[24] & CLEAN != 0,
        making: content[24] & MAKING != 0,
        written: number(8)?,
        synced: number(16)?,
    };
    Some((number(0)?, mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_slot_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let (mut file, found) = MarkFile::open(&path).unwrap();
        assert_eq!(found, None);
        assert!(matches!(MarkFile::open(&path), Err(MarkError::InUse)));
        let settled = Mark {
            boot: Some("boot".to_owned()),
            written: 5,
            synced: 3,
            ..Mark::default()
        };
        file.settle(settled.clone()).unwrap();
        file.note(9, 8).unwrap();
        let noted = Mark {
            written: 9,
            synced: 8,
            ..settled.clone()
        };
        let newest = OFFSETS[usize::from(!file.counter.is_multiple_of(2))];
        drop(file);
        let (file, found) = MarkFile::open(&path).unwrap();
        assert_eq!(found, Some(noted));
        file.file.write_all_at(&[0xff], newest + 9).unwrap();
        drop(file);
        let (file, found) = MarkFile::open(&path).unwrap();
        assert_eq!(found, Some(settled));
        file.file.write_all_at(&[0xff; 8192], 0).unwrap();
        drop(file);
        assert_eq!(MarkFile::open(&path).unwrap().1, None);
    }
}
