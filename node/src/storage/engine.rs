//! The engine that all shards share: opening, writing, flushing, closing.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode};
use kith_proto::{id::PartitionId, store::partitions::StoreError};

use super::{
    EngineStore,
    journal::Flusher,
    layout::{self, Life},
    mark::{Mark, MarkFile},
    sweep,
};
use crate::disk::what_would_help;

/// The mark is brought up to date at each flush, and after so many batches.
const BATCHES_PER_MARK: u64 = 64;
/// Memory tables that wait to be written out before writers wait too. At 4 the engine would
/// make them wait itself, without an end if the disk has failed meanwhile.
const MAX_WAITING_TABLES: usize = 3;
/// Tables not merged yet before writers wait; the engine's own limit is 30.
const MAX_UNMERGED_TABLES: usize = 24;
/// How often a waiting writer looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What an engine holds, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of its files. A new journal counts with the 64 MiB that it may grow to.
    pub disk_bytes: u64,
    /// Batches written since the store was made.
    pub written: u64,
    /// Of these, how many are known to be on the disk.
    pub synced: u64,
}

/// The store of a node. Closed when dropped, but only [`Self::close`] makes the next opening
/// find it clean.
#[derive(Debug)]
pub struct Engine {
    inner: Arc<Inner>,
    sweeper: Option<JoinHandle<()>>,
}

/// What shards, the syncer and the sweeper share.
pub(super) struct Inner {
    directory: PathBuf,
    database: Database,
    pub(super) keyspace: Keyspace,
    /// The sequence of the last batch; held while the next one is written.
    writing: Mutex<u64>,
    written: AtomicU64,
    synced: AtomicU64,
    flusher: Mutex<Flusher>,
    mark: Mutex<MarkFile>,
    /// The boot of the machine that this process runs in.
    boot: Option<String>,
    /// Which life each partition is in.
    lives: Box<[AtomicU32]>,
    /// Partitions to be swept; `None` once it is being closed.
    sweeps: Mutex<Option<Sender<PartitionId>>>,
    closing: AtomicBool,
    /// The first thing that went wrong. Nothing is done after it.
    failure: OnceLock<StoreError>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("directory", &self.directory)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// What opening found, for [`Engine::start`].
pub(super) struct Found {
    pub(super) directory: PathBuf,
    pub(super) database: Database,
    pub(super) keyspace: Keyspace,
    pub(super) flusher: Flusher,
    pub(super) mark: MarkFile,
    pub(super) boot: Option<String>,
    pub(super) sequence: u64,
    pub(super) lives: Vec<(PartitionId, Life)>,
    pub(super) to_sweep: Vec<PartitionId>,
}

impl Engine {
    pub(super) fn start(found: Found) -> io::Result<Self> {
        let lives: Box<[AtomicU32]> = (0..=PartitionId::MAX).map(|_| AtomicU32::new(0)).collect();
        for (partition, life) in found.lives {
            lives[usize::from(partition)].store(life, Ordering::Release);
        }
        let (sweeps, inbox) = mpsc::channel();
        for partition in found.to_sweep {
            // The other end is held below.
            sweeps.send(partition).map_err(io::Error::other)?;
        }
        let inner = Arc::new(Inner {
            directory: found.directory,
            database: found.database,
            keyspace: found.keyspace,
            writing: Mutex::new(found.sequence),
            written: AtomicU64::new(found.sequence),
            // Whatever was found may be in memory only.
            synced: AtomicU64::new(found.mark.mark().synced.min(found.sequence)),
            flusher: Mutex::new(found.flusher),
            mark: Mutex::new(found.mark),
            boot: found.boot,
            lives,
            sweeps: Mutex::new(Some(sweeps)),
            closing: AtomicBool::new(false),
            failure: OnceLock::new(),
        });
        let shared = Arc::clone(&inner);
        let sweeper = thread::Builder::new()
            .name("kith-sweep".to_owned())
            .spawn(move || sweep::run(&shared, &inbox))?;
        Ok(Self {
            inner,
            sweeper: Some(sweeper),
        })
    }

    /// A store for a shard. Each key must be written by one shard only.
    pub fn store(&self) -> EngineStore {
        EngineStore {
            engine: Arc::clone(&self.inner),
        }
    }

    /// Brings everything written before this call to the disk; blocks meanwhile. See
    /// [`super::Syncer`] for doing it for many.
    ///
    /// # Errors
    /// If the disk does not take it; what is there is then unknown, and the engine broken.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    /// From now on what this boot of the machine wrote is trusted after an unclean stop
    /// within the same boot. To be called when [`super::Opened`] had neither `clean` nor
    /// `same_boot`, after the marks that say what was forgotten were written: they are on the
    /// disk before the new boot id is.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub fn trust_this_boot(&self) -> Result<(), StoreError> {
        self.inner.sync()?;
        let boot = self.inner.boot.clone();
        self.inner.settle(|mark| mark.boot = boot)
    }

    /// What went wrong first, if anything did. Nothing works after it.
    pub fn failure(&self) -> Option<StoreError> {
        self.inner.failure.get().cloned()
    }

    /// How much it holds.
    ///
    /// # Errors
    /// If that cannot be found out, or the engine is broken.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let inner = &self.inner;
        inner.check()?;
        let disk_bytes = inner.database.disk_space();
        Ok(Stats {
            disk_bytes: disk_bytes.map_err(|error| inner.fail_with(&error))?,
            written: inner.written.load(Ordering::Acquire),
            synced: inner.synced.load(Ordering::Acquire),
        })
    }

    /// Closes the store with everything on the disk, so that the next opening finds it clean.
    /// Stores and syncers that still exist get errors from now on; the files stay locked until
    /// they are gone.
    ///
    /// # Errors
    /// If it was broken, or is now.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.stop_sweeping();
        let inner = &self.inner;
        let last = inner.lock(&inner.writing)?;
        inner.sync()?;
        // A boot that was not trusted yet has marks still to be written.
        inner.settle(|mark| mark.clean = mark.boot == inner.boot)?;
        let closed = StoreError("the store is closed".to_owned());
        let first = inner.failure.get_or_init(|| closed.clone());
        drop(last);
        if *first == closed {
            Ok(())
        } else {
            Err(first.clone())
        }
    }

    pub(super) fn shared(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    fn stop_sweeping(&mut self) {
        self.inner.closing.store(true, Ordering::Release);
        match self.inner.sweeps.lock() {
            Ok(mut sweeps) => *sweeps = None,
            Err(poisoned) => *poisoned.into_inner() = None,
        }
        if let Some(sweeper) = self.sweeper.take()
            && sweeper.join().is_err()
        {
            self.inner.fail("the thread that sweeps has panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_sweeping();
    }
}

impl Inner {
    /// An error if anything has gone wrong before.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            None => Ok(()),
            Some(first) => Err(first.clone()),
        }
    }

    /// Breaks the engine, unless it is broken already; returns the first reason.
    pub(super) fn fail(&self, reason: &str) -> StoreError {
        let directory = self.directory.display();
        let error = StoreError(format!("the store in {directory} is broken: {reason}"));
        self.failure.get_or_init(|| error).clone()
    }

    /// [`Self::fail`] for what the engine below says.
    pub(super) fn fail_with(&self, error: &fjall::Error) -> StoreError {
        match error {
            // It keeps the reason to itself; a full disk is found again by trying.
            fjall::Error::Poisoned => match probe(&self.directory) {
                Ok(()) => self.fail("writing out failed in the background"),
                Err(error) => self.fail_io(&error),
            },
            error => self.fail(&describe(error)),
        }
    }

    fn fail_io(&self, error: &io::Error) -> StoreError {
        self.fail(&describe_io(error))
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> Result<MutexGuard<'a, T>, StoreError> {
        mutex
            .lock()
            .map_err(|_poisoned| self.fail("a thread has panicked while it used it"))
    }

    /// Which life a partition is in.
    pub(super) fn life(&self, partition: PartitionId) -> Life {
        self.lives[usize::from(partition)].load(Ordering::Acquire)
    }

    /// A partition has begun a new life, on the disk: what was before can be swept.
    pub(super) fn reborn(&self, partition: PartitionId, life: Life) -> Result<(), StoreError> {
        self.lives[usize::from(partition)].store(life, Ordering::Release);
        // Without a sweeper (it has failed, or all is being closed) the next opening sweeps.
        if let Some(sweeps) = &*self.lock(&self.sweeps)?
            && sweeps.send(partition).is_err()
        {
            tracing::debug!(partition, "swept at the next opening");
        }
        Ok(())
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// An empty batch, to be given to [`Self::commit`].
    pub(super) fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.database.clone(), capacity + 1)
            .durability(Some(PersistMode::Buffer))
    }

    /// Waits while the disk is far behind.
    pub(super) fn throttle(&self) -> Result<(), StoreError> {
        while self.keyspace.sealed_memtable_count() >= MAX_WAITING_TABLES
            || self.keyspace.l0_table_count() >= MAX_UNMERGED_TABLES
        {
            self.check()?;
            self.is_alive()?;
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Writes a batch. It can be read, and the system has it, when this returns.
    pub(super) fn commit(&self, mut batch: OwnedWriteBatch) -> Result<(), StoreError> {
        let mut last = self.lock(&self.writing)?;
        self.check()?;
        let sequence = *last + 1;
        let head = layout::seal_number(&layout::HEAD, sequence);
        batch.insert(&self.keyspace, layout::HEAD, head);
        batch.commit().map_err(|error| self.fail_with(&error))?;
        *last = sequence;
        self.written.store(sequence, Ordering::Release);
        if sequence.is_multiple_of(BATCHES_PER_MARK) {
            self.note(sequence, 0)?;
        }
        Ok(())
    }

    /// See [`Engine::sync`].
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        // Those who wait here are served by the flush that is under way, or by the first of
        // them.
        let written = self.written.load(Ordering::Acquire);
        let mut flusher = self.lock(&self.flusher)?;
        self.check()?;
        if self.synced.load(Ordering::Acquire) >= written {
            return Ok(());
        }
        let written = self.written.load(Ordering::Acquire);
        flusher.flush().map_err(|error| self.fail_io(&error))?;
        self.is_alive()?;
        self.synced.store(written, Ordering::Release);
        self.note(written, written)
    }

    /// Whether the engine below still works: it does not say so by itself.
    fn is_alive(&self) -> Result<(), StoreError> {
        self.database
            .persist(PersistMode::Buffer)
            .map_err(|error| self.fail_with(&error))
    }

    fn note(&self, written: u64, synced: u64) -> Result<(), StoreError> {
        self.lock(&self.mark)?
            .note(written, synced)
            .map_err(|error| self.fail_io(&error))
    }

    fn settle(&self, change: impl FnOnce(&mut Mark)) -> Result<(), StoreError> {
        let mut file = self.lock(&self.mark)?;
        let mut mark = file.mark().clone();
        change(&mut mark);
        file.settle(mark).map_err(|error| self.fail_io(&error))
    }
}

/// What the engine below says, for people.
pub(super) fn describe(error: &fjall::Error) -> String {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref() {
            return describe_io(error);
        }
        source = cause.source();
    }
    match error {
        fjall::Error::Storage(fjall::LsmError::ChecksumMismatch { .. }) => {
            "a table on the disk is not what was written (checksum)".to_owned()
        }
        error => error.to_string(),
    }
}

fn describe_io(error: &io::Error) -> String {
    format!("{error}. {}", what_would_help(error))
}

/// Tries to write as much as may be missing.
fn probe(directory: &Path) -> io::Result<()> {
    const LEN: usize = 256 << 10;
    let path = directory.join("probe.tmp");
    let written =
        std::fs::write(&path, vec![1; LEN]).and_then(|()| std::fs::File::open(&path)?.sync_all());
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => written.and(Err(error)),
        _ => written,
    }
}
