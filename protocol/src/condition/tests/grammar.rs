//! What is an expression, what is not and why, and its normal form.

use proptest::prelude::*;

use super::super::expression::{EXPRESSION_BYTES_MAX, Expression};
use crate::ErrorCode;
use crate::telemetry::catalogue::CATALOGUE;

#[track_caller]
fn check(text: &str, normal: &str) {
    let parsed: Expression = text
        .parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(parsed.to_string(), normal);
    assert_eq!(normal.parse(), Ok(parsed), "{normal}");
}

#[track_caller]
fn refused(text: &str, message: &str) {
    let error = text.parse::<Expression>().expect_err(text);
    assert_eq!(error.to_string(), message, "{text}");
    assert_eq!(error.code(), ErrorCode::ConditionInvalid);
}

#[test]
fn expressions_print_in_normal_form() {
    for normal in [
        "fs.used > 90% for 5m",
        "fs.used{/var} > 90.5%",
        "load.1m > 4",
        "cpu.busy > 95% for 10m",
        "net.rx.errors > 10/s for 1m",
        "net.rx.bytes{eth0} >= 12.5MiB/s",
        "temp > 85C",
        "mem.available < 200MiB",
        "max(temp) > -3C for 1d",
        "sum(net.tx.bytes) > 100MB/s for 2h",
        "avg(fs.used{/}) <= 10%",
        "absent(container.cpu{web}) for 30s",
        "absent(disk.busy)",
        "uptime < 10m",
        "psi.mem.full > 10%",
        "cpu.steal > 0.5s/s",
        "container.cpu{web} > 80%",
        "tcp.established == 0",
        "proc.blocked != 0 for 7d",
    ] {
        check(normal, normal);
    }
    check(
        "  fs.used{ /var }>90 %  for  60s ",
        "fs.used{/var} > 90% for 1m",
    );
    check("temp>=85 °C for 86400s", "temp >= 85C for 1d");
    check("max ( temp )<0.50C for 0s", "max(temp) < 0.5C");
    check("mem.used > 007GiB for 90s", "mem.used > 7GiB for 90s");
}

#[test]
fn an_error_says_where_and_what_would_have_fitted() {
    for (text, message) in [
        (
            "",
            "at character 1: expected a series, such as fs.used, load.1m or cpu.busy, found the end",
        ),
        (
            "fs.usage > 1%",
            "at character 1: expected a series, such as fs.used, load.1m or cpu.busy, found \"fs.usage > 1%\"",
        ),
        (
            "median(temp) > 1C",
            "at character 1: expected a series, or max, min, avg, sum or absent, found \"median(temp) > 1C\"",
        ),
        (
            "max(temp > 1C",
            "at character 10: expected `)`, found \"> 1C\"",
        ),
        (
            "load.1m{x} > 4",
            "at character 8: expected no label, since load.1m has none, found \"{x} > 4\"",
        ),
        (
            "fs.used{} > 4%",
            "at character 9: expected a label and `}`, found \"} > 4%\"",
        ),
        (
            "fs.used{/var > 4%",
            "at character 9: expected a label and `}`, found \"/var > 4%\"",
        ),
        (
            "load.1m = 4",
            "at character 9: expected one of > >= < <= == !=, found \"= 4\"",
        ),
        (
            "load.1m > x",
            "at character 11: expected a number of at most 15 digits, found \"x\"",
        ),
        (
            "load.1m > 1.",
            "at character 11: expected a number of at most 15 digits, found \"1.\"",
        ),
        (
            "load.1m > 1234567890123456",
            "at character 11: expected a number of at most 15 digits, found \"1234567890123456\"",
        ),
        (
            "load.1m > 90%",
            "at character 13: expected no %, since load.1m has no natural total, found \"%\"",
        ),
        (
            "sum(fs.used) > 90%",
            "at character 18: expected no %, since shares have no sum; use max or avg, found \"%\"",
        ),
        ("cpu.busy > 3", "at character 13: expected %, found the end"),
        (
            "absent(cpu.busy)",
            "at character 8: expected a series of the catalogue in absent(…), found \"cpu.busy)\"",
        ),
        (
            "mem.used > 3",
            "at character 13: expected B, KiB, MiB, GiB, TiB, kB, MB, GB, TB or % for mem.used, found the end",
        ),
        (
            "net.rx.errors > 10",
            "at character 19: expected /s for net.rx.errors, found the end",
        ),
        (
            "load.1m > 10/s",
            "at character 13: expected no unit for load.1m, found \"/s\"",
        ),
        (
            "temp > 3K",
            "at character 9: expected C for temp, found \"K\"",
        ),
        (
            "temp > 3C for 8d",
            "at character 15: expected a duration up to 7d, such as 90s, 5m or 1h, found \"8d\"",
        ),
        (
            "temp > 3C for 5",
            "at character 15: expected a duration up to 7d, such as 90s, 5m or 1h, found \"5\"",
        ),
        (
            "temp > 3C and load.1m > 4",
            "at character 11: expected `for` and a duration, or the end, found \"and load.1m > 4\"",
        ),
    ] {
        refused(text, message);
    }
    let long = format!("load.1m > 4{}", " ".repeat(EXPRESSION_BYTES_MAX));
    refused(
        &long,
        "at character 1: expected at most 256 bytes, found 267 bytes",
    );
}

#[test]
fn every_series_can_be_compared_in_its_own_unit() {
    for series in CATALOGUE {
        let texts = ["", "s", "B", "C", "/s", "s/s", "B/s"]
            .map(|unit| format!("{} > 1{unit}", series.name));
        let good: Vec<&String> = texts
            .iter()
            .filter(|text| text.parse::<Expression>().is_ok())
            .collect();
        assert_eq!(good.len(), 1, "{good:?}");
    }
}

#[test]
fn a_position_counts_characters() {
    refused(
        "temp{ä b} > 1K",
        "at character 14: expected C for temp, found \"K\"",
    );
}

fn texts() -> impl Strategy<Value = String> {
    let series = prop::sample::select(CATALOGUE.iter().map(|s| s.name).collect::<Vec<_>>());
    let function = prop::sample::select(vec!["", "max", "min", "avg", "sum", "absent"]);
    let label = prop::sample::select(vec!["", "{/var}", "{a b-ö}"]);
    let compare = prop::sample::select(vec![">", ">=", "<", "<=", "==", "!="]);
    let unit = prop::sample::select(vec![
        "", "%", "s", "h", "MiB", "kB", "C", "/s", "B/s", "ms/s",
    ]);
    let number = (-1_000_000_i64..1_000_000, 0_u32..1_000_000);
    (
        series,
        function,
        label,
        compare,
        number,
        unit,
        0_u64..700_000,
    )
        .prop_map(
            |(series, function, label, compare, (whole, part), unit, seconds)| {
                let (open, close) = if function.is_empty() {
                    ("", "")
                } else {
                    ("(", ")")
                };
                let test = if function == "absent" {
                    String::new()
                } else {
                    format!(" {compare} {whole}.{part}{unit}")
                };
                format!("{function}{open}{series}{label}{close}{test} for {seconds}s")
            },
        )
}

proptest! {
    #[test]
    fn invariant_what_is_printed_reads_as_the_same(text in texts()) {
        if let Ok(parsed) = text.parse::<Expression>() {
            let printed = parsed.to_string();
            prop_assert_eq!(printed.parse::<Expression>(), Ok(parsed), "{}", printed);
        }
    }

    #[test]
    fn invariant_any_text_is_read_or_refused(text in "[a-z0-9.(){}<>=!%/ °ä-]{0,60}") {
        if let Err(error) = text.parse::<Expression>() {
            prop_assert!(error.position <= text.chars().count() + 1);
        }
    }
}
