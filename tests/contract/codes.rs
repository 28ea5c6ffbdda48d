//! The registry of error codes: texts are what scripts and dashboards match, so
//! they are appended and never renamed, removed or given another meaning.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

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
