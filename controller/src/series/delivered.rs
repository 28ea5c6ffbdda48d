//! What was delivered before: the highest sequence of each node's streams.
//!
//! The uplink drops duplicates by its own durable positions; this one catches
//! the frame that was stored here just before a crash kept the uplink from
//! noting it. Sequences of one (node, store, stream) only rise, so one number
//! each is enough.

use std::collections::BTreeMap;

use protocol::id::{NodeId, StoreId};
use protocol::stream::Stream;

use super::segment::Origin;

/// Stores remembered for a node: a store is new when the disk was lost, so more
/// than two are rare; the oldest goes first.
const STREAMS_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Delivered {
    nodes: BTreeMap<NodeId, Vec<(StoreId, Stream, u64)>>,
}

impl Delivered {
    pub(super) fn has(&self, origin: &Origin) -> bool {
        self.nodes.get(&origin.node).is_some_and(|streams| {
            streams.iter().any(|(store, stream, seq)| {
                *store == origin.store && *stream == origin.stream && *seq >= origin.seq
            })
        })
    }

    pub(super) fn note(&mut self, origin: &Origin) {
        let streams = self.nodes.entry(origin.node).or_default();
        let known = streams
            .iter_mut()
            .find(|(store, stream, _)| *store == origin.store && *stream == origin.stream);
        match known {
            Some((_, _, seq)) => *seq = (*seq).max(origin.seq),
            None => {
                if streams.len() >= STREAMS_MAX {
                    streams.remove(0);
                }
                streams.push((origin.store, origin.stream, origin.seq));
            }
        }
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }
}
