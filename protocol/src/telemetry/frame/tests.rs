//! Round trips, released frames, and bytes made to do harm.

use proptest::prelude::*;
use serde_json::json;

use super::bits::{Reader, put_varint, varint_len, zigzag};
use super::*;
use crate::telemetry::limit::{
    FRAME_BYTES_MAX, FRAME_COLUMNS_MAX, FRAME_VALUES_MAX, LABEL_BYTES_MAX,
};

fn span(slots: u16) -> Span {
    Span {
        tier: Tier::Fine,
        start_ms: 1_790_000_040_000,
        interval_ms: 10_000,
        slots,
    }
}

fn column(series: SeriesId, label: &str, values: &[Option<i64>]) -> Column {
    Column {
        key: ColumnKey {
            label: Label::fit(label),
            series,
        },
        values: values.to_vec(),
    }
}

fn frame(slots: u16, mut columns: Vec<Column>) -> Frame {
    columns.sort_by(|a, b| a.key.cmp(&b.key));
    Frame {
        // That of the release that wrote the golden files.
        catalogue: 1,
        span: span(slots),
        columns,
    }
}

#[track_caller]
fn check_round_trip(frame: &Frame) -> Vec<u8> {
    for effort in [Effort::Quick, Effort::Shortest] {
        let bytes = encode(frame, effort).unwrap();
        assert_eq!(decode(&bytes).as_ref(), Ok(frame), "{effort:?}");
    }
    encode(frame, Effort::Shortest).unwrap()
}

/// The released frames: what each must keep decoding to.
fn released() -> Vec<(&'static str, Frame)> {
    let ramp = |from: i64, step: i64, count: i64| -> Vec<Option<i64>> {
        (0..count).map(|i| Some(from + i * step + i % 3)).collect()
    };
    vec![
        (
            "frame_minute",
            frame(
                6,
                vec![
                    column(SeriesId::CPU_USER, "", &ramp(123_456, 117, 6)),
                    column(SeriesId::CPU_IDLE, "", &ramp(9_876_543, 1_980, 6)),
                    column(SeriesId::MEM_TOTAL, "", &[Some(385_684); 6]),
                    column(
                        SeriesId::UPTIME,
                        "",
                        &(0..6).map(|i| Some(3_600 + 10 * i)).collect::<Vec<_>>(),
                    ),
                    column(
                        SeriesId::DISK_READ_OPS,
                        "vda",
                        &[
                            Some(7),
                            Some(9),
                            Some(9),
                            Some(9),
                            Some(900_000),
                            Some(900_001),
                        ],
                    ),
                    column(
                        SeriesId::NET_RX_BYTES,
                        "eth0",
                        &ramp(8_000_000_000, 51_000, 6),
                    ),
                    column(SeriesId::FS_USED, "/", &[Some(14_000); 6]),
                ],
            ),
        ),
        (
            "frame_gaps",
            frame(
                6,
                vec![
                    column(
                        SeriesId::CPU_USER,
                        "",
                        &[None, Some(1), None, Some(2), Some(3), None],
                    ),
                    column(
                        SeriesId::TEMP,
                        "coretemp core 0",
                        &[None, None, None, Some(-55), None, None],
                    ),
                ],
            ),
        ),
        (
            "frame_extremes",
            frame(
                3,
                vec![
                    column(SeriesId(1), "", &[Some(i64::MIN), Some(i64::MAX), Some(0)]),
                    column(
                        SeriesId(u16::MAX),
                        "",
                        &[Some(i64::MAX), None, Some(i64::MIN)],
                    ),
                    column(SeriesId(65_000), "é/ü", &[Some(-1), Some(-1), Some(-1)]),
                ],
            ),
        ),
        (
            "frame_compressed",
            frame(
                360,
                (35..43)
                    .map(|id| {
                        column(
                            SeriesId(id),
                            "eth0",
                            &ramp(1 << id, i64::from(id) * 100, 360),
                        )
                    })
                    .collect(),
            ),
        ),
        ("frame_empty", frame(0, vec![])),
    ]
}

fn rendered(frame: &Frame) -> String {
    let columns: Vec<_> = frame
        .columns
        .iter()
        .map(|column| json!({"series": column.key.series.0, "label": column.key.label.as_str(), "values": column.values}))
        .collect();
    let mut text = serde_json::to_string_pretty(&json!({
        "catalogue": frame.catalogue,
        "tier": frame.span.tier,
        "start_ms": frame.span.start_ms,
        "interval_ms": frame.span.interval_ms,
        "slots": frame.span.slots,
        "columns": columns,
    }))
    .unwrap();
    text.push('\n');
    text
}

/// The catalogue that the released frames name.
const RELEASED_CATALOGUE: u16 = 1;

/// Set to write golden files that are missing. One that is there is never
/// written: released bytes are decoded for ever.
const BLESS: &str = "FLOTILLA_BLESS";

#[test]
fn released_frames_decode_for_ever() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1");
    for (name, mut frame) in released() {
        frame.catalogue = RELEASED_CATALOGUE;
        let binary = folder.join(format!("{name}.bin"));
        let json = folder.join(format!("{name}.json"));
        if std::env::var_os(BLESS).is_some() && !binary.exists() {
            std::fs::write(&binary, encode(&frame, Effort::Shortest).unwrap()).unwrap();
            std::fs::write(&json, rendered(&frame)).unwrap();
        }
        let decoded = decode(&std::fs::read(&binary).unwrap()).unwrap();
        assert_eq!(decoded, frame, "{name}");
        assert_eq!(
            rendered(&decoded),
            std::fs::read_to_string(&json).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn a_frame_comes_back_as_it_went() {
    for (_, frame) in released() {
        check_round_trip(&frame);
    }
}

#[test]
fn gaps_stay_gaps() {
    let before = frame(
        4,
        vec![column(
            SeriesId::LOAD_1,
            "",
            &[Some(1), None, None, Some(4)],
        )],
    );
    let after = decode(&encode(&before, Effort::Shortest).unwrap()).unwrap();
    assert_eq!(after.columns[0].values, [Some(1), None, None, Some(4)]);
    assert_eq!(
        after
            .moments()
            .iter()
            .map(|(slot, _)| *slot)
            .collect::<Vec<_>>(),
        [0, 3]
    );
}

#[test]
fn samples_become_a_frame_and_samples_again() {
    let mut first = SampleSet::new();
    first.push(SeriesId::LOAD_1, 12);
    first.push_labelled(SeriesId::NET_RX_BYTES, &Label::fit("eth0"), 1_000);
    let mut second = SampleSet::new();
    second.push(SeriesId::LOAD_1, 13);
    let outside = SampleSet::new();
    let frame = Frame::from_samples(1, span(3), [(0, &first), (2, &second), (99, &outside)]);
    assert_eq!(frame.sample_count(), 3);
    let moments = frame.moments();
    assert_eq!(moments.len(), 2);
    assert_eq!(
        moments[0].1.get(SeriesId::NET_RX_BYTES, "eth0"),
        Some(1_000)
    );
    assert_eq!(moments[1], (2, second));
    let last: Vec<_> = frame
        .last_values()
        .map(|(key, at, value)| (key.series, at, value))
        .collect();
    assert_eq!(
        last,
        [
            (SeriesId::LOAD_1, 1_790_000_060_000, 13),
            (SeriesId::NET_RX_BYTES, 1_790_000_040_000, 1_000)
        ]
    );
}

#[test]
fn a_long_label_is_cut_and_stays_itself() {
    let long = "a".repeat(100);
    let other = format!("{}b", "a".repeat(99));
    let (first, second) = (Label::fit(&long), Label::fit(&other));
    assert!(first.as_str().len() <= LABEL_BYTES_MAX);
    assert_ne!(first, second);
    assert_eq!(Label::fit("a\nb\u{202e}c").as_str(), "a_b_c");
    assert_eq!(Label::from_wire(&long), None);
    assert_eq!(Label::from_wire("a\nb"), None);
}

/// The bytes of a body up to the labels, for bodies made by hand.
fn hand_made(slots: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![FORM_STORED, 1, Tier::Fine.number()];
    put_varint(&mut bytes, 1_790_000_040_000);
    put_varint(&mut bytes, 10_000);
    put_varint(&mut bytes, slots);
    bytes.push(0);
    bytes.extend_from_slice(rest);
    bytes
}

#[track_caller]
fn check_refused(bytes: &[u8], expected: &DecodeFrameError) {
    assert_eq!(decode(bytes).as_ref(), Err(expected));
}

#[test]
fn absurd_counts_are_refused_before_anything_is_allocated() {
    let too_large = |what, count, limit| DecodeFrameError::TooLarge { what, count, limit };
    check_refused(
        &hand_made(1 << 40, &[]),
        &too_large("slots", 1 << 40, FRAME_SLOTS_MAX),
    );
    let mut labels = Vec::new();
    put_varint(&mut labels, u64::MAX);
    check_refused(&hand_made(6, &labels), &too_large("labels", u64::MAX, 256));
    let mut columns = vec![1, 0, 1, 0];
    put_varint(&mut columns, 1_000_000);
    check_refused(
        &hand_made(6, &columns),
        &too_large("columns", 1_000_000, FRAME_COLUMNS_MAX - 1),
    );
    let mut values = vec![1, 0, 1, 0];
    put_varint(&mut values, 999);
    check_refused(
        &hand_made(1_024, &values),
        &too_large("values", 1_024_000, FRAME_VALUES_MAX),
    );
    check_refused(
        &vec![FORM_STORED; FRAME_BYTES_MAX + 1],
        &too_large("bytes", FRAME_BYTES_MAX as u64 + 1, FRAME_BYTES_MAX),
    );
}

#[test]
fn a_compression_bomb_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    let mut honest = vec![FORM_ZSTD];
    put_varint(&mut honest, 64 << 20);
    honest.extend_from_slice(&bomb);
    check_refused(
        &honest,
        &DecodeFrameError::TooLarge {
            what: "bytes before compression",
            count: 64 << 20,
            limit: FRAME_BODY_BYTES_MAX,
        },
    );
    let mut lying = vec![FORM_ZSTD];
    put_varint(&mut lying, 1_000);
    lying.extend_from_slice(&bomb);
    check_refused(&lying, &DecodeFrameError::Compressed);
}

#[test]
fn every_truncation_is_refused() {
    for (name, frame) in released() {
        for effort in [Effort::Quick, Effort::Shortest] {
            let bytes = encode(&frame, effort).unwrap();
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut]).is_err(), "{name} cut at {cut}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(decode(&longer).is_err(), "{name} with a byte more");
        }
    }
}

#[test]
fn an_unknown_form_or_tier_is_named() {
    check_refused(&[], &DecodeFrameError::Truncated);
    check_refused(&[9, 1, 2], &DecodeFrameError::UnknownForm { form: 9 });
    let mut bytes = hand_made(0, &[0]);
    bytes[2] = 200;
    check_refused(&bytes, &DecodeFrameError::UnknownTier { tier: 200 });
}

#[test]
fn a_frame_beyond_the_limits_is_not_encoded() {
    let many: Vec<Column> = (0..1_025)
        .map(|id| column(SeriesId(id), "", &[Some(1)]))
        .collect();
    assert!(matches!(
        encode(&frame(1, many), Effort::Quick),
        Err(EncodeFrameError::TooLarge {
            what: "columns",
            ..
        })
    ));
    let double = vec![
        column(SeriesId(1), "", &[Some(1)]),
        column(SeriesId(1), "", &[Some(2)]),
    ];
    assert!(matches!(
        encode(&frame(1, double), Effort::Quick),
        Err(EncodeFrameError::Malformed { .. })
    ));
    let mut slow = frame(1, vec![]);
    slow.span.interval_ms = 0;
    assert_eq!(
        encode(&slow, Effort::Quick),
        Err(EncodeFrameError::Interval { interval_ms: 0 })
    );
}

#[test]
fn coarser_gauges_are_means_and_counters_their_last() {
    let minute = |index: u64, load: [Option<i64>; 6], bytes: [Option<i64>; 6]| Frame {
        span: Span {
            start_ms: 1_790_000_040_000 + index * 60_000,
            ..span(6)
        },
        ..frame(
            6,
            vec![
                column(SeriesId::LOAD_1, "", &load),
                column(SeriesId::NET_RX_BYTES, "eth0", &bytes),
            ],
        )
    };
    let frames = [
        minute(
            0,
            [Some(1), Some(2), Some(3), Some(4), Some(5), Some(9)],
            [Some(10); 6],
        ),
        minute(
            2,
            [Some(-7), None, None, None, None, Some(-8)],
            [Some(20), Some(30), None, None, None, None],
        ),
    ];
    let coarse = downsample(&frames, Tier::Minute).unwrap();
    assert_eq!(coarse.span.slots, 3);
    assert_eq!(coarse.span.start_ms, 1_790_000_040_000);
    assert_eq!(coarse.columns[0].values, [Some(4), None, Some(-8)]);
    assert_eq!(coarse.columns[1].values, [Some(10), None, Some(30)]);
    check_round_trip(&coarse);
    assert_eq!(downsample(&[], Tier::Minute), Err(DownsampleError::Nothing));
    let apart = [
        frames[0].clone(),
        minute(1_000_000, [Some(1); 6], [Some(1); 6]),
    ];
    assert!(matches!(
        downsample(&apart, Tier::Minute),
        Err(DownsampleError::TooLarge { what: "slots", .. })
    ));
}

#[test]
fn encoded_frames_become_one_and_a_bad_one_is_named() {
    let bytes = encode(
        &frame(6, vec![column(SeriesId::LOAD_1, "", &[Some(3); 6])]),
        Effort::Shortest,
    )
    .unwrap();
    let coarse = decode(&downsample_encoded(&[&bytes, &bytes], Tier::TenMinutes).unwrap()).unwrap();
    assert_eq!(coarse.span.tier, Tier::TenMinutes);
    assert_eq!(coarse.columns[0].values, [Some(3)]);
    let error = downsample_encoded(&[&bytes, &[0]], Tier::Minute).unwrap_err();
    assert!(matches!(error, RepackError::Decode { index: 1, .. }));
    assert_eq!(
        decode(&[0]).unwrap_err().code().info().text,
        "frame.invalid"
    );
}

fn any_value() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        1 => Just(None),
        4 => (-100_i64..100).prop_map(Some),
        2 => (0_i64..1_000_000_000).prop_map(Some),
        1 => any::<i64>().prop_map(Some),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    (0_u16..40).prop_flat_map(|slots| {
        let key = (
            0_u16..70,
            prop_oneof![Just(""), Just("eth0"), Just("/"), Just("sda")],
        );
        let values = proptest::collection::vec(any_value(), usize::from(slots));
        proptest::collection::btree_map(key, values, 0..30).prop_map(move |columns| {
            frame(
                slots,
                columns
                    .into_iter()
                    .filter(|(_, values)| values.iter().any(Option::is_some))
                    .map(|((id, label), values)| column(SeriesId(id), label, &values))
                    .collect(),
            )
        })
    })
}

proptest! {
    #[test]
    fn invariant_any_frame_round_trips(frame in any_frame()) {
        for effort in [Effort::Quick, Effort::Shortest] {
            let bytes = encode(&frame, effort).unwrap();
            prop_assert_eq!(decode(&bytes), Ok(frame.clone()));
        }
    }

    #[test]
    fn invariant_random_bytes_never_harm(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(frame) = decode(&bytes) {
            prop_assert!(frame.columns.len() <= FRAME_COLUMNS_MAX);
        }
        let mut stored = vec![FORM_STORED, 1, 1, 0, 0x90, 0x4e];
        stored.extend_from_slice(&bytes);
        if let Ok(frame) = decode(&stored) {
            prop_assert!(encode(&frame, Effort::Quick).is_ok());
        }
    }

    #[test]
    fn invariant_damaged_frames_never_harm(frame in any_frame(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = encode(&frame, Effort::Quick).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(decoded) = decode(&bytes) {
            prop_assert!(encode(&decoded, Effort::Quick).is_ok());
        }
    }

    #[test]
    fn varints_are_as_long_as_they_say(value in any::<i64>()) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, zigzag(value));
        prop_assert_eq!(bytes.len(), varint_len(zigzag(value)));
        prop_assert_eq!(Reader::new(&bytes).zigzag(), Ok(value));
    }

    #[test]
    fn downsampling_never_invents_a_value(frame in any_frame()) {
        let coarse = downsample(std::slice::from_ref(&frame), Tier::Minute).unwrap();
        for column in &coarse.columns {
            let source = frame.columns.iter().find(|source| source.key == column.key).unwrap();
            let low = source.values.iter().flatten().min().unwrap();
            let high = source.values.iter().flatten().max().unwrap();
            prop_assert!(column.values.iter().flatten().all(|value| low <= value && value <= high));
        }
    }
}
