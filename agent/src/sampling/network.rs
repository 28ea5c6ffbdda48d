//! Bytes, packets, errors and drops by interface, and TCP.
//!
//! The loopback and the interfaces that container engines and hypervisors make
//! by the dozen (veth pairs, bridges) are left out: what passes them passes the
//! physical interface as well, or never leaves the node.

use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::limit::LABELS_PER_SET_MAX;
use protocol::telemetry::{Label, SampleSet};

use super::labels::Labels;
use super::source::{CollectError, Source, counts_of};

const LEFT_OUT: [&str; 14] = [
    "veth", "docker", "br-", "virbr", "vnet", "tap", "cni", "flannel", "cali", "lxc", "ifb",
    "dummy", "sit", "ip6tnl",
];

#[derive(Debug)]
pub(super) struct Interfaces {
    labels: Labels,
}

impl Interfaces {
    pub(super) const fn new() -> Self {
        Self {
            labels: Labels::new(LABELS_PER_SET_MAX),
        }
    }

    /// Collects, and says how many interfaces were beyond the bound.
    pub(super) fn collect(
        &mut self,
        source: &mut Source,
        out: &mut SampleSet,
    ) -> Result<usize, CollectError> {
        let Some(file) = source.proc("net/dev")? else {
            return Ok(0);
        };
        let mut names = Vec::new();
        let mut counts = Vec::new();
        for line in file.text.lines().skip(2) {
            let Some((name, rest)) = line.split_once(':') else {
                continue;
            };
            let name = name.trim();
            if name == "lo" || LEFT_OUT.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            names.push(name);
            let numbers = counts_of::<12>(rest.split_whitespace());
            counts.push(numbers.ok_or_else(|| file.lacks("twelve counts for an interface"))?);
        }
        let (kept, dropped) = self.labels.of(&names);
        for (label, index) in kept {
            let Some(numbers) = counts.get(index) else {
                continue;
            };
            let [
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_drops,
                _,
                _,
                _,
                _,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_drops,
            ] = *numbers;
            for (series, value) in [
                (SeriesId::NET_RX_BYTES, rx_bytes),
                (SeriesId::NET_RX_PACKETS, rx_packets),
                (SeriesId::NET_RX_ERRORS, rx_errors),
                (SeriesId::NET_RX_DROPS, rx_drops),
                (SeriesId::NET_TX_BYTES, tx_bytes),
                (SeriesId::NET_TX_PACKETS, tx_packets),
                (SeriesId::NET_TX_ERRORS, tx_errors),
                (SeriesId::NET_TX_DROPS, tx_drops),
            ] {
                out.push_u64(series, &label, value);
            }
        }
        Ok(dropped)
    }
}

/// TCP: connections, retransmissions, resets.
pub(super) fn tcp(source: &mut Source, out: &mut SampleSet) -> Result<(), CollectError> {
    let Some(file) = source.proc("net/snmp")? else {
        return Ok(());
    };
    let mut lines = file
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("Tcp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return Err(file.lacks("lines of TCP"));
    };
    for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
        let series = match name {
            "CurrEstab" => SeriesId::TCP_ESTABLISHED,
            "RetransSegs" => SeriesId::TCP_RETRANSMITS,
            "EstabResets" => SeriesId::TCP_RESETS,
            _ => continue,
        };
        let value = value.parse().map_err(|_| file.lacks("number of TCP"))?;
        out.push_u64(series, &Label::NONE, value);
    }
    Ok(())
}
