//! The catalogue against its released copy, and the names that leave it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;

fn printed() -> String {
    let mut text = String::new();
    for series in CATALOGUE {
        writeln!(
            text,
            "{} {} {:?} {:?} {} {:?} {}",
            series.id.0,
            series.name,
            series.kind,
            series.unit,
            series.scale,
            series.label,
            series.prometheus_name(),
        )
        .unwrap();
    }
    text
}

#[test]
fn released_lines_never_change() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/v1/catalogue.txt");
    let released = std::fs::read_to_string(path).unwrap();
    let printed = printed();
    assert!(
        printed.starts_with(&released),
        "a released line changed or vanished; the catalogue is append-only.\nreleased:\n{released}\nnow:\n{printed}"
    );
    if std::env::var_os("FLOTILLA_BLESS").is_some() {
        std::fs::write(path, &printed).unwrap();
        return;
    }
    assert_eq!(
        printed, released,
        "series were appended: raise VERSION, then run this test with FLOTILLA_BLESS=1"
    );
}

#[test]
fn numbers_ascend_and_names_are_unique() {
    for pair in CATALOGUE.windows(2) {
        assert!(
            pair[0].id < pair[1].id,
            "{} before {}",
            pair[0].id,
            pair[1].id
        );
    }
    let names: BTreeSet<_> = CATALOGUE.iter().map(|series| series.name).collect();
    let exported: BTreeSet<_> = CATALOGUE.iter().map(Series::prometheus_name).collect();
    assert_eq!(names.len(), CATALOGUE.len());
    assert_eq!(exported.len(), CATALOGUE.len());
}

#[test]
fn a_number_finds_its_line_and_a_newer_one_finds_none() {
    assert_eq!(SeriesId::MEM_USED.series().unwrap().name, "mem.used");
    assert_eq!(SeriesId(9_999).series(), None);
    assert_eq!(SeriesId(9_999).to_string(), "series.9999");
    assert_eq!(
        Series::by_name("net.rx.bytes").unwrap().id,
        SeriesId::NET_RX_BYTES
    );
}

#[test]
fn prometheus_names_follow_its_conventions() {
    let name = |id: SeriesId| id.series().unwrap().prometheus_name();
    assert_eq!(name(SeriesId::MEM_USED), "flotilla_mem_used_bytes");
    assert_eq!(name(SeriesId::CPU_USER), "flotilla_cpu_user_seconds_total");
    assert_eq!(name(SeriesId::NET_RX_BYTES), "flotilla_net_rx_bytes_total");
    assert_eq!(name(SeriesId::TEMP), "flotilla_temp_celsius");
    assert_eq!(name(SeriesId::LOAD_1), "flotilla_load_1m");
    for series in CATALOGUE {
        let exported = series.prometheus_name();
        assert!(
            exported
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
            "{exported}"
        );
    }
}

#[test]
fn values_scale_into_their_unit() {
    let memory = SeriesId::MEM_USED.series().unwrap();
    assert!((memory.scaled(16) - 1_048_576.0).abs() < f64::EPSILON);
}
