//! The messages of remote write 1.0, as far as a sender needs them.

use protocol::telemetry::catalogue::Series;

use super::super::Tags;
use super::Forwarded;

/// `prometheus.WriteRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub(in super::super) timeseries: Vec<TimeSeries>,
}

/// `prometheus.TimeSeries`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub(in super::super) labels: Vec<Pair>,
    #[prost(message, repeated, tag = "2")]
    pub(in super::super) samples: Vec<Measured>,
}

/// `prometheus.Label`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub(in super::super) struct Pair {
    #[prost(string, tag = "1")]
    pub(in super::super) name: String,
    #[prost(string, tag = "2")]
    pub(in super::super) value: String,
}

/// `prometheus.Sample`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct Measured {
    #[prost(double, tag = "1")]
    pub(in super::super) value: f64,
    /// Unix milliseconds.
    #[prost(int64, tag = "2")]
    pub(in super::super) timestamp: i64,
}

/// The request for these frames. Series of a newer catalogue than this
/// controller's have no name yet and are left out.
pub(in super::super) fn write_request(batch: &[Forwarded], tags: &Tags) -> WriteRequest {
    let mut timeseries = Vec::new();
    for forwarded in batch {
        let node = node_labels(forwarded, tags);
        for column in &forwarded.frame.columns {
            let Some(series) = column.key.series.series() else {
                continue;
            };
            let samples = column
                .values
                .iter()
                .enumerate()
                .filter_map(|(slot, value)| {
                    Some(Measured {
                        value: series.scaled((*value)?),
                        timestamp: i64::try_from(forwarded.frame.span.slot_ms(slot)).ok()?,
                    })
                })
                .collect();
            timeseries.push(TimeSeries {
                labels: labels(series, column.key.label.as_str(), &node),
                samples,
            });
        }
    }
    WriteRequest { timeseries }
}

fn node_labels(forwarded: &Forwarded, tags: &Tags) -> Vec<Pair> {
    let mut pairs = vec![pair("node", &forwarded.node.to_string())];
    if let Some((name, labels)) = tags(forwarded.node) {
        pairs.push(pair("name", &name));
        for (key, value) in labels.iter() {
            let mut label = String::from("label_");
            label.extend(
                key.to_string()
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }),
            );
            pairs.push(pair(&label, value));
        }
    }
    pairs
}

/// The labels of one time series, sorted by name as the protocol asks, each name once.
fn labels(series: &Series, label: &str, node: &[Pair]) -> Vec<Pair> {
    let mut pairs = node.to_vec();
    pairs.push(pair("__name__", &series.prometheus_name()));
    if let Some(name) = series.label.text().filter(|_| !label.is_empty()) {
        pairs.push(pair(name, label));
    }
    pairs.sort();
    pairs.dedup_by(|next, kept| next.name == kept.name);
    pairs
}

fn pair(name: &str, value: &str) -> Pair {
    Pair {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}
