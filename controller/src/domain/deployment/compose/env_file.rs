//! Files of variables: `KEY=value`, one a line.
//!
//! As Compose reads them: `#` begins a comment, `export` in front is allowed, a
//! value in single quotes is taken as it is, in double quotes with escapes, and
//! either may go over several lines. Variables are put into what is not in single
//! quotes; earlier lines give some. A key alone takes its value from the given
//! variables. With the format `raw` a line is taken as it is behind the `=`.

use std::collections::BTreeMap;

use protocol::deployment::limit::LIST_COUNT_MAX;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Compose,
    Raw,
}

/// A variable of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) key: String,
    /// None where only the key is there.
    pub(super) value: Option<String>,
}

/// What is wrong on a line. It never has a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) text: String,
}

/// Puts variables into a text, given what earlier lines say.
pub(super) type Expand<'e> =
    dyn FnMut(&str, &BTreeMap<String, String>) -> Result<String, String> + 'e;

/// Reads a file. `expand` puts variables into a text, given what earlier lines
/// say.
///
/// # Errors
/// The first line that is wrong.
pub(super) fn read(
    text: &str,
    format: Format,
    expand: &mut Expand<'_>,
) -> Result<Vec<Variable>, Wrong> {
    let mut cursor = Cursor {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
    };
    let mut variables = Vec::new();
    let mut earlier = BTreeMap::new();
    while !cursor.rest.is_empty() {
        let line = cursor.line;
        let wrong = |text: String| Wrong { line, text };
        let Some((key, has_value)) = cursor.key().map_err(wrong)? else {
            continue;
        };
        let value = match (has_value, format) {
            (false, _) => None,
            (true, Format::Raw) => Some(cursor.line_end().to_owned()),
            (true, Format::Compose) => {
                let written = cursor.value().map_err(wrong)?;
                Some(match written {
                    Written::Literal(text) => text,
                    Written::Open(text) => expand(&text, &earlier).map_err(wrong)?,
                })
            }
        };
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            return Err(wrong("has a NUL character".to_owned()));
        }
        if let Some(value) = &value {
            earlier.insert(key.clone(), value.clone());
        }
        variables.push(Variable { key, value });
        if variables.len() > LIST_COUNT_MAX {
            return Err(wrong(format!("is past {LIST_COUNT_MAX} variables")));
        }
    }
    Ok(variables)
}

enum Written {
    /// Taken as it is.
    Literal(String),
    /// Variables are put in.
    Open(String),
}

struct Cursor<'t> {
    rest: &'t str,
    line: usize,
}

impl<'t> Cursor<'t> {
    /// Takes the rest of the line.
    fn line_end(&mut self) -> &'t str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line += 1;
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// Takes a key and its `=`; none for a line that says nothing.
    fn key(&mut self) -> Result<Option<(String, bool)>, String> {
        let line = self.rest.lines().next().unwrap_or_default();
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            self.line_end();
            return Ok(None);
        }
        let (before, has_value) = match line.split_once('=') {
            Some((before, _)) => (before, true),
            None => (line.split('#').next().unwrap_or_default(), false),
        };
        let key = before.trim();
        let key = key
            .strip_prefix("export")
            .filter(|key| key.starts_with([' ', '\t']))
            .unwrap_or(key)
            .trim_start();
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || "'\"\0".contains(c)) {
            return Err("is no `KEY=value`".to_owned());
        }
        if has_value {
            self.rest = self.rest.get(before.len() + 1..).unwrap_or_default();
        } else {
            self.line_end();
        }
        Ok(Some((key.to_owned(), has_value)))
    }

    fn value(&mut self) -> Result<Written, String> {
        let start = self.rest.trim_start_matches([' ', '\t']);
        let quote = start.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let Some(quote) = quote else {
            let line = self.line_end();
            // A `#` begins a comment at the start or behind a blank.
            let end = line
                .char_indices()
                .find(|(at, c)| {
                    let before = line.get(..*at).unwrap_or_default();
                    *c == '#' && (before.is_empty() || before.ends_with([' ', '\t']))
                })
                .map_or(line.len(), |(at, _)| at);
            let value = line.get(..end).unwrap_or_default().trim();
            return Ok(Written::Open(value.to_owned()));
        };
        self.rest = start.strip_prefix(quote).unwrap_or(start);
        let text = self.quoted(quote)?;
        let behind = self.line_end().trim();
        if !behind.is_empty() && !behind.starts_with('#') {
            return Err("goes on behind its closing quote".to_owned());
        }
        Ok(if quote == '"' {
            Written::Open(text)
        } else {
            Written::Literal(text)
        })
    }

    /// Takes what is in quotes that are open, and the closing one.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.rest = self.rest.get(at + 1..).unwrap_or_default();
                self.line += text.matches('\n').count();
                return Ok(text);
            }
            if c != '\\' || quote == '\'' {
                text.push(c);
                continue;
            }
            match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, 't')) => text.push('\t'),
                Some((_, same @ ('"' | '\\'))) => text.push(same),
                // Doubled, it is a dollar sign where variables are put in.
                Some((_, '$')) => text.push_str("$$"),
                Some((_, other)) => text.extend(['\\', other]),
                None => break,
            }
        }
        Err(format!("has a {quote} that is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::deployment::compose::interpolate;

    fn check(text: &str, format: Format) -> Result<Vec<(String, Option<String>)>, Wrong> {
        let mut expand = |text: &str, earlier: &BTreeMap<String, String>| {
            interpolate::expand(text, &mut |name| earlier.get(name).cloned())
                .map(std::borrow::Cow::into_owned)
        };
        let read = read(text, format, &mut expand)?;
        Ok(read.into_iter().map(|v| (v.key, v.value)).collect())
    }

    #[test]
    fn lines_are_read_as_compose_does() {
        for (text, key, value) in [
            ("A=b", "A", Some("b")),
            ("\n # c\r\nA=b\r\n", "A", Some("b")),
            ("export A = b c # d", "A", Some("b c")),
            ("A=b#c", "A", Some("b#c")),
            ("A=", "A", Some("")),
            ("A=#c", "A", Some("")),
            ("A", "A", None),
            ("A='b $C # \\n' # d", "A", Some("b $C # \\n")),
            ("A=\"b\\n\\\"c\\\" \\$D\"", "A", Some("b\n\"c\" $D")),
            ("A='b\nc'", "A", Some("b\nc")),
            ("a.b-c=d=e", "a.b-c", Some("d=e")),
        ] {
            let expected = vec![(key.to_owned(), value.map(str::to_owned))];
            assert_eq!(check(text, Format::Compose), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn earlier_lines_give_variables() {
        let read = check("A=1\nB=\"${A}2\"\nC=$B\nD='$A'\n", Format::Compose).unwrap();
        let values: Vec<_> = read
            .iter()
            .map(|(_, value)| value.as_deref().unwrap())
            .collect();
        assert_eq!(values, ["1", "12", "12", "$A"]);
    }

    #[test]
    fn a_raw_file_is_taken_as_it_is() {
        let read = check("A=\"b\" # $C\nD= e \n", Format::Raw).unwrap();
        let values: Vec<_> = read
            .iter()
            .map(|(_, value)| value.as_deref().unwrap())
            .collect();
        assert_eq!(values, ["\"b\" # $C", " e "]);
    }

    #[test]
    fn what_is_wrong_names_its_line_and_no_value() {
        for (text, line, expected) in [
            ("A=b\nnot a variable\n", 2, "KEY=value"),
            ("=b", 1, "KEY=value"),
            ("A='b\nc'\nB=\"secret", 3, "not closed"),
            ("A='b' c", 1, "closing quote"),
            ("\n\nA=$B", 3, "variable B"),
        ] {
            let wrong = check(text, Format::Compose).unwrap_err();
            assert_eq!(wrong.line, line, "{text:?}");
            assert!(wrong.text.contains(expected), "{wrong:?}");
            assert!(!wrong.text.contains("secret"), "{wrong:?}");
        }
        let many = "A=b\n".repeat(LIST_COUNT_MAX + 1);
        assert!(
            check(&many, Format::Compose)
                .unwrap_err()
                .text
                .contains("past")
        );
    }
}
