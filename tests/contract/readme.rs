//! README against the programs: a command that is shown is one that exists, a
//! place that is named is there, and every error code has its row.

use std::fs;
use std::path::PathBuf;

use clap::Parser;
use protocol::ErrorCode;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The command lines in the fenced blocks, without comments and prompts.
fn shown() -> Vec<String> {
    let text = readme();
    let mut lines = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = !inside && line == "```sh";
            continue;
        }
        let command = line.split(" #").next().unwrap_or_default().trim();
        if inside && !command.is_empty() {
            lines.extend(command.split(" && ").map(str::to_owned));
        }
    }
    lines
}

/// Words as a shell makes them, as far as README needs it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (None, ' ') => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (None | Some(_), _) => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[test]
fn every_command_that_is_shown_parses() {
    let mut seen = 0;
    for line in shown() {
        let mut words = words(&line);
        let Some(program) = words.first().cloned() else {
            continue;
        };
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(first) = words.first_mut() {
            first.clone_from(&name);
        }
        let parsed = match name.as_str() {
            "flotilla" => controller::cli::args::Cli::try_parse_from(&words).map(|_| ()),
            "flotilla-agent" => agent::cli::Cli::try_parse_from(&words).map(|_| ()),
            _ => continue,
        };
        seen += 1;
        assert!(parsed.is_ok(), "`{line}`: {}", parsed.unwrap_err());
    }
    assert!(seen > 10, "README shows {seen} commands");
}

#[test]
fn every_place_in_the_code_map_is_there() {
    let text = readme();
    let rows = text.lines().filter(|line| {
        [
            "| `agent/",
            "| `controller/",
            "| `protocol/",
            "| `tests/",
            "| `packaging/",
        ]
        .iter()
        .any(|start| line.starts_with(start))
    });
    let mut seen = 0;
    for row in rows {
        let place = row.split('`').nth(1).unwrap_or_default();
        assert!(root().join(place).exists(), "{place} is not there");
        seen += 1;
    }
    assert!(seen > 10, "the code map has {seen} rows");
}

#[test]
fn every_error_code_has_its_row() {
    let text = readme();
    let missing: Vec<String> = ErrorCode::ALL
        .iter()
        .map(|code| (code.text(), code.info()))
        .filter(|(text_of, _)| !text.contains(&format!("`{text_of}`")))
        .map(|(text_of, info)| {
            format!(
                "| `{text_of}` | {} | {} | {} |",
                info.http, info.summary, info.action
            )
        })
        .collect();
    assert!(missing.is_empty(), "rows to add:\n{}", missing.join("\n"));
}
