//! The checkout as the rules see it: the files that git would commit, and the
//! code of a Rust file without its comments, strings and tests.
//!
//! The stripping is lexical, not a parser: it is good enough to look for paths
//! and macros, and it errs towards seeing too little.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One text file of the checkout.
pub(crate) struct Source {
    /// Path below the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
    }

    /// The lines of code with their numbers, tests included: no comments, no
    /// string contents.
    pub(crate) fn code_with_tests(&self) -> Vec<(usize, String)> {
        strip(&self.text)
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.to_owned()))
            .collect()
    }

    /// The lines of code with their numbers: no comments, no string contents, and
    /// nothing from the first `#[cfg(test)] mod` that opens a block.
    pub(crate) fn code(&self) -> Vec<(usize, String)> {
        let stripped = strip(&self.text);
        let mut lines = Vec::new();
        let mut skip_depth: Option<i64> = None;
        let mut pending_test = false;
        for (index, line) in stripped.lines().enumerate() {
            let opened = braces(line);
            if let Some(depth) = skip_depth.as_mut() {
                *depth += opened;
                if *depth <= 0 {
                    skip_depth = None;
                }
                continue;
            }
            let trimmed = line.trim();
            if trimmed.starts_with("#[cfg(test)]") || trimmed.starts_with("#[cfg(all(test") {
                pending_test = true;
                continue;
            }
            if pending_test {
                if trimmed.starts_with("#[") || trimmed.is_empty() {
                    continue;
                }
                pending_test = false;
                if opened > 0 {
                    skip_depth = Some(opened);
                }
                continue;
            }
            lines.push((index + 1, line.to_owned()));
        }
        lines
    }
}

fn braces(line: &str) -> i64 {
    line.chars()
        .map(|c| match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        })
        .sum()
}

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests package lies below the root")
        .to_owned()
}

/// Every file that git tracks or would track. Outside a git checkout (a source
/// archive) the tree is walked.
pub(crate) fn paths() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut found: Vec<String> = match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .filter(|path| root().join(path).is_file())
            .collect(),
        Ok(_) | Err(_) => walk(),
    };
    found.sort();
    found.dedup();
    assert!(found.len() > 10, "the rules found no checkout to look at");
    found
}

fn walk() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the checkout is readable") {
            let path = entry.expect("an entry is readable").path();
            if path.is_dir() {
                let name = path.file_name().unwrap_or_default();
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if let Ok(below) = path.strip_prefix(root()) {
                found.push(below.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found
}

/// Every text file whose path satisfies `wanted`.
pub(crate) fn texts(wanted: impl Fn(&str) -> bool) -> Vec<Source> {
    paths()
        .into_iter()
        .filter(|path| wanted(path))
        .filter_map(|path| {
            let text = fs::read_to_string(root().join(&path)).ok()?;
            Some(Source { path, text })
        })
        .collect()
}

/// Every Rust file.
pub(crate) fn rust() -> Vec<Source> {
    texts(|path| path.ends_with(".rs"))
}

/// Fails with the list when there is one.
pub(crate) fn none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Replaces comments and the contents of string and character literals by spaces,
/// keeping line breaks.
fn strip(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let end = match (c, next) {
            ('/', Some('/')) => line_end(&chars, at),
            ('/', Some('*')) => block_comment_end(&chars, at),
            ('r', Some('"' | '#')) if !follows_word(&chars, at) => raw_string_end(&chars, at),
            ('"', _) => string_end(&chars, at),
            ('\'', _) => char_end(&chars, at),
            _ => at,
        };
        if end == at {
            out.push(c);
            at += 1;
            continue;
        }
        for skipped in chars.iter().take(end).skip(at) {
            out.push(if *skipped == '\n' { '\n' } else { ' ' });
        }
        at = end;
    }
    out
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at.checked_sub(1)
        .and_then(|before| chars.get(before))
        .is_some_and(|c| c.is_alphanumeric() || *c == '_')
}

fn line_end(chars: &[char], at: usize) -> usize {
    (at..chars.len())
        .find(|&i| chars.get(i) == Some(&'\n'))
        .unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i < chars.len() {
        match (chars.get(i), chars.get(i + 1)) {
            (Some('/'), Some('*')) => {
                depth += 1;
                i += 2;
            }
            (Some('*'), Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], at: usize) -> usize {
    let hashes = chars.iter().skip(at + 1).take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let mut i = at + 2 + hashes;
    while i < chars.len() {
        let closed =
            chars.get(i) == Some(&'"') && (0..hashes).all(|h| chars.get(i + 1 + h) == Some(&'#'));
        if closed {
            return i + 1 + hashes;
        }
        i += 1;
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars.get(i) {
            Some('\\') => i += 2,
            Some('"') => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// A character literal, or `at` for a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => (at + 3..chars.len().min(at + 14))
            .find(|&i| chars.get(i) == Some(&'\''))
            .map_or(at, |i| i + 1),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

#[test]
fn stripping_keeps_code_and_drops_the_rest() {
    let text = "let a = \"tokio::x\"; // redb\nlet c = '\"'; /* one /* two */ */ call(r#\"\"x\"#, 'a');\nfn f<'a>() {}\n";
    let code = strip(text);
    assert_eq!(code.lines().count(), 3);
    assert!(!code.contains("tokio") && !code.contains("redb") && !code.contains("two"));
    assert!(code.contains("call(") && code.contains("fn f<'a>() {}"));
}
