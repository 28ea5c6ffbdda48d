//! What is in memory is mirrored to the spool, and taken up from it after a crash.
//!
//! A spool that fails costs what a crash would find in it, and nothing else: it is
//! counted.

use std::collections::BTreeMap;

use protocol::stream::Stream;

use super::Store;
use super::spool::Record;
use crate::domain::outbox::Worth;
use crate::domain::time::Tick;

impl Store {
    /// Takes up what the spool holds. Frames that reached the disk before a crash
    /// are not taken twice.
    pub(super) fn unspool(&mut self) -> Vec<Vec<u8>> {
        let records = match self.spool.load() {
            Ok(records) => records,
            Err(_) => {
                self.spool_failures += 1;
                Vec::new()
            }
        };
        let mut records = records.into_iter();
        let ours = records.next() == Some(Record::Store(self.meta.store));
        let mut frames = BTreeMap::new();
        if ours {
            for record in records {
                match record {
                    Record::Store(_) => {}
                    Record::Sample(sample) => self.samples.push(sample),
                    Record::Frame(seq, stored) => {
                        self.samples.clear();
                        frames.insert(seq, stored);
                    }
                    Record::Gone(seq) => {
                        frames.remove(&seq);
                    }
                }
            }
        }
        let spilled: Vec<Worth> = self
            .outbox
            .line(Stream::Backfill)
            .after(0)
            .map(|(_, item)| item.worth)
            .collect();
        let acked = self.outbox.line(Stream::Telemetry).acked();
        for (seq, stored) in frames {
            if seq > acked && !spilled.contains(&stored.item.worth) {
                self.outbox
                    .line_mut(Stream::Telemetry)
                    .insert(seq, stored.item);
                self.memory.insert((Stream::Telemetry, seq), stored);
                self.arrived.insert(seq, Tick::default());
                self.handed_out = self.handed_out.max(seq);
            }
        }
        self.respool();
        self.samples.clone()
    }

    pub(super) fn respool(&mut self) {
        let mut records = vec![Record::Store(self.meta.store)];
        records.extend(
            self.memory
                .iter()
                .filter(|((stream, _), _)| *stream == Stream::Telemetry)
                .map(|((_, seq), stored)| Record::Frame(*seq, stored.clone())),
        );
        records.extend(self.samples.iter().cloned().map(Record::Sample));
        if self.spool.replace(&records).is_err() {
            self.spool_failures += 1;
        }
    }

    pub(super) fn spool(&mut self, records: &[Record]) {
        if self.spool.append(records).is_err() {
            self.spool_failures += 1;
        }
        let live = self.outbox.line(Stream::Telemetry).bytes() + self.samples_bytes();
        // Each record has a header; a floor keeps a short file from being written
        // anew for every frame.
        if self.spool.bytes() > 2 * live + 64 * 1024 {
            self.respool();
        }
    }

    fn samples_bytes(&self) -> u64 {
        let bytes: usize = self.samples.iter().map(Vec::len).sum();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Keeps a sample of the frame that is being built.
    pub fn keep_sample(&mut self, sample: Vec<u8>) {
        self.spool(&[Record::Sample(sample.clone())]);
        self.samples.push(sample);
    }
}
