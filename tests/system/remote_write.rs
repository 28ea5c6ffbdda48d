//! Remote write into a real Prometheus: it takes what is sent, under the names,
//! labels, values and moments that the catalogue promises.

use std::sync::Arc;
use std::time::Duration;

use controller::series::{Arrival, Outcome, Series, Settings, remote};
use harness::servers::Prometheus;
use harness::wait;
use protocol::id::{NodeId, StoreId};
use protocol::label::Labels;
use protocol::stream::Stream;
use protocol::telemetry::catalogue::{CATALOGUE, LabelName, VERSION};
use protocol::telemetry::frame::{Effort, Frame, Span, encode};
use protocol::telemetry::{Label, SampleSet, Tier};
use tokio_util::sync::CancellationToken;

/// A minute that ended just now, holding every series of the catalogue: value 6
/// times its number in the last slot.
fn everything(start_ms: u64) -> Vec<u8> {
    let moments: Vec<(usize, SampleSet)> = (0..6)
        .map(|slot| {
            let mut samples = SampleSet::new();
            for series in CATALOGUE {
                let label = if series.label == LabelName::None {
                    Label::NONE
                } else {
                    Label::fit("one")
                };
                let value = i64::from(series.id.0) * i64::try_from(slot + 1).expect("six slots");
                samples.push_labelled(series.id, &label, value);
            }
            (slot, samples)
        })
        .collect();
    let span = Span {
        tier: Tier::Fine,
        start_ms,
        interval_ms: 10_000,
        slots: 6,
    };
    let frame = Frame::from_samples(
        VERSION,
        span,
        moments.iter().map(|(slot, set)| (*slot, set)),
    );
    encode(&frame, Effort::Shortest).expect("a minute encodes")
}

#[test]
fn a_real_prometheus_takes_every_series_under_its_name() {
    let Some(prometheus) = Prometheus::start() else {
        return;
    };
    let dir = tempfile::TempDir::new().expect("the temporary folder is writable");
    let node = NodeId::from_bytes([7; 10]);
    let settings = Settings {
        dir: dir.path().to_owned(),
        retention: Duration::from_secs(86_400),
        retention_rollup: Duration::from_secs(86_400),
        bytes_max: 1 << 30,
        remote_write: Some(remote::Settings {
            url: prometheus.write_url(),
            bearer_token_file: None,
            ca_file: None,
            allow: vec!["127.0.0.0/8".parse().unwrap()],
        }),
        tags: Arc::new(|_| {
            let site = ("site".to_owned(), "lyon".to_owned());
            Labels::from_pairs([site])
                .ok()
                .map(|labels| ("web-1".to_owned(), labels))
        }),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime starts");
    let now = controller::clock::now();
    let (series, upkeep) = Series::open(settings, now).expect("an empty folder opens");
    let stop = CancellationToken::new();
    let running = {
        let stop = stop.clone();
        runtime.handle().spawn(upkeep.run(stop))
    };
    let start_ms = now.0 / 10_000 * 10_000 - 60_000;
    let arrival = Arrival {
        node,
        store: StoreId::from_bytes([1; 10]),
        stream: Stream::Telemetry,
        seq: 1,
        body: everything(start_ms),
    };
    let outcomes = runtime
        .block_on(series.ingest(vec![arrival], now))
        .expect("the disk takes it");
    assert_eq!(outcomes, [Outcome::Stored]);
    let sent = CATALOGUE.len() as u64 * 6;
    wait::until_true("the samples are taken", Duration::from_secs(30), || {
        series.stats().remote_sent == sent
    });
    for line in CATALOGUE {
        let name = line.prometheus_name();
        let label = line
            .label
            .text()
            .map(|label| format!(", {label}=\"one\""))
            .unwrap_or_default();
        let query =
            format!("{name}{{node=\"{node}\", name=\"web-1\", label_site=\"lyon\"{label}}}");
        let found = prometheus.query(&query);
        let value: f64 = found
            .first()
            .and_then(|result| result["value"][1].as_str()?.parse().ok())
            .unwrap_or(f64::NAN);
        let expected = line.scaled(i64::from(line.id.0) * 6);
        assert!(
            (value - expected).abs() < 1e-6 * expected.max(1.0),
            "{query}: {value}, not {expected}"
        );
    }
    assert_eq!(series.stats().remote_dropped, 0);
    stop.cancel();
    runtime
        .block_on(running)
        .expect("the task ends")
        .expect("and well");
}
