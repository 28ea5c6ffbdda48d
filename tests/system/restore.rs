//! A controller that comes back from a backup, or from an old copy of its state, and
//! one that has lost part of it: the first two are obeyed and say what they cannot
//! know, the last does not start.

use std::time::Duration;

use harness::controller::Plan;
use harness::notify::Notify;
use harness::wait;
use serde_json::Value;

use crate::fleet;
use crate::kill::{Marks, issue, willing_agent};

fn incarnation(controller: &harness::controller::Controller) -> u64 {
    incarnation_by(controller, &fleet::admin_key(controller))
}

fn incarnation_by(controller: &harness::controller::Controller, key: &str) -> u64 {
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

/// While it works under load a backup is made; then all of it is lost. What is restored
/// elsewhere is obeyed, knows what was before, and nothing runs twice.
#[test]
fn a_backup_made_under_load_is_restored_on_a_new_machine_and_nodes_come_back() {
    let keys = tempfile::TempDir::new().unwrap();
    let key = keys
        .path()
        .join("backup.key")
        .to_string_lossy()
        .into_owned();
    let made = harness::cli::answer(
        harness::programs::command(harness::programs::flotilla())
            .args(["backup", "key", "create", &key]),
        "flotilla backup key create",
    );
    assert_eq!(made.code, 0, "{}", made.err);
    let recipients = format!("[\"{}\"]", made.out.trim());
    let mut controller = Plan::service()
        .with("FLOTILLA_BACKUP_RECIPIENTS", &recipients)
        .with("FLOTILLA_API_METRICS_ANONYMOUS", "true")
        .start();
    // The operator's own profile, as on a machine of theirs.
    let profile = keys.path().join("profile.toml");
    std::fs::copy(controller.profile(), &profile).unwrap();
    let cli = harness::cli::Cli::new(&profile);
    let admin = fleet::admin_key(&controller);
    let marks = Marks::below(controller.scratch());
    let mut agent = willing_agent(&cli, "keeper");
    agent.start();
    fleet::await_up(&cli, "keeper");
    let before = incarnation_by(&controller, &admin);
    let known: Vec<String> = (0..8)
        .map(|number| issue(&cli, "keeper", &marks, number).expect("it is issued"))
        .collect();

    let viewer = fleet::key_for(&cli, "looker", "viewer");
    let viewer = fleet::profile_with(&controller, "looker", &viewer);
    let file = keys
        .path()
        .join("fleet.backup")
        .to_string_lossy()
        .into_owned();
    viewer
        .ask(&["backup", "create", "--to", &file])
        .refused_with("access.denied");
    cli.ok(&["backup", "create", "--to", &file]);
    let late = issue(&cli, "keeper", &marks, 8).expect("it is issued");
    assert_eq!(fleet::outcome(&cli, &late)["state"], "succeeded");
    let sound = cli.json(&["backup", "verify", &file, "--key", &key]);
    assert_eq!(sound["nodes"], 1, "{sound}");
    let trail: Vec<String> = fleet::trail(&cli).iter().map(Value::to_string).collect();
    assert!(
        trail
            .iter()
            .any(|record| record.contains("backup.made") && record.contains(made.out.trim())),
        "{trail:#?}"
    );

    controller.kill();
    std::fs::remove_dir_all(controller.folder()).unwrap();
    let folder = controller.folder().to_string_lossy().into_owned();
    cli.ok(&[
        "backup",
        "restore",
        &file,
        "--key",
        &key,
        "--state-dir",
        &folder,
    ]);
    controller.start();
    assert!(
        incarnation_by(&controller, &admin) > before,
        "its incarnation rose by itself"
    );
    fleet::await_up(&cli, "keeper");
    for (number, id) in known.iter().enumerate() {
        assert_eq!(fleet::outcome(&cli, id)["state"], "succeeded");
        assert_eq!(marks.count(number), 1, "command {number} ran once");
    }
    cli.ask(&["command", "show", &late])
        .refused_with("command.not_found");
    assert_eq!(marks.count(8), 1);
    let again = issue(&cli, "keeper", &marks, 9).expect("it is issued");
    assert_eq!(fleet::outcome(&cli, &again)["state"], "succeeded");
    let raised = incarnation_by(&controller, &admin);
    controller.stop();
    controller.start();
    assert_eq!(
        incarnation_by(&controller, &admin),
        raised,
        "once for each restore"
    );
    let refused = cli.ask(&[
        "backup",
        "restore",
        &file,
        "--key",
        &key,
        "--state-dir",
        &folder,
    ]);
    refused.refused_with("backup.in_the_way");
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
