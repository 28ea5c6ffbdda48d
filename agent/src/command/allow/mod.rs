//! Which argument lists a node runs, judged word by word.
//!
//! Built-in rules name read-only diagnostics. They list what is allowed, never
//! what is forbidden: an option, a sub-command or an operand that no rule names
//! is refused, long options match exactly (so getopt's abbreviations do not
//! pass), and values are held to an alphabet without spaces, quotes or paths
//! that go upwards. **Invariant:** nothing that a built-in rule lets through
//! can write a file, change a setting, signal a process, show another process's
//! environment, reach a machine of the caller's choosing or run another program. The node's own
//! configuration can add exact argument lists.
//!
//! Everything here is pure. It fails with an [`ArgvError`] that names the word.

mod rules;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use rules::{Kind, Program, Takes};

/// What a node runs when it is sent an argument list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunMode {
    /// Nothing.
    Off,
    /// Read-only diagnostics and what the configuration adds.
    #[default]
    AllowList,
    /// Anything.
    Any,
}

/// A mode in the configuration that is not one of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("run mode {0:?} is none of off, allow-list, any")]
pub struct ParseRunModeError(String);

impl FromStr for RunMode {
    type Err = ParseRunModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "allow-list" => Ok(Self::AllowList),
            "any" => Ok(Self::Any),
            other => Err(ParseRunModeError(other.to_owned())),
        }
    }
}

impl std::fmt::Display for RunMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::AllowList => "allow-list",
            Self::Any => "any",
        })
    }
}

/// One argument list that the node's configuration allows, word for word. A
/// last word `...` allows any further arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedArgv {
    words: Vec<String>,
    open: bool,
}

/// Why an allowed argument list in the configuration is no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseAllowedArgvError {
    /// Nothing is named.
    #[error("allowed command {0:?} names no program")]
    Empty(String),
    /// A relative path with a slash depends on a working directory.
    #[error("allowed command {0:?} names its program by a relative path")]
    Relative(String),
}

impl FromStr for AllowedArgv {
    type Err = ParseAllowedArgvError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let open = words.last().is_some_and(|word| word == "...");
        if open {
            words.pop();
        }
        match words.first() {
            None => Err(ParseAllowedArgvError::Empty(text.to_owned())),
            Some(program) if program.contains('/') && !program.starts_with('/') => {
                Err(ParseAllowedArgvError::Relative(text.to_owned()))
            }
            Some(_) => Ok(Self { words, open }),
        }
    }
}

impl std::fmt::Display for AllowedArgv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words.join(" "))?;
        if self.open {
            f.write_str(" ...")
        } else {
            Ok(())
        }
    }
}

impl AllowedArgv {
    fn allows(&self, argv: &[String]) -> bool {
        if self.open {
            argv.starts_with(&self.words)
        } else {
            argv == self.words
        }
    }
}

/// Why an argument list is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgvError {
    #[error("this node runs no commands (command.run = \"off\")")]
    Off,
    #[error("the argument list is empty")]
    Empty,
    #[error("program {0:?} is a relative path")]
    RelativeProgram(String),
    #[error("program {0:?} is not on this node's allow-list")]
    Program(String),
    #[error("option {option:?} of {program} is not on this node's allow-list")]
    Option { program: String, option: String },
    #[error("option {option:?} of {program} does not take {value:?}")]
    Value {
        program: String,
        option: String,
        value: String,
    },
    #[error("arguments {operands:?} of {program} are not on this node's allow-list")]
    Operands { program: String, operands: String },
}

/// Where a program may be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The distribution's own folders: what a built-in rule describes is the
    /// distribution's program, not another one with its name.
    System,
    /// The whole search path.
    Path,
}

/// Judges an argument list by the node's mode and its own additions, and says
/// where its program may be looked for. Its size is `Command::check`'s business.
pub(crate) fn judge(
    mode: RunMode,
    allowed: &[AllowedArgv],
    argv: &[String],
) -> Result<Trust, ArgvError> {
    if mode == RunMode::Off {
        return Err(ArgvError::Off);
    }
    let program = argv
        .first()
        .filter(|program| !program.is_empty())
        .ok_or(ArgvError::Empty)?;
    if program.contains('/') && !program.starts_with('/') {
        return Err(ArgvError::RelativeProgram(program.clone()));
    }
    if mode == RunMode::Any || allowed.iter().any(|one| one.allows(argv)) {
        return Ok(Trust::Path);
    }
    built_in(program, argv.get(1..).unwrap_or_default())?;
    Ok(Trust::System)
}

fn built_in(name: &str, words: &[String]) -> Result<(), ArgvError> {
    let program = rules::PROGRAMS
        .iter()
        .find(|program| program.name == name)
        .ok_or_else(|| ArgvError::Program(name.to_owned()))?;
    let mut operands = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word.starts_with("--") {
            long_option(program, word, &mut words)?;
        } else if word.len() > 1 && word.starts_with('-') {
            short_options(program, word, &mut words)?;
        } else {
            operands.push(word);
        }
    }
    if program.shapes.iter().any(|shape| fits(shape, &operands)) {
        Ok(())
    } else {
        Err(ArgvError::Operands {
            program: name.to_owned(),
            operands: operands.join(" "),
        })
    }
}

fn long_option<'a>(
    program: &Program,
    word: &str,
    rest: &mut impl Iterator<Item = &'a str>,
) -> Result<(), ArgvError> {
    let (name, attached) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    match (program.option(name), attached) {
        (Some(Takes::Nothing), None) => Ok(()),
        (Some(Takes::Value(kind)), Some(value)) => value_fits(program, name, kind, value),
        (Some(Takes::Value(kind)), None) => {
            value_fits(program, name, kind, rest.next().unwrap_or_default())
        }
        (Some(Takes::Nothing) | None, _) => Err(unknown_option(program, word)),
    }
}

fn short_options<'a>(
    program: &Program,
    word: &str,
    rest: &mut impl Iterator<Item = &'a str>,
) -> Result<(), ArgvError> {
    // A whole word first: ip's options are words with one dash.
    match program.option(word) {
        Some(Takes::Nothing) => return Ok(()),
        Some(Takes::Value(kind)) => {
            return value_fits(program, word, kind, rest.next().unwrap_or_default());
        }
        None if program.clusters => {}
        None => return Err(unknown_option(program, word)),
    }
    let mut letters = word.chars();
    letters.next();
    while let Some(letter) = letters.next() {
        let name = format!("-{letter}");
        match program.option(&name) {
            Some(Takes::Nothing) => {}
            Some(Takes::Value(kind)) => {
                let attached = letters.as_str();
                let value = if attached.is_empty() {
                    rest.next().unwrap_or_default()
                } else {
                    attached
                };
                return value_fits(program, &name, kind, value);
            }
            None => return Err(unknown_option(program, word)),
        }
    }
    Ok(())
}

fn unknown_option(program: &Program, word: &str) -> ArgvError {
    ArgvError::Option {
        program: program.name.to_owned(),
        option: word.to_owned(),
    }
}

fn value_fits(program: &Program, option: &str, kind: Kind, value: &str) -> Result<(), ArgvError> {
    if kind.accepts(value) {
        Ok(())
    } else {
        Err(ArgvError::Value {
            program: program.name.to_owned(),
            option: option.to_owned(),
            value: value.to_owned(),
        })
    }
}

fn fits(&(fixed, kind, most): &(&str, Kind, usize), operands: &[&str]) -> bool {
    let fixed: Vec<&str> = fixed.split_whitespace().collect();
    operands
        .strip_prefix(fixed.as_slice())
        .is_some_and(|rest| rest.len() <= most && rest.iter().all(|word| kind.accepts(word)))
}
