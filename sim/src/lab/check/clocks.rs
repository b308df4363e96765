//! No clock that runs ahead of most others stamps a write.

use kith_proto::replica::clocks::MOST_AHEAD;

use crate::lab::{Lab, client::Operation};

/// What a message may take on its way, and what a clock may show in between (ms).
const SLACK: u64 = 1000;

/// A client was told something.
pub(super) fn acknowledged(lab: &mut Lab, operation: &Operation) {
    let Some(version) = operation.written() else {
        return;
    };
    let most = u64::try_from(MOST_AHEAD.as_millis()).unwrap_or(u64::MAX) + SLACK;
    let (stamped, now) = (version.hlc.wall().0, lab.true_wall().0);
    if stamped > now + most {
        let key = &operation.key;
        lab.object(
            "clocks",
            format!(
                "{key:?} was acknowledged as {version}: {} ms ahead",
                stamped - now
            ),
        );
    }
}
