//! The rules of the text: what source files must and must not contain.

use super::source::{Source, none, paths, rust, texts};

/// Marks of unfinished or silenced work, spelt so that this file does not break
/// its own rule.
fn unfinished() -> Vec<String> {
    [
        ("TO", "DO"),
        ("FIX", "ME"),
        ("XX", "X"),
        ("todo", "!("),
        ("unimple", "mented!("),
        ("#[ig", "nore"),
        ("#[should_", "panic"),
        ("dbg", "!("),
    ]
    .iter()
    .map(|(a, b)| format!("{a}{b}"))
    .collect()
}

#[test]
fn nothing_is_left_unfinished_or_ignored() {
    let mut broken = Vec::new();
    let marks = unfinished();
    for source in texts(|p| {
        [".rs", ".toml", ".md", "/run"]
            .iter()
            .any(|e| p.ends_with(e))
    }) {
        for (number, line) in source.text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| has_word(line, mark)) {
                broken.push(format!("{}:{}: {mark}", source.path, number + 1));
            }
        }
    }
    none("finished work only", &broken);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let mut broken = Vec::new();
    for source in rust() {
        for (number, line) in source.code_with_tests() {
            if line.contains("#[allow(") || line.contains("#![allow(") {
                broken.push(format!("{}:{number}", source.path));
            }
        }
    }
    none("suppress by #[expect(.., reason = \"..\")]", &broken);
}

#[test]
fn every_rust_file_opens_with_what_it_is_for() {
    let broken: Vec<String> = rust()
        .into_iter()
        .filter(|source| !source.path.ends_with("/tests.rs"))
        .filter(|source| {
            let header: Vec<&str> = source
                .text
                .lines()
                .take_while(|line| line.starts_with("//!"))
                .collect();
            let words: usize = header.iter().map(|l| l.split_whitespace().count()).sum();
            words < 2
        })
        .map(|source| source.path)
        .collect();
    none("a module header says what the file owns", &broken);
}

#[test]
fn only_the_command_lines_print() {
    let printers = ["agent/src/cli", "controller/src/cli", "tests/"];
    let mut broken = Vec::new();
    for source in rust().iter().filter(|s| !s.is_test()) {
        if printers.iter().any(|p| source.path.starts_with(p)) {
            continue;
        }
        for (number, line) in source.code() {
            if ["println!", "eprintln!", "print!(", "eprint!("]
                .iter()
                .any(|m| line.contains(m))
            {
                broken.push(format!("{}:{number}", source.path));
            }
        }
    }
    none("only the command line speaks on stdout and stderr", &broken);
}

#[test]
fn no_file_names_a_path_of_the_machine_it_was_written_on() {
    let machine = ["/wo", "rk/"].concat();
    let farm = ["/fa", "rm/"].concat();
    let home = ["/ro", "ot/"].concat();
    let mut broken = Vec::new();
    for source in texts(|p| p != "Cargo.lock") {
        for (number, line) in source.text.lines().enumerate() {
            let absolute = |needle: &str| {
                line.match_indices(needle).any(|(at, _)| {
                    line.get(..at)
                        .and_then(|before| before.chars().next_back())
                        .is_none_or(|c| !(c.is_ascii_alphanumeric() || "_.-/}".contains(c)))
                })
            };
            if absolute(&machine) || absolute(&farm) || absolute(&home) {
                broken.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    none("no absolute path of a workplace", &broken);
}

/// Tables in the form of code, one exhaustive match or one list: their length is
/// their point.
fn is_table(path: &str) -> bool {
    [
        "protocol/src/error_code.rs",
        "agent/src/command/allow/rules.rs",
    ]
    .contains(&path)
}

/// A screen and a half. The functions that need it are tables and matches; past
/// it, a part has a name of its own.
const FUNCTION_LINES_MAX: usize = 110;

#[test]
fn functions_fit_a_screen_or_nearly() {
    let mut long = Vec::new();
    for source in rust().iter().filter(|s| !s.is_test()) {
        for (number, name, lines) in functions(source) {
            if lines > FUNCTION_LINES_MAX && !is_table(&source.path) {
                long.push(format!(
                    "{}:{number}: {name} has {lines} lines",
                    source.path
                ));
            }
        }
    }
    none("a part of a long function has a name", &long);
}

/// Files past this have two subjects. Counted without their tests.
const FILE_LINES_MAX: usize = 800;

#[test]
fn files_have_one_subject() {
    let broken: Vec<String> = rust()
        .iter()
        .filter(|s| !s.is_test() && !is_table(&s.path))
        .map(|s| (s.path.clone(), s.code().len()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    none(
        "split the file by subject, or its tests into tests.rs",
        &broken,
    );
}

#[test]
fn text_files_end_in_one_newline_and_have_no_trailing_blanks() {
    let mut broken = Vec::new();
    for source in texts(|p| {
        [".rs", ".toml", ".md", "/run"]
            .iter()
            .any(|e| p.ends_with(e))
    }) {
        if !source.text.ends_with('\n') || source.text.ends_with("\n\n") {
            broken.push(format!("{}: its end", source.path));
        }
        for (number, line) in source.text.lines().enumerate() {
            if line.ends_with([' ', '\t']) || line.ends_with('\r') {
                broken.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    none("clean line ends", &broken);
}

#[test]
fn modules_are_not_drawers() {
    let drawers = [
        "utils.rs",
        "util.rs",
        "common.rs",
        "types.rs",
        "helpers.rs",
        "misc.rs",
        "core.rs",
        "std.rs",
    ];
    let broken: Vec<String> = paths()
        .into_iter()
        .filter(|path| drawers.iter().any(|d| path.ends_with(&format!("/{d}"))))
        .collect();
    none("a module is named for its subject", &broken);
}

/// The functions of a file: line, name, length in lines.
fn functions(source: &Source) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, i64, bool)> = None;
    for (number, line) in source.code() {
        if open.is_none()
            && let Some(name) = function_name(&line)
        {
            open = Some((number, name, 0, false));
        }
        let Some((start, name, depth, entered)) = open.as_mut() else {
            continue;
        };
        for c in line.chars() {
            match c {
                '{' => {
                    *depth += 1;
                    *entered = true;
                }
                '}' => *depth -= 1,
                _ => {}
            }
        }
        let ended = (*entered && *depth == 0) || (!*entered && line.trim_end().ends_with(';'));
        if ended {
            found.push((*start, std::mem::take(name), number - *start + 1));
            open = None;
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let trimmed = line.trim_start();
    let (before, after) = trimmed.split_once("fn ")?;
    let words_only = before
        .chars()
        .all(|c| c.is_ascii_lowercase() || " ()_:".contains(c));
    let name: String = after
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (words_only && !name.is_empty()).then_some(name)
}

fn has_word(line: &str, word: &str) -> bool {
    let starts_wordy = word.chars().next().is_some_and(char::is_alphanumeric);
    let ends_wordy = word.chars().next_back().is_some_and(char::is_alphanumeric);
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|b| b.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|a| a.chars().next());
        let clear = |c: Option<char>| c.is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
        (!starts_wordy || clear(before)) && (!ends_wordy || clear(after))
    })
}
