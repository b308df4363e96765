//! Opening a store: whose it is, whether it is whole, and what is known of the last stop.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use kith_proto::id::PartitionId;

use super::{
    engine::{Engine, Found, describe},
    journal::{self, Ending, Flusher, JournalError},
    layout::{self, Life},
    mark::{Mark, MarkError, MarkFile},
};
use crate::disk::{DiskError, replace};

/// What begins the FORMAT file of a store.
const FORMAT_PREFIX: &str = "kith partitions, format ";
/// The format that this build writes, and the newest that it reads.
const FORMAT: u32 = 4;
const FORMAT_FILE: &str = "FORMAT";
const MARK_FILE: &str = "mark";
/// The folder of the engine below.
const ENGINE_FOLDER: &str = "fjall";
const KEYSPACE: &str = "kith";
/// What may be in a directory that has no FORMAT file yet.
const HARMLESS: [&str; 2] = ["FORMAT.tmp", "lost+found"];

/// What fits in memory of what was written last (bytes). The more, the longer an opening
/// after a crash takes.
const MEMORY_TABLE: u64 = 16 << 20;
/// Journals that are kept before what is in them is forced into tables (bytes).
const JOURNALS: u64 = 64 << 20;
/// Threads that write tables out and merge them. With two, writing out does not wait for a
/// merge.
const WORKERS: usize = 2;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory, made if it does not exist.
    pub directory: PathBuf,
    /// Memory for what is read from tables (bytes). What is not in it is read from the
    /// system's cache or the disk, at a few microseconds and more.
    pub cache_bytes: u64,
    /// Which boot of the machine this is; see [`boot_id`].
    pub boot: Option<String>,
}

/// An open store, and what is known of how it was left.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub engine: Engine,
    /// It was closed with everything on the disk (or it is new): nothing was forgotten.
    pub clean: bool,
    /// It was left in this boot of the machine (or it is new): nothing was forgotten, whatever
    /// had been flushed. If neither holds, what was not flushed may be forgotten, and
    /// [`Engine::trust_this_boot`] is to be called once that has been dealt with.
    pub same_boot: bool,
}

/// A store could not be opened. Nothing that was kept in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something is there that Kith has not written.
    #[error(
        "{} holds something else than Kith's partitions: it is not empty and has no {FORMAT_FILE} file \
         of ours. Give --data-dir a directory of its own",
        .0.display()
    )]
    Foreign(PathBuf),
    /// Another version was here.
    #[error(
        "the partitions in {} have format {found}; this Kith reads format {FORMAT}. Start the version \
         that wrote them",
        directory.display()
    )]
    OtherFormat {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is open already.
    #[error("the partitions in {} are in use by another process, or by this one", .0.display())]
    InUse(PathBuf),
    /// What is there is not what was written.
    #[error(
        "{} is damaged ({problem}). What this node keeps cannot be trusted any more: move the whole data \
         directory away, so that the node starts as a new member and gets its copies from the \
         others, and remove the old one with `kith evict`",
        path.display()
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Which boot of the machine this is, where the system tells (Linux).
pub fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = text.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

impl Engine {
    /// Opens a store, or makes one.
    ///
    /// # Errors
    /// Whatever makes it unusable: see [`OpenError`].
    pub fn open(options: Options) -> Result<Opened, OpenError> {
        let Options {
            directory,
            cache_bytes,
            boot,
        } = options;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| access(&directory, error))?;
        check_format(&directory)?;
        let mark_path = directory.join(MARK_FILE);
        let (mut file, mark) = MarkFile::open(&mark_path).map_err(|error| match error {
            MarkError::InUse => OpenError::InUse(directory.clone()),
            MarkError::Access(error) => access(&mark_path, error),
        })?;
        let folder = directory.join(ENGINE_FOLDER);
        let exists = folder
            .try_exists()
            .map_err(|error| access(&folder, error))?;
        let mark = match mark {
            Some(mark) if !mark.making && exists => mark,
            Some(mark) if !mark.making => {
                let problem = format!("it is missing, with {} batches", mark.written);
                return Err(damaged(&folder, problem));
            }
            None if exists => return Err(damaged(&mark_path, "it tells nothing".to_owned())),
            // New, or left by a start that was interrupted before anything was kept.
            Some(_) | None => {
                make(&mut file, &folder, boot.clone()).map_err(|error| access(&folder, error))?
            }
        };
        let same_boot = boot.is_some() && mark.boot == boot;
        let is_new = mark.making;
        let ending = match (mark.clean, same_boot) {
            (true, _) => Ending::Closed,
            (false, true) => Ending::Killed,
            (false, false) => Ending::PowerCut,
        };
        let least = match ending {
            Ending::PowerCut => mark.synced,
            Ending::Closed | Ending::Killed => mark.written,
        };
        if !is_new {
            journal::check(&folder, ending, least)?;
        }
        let newest = journal::newest(&folder);
        let (database, keyspace) = open_below(&folder, cache_bytes)?;
        let sequence = read_number(&folder, &keyspace, &layout::HEAD)?.unwrap_or(0);
        if sequence < least {
            // Looked up before the engine adds a journal of its own.
            return Err(damaged(&newest, journal::missing(sequence, least)));
        }
        let lives = read_lives(&folder, &keyspace)?;
        let mut to_sweep = Vec::new();
        for &(partition, life) in &lives {
            let swept = read_number(&folder, &keyspace, &layout::swept_key(partition))?;
            if swept.is_none_or(|swept| swept < u64::from(life)) {
                to_sweep.push(partition);
            }
        }
        let flusher = Flusher::new(&folder).map_err(|error| access(&folder, error))?;
        let clean = mark.clean || is_new;
        let same_boot = same_boot || is_new;
        if is_new {
            sync_directory(&directory).map_err(|error| access(&directory, error))?;
        }
        // Before anything is written: what is open is not clean. The boot changes here only
        // if nothing can have been forgotten in the earlier one.
        let settled = Mark {
            boot: if clean || same_boot {
                boot.clone()
            } else {
                mark.boot
            },
            clean: false,
            making: false,
            ..mark
        };
        file.settle(settled)
            .map_err(|error| access(&mark_path, error))?;
        let found = Found {
            directory: directory.clone(),
            database,
            keyspace,
            flusher,
            mark: file,
            boot,
            sequence,
            lives,
            to_sweep,
        };
        Ok(Opened {
            engine: Engine::start(found).map_err(|error| access(&directory, error))?,
            clean,
            same_boot,
        })
    }
}

/// Whether the directory is ours; an empty one becomes ours.
fn check_format(directory: &Path) -> Result<(), OpenError> {
    let path = directory.join(FORMAT_FILE);
    let foreign = || OpenError::Foreign(directory.to_owned());
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim_end().strip_prefix(FORMAT_PREFIX).map(str::parse) {
            Some(Ok(FORMAT)) => Ok(()),
            Some(Ok(found)) => Err(OpenError::OtherFormat {
                directory: directory.to_owned(),
                found,
            }),
            Some(Err(_)) | None => Err(foreign()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for entry in fs::read_dir(directory).map_err(|error| access(directory, error))? {
                let name = entry.map_err(|error| access(directory, error))?.file_name();
                if !HARMLESS.iter().any(|harmless| name == *harmless) {
                    return Err(foreign());
                }
            }
            let marker = format!("{FORMAT_PREFIX}{FORMAT}\n");
            replace(&path, marker.as_bytes(), 0o644).map_err(DiskError::from)?;
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(foreign()),
        Err(error) => Err(access(&path, error)),
    }
}

/// Prepares for a new store: from here until it is open, its folder may be thrown away.
fn make(file: &mut MarkFile, folder: &Path, boot: Option<String>) -> io::Result<Mark> {
    let mark = Mark {
        boot,
        making: true,
        ..Mark::default()
    };
    file.settle(mark.clone())?;
    if let Some(directory) = folder.parent() {
        sync_directory(directory)?;
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(mark),
    }
}

/// Names of files in a directory are on the disk only after this.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Opens the engine below, with its keyspace.
fn open_below(folder: &Path, cache_bytes: u64) -> Result<(Database, Keyspace), OpenError> {
    let open = || {
        let database = Database::builder(folder)
            .max_journaling_size(JOURNALS)
            .cache_size(cache_bytes)
            .worker_threads(WORKERS)
            .open()?;
        let keyspace = database.keyspace(KEYSPACE, || {
            KeyspaceCreateOptions::default().max_memtable_size(MEMORY_TABLE)
        })?;
        database.persist(PersistMode::SyncAll)?;
        Ok((database, keyspace))
    };
    // It asserts some of what it reads from the disk.
    match panic::catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(fjall::Error::Locked)) => Err(OpenError::InUse(folder.to_owned())),
        Ok(Err(fjall::Error::Io(error))) => Err(access(folder, error)),
        Ok(Err(error)) => Err(damaged(folder, describe(&error))),
        Err(_panic) => Err(damaged(folder, "the engine cannot read it".to_owned())),
    }
}

fn read_number(folder: &Path, keyspace: &Keyspace, key: &[u8]) -> Result<Option<u64>, OpenError> {
    let Some(value) = keyspace
        .get(key)
        .map_err(|e| damaged(folder, describe(&e)))?
    else {
        return Ok(None);
    };
    match layout::unseal_number(key, &value) {
        Some(number) => Ok(Some(number)),
        None => Err(damaged(folder, format!("the number under {key:?}"))),
    }
}

fn read_lives(folder: &Path, keyspace: &Keyspace) -> Result<Vec<(PartitionId, Life)>, OpenError> {
    let mut lives = Vec::new();
    for guard in keyspace.prefix(layout::LIVES) {
        let (key, value) = guard
            .into_inner()
            .map_err(|e| damaged(folder, describe(&e)))?;
        let life = layout::unseal_number(&key, &value).and_then(|life| life.try_into().ok());
        match (layout::partition_of(&key), life) {
            (Some(partition), Some(life)) => lives.push((partition, life)),
            _ => return Err(damaged(folder, format!("the number under {key:?}"))),
        }
    }
    Ok(lives)
}

fn access(path: &Path, error: io::Error) -> OpenError {
    OpenError::Disk(DiskError::Access {
        path: path.to_owned(),
        error,
    })
}

fn damaged(path: &Path, problem: String) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        problem,
    }
}

impl From<JournalError> for OpenError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Access(path, error) => access(&path, error),
            JournalError::Damaged(path, problem) => Self::Damaged { path, problem },
        }
    }
}
