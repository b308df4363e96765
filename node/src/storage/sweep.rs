//! What was cleared goes, piece by piece, behind everybody's back.
//!
//! Clearing a partition only begins a new life of it: one small record, part of the batch that
//! clears. The entries of earlier lives cannot be reached any more, and are removed here; what
//! a crash leaves over is found by the lives' records at the next opening.

use std::{ops::Bound, sync::mpsc::Receiver, time::Duration};

use fjall::Guard;
use kith_proto::{id::PartitionId, store::partitions::StoreError};

use super::{engine::Inner, layout};

/// Entries removed in one batch.
const PIECE: usize = 512;
/// Rest between two pieces, so that others get their turn.
const REST: Duration = Duration::from_millis(2);

/// Sweeps each partition that comes in, until nobody is left to send one.
pub(super) fn run(engine: &Inner, inbox: &Receiver<PartitionId>) {
    for partition in inbox {
        if let Err(error) = sweep(engine, partition) {
            // It sticks to the engine, where those hear of it who can act.
            tracing::debug!(partition, %error, "sweeping stopped");
            return;
        }
    }
}

fn sweep(engine: &Inner, partition: PartitionId) -> Result<(), StoreError> {
    let life = engine.life(partition);
    let end = layout::life_start(partition, life);
    let mut begin = Bound::Included(layout::life_start(partition, 0));
    loop {
        engine.check()?;
        engine.throttle()?;
        let mut batch = engine.batch(PIECE);
        let range = (begin.clone(), Bound::Excluded(end.clone()));
        let range = engine.keyspace.range(range);
        let mut last = None;
        for key in range.take(PIECE).map(Guard::key) {
            let key = key.map_err(|error| engine.fail_with(&error))?;
            last = Some(key.clone());
            batch.remove(&engine.keyspace, key);
        }
        let Some(last) = last else { break };
        // The next piece begins after this one; going over what was just removed again
        // and again would take longer and longer.
        begin = Bound::Excluded(last.to_vec());
        engine.commit(batch)?;
        if engine.is_closing() {
            return Ok(());
        }
        std::thread::sleep(REST);
    }
    let key = layout::swept_key(partition);
    let mut batch = engine.batch(1);
    batch.insert(
        &engine.keyspace,
        key,
        layout::seal_number(&key, u64::from(life)),
    );
    engine.commit(batch)
}
