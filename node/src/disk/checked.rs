//! Small text files that are replaced as a whole and know whether they are whole.
//!
//! ```text
//!   # words for people
//!   # sha256 0123456789abcdef0123456789abcdef     of all that follows this line
//!   content
//! ```
//!
//! A file is written beside the old one, flushed to the disk, put in its place by a rename,
//! and the rename is flushed as well; so that after a power cut there is either the old
//! content or the new one. (Pillai et al., "All file systems are not created equal", OSDI
//! 2014, shows what happens to those who leave a step out.) The checksum finds what
//! happens later: bad disks, and hands.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ring::digest;

use super::DiskError;

/// What begins the line with the checksum.
const CHECKSUM_PREFIX: &str = "# sha256 ";
/// Bytes of the hash that are kept: enough against accidents, which is all that it is for.
const CHECKSUM_LEN: usize = 16;
/// Longer than any file of ours can become (bytes).
const MAX_LEN: u64 = 1 << 20;

/// A file could not be read or written.
#[derive(Debug)]
pub(crate) enum FileError {
    /// The system does not let us.
    Access {
        /// What was tried.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is not what was written.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Replaces a file. `header` is lines of comment.
pub(super) fn write(path: &Path, header: &str, content: &str, mode: u32) -> Result<(), DiskError> {
    let text = format!("{header}{CHECKSUM_PREFIX}{}\n{content}", checksum(content));
    Ok(replace(path, text.as_bytes(), mode)?)
}

/// The content of a file; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>, FileError> {
    let damaged = |problem: &str| FileError::Damaged {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let bytes = match fs::metadata(path).and_then(|about| {
        if about.len() > MAX_LEN {
            return Ok(None);
        }
        fs::read(path).map(Some)
    }) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(damaged("it is far too long")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(access(path, error)),
    };
    let text = String::from_utf8(bytes).map_err(|_may_hold_secrets| damaged("it is not text"))?;
    let Some((_, checked)) = text.split_once(CHECKSUM_PREFIX) else {
        return Err(damaged("its checksum is missing"));
    };
    match checked.split_once('\n') {
        Some((sum, content)) if sum == checksum(content) => Ok(Some(content.to_owned())),
        _ => Err(damaged("its checksum does not match its content")),
    }
}

/// Puts `bytes` in the place of a file: all or nothing, and on the disk when this returns.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    // A leftover might have another mode, which opening would not change.
    match fs::remove_file(&beside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(access(&beside, error)),
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(|error| access(&beside, error))?;
    fs::rename(&beside, path).map_err(|error| access(path, error))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| access(directory, error))
}

fn checksum(content: &str) -> String {
    let hash = digest::digest(&digest::SHA256, content.as_bytes());
    hash.as_ref()[..CHECKSUM_LEN]
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to a string does not fail.
            write!(hex, "{byte:02x}").unwrap_or_default();
            hex
        })
}

fn access(path: &Path, error: io::Error) -> FileError {
    FileError::Access {
        path: path.to_owned(),
        error,
    }
}
