//! Texts that are made to cost: each is refused in a time and a memory that do not
//! depend on what it would grow to.

use std::time::Duration;

use super::super::TEXT_BYTES_MAX;
use super::*;
use crate::clock;

/// Generous for an unoptimised build on a busy machine; what these texts would
/// grow to takes days.
const TIME_MAX: Duration = Duration::from_secs(20);

fn refused(name: &str, text: &str, expected: &str) {
    let started = clock::monotonic();
    let problems = check(text).expect_err(name);
    let took = clock::monotonic().saturating_duration_since(started);
    assert!(took < TIME_MAX, "{name} took {took:?}");
    let said = problems.to_string();
    assert!(said.contains(expected), "{name}: {said}");
    assert!(
        said.len() < 20_000,
        "{name}: {} bytes of problems",
        said.len()
    );
}

#[test]
fn a_large_file_is_refused_before_it_is_read() {
    refused("10 MB", &"a".repeat(10_000_000), "at most 1048576");
    refused(
        "10 MB of list",
        &"- a\n".repeat(2_500_000),
        "at most 1048576",
    );
}

#[test]
fn aliases_that_grow_are_refused() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for n in 1..30 {
        let before = n - 1;
        let list = vec![format!("*a{before}"); 9].join(", ");
        writeln!(laughs, "a{n}: &a{n} [{list}]").unwrap();
    }
    refused("laughs", &laughs, "too large with its aliases");

    let mut merges = "a0: &a0 {k: v}\n".to_owned();
    for n in 1..30 {
        let before = n - 1;
        writeln!(
            merges,
            "a{n}: &a{n} {{x{n}: *a{before}, y{n}: *a{before}, <<: *a{before}}}"
        )
        .unwrap();
    }
    refused("merges", &merges, "aliases");

    let long = "x".repeat(TEXT_BYTES_MAX / 2);
    let many = "*a, ".repeat(100);
    refused(
        "one long text",
        &format!("a: &a {long}\nb: [{many}]"),
        "too large with its aliases",
    );

    let keys: String = (0..20_000).map(|n| format!("k{n}: v\n  ")).collect();
    let merged: String = (0..20_000).map(|n| format!("m{n}: {{<<: *a}}\n")).collect();
    refused(
        "one large map",
        &format!("a: &a\n  {keys}\n{merged}"),
        "too large with its aliases",
    );
}

#[test]
fn nesting_and_cycles_are_refused() {
    refused("flow", &"[".repeat(100_000), "limit");
    refused("maps", &"{a: ".repeat(100_000), "limit");
    refused("block", &"- ".repeat(100_000), "limit");
    let deep: String = (0..1000)
        .map(|n| format!("{}a:\n", " ".repeat(n)))
        .collect();
    refused("deep", &deep, "limit");
    refused("itself", "a: &a [*a]", "inside of what it refers to");
    refused(
        "itself by merge",
        "a: &a {<<: *a}",
        "inside of what it refers to",
    );
    let mut chain = "a0: &a0 {k: v}\n".to_owned();
    for n in 1..100 {
        writeln!(chain, "a{n}: &a{n} {{k: *a{}}}", n - 1).unwrap();
    }
    refused("deep by alias", &chain, "deeper");
}

#[test]
fn what_yaml_allows_and_means_no_good_is_refused() {
    for (text, expected) in [
        ("a: 1\na: 2", "twice"),
        ("services: {a: {image: x, image: y}}", "twice"),
        ("? [a]\n: b", "not a single value"),
        ("? {a: b}\n: c", "not a single value"),
        ("~: b", "not a single value"),
        ("a: !!binary aGk=", "tag"),
        ("a: !reset null", "tag"),
        ("a: !include x.yaml", "tag"),
        ("--- {a: b}\n--- {c: d}", "second document"),
        ("%YAML 1.1\n---\na: b", "no YAML"),
        ("a: *nope", "no YAML"),
        ("a: [", "no YAML"),
        ("\u{1}", "no YAML"),
        ("<<: 1", "merges a map"),
        ("<<: [1]", "merges a map"),
    ] {
        refused(text, text, expected);
    }
    let tag = check("a: !reset null").unwrap_err();
    assert_eq!(tag.code(), ErrorCode::DeploymentUnsupported);
}

#[test]
fn many_services_and_circles_of_dependencies_are_refused() {
    let mut many = "services:\n".to_owned();
    for n in 0..10_000 {
        writeln!(many, "  s{n}: {{image: x}}").unwrap();
    }
    refused("many", &many, "are 10000; at most 64");

    let mut circle = "services:\n".to_owned();
    for n in 0..64 {
        writeln!(
            circle,
            "  s{n}: {{image: x, depends_on: [s{}]}}",
            (n + 1) % 64
        )
        .unwrap();
    }
    refused("circle", &circle, "depends on itself: s0 → s1 → s2");
    let text = "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [b]}\n";
    refused("beside a circle", text, "depends on itself: b → c → b");
}

#[test]
fn variables_that_grow_are_refused() {
    let beside = Beside::with(&[("BIG", &"x".repeat(100_000))], &[]);
    let text = service(&format!("environment: {{A: \"{}\"}}", "$BIG".repeat(2_000)));
    let said = check_with(&text, &beside).unwrap_err().to_string();
    assert!(said.contains("too large"), "{}", said.len());
}

#[test]
fn ports_without_number_are_refused() {
    refused(
        "range",
        &service("ports: [\"1-65535:1-65535\"]"),
        "more than 512 ports",
    );
    let ranges = "\"1-500:1-500\", \"1001-1500:1-500\"";
    refused(
        "ranges",
        &service(&format!("ports: [{ranges}]")),
        "past 512 ports",
    );
}

#[test]
fn what_is_said_of_a_long_text_is_short() {
    let long = "X".repeat(500_000);
    let lower = "x".repeat(500_000);
    for (name, text, expected) in [
        ("key", format!("? {lower}\n: 1"), "not supported"),
        (
            "name",
            format!("services: {{? {lower} : {{image: x}}}}"),
            "is no name",
        ),
        ("variable", service(&format!("user: ${long}")), "not given"),
        (
            "message",
            service(&format!("user: \"${{A:?{long}}}\"")),
            "needs the variable",
        ),
        (
            "braces",
            service(&format!("user: \"${{{long}/}}\"")),
            "neither",
        ),
        ("anchor", format!("a: *{long}"), "no YAML"),
        ("tag", format!("a: !{long} b"), "tag"),
        (
            "image",
            service("x-a: 1").replace("busybox", &long),
            "is no image",
        ),
        ("size", service(&format!("mem_limit: {long}")), "is no size"),
        (
            "time",
            service(&format!("stop_grace_period: {long}")),
            "is no time",
        ),
        ("number", service(&format!("cpus: {long}")), "is no number"),
        ("port", service(&format!("ports: [{long}]")), "is no port"),
        (
            "volume",
            service(&format!("volumes: [./{long}]")),
            "absolute",
        ),
        (
            "signal",
            service(&format!("depends_on: [{lower}]")),
            "no service",
        ),
        (
            "environment",
            service(&format!("environment: {{? {long} : []}}")),
            "single value",
        ),
    ] {
        refused(name, &text, expected);
    }
}
