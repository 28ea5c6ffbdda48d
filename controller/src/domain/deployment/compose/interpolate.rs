//! Variables in values: `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR:?message}`,
//! `${VAR:+other}`, each without the colon too, and `$$` for a dollar sign.
//!
//! A variable that is not given and has no default is an error. Compose warns and
//! takes an empty text, which a fleet would run with before anyone reads the
//! warning; `${VAR:-}` says that empty is meant.

use std::borrow::Cow;

use super::problem::cut;

/// Characters of a name, and of the file's own message, in what is said.
const NAME_CHARS_MAX: usize = 80;
const MESSAGE_CHARS_MAX: usize = 200;

/// Levels of defaults inside of defaults.
const DEPTH_MAX: usize = 8;

/// Puts variables into a text. `lookup` gives a variable's value.
///
/// # Errors
/// What is wrong, as a fragment that follows the place. A value is never in it.
pub(super) fn expand<'t>(
    text: &'t str,
    lookup: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<Cow<'t, str>, String> {
    if text.contains('$') {
        expand_at(text, lookup, 0).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(text))
    }
}

fn expand_at(
    text: &str,
    lookup: &mut dyn FnMut(&str) -> Option<String>,
    depth: usize,
) -> Result<String, String> {
    if depth > DEPTH_MAX {
        return Err(format!(
            "has defaults nested deeper than {DEPTH_MAX} levels"
        ));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (inside, after) = braces(after)?;
            out.push_str(&braced(inside, lookup, depth)?);
            rest = after;
        } else {
            let (name, after) = name(after);
            if name.is_empty() {
                return Err(
                    "has a `$` that begins no variable; write `$$` for a dollar sign".to_owned(),
                );
            }
            out.push_str(&lookup(name).ok_or_else(|| unset(name))?);
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What is inside of braces that are open, and what comes behind them.
fn braces(text: &str) -> Result<(&str, &str), String> {
    let mut depth = 1_usize;
    let mut before = '\0';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let (inside, rest) = text.split_at(at);
            return Ok((inside, rest.strip_prefix('}').unwrap_or(rest)));
        }
        before = c;
    }
    Err("has a `${` without its `}`".to_owned())
}

/// A name at the start of a text, and what follows.
fn name(text: &str) -> (&str, &str) {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    let end = if text.starts_with(begins) {
        text.find(|c: char| !(begins(c) || c.is_ascii_digit()))
            .unwrap_or(text.len())
    } else {
        0
    };
    text.split_at(end)
}

fn braced(
    inside: &str,
    lookup: &mut dyn FnMut(&str) -> Option<String>,
    depth: usize,
) -> Result<String, String> {
    let (name, how) = name(inside);
    if name.is_empty() {
        return Err("has a `${` that names no variable".to_owned());
    }
    let value = lookup(name);
    if how.is_empty() {
        return value.ok_or_else(|| unset(name));
    }
    // With a colon, an empty value counts as none.
    let (value, how) = match how.strip_prefix(':') {
        Some(how) => (value.filter(|value| !value.is_empty()), how),
        None => (value, how),
    };
    if let Some(default) = how.strip_prefix('-') {
        value.map_or_else(|| expand_at(default, lookup, depth + 1), Ok)
    } else if let Some(other) = how.strip_prefix('+') {
        match value {
            Some(_) => expand_at(other, lookup, depth + 1),
            None => Ok(String::new()),
        }
    } else if let Some(message) = how.strip_prefix('?') {
        value.ok_or_else(|| match message.trim() {
            "" => unset(name),
            message => {
                let (name, message) = (cut(name, NAME_CHARS_MAX), cut(message, MESSAGE_CHARS_MAX));
                format!("needs the variable {name}: {message}")
            }
        })
    } else {
        Err(format!(
            "has `${{{}` and then neither `:-`, `:?`, `:+` nor `}}`",
            cut(name, NAME_CHARS_MAX)
        ))
    }
}

fn unset(name: &str) -> String {
    let name = cut(name, NAME_CHARS_MAX);
    format!(
        "needs the variable {name}, which is not given; write `${{{name}:-}}` if empty is meant"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("$A".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_put_in() {
        for (text, expected) in [
            ("no variable", "no variable"),
            ("$A-${A}$$A", "a-a$A"),
            ("$DOLLAR", "$A"),
            ("${EMPTY}|${EMPTY-x}|${EMPTY:-x}", "||x"),
            ("${NONE:-x ${A} y}", "x a y"),
            ("${NONE-${NONE2:-${A}}}", "a"),
            ("${A:+b}${NONE:+b}${EMPTY:+b}${EMPTY+b}", "bb"),
            ("${A:?must be there}", "a"),
            ("${NONE:-{\"a\": 1}", "{\"a\": 1"),
        ] {
            assert_eq!(
                expand(text, &mut |n| given(n)).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for (text, expected) in [
            ("$NONE", "NONE, which is not given"),
            ("${NONE}", "NONE, which is not given"),
            ("${EMPTY:?say it}", "EMPTY: say it"),
            ("${NONE?}", "not given"),
            ("a $ b", "begins no variable"),
            ("$1", "begins no variable"),
            ("${A", "without its `}`"),
            ("${}", "names no variable"),
            ("${A:b}", "neither"),
            ("${A/b/c}", "neither"),
        ] {
            let error = expand(text, &mut |n| given(n)).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(100), "}".repeat(100));
        assert!(expand(&deep, &mut |_| None).unwrap_err().contains("deeper"));
    }
}
