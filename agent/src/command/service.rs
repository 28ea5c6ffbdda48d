//! Systemd units: their names, which may be changed, and the call that does it.
//!
//! **Invariant:** a unit's name holds only the characters that systemd allows
//! and never starts with a dash, so it cannot be read as an option; a change
//! needs the unit to be in the node's own list, a status never does. It fails
//! with a [`UnitError`] before anything runs, or as the process does.

use std::str::FromStr;

use protocol::ErrorCode;
use protocol::command::{Outcome, ServiceVerb};

use super::allow::Trust;
use super::ending::Ending;
use super::process::{End, Job, describe, locate, run};
use super::task::Context;

/// Longest unit name, in bytes (systemd's `UNIT_NAME_MAX` less its zero).
const UNIT_BYTES_MAX: usize = 255;

/// The kinds of unit that systemd knows.
const SUFFIXES: &[&str] = &[
    ".service",
    ".socket",
    ".timer",
    ".target",
    ".path",
    ".mount",
    ".automount",
    ".swap",
    ".slice",
    ".scope",
    ".device",
];

/// A unit's full name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitName(String);

/// Why a unit is not touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    #[error("unit name {0:?} is not a systemd unit name")]
    Name(String),
    #[error("unit {0:?} is not in this node's list of units that may be changed (command.units)")]
    NotListed(String),
}

impl FromStr for UnitName {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || UnitError::Name(text.to_owned());
        let full = if SUFFIXES.iter().any(|suffix| text.ends_with(suffix)) {
            text.to_owned()
        } else {
            format!("{text}.service")
        };
        let stem = full.rsplit_once('.').map_or("", |(stem, _)| stem);
        let plain = full
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
        let first = stem.bytes().next().ok_or_else(refuse)?;
        // systemd's own rule also excludes '-' as the first character only for
        // options' sake: `-.mount` exists, and is not worth the risk.
        if !plain || full.len() > UNIT_BYTES_MAX || first == b'-' || first == b'@' || first == b'.'
        {
            return Err(refuse());
        }
        Ok(Self(full))
    }
}

impl UnitName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Units that may be changed: a full name, the beginning of names and `*`, or
/// `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPattern {
    stem: String,
    open: bool,
}

/// A pattern in the configuration that names no unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unit pattern {0:?} is neither a unit name nor the beginning of one followed by *")]
pub struct ParseUnitPatternError(String);

impl FromStr for UnitPattern {
    type Err = ParseUnitPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |_| ParseUnitPatternError(text.to_owned());
        match text.strip_suffix('*') {
            Some("") => Ok(Self {
                stem: String::new(),
                open: true,
            }),
            // The beginning must be one that a name may have.
            Some(stem) => {
                stem.parse::<UnitName>().map_err(refuse)?;
                Ok(Self {
                    stem: stem.to_owned(),
                    open: true,
                })
            }
            None => Ok(Self {
                stem: text.parse::<UnitName>().map_err(refuse)?.0,
                open: false,
            }),
        }
    }
}

impl std::fmt::Display for UnitPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.stem, if self.open { "*" } else { "" })
    }
}

impl UnitPattern {
    fn matches(&self, unit: &UnitName) -> bool {
        if self.open {
            unit.0.starts_with(&self.stem)
        } else {
            unit.0 == self.stem
        }
    }
}

/// The verb as systemctl has it.
fn verb_word(verb: ServiceVerb) -> &'static str {
    match verb {
        ServiceVerb::Status => "status",
        ServiceVerb::Start => "start",
        ServiceVerb::Stop => "stop",
        ServiceVerb::Restart => "restart",
    }
}

/// Whether this node lets `verb` touch `unit`.
pub(crate) fn judge(
    units: &[UnitPattern],
    unit: &str,
    verb: ServiceVerb,
) -> Result<UnitName, UnitError> {
    let name: UnitName = unit.parse()?;
    match verb {
        ServiceVerb::Status => Ok(name),
        ServiceVerb::Start | ServiceVerb::Stop | ServiceVerb::Restart => {
            if units.iter().any(|pattern| pattern.matches(&name)) {
                Ok(name)
            } else {
                Err(UnitError::NotListed(name.0))
            }
        }
    }
}

/// Asks or changes a unit.
pub(crate) async fn execute(context: &mut Context, unit: &str, verb: ServiceVerb) -> Ending {
    let name = match judge(&context.settings.units, unit, verb) {
        Ok(name) => name,
        Err(error @ UnitError::Name(_)) => {
            return Ending::refused(ErrorCode::CommandInvalid, &error);
        }
        Err(error @ UnitError::NotListed(_)) => {
            return Ending::refused(ErrorCode::CommandNotAllowed, &error);
        }
    };
    let program = match locate("systemctl", Trust::System) {
        Ok(program) => program,
        Err(error) => return Ending::failed(ErrorCode::CommandStart, &error),
    };
    let mut arguments = vec!["--no-pager".to_owned(), "--no-ask-password".to_owned()];
    if verb == ServiceVerb::Status {
        arguments.push("--full".to_owned());
        arguments.push("--lines=10".to_owned());
    }
    arguments.push(verb_word(verb).to_owned());
    arguments.push("--".to_owned());
    arguments.push(name.0.clone());
    let job = Job {
        program,
        arguments,
        folder: context.folder.clone(),
    };
    let ran = run(&job, context.bounds, &context.stop, &mut context.progress).await;
    match ran {
        Ok(ran) if verb == ServiceVerb::Status => status_ending(&name, ran),
        ran => {
            let mut ending = Ending::of(ran);
            if ending.outcome == Outcome::Succeeded {
                ending.detail = format!("{} {} done", name.0, verb_word(verb));
            }
            ending
        }
    }
}

/// The exit codes of `systemctl status` are the state of the unit, after the
/// init scripts of the Linux Standard Base: the question itself succeeded.
fn status_ending(name: &UnitName, ran: super::process::Ran) -> Ending {
    let state = match ran.end {
        End::Exited(status) => match status.code() {
            Some(0) => Some("is running or active"),
            Some(1 | 2) => Some("is dead, and left a file behind"),
            Some(3) => Some("is not running"),
            Some(_) | None => None,
        },
        End::TimedOut | End::Cancelled => None,
    };
    match (state, ran.end) {
        // Without systemd as the first process it prints nothing and fails.
        (Some(state), _) if !ran.output.stdout.is_empty() => {
            Ending::succeeded(format!("{} {state}", name.0), ran.output)
        }
        (_, End::Exited(status)) if status.code() == Some(4) => Ending {
            outcome: Outcome::Failed { exit: Some(4) },
            code: None,
            detail: format!("{} does not exist (exit code 4)", name.0),
            output: ran.output,
        },
        (_, End::Exited(status)) => Ending {
            outcome: Outcome::Failed {
                exit: status.code(),
            },
            code: None,
            detail: format!("systemd did not answer: {}", describe(status)),
            output: ran.output,
        },
        (_, End::TimedOut | End::Cancelled) => Ending::of(Ok(ran)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_are_systemds() {
        for (text, full) in [
            ("nginx", "nginx.service"),
            ("nginx.service", "nginx.service"),
            ("getty@tty1", "getty@tty1.service"),
            ("apt-daily.timer", "apt-daily.timer"),
            (
                "systemd-fsck@dev-disk-by\\x2duuid.service",
                "systemd-fsck@dev-disk-by\\x2duuid.service",
            ),
            ("a.b", "a.b.service"),
        ] {
            assert_eq!(text.parse::<UnitName>().unwrap().as_str(), full);
        }
    }

    #[test]
    fn names_that_could_be_something_else_are_refused() {
        for text in [
            "",
            "-x",
            "--now",
            "-.mount",
            "a b",
            "a;b",
            "a/b",
            "../x",
            "a\nb",
            "*",
            "ssh*",
            "[a]",
            "@x",
            ".service",
            "$(id)",
            "ünit",
            &"x".repeat(256),
        ] {
            assert_eq!(
                text.parse::<UnitName>(),
                Err(UnitError::Name(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn only_listed_units_are_changed_and_any_status_is_read() {
        let units: Vec<UnitPattern> = ["nginx", "app-*", "backup.timer"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for (unit, allowed) in [
            ("nginx", true),
            ("nginx.service", true),
            ("nginx.socket", false),
            ("app-web", true),
            ("app-web.service", true),
            ("app", false),
            ("backup.timer", true),
            ("backup", false),
            ("ssh", false),
        ] {
            for verb in [ServiceVerb::Start, ServiceVerb::Stop, ServiceVerb::Restart] {
                assert_eq!(judge(&units, unit, verb).is_ok(), allowed, "{unit}");
            }
            assert!(judge(&units, unit, ServiceVerb::Status).is_ok());
            assert!(judge(&[], unit, ServiceVerb::Restart).is_err());
        }
    }

    #[test]
    fn patterns_are_checked() {
        for text in ["", "-*", "a*b", "a b*", "--x", "/x*"] {
            assert!(text.parse::<UnitPattern>().is_err(), "{text}");
        }
        assert_eq!("app-*".parse::<UnitPattern>().unwrap().to_string(), "app-*");
        let every = ["*".parse::<UnitPattern>().unwrap()];
        assert!(judge(&every, "ssh", ServiceVerb::Restart).is_ok());
        assert_eq!(
            "nginx".parse::<UnitPattern>().unwrap().to_string(),
            "nginx.service"
        );
    }
}
