//! The engine's journal: read before the engine reads it, and flushed beside it.
//!
//! fjall appends each batch to its newest journal, `N.jnl`, seals that one at 64 MB (flushing
//! it first), and removes it when all of it is in tables. At opening it stops at the first
//! thing that it does not understand, drops the rest of that file, and goes on with the next:
//! a flipped bit would silently take back everything after it. So [`check`] goes first.
//!
//! ```text
//!   batch    start: 1 | items u32 | engine's number u64
//!            item:  2 | type u8 | compression u8 | keyspace u64 | key length u16
//!                     | value length u32 | the same on the disk u32 | key | value
//!            clear: 4 | keyspace u64
//!            end:   3 | hash u64 (xxh3 of items) | "FJL" 3
//!   file     batch, batch, … then zeros, or the end of the file          (little-endian)
//! ```
//!
//! Which ends are harmless depends on what happened:
//!
//! - a sealed journal, or any after a clean stop: none;
//! - the process ended: the last batch may be incomplete, but no whole one may follow;
//! - the machine stopped: what had not been flushed may be gone, in any order of pages.
//!
//! The last is cut off here, whatever it looks like (the engine would refuse some of it); that
//! nothing flushed was in it is then seen by the sequence of the last batch, against the mark.
//! Sequences within the journals have no gaps.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

use super::layout;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = [b'F', b'J', b'L', 3];
const SUFFIX: &str = "jnl";

/// What the end of the newest journal may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The store was closed: all is whole.
    Closed,
    /// The process ended: the last batch may be incomplete.
    Killed,
    /// The machine stopped: what was not flushed may be gone.
    PowerCut,
}

/// A journal is not what was written.
#[derive(Debug)]
pub(super) enum JournalError {
    /// The system does not let us.
    Access(PathBuf, io::Error),
    /// Where, and what is wrong.
    Damaged(PathBuf, String),
}

/// Checks all journals of an engine, and cuts a harmless end off. Batches up to `least` must be
/// there, or in tables.
pub(super) fn check(directory: &Path, ending: Ending, least: u64) -> Result<(), JournalError> {
    let journals = list(directory).map_err(|e| JournalError::Access(directory.to_owned(), e))?;
    let mut last: Option<u64> = None;
    for (i, &number) in journals.iter().enumerate() {
        let path = path(directory, number);
        let damaged = |problem: String| JournalError::Damaged(path.clone(), problem);
        if i > 0 && journals[i - 1] + 1 != number {
            return Err(damaged(format!("journal {} is missing", number - 1)));
        }
        let bytes = fs::read(&path).map_err(|e| JournalError::Access(path.clone(), e))?;
        let bytes = &bytes[..used(&bytes)];
        let mut at = 0;
        while let Some((end, sequence)) = batch(bytes, at) {
            if let (Some(last), Some(sequence)) = (last, sequence)
                && sequence != last + 1
            {
                return Err(damaged(format!(
                    "at byte {at}, batch {sequence} follows batch {last}"
                )));
            }
            last = sequence.or(last);
            at = end;
        }
        if at == bytes.len() {
            continue;
        }
        let is_newest = i + 1 == journals.len();
        let harmless = is_newest
            && match ending {
                Ending::Closed => false,
                Ending::Killed => !a_batch_follows(bytes, at),
                Ending::PowerCut => true,
            };
        if !harmless {
            return Err(damaged(format!(
                "what begins at byte {at} is not what was written"
            )));
        }
        if let Some(last) = last.filter(|last| *last < least) {
            return Err(damaged(missing(last, least)));
        }
        cut(&path, at).map_err(|e| JournalError::Access(path.clone(), e))?;
    }
    Ok(())
}

/// Where batches that are missing at the end would have been: the newest journal, or the directory if
/// there is none.
pub(super) fn newest(directory: &Path) -> PathBuf {
    let newest = list(directory).ok().and_then(|all| all.last().copied());
    newest.map_or_else(|| directory.to_owned(), |number| path(directory, number))
}

/// What is wrong if batches end too early.
pub(super) fn missing(last: u64, least: u64) -> String {
    format!("batches {} to {least} are missing", last + 1)
}

/// How many bytes there are before the zeros at the end, of which there may be 64 MiB.
pub(super) fn used(bytes: &[u8]) -> usize {
    const PIECE: [u8; 4096] = [0; 4096];
    let mut used = bytes.len();
    while let Some(shorter) = used.checked_sub(PIECE.len())
        && bytes[shorter..used] == PIECE
    {
        used = shorter;
    }
    let last = bytes[..used].iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// Whether a whole batch begins anywhere after a place.
fn a_batch_follows(bytes: &[u8], at: usize) -> bool {
    (at + 1..bytes.len()).any(|at| bytes[at] == START && batch(bytes, at).is_some())
}

fn cut(path: &Path, len: usize) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(u64::try_from(len).map_err(io::Error::other)?)?;
    file.sync_all()
}

/// Where a whole batch that begins at a place ends, and its sequence if it has one.
fn batch(bytes: &[u8], at: usize) -> Option<(usize, Option<u64>)> {
    let mut rest = Rest { bytes, at };
    if rest.u8()? != START {
        return None;
    }
    let items = rest.u32()?;
    rest.take(8)?;
    let mut hash = Xxh3::new();
    let mut sequence = None;
    for _item in 0..items {
        let begin = rest.at;
        match rest.u8()? {
            ITEM => {
                rest.take(1 + 1 + 8)?;
                let key_len = usize::from(rest.u16()?);
                rest.take(4)?;
                let value_len = usize::try_from(rest.u32()?).ok()?;
                let key = rest.take(key_len)?;
                let value = rest.take(value_len)?;
                if key == layout::HEAD {
                    sequence = Some(layout::unseal_number(key, value)?);
                }
            }
            CLEAR => drop(rest.take(8)?),
            _ => return None,
        }
        hash.update(&bytes[begin..rest.at]);
    }
    let whole = rest.u8()? == END
        && rest.take(8)? == hash.digest().to_le_bytes()
        && rest.take(TRAILER.len())? == TRAILER;
    whole.then_some((rest.at, sequence))
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
}

/// The numbers of the journals, in order.
fn list(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX)
            && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
            && let Ok(number) = stem.parse()
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.{SUFFIX}"))
}

/// Flushes the newest journal to the disk without holding up those who append to it, as the
/// engine's own way would.
#[derive(Debug)]
pub(super) struct Flusher {
    directory: PathBuf,
    number: u64,
    file: File,
}

impl Flusher {
    /// For the journals in an engine's directory.
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let newest = list(directory)?.pop();
        let number = newest.ok_or_else(|| io::Error::other("there is no journal"))?;
        Ok(Self {
            directory: directory.to_owned(),
            number,
            file: File::open(path(directory, number))?,
        })
    }

    /// Everything that was appended before is on the disk when this returns: it is either in
    /// the newest journal, or in one that was flushed before a newer one was begun.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if path(&self.directory, self.number + 1).try_exists()? {
            *self = Self::new(&self.directory)?;
        }
        self.file.sync_data()
    }
}
