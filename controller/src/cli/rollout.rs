//! `flotilla rollout …`, and its live view.
//!
//! The view is lines made of what the controller tells, by pure functions that
//! keep to the terminal's width. On a terminal they are drawn over the last ones;
//! elsewhere only what is new is printed, a line each.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::Table;
use futures_util::FutureExt as _;

use crate::cli::Session;
use crate::cli::args::Format;
use crate::cli::args::deploy::Rollout;
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, fit};
use crate::exit::Exit;
use crate::operation::view::command::ListTargets;
use crate::operation::view::rollout::{
    AbortRollout, ApproveRollout, ListRollouts, PauseRollout, RolloutLine, RolloutList,
    RolloutTargetPage, RolloutTargetView, RolloutView, RolloutWaveView,
};
use crate::serve::signal::Signals;

/// The width of lines where there is no terminal.
const WIDTH_DEFAULT: usize = 80;

/// Decisions that the view shows.
const LOG_SHOWN_MAX: usize = 5;

/// How often a broken stream is taken up again before giving up.
const RETRIES_MAX: u32 = 30;

pub(super) async fn run(session: &mut Session, command: Rollout) -> Result<Exit, CliFailure> {
    match command {
        Rollout::List { deployment, limit } => {
            let query = ListRollouts {
                deployment,
                limit: Some(limit),
            };
            let list: RolloutList = session.client.query("/rollouts", &query).await?;
            session.print.show(&list, table)?;
        }
        Rollout::Show { rollout, targets } => {
            let id = find(session, &rollout).await?;
            let view: RolloutView = session.client.get(&format!("/rollouts/{id}")).await?;
            if targets {
                let all = all_targets(session, &id).await?;
                session.print.show(&all, target_table)?;
            } else {
                session.print.show(&view, show)?;
            }
        }
        Rollout::Watch {
            rollout,
            to_the_end,
        } => {
            let id = find(session, &rollout).await?;
            let until = if to_the_end {
                Until::Ended
            } else {
                Until::usual(&session.print)
            };
            return watch(session, &id, until).await;
        }
        Rollout::Pause { rollout, reason } => {
            let body = PauseRollout { reason };
            steer(session, &rollout, "pause", &body).await?;
        }
        Rollout::Resume { rollout } => {
            steer(session, &rollout, "resume", &serde_json::json!({})).await?;
        }
        Rollout::Approve { rollout, wave } => {
            let body = ApproveRollout { wave };
            steer(session, &rollout, "approve", &body).await?;
        }
        Rollout::Abort {
            rollout,
            reason,
            revert,
        } => {
            let body = AbortRollout { reason, revert };
            steer(session, &rollout, "abort", &body).await?;
        }
    }
    Ok(Exit::Ok)
}

/// The id of a rollout that is given by itself, or by its deployment's name.
async fn find(session: &Session, text: &str) -> Result<String, CliFailure> {
    let query = ListRollouts {
        deployment: Some(text.to_owned()),
        limit: Some(1),
    };
    let list: RolloutList = session.client.query("/rollouts", &query).await?;
    Ok(list
        .rollouts
        .first()
        .map_or_else(|| text.to_owned(), |rollout| rollout.id.to_string()))
}

async fn steer<B: serde::Serialize>(
    session: &mut Session,
    rollout: &str,
    verb: &str,
    body: &B,
) -> Result<(), CliFailure> {
    let id = find(session, rollout).await?;
    let path = format!("/rollouts/{id}/{verb}");
    let view: RolloutView = session.client.post(&path, body).await?;
    session.print.show(&view, |print, view| {
        let state = print.tint(&words(&view.state), tone(view));
        print.line(format!(
            "Rollout {} of {} is {state}.",
            view.id, view.deployment
        ))
    })
}

async fn all_targets(session: &Session, id: &str) -> Result<Vec<RolloutTargetView>, CliFailure> {
    let path = format!("/rollouts/{id}/targets");
    let mut all = Vec::new();
    let mut query = ListTargets {
        after: None,
        limit: Some(1000),
    };
    loop {
        let page: RolloutTargetPage = session.client.query(&path, &query).await?;
        all.extend(page.targets);
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    all.sort_by(|a, b| (a.wave, &a.name).cmp(&(b.wave, &b.name)));
    Ok(all)
}

/// What ends the following of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Its end.
    Ended,
    /// Its end, or that it stands still until a person moves it.
    AwaitsPerson,
}

impl Until {
    /// At a terminal a person sees what is waited for; elsewhere nobody does.
    pub(super) fn usual(print: &Printer) -> Self {
        if print.is_terminal() {
            Self::Ended
        } else {
            Self::AwaitsPerson
        }
    }
}

/// Follows a rollout to what ends it, or until Ctrl-C, which ends the following alone.
pub(super) async fn watch(
    session: &mut Session,
    id: &str,
    until: Until,
) -> Result<Exit, CliFailure> {
    let mut view = View::new(&session.print, until);
    let mut signals = Signals::listen()?;
    let ended = tokio::select! {
        ended = stream(session, &mut view, id) => Some(ended?),
        () = signals.next() => None,
    };
    match (ended, view.last) {
        (None, _) => {
            super::note(&format!(
                "The rollout goes on. Come back to it: flotilla rollout watch {id}"
            ));
            Ok(Exit::Interrupted)
        }
        (Some(()), Some(line)) if line.rollout.state == "completed" => Ok(Exit::Ok),
        (Some(()), Some(line)) if line.rollout.awaits_person => {
            super::note(&format!("{} It goes on then.", what_to_do(&line.rollout)));
            Ok(Exit::Later)
        }
        (Some(()), _) => Ok(Exit::Failed),
    }
}

async fn stream(session: &mut Session, view: &mut View, id: &str) -> Result<(), CliFailure> {
    let path = format!("/rollouts/{id}/follow");
    let mut retries = 0;
    loop {
        let once = async {
            let mut lines = session.client.lines(&path).await?;
            while let Some(line) = lines.next::<RolloutLine>().await? {
                view.take(line, &mut session.print)?;
                if view.is_done() {
                    break;
                }
            }
            Ok::<(), CliFailure>(())
        }
        .boxed_local();
        match once.await {
            Ok(()) if view.is_done() => return Ok(()),
            Err(failure) if failure.exit != Exit::Unavailable || retries >= RETRIES_MAX => {
                return Err(failure);
            }
            Ok(()) | Err(_) if retries >= RETRIES_MAX => {
                return Err(CliFailure::new(
                    Exit::Later,
                    "the controller stops the stream again and again",
                )
                .advise(format!("come back later: flotilla rollout watch {id}")));
            }
            Ok(()) | Err(_) => {}
        }
        retries += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Draws lines over the ones that it drew last, where there is a terminal.
pub(super) struct Screen {
    terminal: bool,
    width: usize,
    drawn: usize,
    last: Vec<String>,
}

impl Screen {
    pub(super) fn new(print: &Printer) -> Self {
        let width = Table::new().width().map_or(WIDTH_DEFAULT, usize::from);
        Self {
            terminal: print.is_terminal(),
            width,
            drawn: 0,
            last: Vec::new(),
        }
    }

    /// Draws lines; without a terminal only those that the last call did not have.
    pub(super) fn draw(&mut self, print: &mut Printer, lines: &[String]) -> Result<(), CliFailure> {
        if !self.terminal {
            for line in lines.iter().filter(|line| !self.last.contains(line)) {
                print.line(line)?;
            }
            self.last = lines.to_vec();
            return Ok(());
        }
        let mut text = String::new();
        if self.drawn > 0 {
            // Up to the first of them, and clear from there.
            text.push_str(&format!("\u{1b}[{}A\u{1b}[J", self.drawn));
        }
        self.drawn = 0;
        for line in lines {
            let shown = fit(line, self.width);
            text.push_str(&shown);
            text.push('\n');
            self.drawn += 1;
        }
        print.raw(&text)
    }
}

/// What was told last, and how it is shown.
struct View {
    until: Until,
    format: Format,
    screen: Screen,
    last: Option<RolloutLine>,
    said: usize,
    progress: String,
}

impl View {
    fn new(print: &Printer, until: Until) -> Self {
        Self {
            until,
            format: print.format,
            screen: Screen::new(print),
            last: None,
            said: 0,
            progress: String::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.last.as_ref().is_some_and(|line| {
            let rollout = &line.rollout;
            rollout.done || (self.until == Until::AwaitsPerson && rollout.awaits_person)
        })
    }

    fn take(&mut self, line: RolloutLine, print: &mut Printer) -> Result<(), CliFailure> {
        match self.format {
            Format::Json => print.json_line(&line)?,
            Format::Table if self.screen.terminal => {
                let lines = render(&line, self.screen.width, print);
                self.screen.draw(print, &lines)?;
            }
            Format::Table => self.say(&line, print)?,
        }
        self.last = Some(line);
        Ok(())
    }

    /// What is new since the last line, for a file or a pipe.
    fn say(&mut self, line: &RolloutLine, print: &mut Printer) -> Result<(), CliFailure> {
        let rollout = &line.rollout;
        for entry in rollout.log.iter().skip(self.said) {
            print.line(format!("{} {}", entry.at, entry.text))?;
        }
        self.said = rollout.log.len();
        let known: Vec<_> = self
            .last
            .iter()
            .flat_map(|last| last.trouble.iter())
            .map(|target| (target.node, target.since))
            .collect();
        for target in &line.trouble {
            if !known.contains(&(target.node, target.since)) {
                print.line(trouble_text(print, target))?;
            }
        }
        let progress = format!(
            "{}: {}",
            words(&rollout.state),
            counts_text(&rollout.counts)
        );
        if progress != self.progress {
            print.line(&progress)?;
            self.progress = progress;
        }
        Ok(())
    }
}

/// What a person may do about a rollout that waits for one.
fn what_to_do(rollout: &RolloutView) -> String {
    let verb = match rollout.state.as_str() {
        "waiting_for_approval" => "approve",
        _ => "resume",
    };
    let name = &rollout.deployment;
    format!("It waits for a person: flotilla rollout {verb} {name}, or abort.")
}

/// The live view of a rollout in lines of at most `width` characters.
fn render(line: &RolloutLine, width: usize, print: &Printer) -> Vec<String> {
    let rollout = &line.rollout;
    let mut lines = vec![fit(&heading(rollout, print), width)];
    if !rollout.reason.is_empty() {
        lines.push(print.tint(&fit(&rollout.reason, width), Tone::Warn));
    }
    lines.push(String::new());
    for wave in &rollout.waves {
        lines.push(fit(&wave_line(wave, width, print), width));
    }
    lines.push(String::new());
    let mut summary = counts_text(&rollout.counts);
    if let Some(rate) = rollout.rate_per_minute.filter(|_| !rollout.done) {
        summary.push_str(&format!("; at most {rate} nodes a minute"));
    }
    lines.push(fit(&summary, width));
    if !rollout.breakers.is_empty() {
        let text = format!("held back by breaker {}", rollout.breakers.join(", "));
        lines.push(print.tint(&fit(&text, width), Tone::Bad));
    }
    if rollout.awaits_person {
        let text = what_to_do(rollout);
        lines.push(print.tint(&fit(&text, width), Tone::Warn));
    }
    if !line.trouble.is_empty() {
        lines.push(String::new());
        for target in &line.trouble {
            lines.push(fit(&trouble_text(print, target), width));
        }
    }
    let shown = rollout.log.len().saturating_sub(LOG_SHOWN_MAX);
    if !rollout.log.is_empty() {
        lines.push(String::new());
    }
    for entry in rollout.log.iter().skip(shown) {
        let text = format!("{:>8}  {}", print.ago(entry.at), entry.text);
        lines.push(print.tint(&fit(&text, width), Tone::Faint));
    }
    lines
}

fn heading(rollout: &RolloutView, print: &Printer) -> String {
    let state = print.tint(&words(&rollout.state), tone(rollout));
    let from = rollout
        .before
        .map_or_else(|| "new".to_owned(), |before| format!("from {before}"));
    format!(
        "{} → revision {} ({from}): {state}, {}",
        rollout.deployment,
        rollout.revision,
        print.ago(rollout.started_at)
    )
}

/// Groups of states as the bar shows them, with their sign and tone.
const BAR: [(&[&str], char, Tone); 4] = [
    (&["succeeded", "healthy", "committing"], '█', Tone::Good),
    (
        &["sent", "working", "delayed", "recalling", "reverting"],
        '▓',
        Tone::Warn,
    ),
    (
        &["failed", "reverted", "refused", "silent", "recalled"],
        '▒',
        Tone::Bad,
    ),
    (
        &["pending", "held", "waits_for_window", "cordoned", "drained"],
        '·',
        Tone::Faint,
    ),
];

fn wave_line(wave: &RolloutWaveView, width: usize, print: &Printer) -> String {
    let members: u32 = wave.counts.values().sum();
    let of = |states: &[&str]| -> u32 {
        states
            .iter()
            .filter_map(|state| wave.counts.get(*state))
            .sum()
    };
    let done = of(BAR[0].0);
    let gate = if wave.approve == "human" && wave.state == "waiting" {
        " needs approval"
    } else {
        ""
    };
    let label = format!("wave {:<2} {:>7}", wave.wave, wave.state);
    let counts = format!("{done}/{members}{gate}");
    // Two blanks on either side of the bar.
    let room = width
        .saturating_sub(label.len() + counts.len() + 4)
        .clamp(4, 40);
    let mut bar = String::new();
    let mut left = room;
    for (index, (states, sign, tone)) in BAR.iter().enumerate() {
        let count = of(states);
        let cells = if index + 1 == BAR.len() {
            left
        } else {
            share(count, members, room).min(left)
        };
        left -= cells;
        bar.push_str(&print.tint(&sign.to_string().repeat(cells), *tone));
    }
    format!("{label}  {bar}  {counts}")
}

/// How many of `room` cells a part of a whole takes: at least one, unless it is
/// nothing.
fn share(part: u32, whole: u32, room: usize) -> usize {
    if part == 0 || whole == 0 {
        return 0;
    }
    (part as usize * room / whole as usize).max(1)
}

fn counts_text(counts: &BTreeMap<String, u32>) -> String {
    let total: u32 = counts.values().sum();
    let mut parts: Vec<String> = Vec::new();
    for (states, _, _) in BAR {
        for state in states {
            if let Some(count) = counts.get(*state).filter(|count| **count > 0) {
                parts.push(format!("{count} {}", words(state)));
            }
        }
    }
    if let Some(skipped) = counts.get("skipped").filter(|count| **count > 0) {
        parts.push(format!("{skipped} skipped"));
    }
    format!("{total} nodes: {}", parts.join(", "))
}

fn trouble_text(print: &Printer, target: &RolloutTargetView) -> String {
    let mut text = format!(
        "{}: {}",
        target.name,
        print.tint(&words(&target.state), Tone::Bad)
    );
    if let Some(code) = &target.code {
        text.push_str(&format!(" [{code}]"));
    }
    if !target.detail.is_empty() {
        text.push_str(&format!(" {}", target.detail));
    }
    if let Some(at) = target.retry_at {
        text.push_str(&format!(", again {}", print.ago(at)));
    }
    text
}

fn words(state: &str) -> String {
    state.replace('_', " ")
}

fn tone(rollout: &RolloutView) -> Tone {
    match rollout.state.as_str() {
        "completed" => Tone::Good,
        "running" => Tone::Plain,
        "paused" | "waiting_for_approval" | "aborting" => Tone::Warn,
        _ => Tone::Bad,
    }
}

fn table(print: &mut Printer, list: &RolloutList) -> Result<(), CliFailure> {
    let mut table = print.table(&["ID", "DEPLOYMENT", "REVISION", "STATE", "STARTED", "BY"]);
    for rollout in &list.rollouts {
        let done = rollout.counts.get("succeeded").copied().unwrap_or(0);
        let state = format!("{}: {done} of {}", words(&rollout.state), rollout.targets);
        table.add_row(vec![
            print.cell(rollout.id, Tone::Plain),
            print.cell(&rollout.deployment, Tone::Plain),
            print.cell(rollout.revision, Tone::Plain),
            print.cell(state, tone(rollout)),
            print.cell(print.ago(rollout.started_at), Tone::Plain),
            print.cell(&rollout.by, Tone::Plain),
        ]);
    }
    print.print(table, "No rollouts yet.")
}

fn show(print: &mut Printer, rollout: &RolloutView) -> Result<(), CliFailure> {
    let line = RolloutLine {
        rollout: rollout.clone(),
        trouble: Vec::new(),
    };
    for (name, value) in [
        ("id", rollout.id.to_string()),
        ("by", rollout.by.clone()),
        ("kind", rollout.kind.clone()),
    ] {
        print.line(format!("{name:<10} {value}"))?;
    }
    for text in render(&line, usize::MAX, print) {
        print.line(text)?;
    }
    Ok(())
}

fn target_table(print: &mut Printer, all: &Vec<RolloutTargetView>) -> Result<(), CliFailure> {
    let mut table = print.table(&["WAVE", "NODE", "STATE", "SINCE", "REASON"]);
    for target in all {
        let bad = target
            .verdict
            .as_deref()
            .is_some_and(|verdict| verdict != "good");
        let tone = match target.state.as_str() {
            "succeeded" => Tone::Good,
            _ if bad => Tone::Bad,
            _ => Tone::Plain,
        };
        let reason = match &target.code {
            Some(code) => format!("[{code}] {}", target.detail),
            None => target.detail.clone(),
        };
        table.add_row(vec![
            print.cell(target.wave, Tone::Plain),
            print.cell(&target.name, Tone::Plain),
            print.cell(words(&target.state), tone),
            print.cell(print.ago(target.since), Tone::Plain),
            print.cell(reason, Tone::Plain),
        ]);
    }
    print.print(table, "It has no targets.")
}

#[cfg(test)]
mod tests {
    use protocol::id::{NodeId, RolloutId};
    use protocol::time::UnixMillis;

    use super::*;
    use crate::operation::view::rollout::RolloutLogLine;

    fn counts(counts: &[(&str, u32)]) -> BTreeMap<String, u32> {
        counts
            .iter()
            .map(|(state, count)| ((*state).to_owned(), *count))
            .collect()
    }

    fn line() -> RolloutLine {
        let wave = |wave, state: &str, of: &[(&str, u32)]| RolloutWaveView {
            wave,
            size: of.iter().map(|(_, count)| count).sum(),
            state: state.to_owned(),
            approve: if wave == 3 { "human" } else { "none" }.to_owned(),
            counts: counts(of),
        };
        RolloutLine {
            rollout: RolloutView {
                id: RolloutId::from_bytes([9; 10]),
                deployment: "web".to_owned(),
                revision: 4,
                before: Some(3),
                kind: "forward".to_owned(),
                by: "ann".to_owned(),
                started_at: UnixMillis(940_000).into(),
                state: "halted".to_owned(),
                reason: "2 bad of 3 results in wave 1 (limit: 50 % of the 3 planned), and much more that does not fit on a line of eighty characters".to_owned(),
                done: false,
                awaits_person: true,
                finished_at: None,
                targets: 1000,
                counts: counts(&[("succeeded", 1), ("reverted", 2), ("pending", 997)]),
                waves: vec![
                    wave(1, "done", &[("succeeded", 1), ("reverted", 2)]),
                    wave(2, "running", &[("pending", 100), ("working", 1)]),
                    wave(3, "waiting", &[("pending", 897)]),
                ],
                rate_per_minute: Some(10),
                breakers: Vec::new(),
                log: vec![RolloutLogLine {
                    at: UnixMillis(970_000).into(),
                    by: "controller".to_owned(),
                    text: "wave 1 started".to_owned(),
                }],
            },
            trouble: vec![RolloutTargetView {
                node: NodeId::from_bytes([1; 10]),
                name: "edge-1".to_owned(),
                wave: 1,
                state: "reverted".to_owned(),
                since: UnixMillis(980_000).into(),
                verdict: Some("failed".to_owned()),
                code: Some("workload.exited".to_owned()),
                detail: "web ended with exit code 1 after 3 restarts; the last line that it wrote was long".to_owned(),
                retry_at: None,
            }],
        }
    }

    fn printer(out: Box<dyn std::io::Write + Send>) -> Printer {
        Printer::plain(out, Format::Table, UnixMillis(1_000_000))
    }

    #[test]
    fn the_view_keeps_to_the_terminals_width() {
        let print = printer(Box::new(std::io::sink()));
        for width in [40, 80, 200] {
            for text in render(&line(), width, &print) {
                assert!(text.chars().count() <= width, "{width}: {text}");
            }
        }
        insta::assert_snapshot!(render(&line(), 80, &print).join("\n"));
    }

    #[test]
    fn a_cut_keeps_colours_whole() {
        assert_eq!(fit("abcdef", 10), "abcdef");
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("\u{1b}[31mabcd\u{1b}[0m", 4), "\u{1b}[31mabcd\u{1b}[0m");
        assert_eq!(fit("\u{1b}[31mabcd\u{1b}[0m", 3), "\u{1b}[31mab…\u{1b}[0m");
        assert_eq!(fit("a\nb", 9), "a b");
    }

    #[test]
    fn a_single_failure_among_thousands_is_seen_in_the_bar() {
        assert_eq!(share(1, 10_000, 40), 1);
        assert_eq!(share(0, 10_000, 40), 0);
        assert_eq!(share(5, 10, 40), 20);
        assert_eq!(share(0, 0, 40), 0);
    }

    /// Collects what is printed.
    #[derive(Clone, Default)]
    struct Paper(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut paper = self.0.lock().map_err(|_| std::io::ErrorKind::Other)?;
            paper.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn following_ends_where_only_a_person_moves_it_on_unless_one_is_there() {
        let mut print = printer(Box::new(std::io::sink()));
        let mut view = View::new(&print, Until::AwaitsPerson);
        let mut running = line();
        running.rollout.awaits_person = false;
        view.take(running, &mut print).unwrap();
        assert!(!view.is_done());
        view.take(line(), &mut print).unwrap();
        assert!(view.is_done());
    }

    #[test]
    fn a_pipe_gets_what_is_new_and_nothing_twice() {
        let paper = Paper::default();
        let mut print = printer(Box::new(paper.clone()));
        let mut view = View::new(&print, Until::Ended);
        view.take(line(), &mut print).unwrap();
        view.take(line(), &mut print).unwrap();
        assert!(!view.is_done(), "a person can move it on");
        let mut last = line();
        last.rollout.done = true;
        last.rollout.state = "aborted".to_owned();
        view.take(last, &mut print).unwrap();
        assert!(view.is_done());
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("wave 1 started").count(), 1, "{text}");
        assert_eq!(text.matches("edge-1").count(), 1, "{text}");
        assert_eq!(text.matches("halted: ").count(), 1, "{text}");
        assert!(text.contains("aborted: 1000 nodes"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
