//! The data directory: who this node is, which cluster it belongs to, and its keys.
//!
//! ```text
//!   DIR/FORMAT      "kith data directory, format 1": checked before all else, written once
//!                   node.toml is there, so that one without the other means damage
//!   DIR/lock        held by the running process; tells its process id
//!   DIR/node.toml   id, generation, cluster, addresses of peers (`Durable`)
//!   DIR/keys        the key ring, readable by its owner only
//! ```
//!
//! The last two are text for people with a checksum for the machine, and are replaced as a
//! whole (see [`checked`]). The rule for everything here: never go on with less than what
//! was written. A directory that is not ours, a newer format, a damaged file or a second
//! process end the start with a message that says what to do; silently becoming a new node
//! would make the cluster see a stranger, and the old one as failed.

mod checked;
mod keys;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use kith_proto::{
    id::NodeId,
    store::{Durable, Restored},
    wire::keyring::{KeyId, Keyring},
};
use ring::rand::{SecureRandom, SystemRandom};

use self::checked::FileError;
pub(crate) use self::{
    checked::replace,
    keys::{StoredKeys, choose_ring},
};
use crate::clock::unix_millis;

/// What begins every FORMAT file of ours.
const FORMAT_PREFIX: &str = "kith data directory, format ";
/// The format that this build writes, and the newest that it reads.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "lock";
const NODE_FILE: &str = "node.toml";
const KEYS_FILE: &str = "keys";
/// What may be in a directory that is still to become ours: leftovers of a start that was
/// interrupted, and what file systems make by themselves.
const HARMLESS: [&str; 5] = [
    LOCK_FILE,
    NODE_FILE,
    "node.toml.tmp",
    "FORMAT.tmp",
    "lost+found",
];

const NODE_HEADER: &str = "\
# Who this node is, and which cluster it belongs to. The node rewrites this file; a change
# by hand makes it refuse to start.
";
const KEYS_HEADER: &str = "\
# The keys of the cluster: whoever can read this can join. The first one seals. The node
# rewrites this file; change keys with `kith keys`.
";

/// The data directory could not be used, or no more. What is on the disk is as before.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Something is there that Kith has not written.
    #[error(
        "{} is not a Kith data directory: it is not empty and has no {FORMAT_FILE} file of ours. \
         Give --data-dir a directory of its own (it is made if it does not exist)",
        .0.display()
    )]
    Foreign(PathBuf),
    /// A later version was here.
    #[error(
        "the data directory {} has format {found}, written by a newer Kith; this one reads up to \
         {FORMAT}. Start the newer version",
        directory.display()
    )]
    Newer {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another process uses it.
    #[error(
        "the data directory {} is in use by another process{}: every node needs its own --data-dir",
        directory.display(), holder.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The other process, if it said so.
        holder: Option<u32>,
    },
    /// The system does not let us.
    #[error("cannot use {}: {error}. {}", path.display(), what_would_help(error))]
    Access {
        /// What was tried.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What is there is not what was written.
    #[error(
        "{} is damaged ({problem}). Restore the file from a backup; or, to give this node's identity \
         up, move the whole directory away: it then starts as a new member, and the old one is to be \
         removed with `kith evict`",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The machine gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// What is known at the start.
#[derive(Debug)]
pub(crate) struct Opened {
    /// For what is to be kept from now on.
    pub(crate) disk: Disk,
    /// The node's id, of an earlier life or new.
    pub(crate) node: NodeId,
    /// The generation of this life; already on the disk.
    pub(crate) generation: u64,
    /// What an earlier life left behind.
    pub(crate) restored: Restored,
    /// The keys of an earlier life.
    pub(crate) keys: Option<StoredKeys>,
}

/// Keeps what must survive a restart; with `--ephemeral` it keeps nothing.
#[derive(Debug)]
pub(crate) struct Disk {
    kept: Option<Kept>,
    given: Option<KeyId>,
}

#[derive(Debug)]
struct Kept {
    directory: PathBuf,
    /// Locked as long as it is open: the system unlocks it however the process ends.
    _lock: File,
}

impl Disk {
    /// A new node that is forgotten when it ends.
    ///
    /// # Errors
    /// [`DiskError::NoRandomness`].
    pub(crate) fn ephemeral() -> Result<Opened, DiskError> {
        Ok(Opened {
            disk: Self {
                kept: None,
                given: None,
            },
            node: new_node_id()?,
            generation: unix_millis(),
            restored: Restored::default(),
            keys: None,
        })
    }

    /// Opens a data directory, or makes one, and begins a new life in it.
    ///
    /// # Errors
    /// Whatever makes it unusable. Nothing is changed in a directory that is not ours.
    pub(crate) fn open(directory: &Path) -> Result<Opened, DiskError> {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| access(directory, error))?;
        let is_new = inspect(directory)?;
        let lock = lock(directory)?;
        let earlier: Option<Durable> = match checked::read(&directory.join(NODE_FILE))? {
            Some(text) => Some(toml::from_str(&text).map_err(|error| DiskError::Damaged {
                path: directory.join(NODE_FILE),
                problem: error.message().to_owned(),
            })?),
            None if is_new => None,
            None => {
                return Err(DiskError::Damaged {
                    path: directory.join(NODE_FILE),
                    problem: "it is missing".to_owned(),
                });
            }
        };
        let keys = match checked::read(&directory.join(KEYS_FILE))? {
            Some(text) => Some(
                StoredKeys::parse(&text).map_err(|problem| DiskError::Damaged {
                    path: directory.join(KEYS_FILE),
                    problem,
                })?,
            ),
            None => None,
        };
        let durable = next_life(earlier)?;
        let mut disk = Self {
            kept: Some(Kept {
                directory: directory.to_owned(),
                _lock: lock,
            }),
            given: keys.as_ref().and_then(|keys| keys.given),
        };
        // Before anybody hears of this generation: it must never be used a second time.
        disk.store(&durable)?;
        if is_new {
            let marker = format!("{FORMAT_PREFIX}{FORMAT}\n");
            replace(&directory.join(FORMAT_FILE), marker.as_bytes(), 0o644)?;
        }
        Ok(Opened {
            disk,
            node: durable.node,
            generation: durable.generation,
            restored: Restored {
                cluster: durable.cluster,
                peers: durable.peers,
                founder: durable.founder,
            },
            keys,
        })
    }

    /// Makes the core's state durable: all of it or nothing, and on the disk when this returns.
    ///
    /// # Errors
    /// If that did not work. The node must not go on then.
    pub(crate) fn store(&mut self, durable: &Durable) -> Result<(), DiskError> {
        let Some(kept) = &self.kept else {
            return Ok(());
        };
        let path = kept.directory.join(NODE_FILE);
        let text = toml::to_string(durable).map_err(|error| DiskError::Access {
            path: path.clone(),
            error: io::Error::other(error),
        })?;
        checked::write(&path, NODE_HEADER, &text, 0o600)
    }

    /// Remembers which key the operator gave for this life: see [`choose_ring`].
    pub(crate) fn set_given(&mut self, given: Option<KeyId>) {
        self.given = given;
    }

    /// Makes the key ring durable, as [`Self::store`] does.
    ///
    /// # Errors
    /// If that did not work. The node must not go on then: after a restart it might not be
    /// let in.
    pub(crate) fn store_keys(&self, ring: &Keyring) -> Result<(), DiskError> {
        let Some(kept) = &self.kept else {
            return Ok(());
        };
        let text = StoredKeys::render(ring, self.given);
        checked::write(&kept.directory.join(KEYS_FILE), KEYS_HEADER, &text, 0o600)
    }
}

/// A random id that no other node has.
fn new_node_id() -> Result<NodeId, DiskError> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_says_nothing_more| DiskError::NoRandomness)?;
    Ok(NodeId(u64::from_be_bytes(bytes)))
}

/// The state at the start of this life. Its generation grows even if the clock went back.
fn next_life(earlier: Option<Durable>) -> Result<Durable, DiskError> {
    Ok(match earlier {
        Some(durable) => Durable {
            generation: durable.generation.saturating_add(1).max(unix_millis()),
            ..durable
        },
        None => Durable {
            node: new_node_id()?,
            generation: unix_millis(),
            cluster: None,
            peers: Vec::new(),
            founder: false,
        },
    })
}

/// Whether the directory is ours to use, without changing anything in it; true if it is new.
fn inspect(directory: &Path) -> Result<bool, DiskError> {
    let marker = directory.join(FORMAT_FILE);
    let text = match fs::read_to_string(&marker) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for entry in fs::read_dir(directory).map_err(|error| access(directory, error))? {
                let name = entry.map_err(|error| access(directory, error))?.file_name();
                if !HARMLESS.iter().any(|harmless| name == *harmless) {
                    return Err(DiskError::Foreign(directory.to_owned()));
                }
            }
            return Ok(true);
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(DiskError::Foreign(directory.to_owned()));
        }
        Err(error) => return Err(access(&marker, error)),
    };
    match text.trim_end().strip_prefix(FORMAT_PREFIX).map(str::parse) {
        Some(Ok(1..=FORMAT)) => Ok(false),
        Some(Ok(found)) => Err(DiskError::Newer {
            directory: directory.to_owned(),
            found,
        }),
        Some(Err(_)) | None => Err(DiskError::Foreign(directory.to_owned())),
    }
}

fn lock(directory: &Path) -> Result<File, DiskError> {
    let path = directory.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| access(&path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = match file.read_to_string(&mut text) {
                Ok(_) => text.trim().parse().ok(),
                Err(_unreadable) => None,
            };
            return Err(DiskError::InUse {
                directory: directory.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(error)) => return Err(access(&path, error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| access(&path, error))?;
    Ok(file)
}

/// What to do about an error of the data directory, as sentences without the last stop.
pub(crate) fn what_would_help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "The data directory (--data-dir) must be readable and writable for the user that Kith runs \
             as; `ls -ld` shows whose it is"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "The disk of the data directory (--data-dir) is full: make room on it, or give Kith another"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "The data directory (--data-dir) must be on a file system that can be written to"
        }
        _ => {
            "The data directory (--data-dir) must be a directory that the user that Kith runs as can \
             read and write, on a disk with free space"
        }
    }
}

fn access(path: &Path, error: io::Error) -> DiskError {
    DiskError::Access {
        path: path.to_owned(),
        error,
    }
}

impl From<FileError> for DiskError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Access { path, error } => Self::Access { path, error },
            FileError::Damaged { path, problem } => Self::Damaged { path, problem },
        }
    }
}
