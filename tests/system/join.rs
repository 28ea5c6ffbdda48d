//! Joining: every way in which a token does not work has its code, and nothing is
//! left half-written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use harness::agent::Agent;
use harness::clock;
use harness::controller::Plan;
use harness::wait;

use crate::fleet;

/// A refused join names the code and writes no identity.
#[track_caller]
fn refused(agent: &Agent, token: &str, code: &str) {
    let answer = agent.join(token);
    answer.refused_with(code);
    let identity = agent.state().join("identity");
    let left: Vec<_> = fs::read_dir(&identity)
        .map(|entries| entries.flatten().map(|e| e.file_name()).collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "half-written: {left:?}");
}

#[test]
fn tokens_that_do_not_work_say_why_and_leave_nothing() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();

    refused(&Agent::new("n"), "flj1_nonsense", "token.malformed");
    let good = fleet::token(&cli);
    let cut = good.get(..good.len() - 8).unwrap();
    refused(&Agent::new("n"), cut, "token.malformed");

    let once = fleet::token_with(&cli, &["--uses", "1"]);
    let _used = Agent::new("first").joined(&once);
    refused(&Agent::new("second"), &once, "token.exhausted");

    let brief = fleet::token_with(&cli, &["--expires", "1s"]);
    clock::pass(Duration::from_millis(1500));
    refused(&Agent::new("late"), &brief, "token.expired");

    let revoked = cli.json(&["token", "create"]);
    let id = find(&revoked, "id").expect("a token has an id");
    let text = find(&revoked, "text")
        .or_else(|| find(&revoked, "token"))
        .expect("a token has a text");
    cli.ok(&["token", "revoke", &id]);
    refused(&Agent::new("barred"), &text, "token.revoked");

    // Another controller's token, sent to this one's address: the fingerprint of
    // the CA does not fit.
    let stranger = Plan::nodes(0).start();
    let mut parsed: protocol::join::JoinToken = fleet::token(&stranger.cli()).parse().unwrap();
    let ours: protocol::join::JoinToken = good.parse().unwrap();
    parsed.address.clone_from(&ours.address);
    refused(&Agent::new("lost"), &parsed.to_string(), "join.");

    // The right fingerprint and a wrong secret.
    let mut forged = ours;
    forged.secret = [7; 32];
    refused(&Agent::new("forger"), &forged.to_string(), "token.");
}

#[test]
fn keys_are_the_owners_alone_and_a_second_join_is_refused() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let agent = Agent::new("lyon-1").joined(&fleet::token_with(&cli, &["--label", "site=lyon"]));
    let identity = agent.state().join("identity");
    let files: Vec<_> = fs::read_dir(&identity).unwrap().flatten().collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.path().display());
    }
    let again = agent.join(&fleet::token(&cli));
    assert_ne!(again.code, 0, "{again}");
    let node = fleet::node(&cli, "lyon-1").expect("the node is listed");
    assert_eq!(node["labels"]["site"], "lyon");
}

#[test]
fn a_golden_image_joins_by_itself_at_first_boot() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let token = fleet::token_with(&cli, &["--uses", "2"]);

    let mut by_file = Agent::new("image-1");
    let file = controller.scratch().join("token");
    fs::write(&file, &token).unwrap();
    by_file.configure(&format!(
        "[join]\ntoken_file = {:?}\nname = \"image-1\"\n",
        file.display().to_string()
    ));
    by_file.start();
    fleet::await_up(&cli, "image-1");

    let mut by_variable = Agent::new("image-2");
    by_variable.configure("[join]\nname = \"image-2\"\n");
    by_variable.set("FLOTILLA_JOIN_TOKEN", &token);
    by_variable.start();
    fleet::await_up(&cli, "image-2");
}

#[test]
fn a_node_that_needs_approval_waits_for_it() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let token = fleet::token_with(&cli, &["--approve"]);
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| Agent::new("waiting").join(&token));
        wait::until_true("the node is pending", Duration::from_secs(20), || {
            fleet::node(&cli, "waiting").is_some_and(|node| node["state"] == "pending")
        });
        cli.ok(&["node", "approve", "waiting"]);
        let answer = joining.join().unwrap();
        assert_eq!(answer.code, 0, "{answer}");
    });
}

#[test]
fn a_revoked_node_is_cut_off_within_a_second_and_stays_out() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = fleet::running_agent(&controller, "thief");
    let began = clock::now();
    cli.ok(&["node", "revoke", "thief", "--reason", "stolen"]);
    wait::until_true("the node is cut off", Duration::from_secs(5), || {
        !fleet::is_up(&cli, "thief")
    });
    // The command line's own start is part of the time that was measured.
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert!(agent.process().runs());
    assert!(
        wait::stays(Duration::from_secs(5), || !fleet::is_up(&cli, "thief")),
        "a revoked node came back"
    );
}

#[test]
fn nodes_are_renamed_relabelled_and_replaced() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let _old = fleet::running_agent(&controller, "old");
    cli.ok(&["node", "rename", "old", "web-1"]);
    cli.ok(&["node", "relabel", "web-1", "role=web", "site=lyon"]);
    cli.ok(&["node", "relabel", "web-1", "site-"]);
    let node = fleet::node(&cli, "web-1").expect("the new name is known");
    assert_eq!(node["labels"]["role"], "web");
    assert!(node["labels"]["site"].is_null());

    let _new = fleet::running_agent(&controller, "spare");
    cli.ok(&["node", "replace", "web-1", "--with", "spare"]);
    wait::until_true(
        "the new hardware has the name and labels",
        fleet::LINK_LIMIT,
        || {
            fleet::node(&cli, "web-1")
                .is_some_and(|node| node["link"] == "up" && node["labels"]["role"] == "web")
        },
    );
    let answer = cli.ok(&["run", "role=web", "--", "uname"]);
    assert!(answer.contains("Linux"), "{answer}");
}

#[test]
fn who_lost_every_key_recovers_on_the_controllers_own_host() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let state = state_dir(&controller);
    let recovered = cli.json(&["recover", "key", "--state-dir", &state, "--name", "phoenix"]);
    let key = find(&recovered, "text")
        .or_else(|| find(&recovered, "key"))
        .unwrap_or_else(|| panic!("no key in {recovered}"));
    let phoenix = fleet::profile_with(&controller, "phoenix", &key);
    assert!(fleet::nodes(&phoenix).is_empty());
    assert!(
        fleet::trail(&phoenix)
            .iter()
            .any(|r| r.to_string().contains("phoenix")),
        "recovery is journalled"
    );
}

fn state_dir(controller: &harness::controller::Controller) -> String {
    let below = controller.folder().join("controller");
    let state = if below.is_dir() {
        below
    } else {
        controller.folder().to_owned()
    };
    state.to_string_lossy().into_owned()
}

/// The first text under this key, at the top or one level below.
fn find(answer: &serde_json::Value, key: &str) -> Option<String> {
    let below = answer.as_object()?.values();
    std::iter::once(answer)
        .chain(below)
        .find_map(|place| place[key].as_str().map(str::to_owned))
}
