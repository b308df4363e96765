//! `CLUSTER`: which node owns which slots, in the shapes that cluster-aware clients read; and
//! redirections to owners.
//!
//! Only owners are told, all of them as masters: a node owns some slots and backs up others,
//! and clients take a node that is a replica somewhere for one everywhere. Reads go to
//! owners in any case.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use bytes::Bytes;
use kith_proto::{
    id::NodeId,
    placement::{SLOTS, partition_of_slot, slot, slots},
};

use super::{
    reply::{OK, Reply},
    strings::Refused,
};
use crate::kv::{Topology, TopologyNode};

/// Consecutive slots of one owner: the first, the last.
type Range = (u16, u16);

/// Answers `CLUSTER ...`.
pub(super) fn answer(topology: &Topology, args: &[Bytes]) -> Result<Reply, Refused> {
    let Some((what, rest)) = args.get(1..).and_then(|args| args.split_first()) else {
        return Err(Refused::Arity("cluster"));
    };
    let no_more = |reply: Reply| match rest {
        [] => Ok(reply),
        _ => Err(Refused::Arity("cluster")),
    };
    match what.to_ascii_uppercase().as_slice() {
        b"SLOTS" => no_more(slots_reply(topology)),
        b"SHARDS" => no_more(shards_reply(topology)),
        b"NODES" => no_more(Reply::Text(nodes_text(topology))),
        b"INFO" => no_more(Reply::Text(info_text(topology))),
        b"MYID" => no_more(Reply::bulk(topology.own.map_or_else(String::new, node_id))),
        b"KEYSLOT" => match rest {
            [key] => Ok(Reply::Integer(slot(key).into())),
            _ => Err(Refused::Arity("cluster|keyslot")),
        },
        // Which is told from the slots alone: nobody is a replica of a whole node.
        b"REPLICAS" | b"SLAVES" => Ok(Reply::Array(Vec::new())),
        b"COUNT-FAILURE-REPORTS" => Ok(Reply::Integer(0)),
        b"SAVECONFIG" => Ok(OK),
        other => Err(Refused::Other(format!(
            "ERR 'CLUSTER {}' is not supported",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// Where a request about that key goes instead, if not here.
pub(super) fn moved(topology: &Topology, key: &[u8]) -> Option<Reply> {
    if topology.is_empty() {
        return None;
    }
    let slot = slot(key);
    let owner = topology.owner(partition_of_slot(slot, topology.len()))?;
    if topology.own == Some(owner) {
        return None;
    }
    let node = topology.nodes.get(&owner)?;
    let at = node.resp.filter(|_| node.living)?;
    // As Redis writes it: IPv6 without brackets, so that the last colon is before the port.
    let (ip, port) = (at.ip(), at.port());
    Some(Reply::Error(format!("MOVED {slot} {ip}:{port}")))
}

/// 40 digits, as clients expect them: the node's own 16, then zeros.
fn node_id(node: NodeId) -> String {
    format!("{node}{:0<24}", "")
}

/// Nodes that clients can reach, with the slots that they own.
fn owners(topology: &Topology) -> Vec<(NodeId, &TopologyNode, SocketAddr, Vec<Range>)> {
    let mut ranges: BTreeMap<NodeId, Vec<Range>> = BTreeMap::new();
    for partition in 0..topology.len() {
        let Some(owner) = topology.owner(partition) else {
            continue;
        };
        let (first, last) = slots(partition, topology.len());
        let of_owner = ranges.entry(owner).or_default();
        match of_owner.last_mut() {
            Some(range) if range.1 + 1 == first => range.1 = last,
            _ => of_owner.push((first, last)),
        }
    }
    let reachable = topology.nodes.iter().filter(|(_, node)| node.living);
    reachable
        .filter_map(|(id, node)| {
            let ranges = ranges.remove(id).unwrap_or_default();
            Some((*id, node, node.resp?, ranges))
        })
        .collect()
}

fn slots_reply(topology: &Topology) -> Reply {
    let mut all = Vec::new();
    for (id, _, at, ranges) in owners(topology) {
        for (first, last) in ranges {
            let node = Reply::Array(vec![
                Reply::bulk(at.ip().to_string()),
                Reply::Integer(at.port().into()),
                Reply::bulk(node_id(id)),
                Reply::Array(Vec::new()),
            ]);
            all.push((first, last, node));
        }
    }
    all.sort_unstable_by_key(|(first, _, _)| *first);
    let rows = all.into_iter().map(|(first, last, node)| {
        Reply::Array(vec![
            Reply::Integer(first.into()),
            Reply::Integer(last.into()),
            node,
        ])
    });
    Reply::Array(rows.collect())
}

fn shards_reply(topology: &Topology) -> Reply {
    let shards = owners(topology).into_iter().map(|(id, _, at, ranges)| {
        let bounds = ranges.into_iter().flat_map(|(first, last)| [first, last]);
        let bounds = bounds.map(|slot| Reply::Integer(slot.into())).collect();
        let node = [
            ("id", Reply::bulk(node_id(id))),
            ("port", Reply::Integer(at.port().into())),
            ("ip", Reply::bulk(at.ip().to_string())),
            ("endpoint", Reply::bulk(at.ip().to_string())),
            ("role", Reply::text("master")),
            ("replication-offset", Reply::Integer(0)),
            ("health", Reply::text("online")),
        ];
        let node = node.map(|(key, value)| (Reply::text(key), value));
        Reply::Map(vec![
            (Reply::text("slots"), Reply::Array(bounds)),
            (
                Reply::text("nodes"),
                Reply::Array(vec![Reply::Map(node.into())]),
            ),
        ])
    });
    Reply::Array(shards.collect())
}

fn nodes_text(topology: &Topology) -> String {
    let mut text = String::new();
    for (id, node, at, ranges) in owners(topology) {
        let myself = if topology.own == Some(id) {
            "myself,"
        } else {
            ""
        };
        let (ip, port, bus) = (at.ip(), at.port(), node.gossip.port());
        let id = node_id(id);
        // Writing to a String cannot fail.
        write!(
            text,
            "{id} {ip}:{port}@{bus} {myself}master - 0 0 0 connected"
        )
        .unwrap_or_default();
        for (first, last) in ranges {
            let range = if first == last {
                write!(text, " {first}")
            } else {
                write!(text, " {first}-{last}")
            };
            range.unwrap_or_default();
        }
        text.push('\n');
    }
    text
}

fn info_text(topology: &Topology) -> String {
    let owners = owners(topology);
    let ranges = owners.iter().flat_map(|(_, _, _, ranges)| ranges);
    let assigned: u32 = ranges
        .map(|(first, last)| u32::from(last - first) + 1)
        .sum();
    let state = if assigned == u32::from(SLOTS) {
        "ok"
    } else {
        "fail"
    };
    let known = topology.nodes.len();
    let size = owners.iter().filter(|(.., r)| !r.is_empty()).count();
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\n\
         cluster_slots_ok:{assigned}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n\
         cluster_known_nodes:{known}\r\ncluster_size:{size}\r\ncluster_current_epoch:0\r\n\
         cluster_my_epoch:0\r\n"
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Four partitions: this node has the first two, another the third, a dead one the fourth.
    pub(crate) fn topology() -> Topology {
        let node = |name: &str, port: u16, living| TopologyNode {
            name: name.to_owned(),
            resp: Some(([127, 0, 0, 1], port).into()),
            gossip: ([127, 0, 0, 1], port + 1000).into(),
            living,
        };
        let [own, other, dead] = [0xa, 0xb, 0xc].map(NodeId);
        Topology {
            own: Some(own),
            partitions: vec![vec![own, other], vec![own], vec![other, own], vec![dead]],
            nodes: BTreeMap::from([
                (own, node("n1", 7001, true)),
                (other, node("n2", 7002, true)),
                (dead, node("n3", 7003, false)),
            ]),
        }
    }

    fn asked(what: &str) -> Result<Reply, Refused> {
        let args: Vec<Bytes> = format!("CLUSTER {what}")
            .split(' ')
            .map(|word| Bytes::from(word.to_owned()))
            .collect();
        answer(&topology(), &args)
    }

    #[test]
    fn owners_are_told_with_slots_that_follow_each_other_joined() {
        let Ok(Reply::Text(text)) = asked("NODES") else {
            panic!("no text");
        };
        let zeros = "0".repeat(24);
        assert_eq!(
            text,
            format!(
                "000000000000000a{zeros} 127.0.0.1:7001@8001 myself,master - 0 0 0 connected 0-8191\n\
                 000000000000000b{zeros} 127.0.0.1:7002@8002 master - 0 0 0 connected 8192-12287\n"
            )
        );
        let Ok(Reply::Array(rows)) = asked("slots") else {
            panic!("no rows");
        };
        assert_eq!(rows.len(), 2);
        let Reply::Array(second) = &rows[1] else {
            panic!("no row");
        };
        assert_eq!(second[..2], [Reply::Integer(8192), Reply::Integer(12287)]);
        let Ok(Reply::Text(info)) = asked("INFO") else {
            panic!("no text");
        };
        assert!(info.contains("cluster_state:fail\r\ncluster_slots_assigned:12288"));
        assert_eq!(asked("KEYSLOT foo"), Ok(Reply::Integer(12182)));
        assert!(asked("SLOTS x").is_err() && asked("MEET").is_err());
    }

    #[test]
    fn only_what_a_living_node_owns_elsewhere_is_moved() {
        let topology = topology();
        // Slots 12182, 5061 and 15495.
        let moved = |key: &[u8]| moved(&topology, key);
        let text = "MOVED 12182 127.0.0.1:7002".to_owned();
        assert_eq!(moved(b"foo"), Some(Reply::Error(text)));
        assert_eq!(moved(b"bar"), None, "owned here");
        assert_eq!(slot(b"a"), 15495);
        assert_eq!(moved(b"a"), None, "its owner is not there");
        assert_eq!(super::moved(&Topology::default(), b"foo"), None);
    }
}
