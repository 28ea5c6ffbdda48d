//! The registry of error codes: texts are what scripts and dashboards match, so
//! they are appended and never renamed, removed or given another meaning.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use protocol::ErrorCode;

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("contract/error_codes.txt")
}

/// One line a code: text, HTTP status, retry class, actor.
fn registry() -> BTreeMap<String, String> {
    ErrorCode::ALL
        .iter()
        .map(|code| {
            let info = code.info();
            let line = format!(
                "{} {} {:?} {:?}",
                code.text(),
                info.http,
                info.retry,
                info.actor
            );
            (code.text().to_owned(), line)
        })
        .collect()
}

#[test]
fn released_error_codes_are_never_renamed_or_removed() {
    let known = registry();
    if std::env::var_os("FLOTILLA_BLESS").is_some() {
        let lines: Vec<&str> = known.values().map(String::as_str).collect();
        fs::write(file(), lines.join("\n") + "\n").unwrap();
    }
    let released = fs::read_to_string(file()).unwrap();
    for line in released.lines() {
        let text = line.split(' ').next().unwrap();
        assert_eq!(
            known.get(text).map(String::as_str),
            Some(line),
            "a released code changed"
        );
    }
    let listed: Vec<&str> = released
        .lines()
        .filter_map(|l| l.split(' ').next())
        .collect();
    for text in known.keys() {
        assert!(
            listed.contains(&text.as_str()),
            "{text} is new: append it with FLOTILLA_BLESS=1"
        );
    }
}

#[test]
fn error_codes_read_back_from_their_text() {
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_text(code.text()), Some(*code));
    }
}

/// The test code of a source file: all of it, or what follows the inline tests.
fn tests_in(root: &Path, path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let below = path.strip_prefix(root).unwrap_or(path);
    let whole =
        below.ends_with("tests.rs") || below.components().any(|part| part.as_os_str() == "tests");
    if whole {
        return text;
    }
    let inline = text.find("#[cfg(test)]\nmod tests {");
    inline
        .and_then(|at| text.get(at..))
        .unwrap_or_default()
        .to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).unwrap().flatten().map(|e| e.path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_error_code_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in [
        "agent/src",
        "controller/src",
        "protocol/src",
        "tests/system",
        "tests/sim",
    ] {
        sources(&root.join(folder), &mut files);
    }
    let tests: String = files
        .iter()
        .filter(|path| !path.ends_with("error_code.rs"))
        .map(|path| tests_in(root, path))
        .collect();
    let untested: Vec<&str> = ErrorCode::ALL
        .iter()
        .filter(|code| {
            let variant = format!("ErrorCode::{code:?}");
            !tests.contains(&variant) && !tests.contains(&format!("\"{}\"", code.text()))
        })
        .map(|code| code.text())
        .collect();
    assert!(untested.is_empty(), "codes without a test: {untested:?}");
}
