//! A command line as words, as a shell splits it, without a shell.
//!
//! What only a shell could do (`;`, `&`, `|`, `<`, `>`, backquotes) is refused
//! outside of quotes. Compose passes some of it on as words and drops the rest;
//! neither is what was meant.

/// Splits a line into words.
///
/// # Errors
/// What is wrong, as a fragment that follows the place.
pub(super) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                quoted(&mut chars, word, '\'')?;
            }
            '"' => {
                let word = word.get_or_insert_default();
                quoted(&mut chars, word, '"')?;
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err("ends in a backslash".to_owned()),
            },
            ';' | '&' | '|' | '<' | '>' | '`' => {
                return Err(format!(
                    "has `{c}` outside of quotes, which means something to a shell only; quote it, or write `[\"sh\", \"-c\", \"…\"]`"
                ));
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Takes what is inside of quotes that are open, up to the closing one.
fn quoted(chars: &mut core::str::Chars<'_>, word: &mut String, quote: char) -> Result<(), String> {
    while let Some(c) = chars.next() {
        if c == quote {
            return Ok(());
        }
        if c != '\\' || quote == '\'' {
            word.push(c);
            continue;
        }
        match chars.next() {
            Some('\n') => {}
            Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
            Some(other) => word.extend(['\\', other]),
            None => break,
        }
    }
    Err(format!("has a {quote} that is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_a_shell_does() {
        for (line, expected) in [
            ("", &[][..]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            ("a 'b c' \"d e\"f", &["a", "b c", "d ef"]),
            (
                r#"sh -c "echo \"x\" \n" '\n'"#,
                &["sh", "-c", r#"echo "x" \n"#, r"\n"],
            ),
            (r"a\ b \'", &["a b", "'"]),
            ("'' \"\"", &["", ""]),
            (
                "sh -c 'a; b && c | d > e'",
                &["sh", "-c", "a; b && c | d > e"],
            ),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for (line, expected) in [
            ("a && b", "`&`"),
            ("a; b", "`;`"),
            ("a | b", "`|`"),
            ("a > b", "`>`"),
            ("a `b`", "```"),
            ("a 'b", "not closed"),
            ("a \"b\\", "not closed"),
            ("a\\", "backslash"),
        ] {
            assert!(split(line).unwrap_err().contains(expected), "{line}");
        }
    }
}
