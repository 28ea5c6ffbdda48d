//! What operators see: aligned tables, relative times, sizes, sparklines.
//!
//! Results go to standard output, everything about the way there to standard
//! error, so that a pipe gets results alone. Colours only on a terminal and
//! without `NO_COLOR`. The time that relative times refer to is an argument.

use std::io::{IsTerminal as _, Write};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use protocol::time::UnixMillis;
use serde::Serialize;

use crate::cli::args::Format;
use crate::cli::failure::CliFailure;
use crate::exit::Exit;
use crate::operation::view::Stamp;

/// Where and how to print.
pub struct Printer {
    out: Box<dyn Write + Send>,
    /// Table or JSON.
    pub format: Format,
    colour: bool,
    terminal: bool,
    now: UnixMillis,
}

/// What a cell means, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Nothing special.
    Plain,
    /// Of little interest.
    Faint,
}

impl Printer {
    /// Prints to standard output.
    #[must_use]
    pub fn stdout(format: Format, now: UnixMillis) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            out: Box::new(std::io::stdout()),
            format,
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            terminal,
            now,
        }
    }

    /// Prints without colours to `out`.
    #[must_use]
    pub fn plain(out: Box<dyn Write + Send>, format: Format, now: UnixMillis) -> Self {
        Self {
            out,
            format,
            colour: false,
            terminal: false,
            now,
        }
    }

    /// Whether a person is likely to watch.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The time that relative times refer to.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        self.now
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), CliFailure> {
        writeln!(self.out, "{}", text.as_ref()).map_err(|error| broken(&error))
    }

    /// Prints text as it is.
    pub(crate) fn raw(&mut self, text: &str) -> Result<(), CliFailure> {
        self.out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
            .map_err(|error| broken(&error))
    }

    /// Prints `value` as JSON, or what `table` prints.
    pub(crate) fn show<T: Serialize>(
        &mut self,
        value: &T,
        table: impl FnOnce(&mut Self, &T) -> Result<(), CliFailure>,
    ) -> Result<(), CliFailure> {
        match self.format {
            Format::Json => self.json(value),
            Format::Table => table(self, value),
        }
    }

    /// Prints a value as JSON, readable.
    pub(crate) fn json<T: Serialize>(&mut self, value: &T) -> Result<(), CliFailure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| CliFailure::because(Exit::Bug, "cannot write JSON", &error))?;
        self.line(text)
    }

    /// Prints a value as JSON on one line, for streams.
    pub(crate) fn json_line<T: Serialize>(&mut self, value: &T) -> Result<(), CliFailure> {
        let text = serde_json::to_string(value)
            .map_err(|error| CliFailure::because(Exit::Bug, "cannot write JSON", &error))?;
        self.line(text)
    }

    /// A table with this header.
    pub(crate) fn table(&self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(if self.terminal {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        table.set_header(header.iter().map(|name| {
            let cell = Cell::new(name);
            if self.colour {
                cell.add_attribute(Attribute::Bold)
            } else {
                cell
            }
        }));
        table
    }

    /// A cell in a tone.
    pub(crate) fn cell(&self, text: impl ToString, tone: Tone) -> Cell {
        let cell = Cell::new(text);
        if !self.colour {
            return cell;
        }
        match tone {
            Tone::Good => cell.fg(Color::Green),
            Tone::Warn => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
            Tone::Faint => cell.fg(Color::DarkGrey),
            Tone::Plain => cell,
        }
    }

    /// Prints a table, or what to say when it has no rows.
    pub(crate) fn print(&mut self, mut table: Table, empty: &str) -> Result<(), CliFailure> {
        if table.row_count() == 0 {
            return self.line(empty);
        }
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let columns = table.column_count();
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index + 1 == columns { 0 } else { 2 }));
        }
        let text = table.trim_fmt();
        self.line(text)
    }

    /// Text in a tone, outside tables.
    #[must_use]
    pub fn tint(&self, text: &str, tone: Tone) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Faint => "90",
            Tone::Plain => return text.to_owned(),
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// How long ago, or in how long.
    #[must_use]
    pub fn ago(&self, at: Stamp) -> String {
        let at = at.0;
        // Clocks of operator and controller differ by a little.
        if at.offset_from(self.now).abs() < 1000 {
            "now".to_owned()
        } else if at > self.now {
            format!("in {}", span(at.since(self.now).as_secs()))
        } else {
            format!("{} ago", span(self.now.since(at).as_secs()))
        }
    }

    /// How long ago, or a dash.
    #[must_use]
    pub fn ago_or_dash(&self, at: Option<Stamp>) -> String {
        at.map_or_else(|| "-".to_owned(), |at| self.ago(at))
    }
}

fn broken(error: &std::io::Error) -> CliFailure {
    // `flotilla … | head` closes the pipe: nothing is wrong then.
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return CliFailure::new(Exit::Ok, "");
    }
    CliFailure::because(Exit::Failed, "cannot write the output", error)
}

/// Seconds in the largest unit that fits: `45s`, `12m`, `3h`, `9d`.
#[must_use]
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A value with its unit, readable: `1.5 GiB`, `12.3 %`, `3.2 MiB/s`.
#[must_use]
pub fn quantity(value: f64, unit: &str) -> String {
    let (base, per) = match unit.split_once('/') {
        Some((base, per)) => (base, format!("/{per}")),
        None => (unit, String::new()),
    };
    match base {
        "bytes" | "byte" | "B" => format!("{}{per}", bytes(value)),
        // Seconds of work in a second: a share of one processor or device.
        "s" if per == "/s" => format!("{:.1} %", value * 100.0),
        "percent" | "%" => format!("{value:.1} %{per}"),
        "ratio" => format!("{:.1} %", value * 100.0),
        "" | "1" | "count" => format!("{}{per}", plain(value)),
        other => format!("{} {other}{per}", plain(value)),
    }
}

fn plain(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value:.0}")
    } else if value.abs() >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Bytes in the largest binary unit that fits.
#[must_use]
pub fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value.abs() < 1024.0 {
            return if unit == "B" {
                format!("{value:.0} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// One character a point; a dot where there is a gap.
#[must_use]
pub fn sparkline(points: &[Option<f64>]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let known = || points.iter().flatten().copied().filter(|v| v.is_finite());
    let low = known().fold(f64::INFINITY, f64::min);
    let high = known().fold(f64::NEG_INFINITY, f64::max);
    points
        .iter()
        .map(|point| match point {
            Some(value) if high > low => {
                let share = (value - low) / (high - low);
                // Eight steps: the bounds of `share` are 0 and 1.
                let step = BARS
                    .iter()
                    .enumerate()
                    .take_while(|(index, _)| share * 7.0 + 0.5 >= *index as f64)
                    .count();
                BARS[step.saturating_sub(1)]
            }
            Some(_) => BARS[0],
            None => '·',
        })
        .collect()
}

/// A line cut to a width, colours not counted. A cut line ends with `…`.
pub(super) fn fit(text: &str, width: usize) -> String {
    let mut shown = String::new();
    let mut count = 0;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            shown.push(c);
            for c in chars.by_ref() {
                shown.push(c);
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
            continue;
        }
        if count + 1 == width && chars.clone().any(|c| c != '\u{1b}') && !is_end(&chars) {
            shown.push('…');
            if text.contains('\u{1b}') {
                shown.push_str("\u{1b}[0m");
            }
            return shown;
        }
        shown.push(if c.is_control() { ' ' } else { c });
        count += 1;
    }
    shown
}

/// Whether nothing but the end of a colour is left.
fn is_end(rest: &std::str::Chars<'_>) -> bool {
    matches!(rest.as_str(), "" | "\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_in_a_sparkline_are_seen_as_gaps() {
        let points = [Some(0.0), Some(3.5), None, Some(7.0)];
        assert_eq!(sparkline(&points), "▁▅·█");
        assert_eq!(sparkline(&[Some(2.0), Some(2.0)]), "▁▁");
        assert_eq!(sparkline(&[None, None]), "··");
    }

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(span(5), "5s");
        assert_eq!(span(119), "119s");
        assert_eq!(span(120), "2m");
        assert_eq!(span(7200), "2h");
        assert_eq!(span(200_000), "2d");
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(quantity(1_073_741_824.0, "bytes"), "1.0 GiB");
        assert_eq!(quantity(2048.0, "bytes/s"), "2.0 KiB/s");
        assert_eq!(quantity(12.34, "percent"), "12.3 %");
        assert_eq!(quantity(3.0, ""), "3");
        assert_eq!(quantity(1.375, "s/s"), "137.5 %");
        assert_eq!(quantity(658.7, "/s"), "658.7/s");
        let printer = Printer::plain(
            Box::new(std::io::sink()),
            Format::Table,
            UnixMillis(100_000),
        );
        assert_eq!(printer.ago(Stamp(UnixMillis(40_000))), "60s ago");
        assert_eq!(printer.ago(Stamp(UnixMillis(160_000))), "in 60s");
    }
}
