//! What is shown of a command while it runs, and its end.
//!
//! Pure apart from printing: lines of the follow stream go in, output comes
//! out. A target's end may be told again after the stream was taken up anew,
//! and is shown once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use protocol::id::NodeId;

use crate::cli::args::Format;
use crate::cli::command::{Outcome, Style, row_text, summary};
use crate::cli::failure::CliFailure;
use crate::cli::print::Printer;
use crate::exit::Exit;
use crate::operation::view::command::{
    CommandView, FollowLine, ProgressView, ReceiptView, TargetView,
};

/// The state of following one command.
pub(super) struct Follow {
    command: CommandView,
    style: Style,
    format: Format,
    targets: Vec<TargetView>,
    ended: BTreeSet<NodeId>,
    /// Bytes of each stream already shown, where output is shown as it comes.
    shown: BTreeMap<(NodeId, bool), u64>,
    bar: ProgressBar,
    done: bool,
}

impl Follow {
    pub(super) fn new(command: CommandView, style: Style, print: &Printer) -> Self {
        let bar = if print.format == Format::Table
            && style != Style::Follow
            && command.targets > 1
            && std::io::stderr().is_terminal()
        {
            let bar = ProgressBar::new(u64::from(command.targets));
            if let Ok(style) =
                ProgressStyle::with_template("{bar:30} {pos}/{len} nodes, {elapsed} {msg}")
            {
                bar.set_style(style);
            }
            bar
        } else {
            ProgressBar::hidden()
        };
        Self {
            command,
            style,
            format: print.format,
            targets: Vec::new(),
            ended: BTreeSet::new(),
            shown: BTreeMap::new(),
            bar,
            done: false,
        }
    }

    pub(super) fn command(&self) -> &CommandView {
        &self.command
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the progress bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn take(&mut self, line: FollowLine, print: &mut Printer) -> Result<(), CliFailure> {
        match line {
            FollowLine::Command(command) => {
                self.done = command.done;
                self.command = command;
                Ok(())
            }
            FollowLine::Progress(progress) => self.progress(&progress, print),
            FollowLine::Target(target) if self.ended.insert(target.node) => {
                self.bar.inc(1);
                let shown = self.bar.clone().suspend(|| self.end(&target, print));
                self.targets.push(target);
                shown
            }
            FollowLine::Target(_) => Ok(()),
            FollowLine::Missed { count } => {
                crate::cli::note(&format!("{count} pieces of output were missed here"));
                Ok(())
            }
        }
    }

    /// Whether output is shown as it comes.
    fn streams(&self) -> bool {
        self.style == Style::Follow || (self.style == Style::Output && self.command.targets == 1)
    }

    fn progress(&mut self, progress: &ProgressView, print: &mut Printer) -> Result<(), CliFailure> {
        if progress.kind == "started" || !self.streams() {
            return Ok(());
        }
        if self.format == Format::Json {
            return match self.style {
                Style::Follow => print.json_line(progress),
                Style::Rows | Style::Output => Ok(()),
            };
        }
        let stream = (progress.node, progress.kind == "stderr");
        let shown = self.shown.entry(stream).or_default();
        if progress.offset < *shown {
            return Ok(());
        }
        *shown = progress.offset + progress.bytes;
        self.write(print, &progress.name, &progress.text, stream.1)
    }

    fn write(
        &self,
        print: &mut Printer,
        name: &str,
        text: &str,
        is_stderr: bool,
    ) -> Result<(), CliFailure> {
        if self.command.targets > 1 {
            for line in text.lines() {
                print.line(format!("{name} | {line}"))?;
            }
            return Ok(());
        }
        if is_stderr {
            crate::cli::aside(text);
            Ok(())
        } else {
            print.raw(text)
        }
    }

    fn end(&self, target: &TargetView, print: &mut Printer) -> Result<(), CliFailure> {
        if self.format == Format::Json {
            return Ok(());
        }
        match self.style {
            Style::Rows => self.row(target, print),
            Style::Output | Style::Follow if self.streams() => self.rest(target, print),
            Style::Output | Style::Follow => {
                let text = row_text(print, target);
                print.line(format!("── {text}"))?;
                if let Some(receipt) = &target.receipt {
                    whole_lines(print, &receipt.stdout)?;
                    whole_lines(print, &receipt.stderr)?;
                    cut_note(receipt);
                }
                Ok(())
            }
        }
    }

    fn row(&self, target: &TargetView, print: &mut Printer) -> Result<(), CliFailure> {
        let text = row_text(print, target);
        let took = target.receipt.as_ref().map(|receipt| {
            receipt
                .ended_at
                .0
                .since(self.command.issued_at.0)
                .as_millis()
        });
        match took {
            Some(ms) if target.state == "succeeded" => print.line(format!("{text} after {ms} ms")),
            Some(_) | None => print.line(text),
        }
    }

    /// What of a streamed target's output was not shown yet, and how it ended.
    fn rest(&self, target: &TargetView, print: &mut Printer) -> Result<(), CliFailure> {
        if let Some(receipt) = &target.receipt {
            for (text, is_stderr) in [(&receipt.stdout, false), (&receipt.stderr, true)] {
                let shown = self
                    .shown
                    .get(&(target.node, is_stderr))
                    .copied()
                    .unwrap_or(0);
                let from = usize::try_from(shown).unwrap_or(usize::MAX);
                if let Some(rest) = text.get(from..).filter(|rest| !rest.is_empty()) {
                    self.write(print, &target.name, rest, is_stderr)?;
                }
            }
            cut_note(receipt);
        }
        if target.state != "succeeded" {
            crate::cli::note(&row_text(print, target));
        }
        Ok(())
    }

    /// The end: a summary, or everything as JSON.
    pub(super) fn finish(self, print: &mut Printer) -> Result<Exit, CliFailure> {
        let succeeded = self.command.counts.get("succeeded").copied().unwrap_or(0);
        let exit = if succeeded == self.command.targets {
            Exit::Ok
        } else {
            Exit::Failed
        };
        match self.format {
            Format::Json if self.style == Style::Follow => {}
            Format::Json => print.json(&Outcome {
                command: self.command,
                targets: self.targets,
            })?,
            Format::Table if self.command.targets == 0 => {
                crate::cli::note("No node matches; nothing was done.");
            }
            Format::Table if self.command.targets > 1 => {
                crate::cli::note(&format!(
                    "{} (command {})",
                    summary(&self.command),
                    self.command.id
                ));
            }
            Format::Table => {}
        }
        Ok(exit)
    }
}

fn whole_lines(print: &mut Printer, text: &str) -> Result<(), CliFailure> {
    print.raw(text)?;
    if text.is_empty() || text.ends_with('\n') {
        Ok(())
    } else {
        print.raw("\n")
    }
}

fn cut_note(receipt: &ReceiptView) {
    if receipt.cut_bytes > 0 {
        crate::cli::note(&format!("{} bytes of output were cut", receipt.cut_bytes));
    }
}
