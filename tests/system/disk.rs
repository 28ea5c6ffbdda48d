//! Disks that are full and files that are not what they should be.

use std::fs;
use std::path::Path;
use std::time::Duration;

use harness::agent::Agent;
use harness::controller::Plan;
use harness::disk::SmallDisk;
use harness::{clock, wait};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::fleet;

#[test]
fn a_node_whose_disk_is_full_says_so_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::new(24) else {
        return;
    };
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let state = disk.path().join("state");
    let mut agent = Agent::new("cramped")
        .with_state(&state)
        .joined(&fleet::token(&cli));
    agent.start();
    fleet::await_up(&cli, "cramped");
    let before = fleet::issue(&cli, &["run", "cramped", "--", "uname"]);
    let receipt = fleet::outcome(&cli, &before);
    assert_eq!(receipt["state"], "succeeded");

    disk.fill();
    // New work is refused with the reason; what was begun is receipted when the
    // receipt can be kept.
    let mut asked = Vec::new();
    wait::until_true("the node says so", Duration::from_secs(60), || {
        asked.push(fleet::issue(&cli, &["run", "cramped", "--", "uname"]));
        clock::pass(Duration::from_secs(1));
        let refused = asked.iter().any(|id| {
            let target = fleet::targets(&cli, id).into_iter().next();
            target.is_some_and(|target| target.to_string().contains("store."))
        });
        refused || agent.ask(&["status"]).out.contains("store.")
    });
    assert!(agent.process().runs());

    disk.relieve();
    wait::until_true("work goes on", Duration::from_secs(60), || {
        let id = fleet::issue(&cli, &["run", "cramped", "--", "uname"]);
        fleet::outcome(&cli, &id)["state"] == "succeeded"
    });
    for id in asked {
        let state = fleet::outcome(&cli, &id)["state"].clone();
        assert!(state == "succeeded" || state == "refused", "{state}");
    }
    assert_eq!(fleet::outcome(&cli, &before), receipt);
}

#[test]
fn a_command_that_was_taken_has_its_receipt_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(24) else {
        return;
    };
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("brimful")
        .with_state(&disk.path().join("state"))
        .joined(&fleet::token(&cli));
    agent.configure("[command]\nrun = \"any\"\n");
    agent.start();
    fleet::await_up(&cli, "brimful");
    // Its output does not fit into pages that the store's file has already.
    let script = "sleep 4; head -c 40000 /dev/zero | tr '\\0' x";
    let id = fleet::issue(&cli, &["run", "brimful", "--", "sh", "-c", script]);
    wait::until_true("it runs", Duration::from_secs(20), || {
        !harness::process::children(agent.process().id()).is_empty()
    });
    disk.fill();
    assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
    let refused = fleet::issue(&cli, &["run", "brimful", "--", "uname"]);
    let refused = fleet::outcome(&cli, &refused);
    assert_eq!(refused["receipt"]["code"], "store.full", "{refused}");

    // What it has on its full disk is enough to start again.
    agent.kill();
    agent.start();
    fleet::await_up(&cli, "brimful");
    assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
    disk.relieve();
    wait::until_true("work goes on", Duration::from_secs(60), || {
        let id = fleet::issue(&cli, &["run", "brimful", "--", "uname"]);
        fleet::outcome(&cli, &id)["state"] == "succeeded"
    });
}

#[test]
fn a_controller_whose_disk_is_full_acknowledges_nothing_that_it_loses() {
    let Some(disk) = SmallDisk::new(64) else {
        return;
    };
    let mut controller = Plan::nodes(0).within(&disk.path().join("state")).start();
    let cli = controller.cli();
    let _agent = fleet::running_agent(&controller, "far");
    let before = fleet::issue(&cli, &["run", "far", "--", "uname"]);
    assert_eq!(fleet::outcome(&cli, &before)["state"], "succeeded");

    disk.fill();
    let mut accepted = Vec::new();
    for number in 0..200 {
        let answer = cli.ask(&["--output", "json", "run", "--detach", "far", "--", "uname"]);
        match answer.code {
            0 => {
                let issued: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
                accepted.push(issued["command"]["id"].as_str().unwrap().to_owned());
            }
            _ => {
                assert!(
                    answer.err.contains("journal.") || answer.err.contains("store."),
                    "{number}: {answer}"
                );
                break;
            }
        }
    }
    disk.relieve();
    if wait::within(Duration::from_secs(30), || {
        (cli.ask(&["run", "far", "--", "uname"]).code == 0).then_some(())
    })
    .is_none()
    {
        // It may also stop with the store's exit code and be started again, as
        // systemd does.
        let status = controller.process().ended(Duration::from_secs(5));
        assert_eq!(status.code(), Some(74));
        controller.kill();
        controller.start();
    }
    accepted.push(before);
    for id in accepted {
        assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
    }
}

/// Damages the agent's store, and sees that the agent refuses it and leaves it.
#[track_caller]
fn refuses_store(damage: impl Fn(Vec<u8>) -> Vec<u8>, code: &str) {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = fleet::running_agent(&controller, "damaged");
    agent.stop();
    let file = agent.state().join("agent.redb");
    let damaged = damage(fs::read(&file).unwrap());
    fs::write(&file, &damaged).unwrap();
    agent.start();
    let status = agent.process().ended(Duration::from_secs(20));
    assert_eq!(status.code(), Some(74), "{}", agent.process().tail());
    let output = agent.process().output();
    assert!(output.contains(code), "{output}");
    assert!(output.contains("agent.redb"), "the file is named: {output}");
    assert!(
        fs::read(&file).unwrap() == damaged,
        "a damaged store is not written over"
    );
    assert!(!fleet::is_up(&cli, "nobody"));
}

#[test]
fn a_store_that_was_cut_short_is_refused_and_left_alone() {
    refuses_store(
        |mut bytes| {
            bytes.truncate(bytes.len() / 3);
            bytes
        },
        "store.corrupt",
    );
}

#[test]
fn a_store_that_is_empty_is_refused_and_left_alone() {
    refuses_store(|_| Vec::new(), "store.corrupt");
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let controller = Plan::nodes(0).start();
    let mut agent = fleet::running_agent(&controller, "newer");
    agent.stop();
    let file = agent.state().join("agent.redb");
    let before = raise_schema(&file);
    agent.start();
    let status = agent.process().ended(Duration::from_secs(20));
    assert_eq!(status.code(), Some(74), "{}", agent.process().tail());
    assert!(agent.process().output().contains("store.newer"));
    assert_eq!(contents(&file), before, "what it holds is left alone");
}

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Writes a schema version that no released agent knows, and gives what the table
/// then holds.
fn raise_schema(file: &Path) -> Vec<(String, Vec<u8>)> {
    let database = Database::open(file).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut meta = write.open_table(META).unwrap();
        let newer = 999_u32.to_le_bytes();
        meta.insert("schema", newer.as_slice()).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    contents(file)
}

fn contents(file: &Path) -> Vec<(String, Vec<u8>)> {
    let database = Database::open(file).unwrap();
    let read = database.begin_read().unwrap();
    let meta = read.open_table(META).unwrap();
    let rows = meta.iter().unwrap().map(|row| {
        let (key, value) = row.unwrap();
        (key.value().to_owned(), value.value().to_vec())
    });
    rows.collect()
}
