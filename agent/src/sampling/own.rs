//! The agent's own memory and CPU time.
//!
//! The proportional set size walks the whole address space, so it is asked once
//! a minute; between, the last answer stands.

use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::{Label, SampleSet};

use super::source::{CollectError, Source};

/// Samples between two walks over the address space.
const SAMPLES_PER_WALK: u32 = 6;

/// The catalogue's step of memory, in KiB.
const STEP_KIB: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct Own {
    samples: u32,
    memory_kib: Option<u64>,
}

impl Own {
    pub(super) fn collect(
        &mut self,
        source: &mut Source,
        out: &mut SampleSet,
    ) -> Result<(), CollectError> {
        if self.samples.is_multiple_of(SAMPLES_PER_WALK) {
            self.memory_kib = source
                .proc("self/smaps_rollup")?
                .and_then(|file| file.number_after("Pss:"));
        }
        self.samples = self.samples.wrapping_add(1);
        if let Some(kib) = self.memory_kib {
            out.push_u64(SeriesId::AGENT_MEM, &Label::NONE, kib / STEP_KIB);
        }
        let Some(file) = source.proc("self/stat")? else {
            return Ok(());
        };
        // The name in parentheses may hold anything, spaces and parentheses included.
        let fields = file
            .text
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().skip(11));
        let mut fields = fields
            .ok_or_else(|| file.lacks("process name"))?
            .map(str::parse::<u64>);
        let (Some(Ok(user)), Some(Ok(system))) = (fields.next(), fields.next()) else {
            return Err(file.lacks("CPU times"));
        };
        out.push_u64(
            SeriesId::AGENT_CPU,
            &Label::NONE,
            user.saturating_add(system),
        );
        Ok(())
    }

    /// The last known memory, in bytes.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        self.memory_kib.map(|kib| kib * 1_024)
    }
}
