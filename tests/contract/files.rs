//! The files that are shipped: they must parse, and say what the code says.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(below(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

#[test]
fn shipped_toml_files_parse() {
    for path in below(&root().join("packaging"), "toml") {
        let text = fs::read_to_string(&path).unwrap();
        let parsed = text.parse::<toml::Table>();
        assert!(parsed.is_ok(), "{}: {parsed:?}", path.display());
    }
}
