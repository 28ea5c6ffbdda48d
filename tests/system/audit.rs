//! The audit trail in someone else's hands: every way of falsifying an export is
//! found, and the first bad record is named.

use std::fs;
use std::path::PathBuf;

use harness::cli::Cli;
use harness::controller::{Controller, Plan};

use crate::fleet;

fn export(controller: &Controller) -> (Cli, PathBuf) {
    let cli = controller.cli();
    for number in 0..5 {
        cli.ok(&["token", "create", "--label", &format!("batch=b{number}")]);
    }
    let file = controller.scratch().join("trail.flj");
    cli.ok(&["audit", "export", "--to", &file.to_string_lossy()]);
    (cli, file)
}

#[test]
fn a_trail_that_was_tampered_with_names_its_first_bad_record() {
    let controller = Plan::nodes(0).start();
    let (cli, file) = export(&controller);
    let path = file.to_string_lossy().into_owned();
    cli.ok(&["audit", "verify", &path]);
    let whole = fs::read(&file).unwrap();
    let text = String::from_utf8(whole.clone()).expect("an export is text, one record a line");
    let lines: Vec<&str> = text.lines().collect();
    let middle = lines.len() / 2;

    let mut removed = lines.clone();
    removed.remove(middle);
    let mut swapped = lines.clone();
    swapped.swap(middle, middle + 1);
    let mut cut = lines.clone();
    cut.truncate(lines.len() - 2);
    let changed_line = lines[middle].replacen("\"at\":", "\"at\":1", 1);
    let changed_line = if changed_line == lines[middle] {
        let mut bytes: Vec<char> = lines[middle].chars().collect();
        let place = bytes.iter().rposition(char::is_ascii_digit).unwrap();
        bytes[place] = if bytes[place] == '1' { '2' } else { '1' };
        bytes.into_iter().collect()
    } else {
        changed_line
    };
    let mut changed = lines.clone();
    changed[middle] = &changed_line;

    for (what, lines) in [
        ("removed", removed),
        ("reordered", swapped),
        ("truncated", cut),
        ("changed", changed),
    ] {
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let answer = cli.ask(&["audit", "verify", &path]);
        assert_eq!(answer.code, 65, "{what}: {answer}");
        let said = format!("{}{}", answer.out, answer.err);
        assert!(said.chars().any(|c| c.is_ascii_digit()), "{what}: {said}");
    }
    fs::write(&file, whole).unwrap();
    cli.ok(&["audit", "verify", &path]);
}

#[test]
fn a_trail_under_another_key_does_not_verify() {
    let controller = Plan::nodes(0).start();
    let (cli, file) = export(&controller);
    let foreign = "11".repeat(32);
    let answer = cli.ask(&[
        "audit",
        "verify",
        &file.to_string_lossy(),
        "--key",
        &foreign,
    ]);
    assert_ne!(answer.code, 0, "{answer}");
}

#[test]
fn what_was_denied_is_in_the_trail_with_who_and_why() {
    let controller = Plan::nodes(1).start();
    let cli = controller.cli();
    let key = fleet::key_for(&cli, "victor", "viewer");
    let viewer = fleet::profile_with(&controller, "victor", &key);
    viewer
        .ask(&["run", "--all", "--", "uptime"])
        .refused_with("access.denied");
    viewer
        .ask(&["token", "create"])
        .refused_with("access.denied");
    let trail = fleet::trail(&cli);
    let denials = trail.iter().filter(|record| {
        let text = record.to_string();
        text.contains("victor") && text.contains("denied")
    });
    assert!(denials.count() >= 2, "{trail:?}");
    let explained = cli.ask(&["access", "explain", "victor", "command:run"]);
    assert!(
        format!("{explained}").contains("no grant") || explained.out.contains("viewer"),
        "{explained}"
    );
}
