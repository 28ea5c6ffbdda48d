//! What the command line accepts, and what it prints.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{CommandFactory as _, Parser as _};
use protocol::id::{CommandId, NodeId};
use protocol::time::UnixMillis;

use super::args::{Audit, Cli, Command, Format, Node};
use super::command::Style;
use super::follow::Follow;
use super::print::Printer;
use crate::exit::Exit;
use crate::operation::view::command::{
    CommandView, FollowLine, ProgressView, ReceiptView, TargetView,
};

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut page = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        page.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn printer(&self, format: Format) -> Printer {
        Printer::plain(Box::new(self.clone()), format, UnixMillis(1_000_000))
    }
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_lines_of_the_manual_parse() {
    for line in [
        "flotilla node list site=lyon,role!=db",
        "flotilla node relabel web-1 site=lyon old-",
        "flotilla node replace web-1 --with ydsxqx5ujfqp4qs3",
        "flotilla node resolve web-1 --keep",
        "flotilla node cordon web-1 --reason disk",
        "flotilla node uncordon --on site=lyon --reason disk",
        "flotilla node drain web-1 --reason kernel --timeout 10m --detach",
        "flotilla node decommission web-1 --reason lease --force",
        "flotilla window set nights --on role=db --days mon-fri --from 22:00 --for 4h --tz Europe/Paris",
        "flotilla window next nights",
        "flotilla window open nights --for 1h --reason fix",
        "flotilla run web-1 --now -- uptime",
        "flotilla node reload site=lyon",
        "flotilla token create --label site=lyon --expires 1h --uses 10 --approve",
        "flotilla ping --all",
        "flotilla run -- uptime",
        "flotilla run site=lyon --timeout 30s --rate 60 --concurrency 10 --detach -- df -h",
        "flotilla service restart nginx site=lyon --concurrency 1",
        "flotilla logs web-1 --unit nginx -n 50 --follow",
        "flotilla logs --all --file /var/log/syslog --since 10m",
        "flotilla logs",
        "flotilla command show 5jfqp4qs3ydsxqxu --node web-1",
        "flotilla deploy apply -f compose.yaml --name web --on site=lyon --dry-run",
        "flotilla deploy apply -f - --name web --wave 1:soak=10m --wave rest --wait --yes",
        "flotilla deploy diff -f compose.yaml --name web",
        "flotilla deploy rollback web --to 3 --on-halt revert",
        "flotilla deploy status web --watch",
        "flotilla deploy remove web --yes",
        "flotilla rollout watch web -o json",
        "flotilla rollout approve web --wave 2",
        "flotilla rollout abort web --reason bad --revert",
        "flotilla breaker list",
        "flotilla breaker show fleet",
        "flotilla breaker define sites --span label:site --watch deploy --watch silence --consecutive 3",
        "flotilla breaker trip fleet --reason odd",
        "flotilla breaker isolate sites --group lyon --reason odd",
        "flotilla breaker reset fleet --reason well",
        "flotilla breaker override fleet --on web-1 --for 30m --reason fix",
        "flotilla breaker override --end 3",
        "flotilla breaker history fleet",
        "flotilla breaker define fleet --notify false",
        "flotilla sink list",
        "flotilla sink show chat",
        "flotilla sink set chat --url https://hooks.example.net/flotilla --kind breaker,rollout --severity warning --on site=lyon --secret-file secret",
        "flotilla sink set chat --kind * --new-secret",
        "flotilla sink remove chat",
        "flotilla sink test chat",
        "flotilla notice list -n 50",
        "flotilla alert list --on site=lyon --all",
        "flotilla alert history -n 50",
        "flotilla alert rule set disk-full --when fs.used>90% --severity critical --resolve-after 10m",
        "flotilla alert rule list",
        "flotilla alert rule show disk-full",
        "flotilla alert rule remove disk-full",
        "flotilla alert silence create --on site=lyon --rule disk-full --for 2h --reason swap",
        "flotilla alert silence list",
        "flotilla alert silence end 3",
        "flotilla secret set db-password --from password.txt",
        "flotilla image push shop.tar",
        "flotilla metrics web-1 cpu.busy --since 6h -o json",
        "flotilla metrics --all --top mem.used",
        "flotilla metrics --list",
        "flotilla metrics",
        "flotilla access explain alice command:run web-1",
        "flotilla access key create ci --permission node:read --expires 90d",
        "flotilla trust rotate-signing-key --out request.trust",
        "flotilla trust retire-ca 3f9a2c51 --force",
        "flotilla trust sign --root-key root.key request.trust --to signed.trust",
        "flotilla trust install signed.trust",
        "flotilla audit verify trail.flj --key controller.pub",
        "flotilla recover key --name alice --state-dir /srv/flotilla",
        "flotilla serve --config /etc/flotilla/controller.toml --set api.listen=127.0.0.1:1",
        "flotilla quickstart --dir /tmp/x --nodes 3 --ready-file /tmp/r",
        "flotilla completion bash",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn contradictions_are_refused() {
    for line in [
        "flotilla",
        "flotilla run web-1",
        "flotilla ping web-1 --all",
        "flotilla logs web-1 --unit a --file /b",
        "flotilla metrics web-1 --all --top mem.used",
        "flotilla node resolve web-1",
        "flotilla deploy apply --group-by site",
        "flotilla secret set db-password hunter2",
        "flotilla breaker trip fleet",
        "flotilla sink set chat --secret-file f --new-secret",
        "flotilla breaker override fleet --on web-1",
        "flotilla alert silence create --on web-1 --for 2h",
        "flotilla alert silence create --on web-1 --reason swap",
        "flotilla token create --uses 0",
        "flotilla token create --expires soon",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn a_run_keeps_the_words_after_the_dashes_apart() {
    let Command::Run(run) = parse("flotilla run web-1 --timeout 5s -- ls --all -x")
        .unwrap()
        .command
    else {
        panic!("not a run");
    };
    assert_eq!(run.to.nodes.as_deref(), Some("web-1"));
    assert_eq!(run.argv, ["ls", "--all", "-x"]);
    assert!(matches!(
        parse("flotilla node list").unwrap().command,
        Command::Node(Node::List { selector: None })
    ));
    assert!(matches!(
        parse("flotilla audit tail").unwrap().command,
        Command::Audit(Audit::Tail {
            lines: 20,
            follow: false
        })
    ));
}

/// Every subcommand says what it does, and those that do something have examples
/// or need none.
#[test]
fn every_subcommand_has_help() {
    fn visit(command: &clap::Command) {
        assert!(
            command.get_about().is_some(),
            "{} has no help",
            command.get_name()
        );
        command.get_subcommands().for_each(visit);
    }
    Cli::command().get_subcommands().for_each(visit);
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 10])
}

fn command(targets: u32, counts: &[(&str, u32)], done: bool) -> CommandView {
    CommandView {
        id: CommandId::from_bytes([9; 10]),
        what: "run uptime".to_owned(),
        nodes: "*".to_owned(),
        issued_by: "alice".to_owned(),
        issued_at: UnixMillis(900_000).into(),
        start_by: UnixMillis(1_500_000).into(),
        targets,
        withheld: 0,
        waits_for: String::new(),
        cancelled: false,
        done,
        counts: counts.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect(),
    }
}

fn target(n: u8, state: &str, stdout: &str) -> TargetView {
    TargetView {
        node: node(n),
        name: format!("web-{n}"),
        state: state.to_owned(),
        done: true,
        code: None,
        detail: String::new(),
        receipt: Some(ReceiptView {
            outcome: state.to_owned(),
            exit: Some(i32::from(state != "succeeded")),
            code: None,
            detail: String::new(),
            started_at: None,
            ended_at: UnixMillis(900_120).into(),
            stdout: stdout.to_owned(),
            stderr: String::new(),
            cut_bytes: 0,
            late: false,
        }),
    }
}

fn follow(style: Style, targets: u32, lines: Vec<FollowLine>) -> (String, Exit) {
    let page = Page::default();
    let mut print = page.printer(Format::Table);
    let mut follow = Follow::new(command(targets, &[], false), style, &print);
    for line in lines {
        follow.take(line, &mut print).unwrap();
    }
    assert!(follow.is_done());
    let exit = follow.finish(&mut print).unwrap();
    (page.text(), exit)
}

#[test]
fn each_target_is_shown_once_and_a_failure_is_an_exit_code() {
    let (text, exit) = follow(
        Style::Output,
        2,
        vec![
            FollowLine::Target(target(1, "succeeded", "up 3 days\n")),
            FollowLine::Target(target(1, "succeeded", "up 3 days\n")),
            FollowLine::Target(target(2, "failed", "no")),
            FollowLine::Command(command(2, &[("failed", 1), ("succeeded", 1)], true)),
        ],
    );
    assert_eq!(exit, Exit::Failed);
    assert_eq!(
        text,
        "── web-1: succeeded\nup 3 days\n── web-2: failed, exit 1\nno\n"
    );
}

#[test]
fn a_single_targets_output_comes_as_it_is_written_and_only_once() {
    let piece = |offset, text: &str| {
        FollowLine::Progress(ProgressView {
            node: node(1),
            name: "web-1".to_owned(),
            kind: "stdout".to_owned(),
            offset,
            bytes: text.len() as u64,
            text: text.to_owned(),
        })
    };
    let (text, exit) = follow(
        Style::Output,
        1,
        vec![
            piece(0, "one\n"),
            piece(0, "one\n"),
            piece(4, "two\n"),
            FollowLine::Target(target(1, "succeeded", "one\ntwo\nthree\n")),
            FollowLine::Command(command(1, &[("succeeded", 1)], true)),
        ],
    );
    assert_eq!(exit, Exit::Ok);
    assert_eq!(text, "one\ntwo\nthree\n");
}

#[test]
fn a_ping_shows_how_long_it_took() {
    let (text, exit) = follow(
        Style::Rows,
        1,
        vec![
            FollowLine::Target(target(1, "succeeded", "")),
            FollowLine::Command(command(1, &[("succeeded", 1)], true)),
        ],
    );
    assert_eq!(exit, Exit::Ok);
    assert_eq!(text, "web-1: succeeded after 120 ms\n");
}

#[test]
fn a_summary_counts_what_did_not_succeed() {
    let command = command(
        4,
        &[("failed", 1), ("succeeded", 3), ("timed_out", 0)],
        true,
    );
    assert_eq!(
        super::command::summary(&command),
        "3 of 4 succeeded, 1 failed"
    );
}
