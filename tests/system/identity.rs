//! One identity, twice: a cloned disk, and a disk that was put back.

use std::time::Duration;

use harness::controller::Plan;
use harness::wait;

use crate::fleet;

fn suspect(cli: &harness::cli::Cli, name: &str) -> bool {
    fleet::node(cli, name).is_some_and(|node| node["state"] == "suspect")
}

#[test]
fn a_cloned_identity_is_noticed_refused_and_resolved() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut original = fleet::running_agent(&controller, "original");
    original.stop();
    let mut clone = original.cloned("clone");
    original.start();
    fleet::await_up(&cli, "original");
    clone.start();
    wait::until_true(
        "two hosts with one identity are noticed",
        Duration::from_secs(90),
        || suspect(&cli, "original"),
    );
    let refused = cli.ask(&["run", "original", "--", "uname"]);
    assert!(
        refused.code != 0 && format!("{refused}").contains("node.identity_suspect"),
        "{refused}"
    );
    assert!(
        fleet::trail(&cli)
            .iter()
            .any(|r| r.to_string().to_lowercase().contains("suspect")),
        "it is in the trail"
    );

    clone.kill();
    cli.ok(&["node", "resolve", "original", "--keep"]);
    fleet::await_up(&cli, "original");
    wait::until_true("the node works again", fleet::RECEIPT_LIMIT, || {
        cli.ask(&["run", "original", "--", "uname"]).code == 0
    });
}

#[test]
fn a_disk_that_was_put_back_is_noticed() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = fleet::running_agent(&controller, "restored");
    agent.stop();
    let backup = agent.back_up();
    agent.start();
    fleet::await_up(&cli, "restored");
    for _ in 0..3 {
        let id = fleet::issue(&cli, &["run", "restored", "--", "uname"]);
        assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
        // Enough restarts that the backup's counters lie behind.
        agent.stop();
        agent.start();
        fleet::await_up(&cli, "restored");
    }
    // An answer, since the controller may still show the link of the run before.
    let id = fleet::issue(&cli, &["ping", "restored"]);
    assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
    agent.stop();
    agent.put_back(&backup);
    agent.start();
    wait::until_true("the old disk is noticed", Duration::from_secs(90), || {
        suspect(&cli, "restored")
    });
}
