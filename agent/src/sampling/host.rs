//! One moment's measurement of the host.
//!
//! Owns every collector and what each remembers between samples. A collector
//! that fails costs its own series and nothing else; it is reported when it
//! begins to fail and when it works again, not at every sample.

use std::collections::BTreeSet;
use std::path::Path;

use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::{Label, SampleSet};

use super::cgroup::Cgroup;
use super::container::{self, Engine};
use super::disk::Disks;
use super::filesystem::Filesystems;
use super::network::{self, Interfaces};
use super::own::Own;
use super::source::{CollectError, Source};
use super::temperature::Temperatures;
use super::{cpu, memory, pressure, process};

/// The collectors of one host.
pub struct Host {
    source: Source,
    cgroup: Cgroup,
    disks: Disks,
    interfaces: Interfaces,
    filesystems: Filesystems,
    temperatures: Temperatures,
    own: Own,
    failing: BTreeSet<&'static str>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("cgroup", &self.cgroup)
            .finish_non_exhaustive()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new(Source::host())
    }
}

impl Host {
    /// The host whose `/proc` and `/sys` are below `root`: recorded files, in tests.
    pub fn below(root: &Path) -> Self {
        Self::new(Source::at(root))
    }

    fn new(mut source: Source) -> Self {
        let cgroup = Cgroup::find(&mut source);
        Self {
            source,
            cgroup,
            disks: Disks::new(),
            interfaces: Interfaces::new(),
            filesystems: Filesystems::new(),
            temperatures: Temperatures::new(),
            own: Own::default(),
            failing: BTreeSet::new(),
        }
    }

    /// Measures the host without containers.
    pub fn sample(&mut self, out: &mut SampleSet) {
        self.measure(None, out);
    }

    /// Measures everything that there is.
    pub(super) fn measure(&mut self, engine: Option<&Engine>, out: &mut SampleSet) {
        let Self {
            source,
            cgroup,
            disks,
            interfaces,
            filesystems,
            temperatures,
            own,
            failing,
        } = self;
        let mut dropped = 0;
        let mut counted = |result: Result<usize, CollectError>| result.map(|more| dropped += more);
        let results = [
            ("cpu", cpu::times(source, cgroup, out)),
            ("load", cpu::load(source, out)),
            ("uptime", cpu::uptime(source, out)),
            ("memory", memory::collect(source, cgroup, out)),
            ("pressure", pressure::collect(source, out)),
            ("filesystem", counted(filesystems.collect(source, out))),
            ("disk", counted(disks.collect(source, out))),
            ("network", counted(interfaces.collect(source, out))),
            ("tcp", network::tcp(source, out)),
            ("process", process::count(source, out)),
            ("descriptor", process::descriptors(source, out)),
            ("own", own.collect(source, out)),
        ];
        dropped += temperatures.collect(out);
        if let Some(engine) = engine {
            dropped += container::collect(source, engine, out);
        }
        out.push_u64(SeriesId::AGENT_LABELS_DROPPED, &Label::NONE, dropped as u64);
        for (collector, result) in results {
            match result {
                Ok(()) => {
                    if failing.remove(collector) {
                        tracing::info!(collector, "the collector works again");
                    }
                }
                Err(error) => {
                    if failing.insert(collector) {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::warn!(collector, %error, cause, "a collector fails; its series are absent");
                    }
                }
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> Option<u64> {
        self.own.memory_bytes()
    }

    pub(super) fn parts(&mut self) -> (&mut Source, &Cgroup) {
        (&mut self.source, &self.cgroup)
    }
}
