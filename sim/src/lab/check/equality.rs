//! All members of a partition have the same entries, and their digests say just that.

use kith_proto::{
    id::PartitionId,
    replica::digest::{self, Digests},
    store::partitions::{Page, Store},
};

use crate::lab::{Lab, NodeIndex};

/// Looks at every entry of every copy.
pub(super) fn at_rest(lab: &Lab) -> Vec<String> {
    let mut found = Vec::new();
    let partitions = lab.setup.settings.partitions;
    for p in 0..partitions {
        let Some(owner) = lab.servers(p).first().copied() else {
            continue;
        };
        let members = lab
            .shard(owner)
            .and_then(|shard| shard.chain_of(p))
            .map(|chain| chain.config.members.clone());
        let own = entries(lab, owner, p);
        for member in members.unwrap_or_default() {
            let Some(index) = lab.index_of(member) else {
                continue;
            };
            let there = entries(lab, index, p);
            if there != own {
                let differs = own.iter().find(|entry| !there.contains(entry));
                let differs = differs.or_else(|| there.iter().find(|e| !own.contains(e)));
                found.push(format!(
                    "n{index} has another copy of partition {p} than n{owner}: {differs:?}"
                ));
            }
            let mut digests = Digests::new(digest::buckets(partitions));
            for (place, entry) in &there {
                let size = entry.size(&place.key);
                digests.add(place.bucket, &place.key, &entry.version, size);
            }
            let told = lab.shard(index).and_then(|shard| shard.digests_of(p));
            if told != Some(&digests) {
                found.push(format!(
                    "n{index}: the digests of partition {p} are not those of its entries"
                ));
            }
        }
    }
    found
}

fn entries(lab: &Lab, node: NodeIndex, p: PartitionId) -> Page {
    let page = lab
        .disk(node)
        .store_as_it_is()
        .page(p, None, usize::MAX, usize::MAX);
    page.unwrap_or_default()
}
