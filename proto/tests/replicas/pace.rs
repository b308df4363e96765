//! Copies are made at the rate that is allowed.

use std::time::Duration;

use kith_proto::{
    config::Consistency,
    replica::{host::Standing, shard::Timing},
};

use crate::cluster::Cluster;

#[test]
fn a_copy_is_made_no_faster_than_allowed_and_writes_go_on() {
    let timing = Timing {
        transfer_rate: 1 << 20,
        ..Timing::default()
    };
    let mut cluster = Cluster::with_timing(3, Consistency::Available, timing);
    cluster.standing[2] = Standing::Gone;
    cluster.show();
    cluster.run(Duration::from_secs(5));
    // Each owner has about 5 MiB to send, at 1 MiB a second.
    let value = "v".repeat(100 << 10);
    for key in 0..100 {
        cluster.set(0, &format!("key-{key}"), &value).unwrap();
    }
    cluster.standing[2] = Standing::Living;
    cluster.show();
    let began = cluster.now;
    let has_all =
        |cluster: &Cluster| (0..100).all(|key| cluster.entry(2, &format!("key-{key}")).is_some());
    while !has_all(&cluster) {
        cluster.run(Duration::from_millis(100));
        cluster.set(0, "other", "value").unwrap();
        assert!(cluster.now < began + Duration::from_secs(60));
    }
    let took = cluster.now.saturating_since(began);
    assert!(took > Duration::from_secs(3), "{took:?}");
}
