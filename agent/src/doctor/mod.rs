//! Is this node fit to work, and what is to be done where it is not?
//!
//! [`examine`] looks at the node from outside a running agent: configuration,
//! files, disk, clock, certificate, container engine, and the way to the
//! controller, with the node's own certificate. **Invariant:** it changes
//! nothing but a file of its own that it takes away again, every network step
//! has a deadline, it prints no secret, and every finding that is not good says
//! what to do.
//!
//! It cannot fail: what cannot be examined is a finding.

mod dial;
mod host;
mod reach;
#[cfg(test)]
mod tests;
mod update;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use protocol::time::UnixMillis;
use rustls::ClientConfig;
use serde::Serialize;

use crate::config::{Config, Dirs, Proxy};
use crate::exit::Exit;
use crate::status::Output;

/// What is examined.
#[derive(Debug)]
pub struct Subject {
    /// The agent's directories.
    pub dirs: Dirs,
    /// The configuration, or what is wrong with it.
    pub config: Result<Config, String>,
    /// The node's clock.
    pub now: UnixMillis,
    /// Brokers as `host:port`, tried in turn.
    pub brokers: Vec<String>,
    /// The controller's HTTPS as `host:port`, tried in turn.
    pub controllers: Vec<String>,
    /// How the node shows itself and whom it trusts, or why it cannot.
    pub tls: Result<Arc<ClientConfig>, String>,
}

impl Subject {
    fn proxy(&self) -> Option<&Proxy> {
        self.config.as_ref().ok()?.uplink.proxy.as_ref()
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Does not apply here.
    Skipped,
    /// Works, and will not for long, or not well.
    Warning,
    /// Does not work.
    Failed,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "WARNING",
            Self::Failed => "FAILED",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; the same word in every version.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it; none when there is nothing to do.
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, detail, None)
    }

    fn skipped(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Skipped, detail, None)
    }

    fn warning(name: &'static str, detail: impl Into<String>, advice: &str) -> Self {
        Self::new(name, Verdict::Warning, detail, Some(advice.to_owned()))
    }

    fn failed(name: &'static str, detail: impl Into<String>, advice: &str) -> Self {
        Self::new(name, Verdict::Failed, detail, Some(advice.to_owned()))
    }

    fn new(
        name: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        advice: Option<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            advice,
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The checks, in the order in which one would repair things.
    pub checks: Vec<Check>,
}

impl Report {
    /// The worst that was found.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.checks
            .iter()
            .map(|check| check.verdict)
            .max()
            .unwrap_or(Verdict::Ok)
    }

    /// 1 when something does not work, 0 otherwise.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.verdict() {
            Verdict::Ok | Verdict::Skipped | Verdict::Warning => Exit::Ok,
            Verdict::Failed => Exit::Failed,
        }
    }

    /// The report for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let verdict = check.verdict.word();
            let mut lines = check.detail.lines();
            let first = lines.next().unwrap_or_default();
            // Writing to a string cannot fail.
            let _written = writeln!(text, "{verdict:<8} {:<12} {first}", check.name);
            for line in lines {
                let _written = writeln!(text, "{:22}{line}", "");
            }
            if let Some(advice) = &check.advice {
                let _written = writeln!(text, "{:22}→ {advice}", "");
            }
        }
        let count = |verdict| {
            self.checks
                .iter()
                .filter(|one| one.verdict == verdict)
                .count()
        };
        let _written = writeln!(
            text,
            "\n{} checks: {} failed, {} with a warning",
            self.checks.len(),
            count(Verdict::Failed),
            count(Verdict::Warning)
        );
        text
    }

    /// The report for a program.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// Examines a node. Takes some seconds when the network does not answer.
#[must_use]
pub fn examine(subject: &Subject) -> Report {
    let (controller, controller_time) = reach::controller(subject);
    let mut checks = vec![host::configuration(subject)];
    checks.extend(host::folders(subject));
    checks.push(host::permissions(subject));
    checks.push(host::store(subject));
    checks.push(host::certificate(subject));
    checks.push(host::clock(subject, controller_time));
    checks.push(reach::broker(subject));
    checks.push(controller);
    checks.push(reach::engine(subject));
    checks.push(host::agent(subject));
    checks.push(host::gate(subject));
    checks.push(update::update(subject));
    Report { checks }
}

/// Examines a node and prints what was found.
///
/// # Errors
/// When the report cannot be printed.
pub fn show(subject: &Subject, output: Output, out: &mut dyn Write) -> io::Result<Exit> {
    let report = examine(subject);
    let text = match output {
        Output::Table => report.table(),
        Output::Json => report.json(),
    };
    out.write_all(text.as_bytes())?;
    Ok(report.exit())
}
