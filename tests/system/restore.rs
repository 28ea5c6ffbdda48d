//! A controller that comes back from an old backup, and one that has lost part of
//! its state: the first is obeyed and says what it cannot know, the second does
//! not start.

use std::time::Duration;

use harness::controller::Plan;
use harness::notify::Notify;
use harness::wait;
use serde_json::Value;

use crate::fleet;
use crate::kill::{Marks, issue, willing_agent};

fn incarnation(controller: &harness::controller::Controller) -> u64 {
    let key = fleet::admin_key(controller);
    let url = format!("{}/api/v1/status", controller.api());
    let answer = controller.http().get(url).bearer_auth(key).send().unwrap();
    let status: Value = answer.json().unwrap();
    status["incarnation"].as_u64().expect("it has a number")
}

#[test]
fn a_controller_restored_from_an_old_backup_is_obeyed_and_nothing_runs_twice() {
    let mut controller = Plan::service()
        .with("FLOTILLA_API_METRICS_ANONYMOUS", "true")
        .start();
    let cli = controller.cli();
    let marks = Marks::below(controller.scratch());
    let mut agent = willing_agent(&cli, "keeper");
    agent.start();
    fleet::await_up(&cli, "keeper");
    let done = |number: usize| {
        let id = issue(&cli, "keeper", &marks, number).expect("it is issued");
        assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
        id
    };
    let known = done(0);
    let before = incarnation(&controller);
    controller.stop();
    let backup = controller.back_up();

    controller.start();
    fleet::await_up(&cli, "keeper");
    let forgotten = [done(1), done(2)];
    controller.stop();

    controller.put_back(&backup);
    controller.start_with(&["--restored"]);
    assert!(incarnation(&controller) > before, "its incarnation rose");
    fleet::await_up(&cli, "keeper");
    done(3);
    assert!(incarnation(&controller) > before);

    // What the backup has is there; what came after it is not, and the receipts
    // that the node still keeps of it came again and were put aside.
    assert_eq!(fleet::outcome(&cli, &known)["state"], "succeeded");
    for id in &forgotten {
        let answer = cli.ask(&["command", "show", id]);
        answer.refused_with("command.not_found");
    }
    wait::until_true("the receipts come again", Duration::from_secs(30), || {
        let url = format!("{}/metrics", controller.api());
        let text = controller.http().get(url).send().unwrap().text().unwrap();
        let count = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        count("fleet_uplink_quarantined_total ") >= 2 && count("fleet_uplink_lost_total ") > 0
    });
    for number in 0..4 {
        assert_eq!(marks.count(number), 1, "command {number} ran once");
    }
    let trail: Vec<String> = fleet::trail(&cli).iter().map(Value::to_string).collect();
    assert!(
        trail
            .iter()
            .any(|record| record.contains("serve --restored")),
        "the trail says what happened: {trail:#?}"
    );
    let export = controller.scratch().join("trail.flj");
    let export = export.to_string_lossy();
    cli.ok(&["audit", "export", "--to", &export]);
    cli.ok(&["audit", "verify", &export]);
}

#[test]
fn a_controller_without_its_journal_does_not_begin_a_new_one() {
    let mut systemd = Notify::new();
    let mut controller = Plan::service().start();
    controller.stop();
    controller.set("NOTIFY_SOCKET", &systemd.path().to_string_lossy());
    let journal = controller.folder().join("journal.redb");
    let aside = controller.scratch().join("journal.redb");
    std::fs::rename(&journal, &aside).unwrap();

    controller.begin();
    let status = controller.process().ended(Duration::from_secs(20));
    assert_eq!(status.code(), Some(74), "{}", controller.process().tail());
    let said = controller.process().output();
    for part in [
        "store.corrupt",
        &journal.display().to_string(),
        "flotilla serve --restored",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!journal.exists(), "nothing was made in its place");
    assert_eq!(systemd.count("READY=1"), 0);
}
