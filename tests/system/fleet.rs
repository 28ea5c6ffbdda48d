//! What the tests ask of a fleet again and again, in one place: the only file that
//! knows the shape of the command line's JSON.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use harness::agent::Agent;
use harness::cli::Cli;
use harness::controller::Controller;
use harness::wait;
use serde_json::Value;

/// An agent that is connected proves itself well within this.
pub(crate) const LINK_LIMIT: Duration = Duration::from_secs(60);

/// A command to a connected node is receipted well within this.
pub(crate) const RECEIPT_LIMIT: Duration = Duration::from_secs(60);

/// The nodes that the controller lists.
pub(crate) fn nodes(cli: &Cli) -> Vec<Value> {
    list(&cli.json(&["node", "list"]), "nodes")
}

/// The node of that name.
pub(crate) fn node(cli: &Cli, name: &str) -> Option<Value> {
    nodes(cli).into_iter().find(|node| node["name"] == name)
}

/// Whether the node's link is proven.
pub(crate) fn is_up(cli: &Cli, name: &str) -> bool {
    node(cli, name).is_some_and(|node| node["link"] == "up")
}

/// Waits until the node's link is proven.
#[track_caller]
pub(crate) fn await_up(cli: &Cli, name: &str) {
    wait::until_true(&format!("{name} is up"), LINK_LIMIT, || is_up(cli, name));
}

/// Waits until the link of any node is proven, and gives its name.
#[track_caller]
pub(crate) fn await_any(cli: &Cli) -> String {
    let is_up = |node: &Value| node["link"] == "up";
    let node = wait::until("a live node", LINK_LIMIT, || {
        nodes(cli).into_iter().find(is_up)
    });
    text(&node, &["name"])
}

/// A token that one node may use.
#[track_caller]
pub(crate) fn token(cli: &Cli) -> String {
    token_with(cli, &[])
}

/// A token with further arguments of `token create`.
#[track_caller]
pub(crate) fn token_with(cli: &Cli, arguments: &[&str]) -> String {
    let mut all = vec!["token", "create"];
    all.extend(arguments);
    text(&cli.json(&all), &["text", "token"])
}

/// An agent that has joined, is started, and whose link is proven.
#[track_caller]
pub(crate) fn running_agent(controller: &Controller, name: &str) -> Agent {
    let cli = controller.cli();
    let mut agent = Agent::new(name).joined(&token(&cli));
    agent.start();
    await_up(&cli, name);
    agent
}

/// Issues a command without waiting and gives its id.
#[track_caller]
pub(crate) fn issue(cli: &Cli, arguments: &[&str]) -> String {
    let (noun, rest) = arguments.split_first().expect("a command has a name");
    let mut all = vec![*noun, "--detach"];
    all.extend(rest);
    text(&cli.json(&all), &["id", "command"])
}

/// The targets of a command with their receipts.
pub(crate) fn targets(cli: &Cli, id: &str) -> Vec<Value> {
    list(&cli.json(&["command", "show", id]), "targets")
}

/// The only target of a command, once it is final.
#[track_caller]
pub(crate) fn outcome(cli: &Cli, id: &str) -> Value {
    wait::until(&format!("command {id} ends"), RECEIPT_LIMIT, || {
        let target = targets(cli, id).into_iter().next()?;
        (target["done"] == true).then_some(target)
    })
}

/// Adds a principal with a role and gives the text of its key.
#[track_caller]
pub(crate) fn key_for(cli: &Cli, name: &str, role: &str) -> String {
    let made = cli.json(&["access", "principal", "add", name, "--role", role, "--key"]);
    text(&made, &["text", "key"])
}

/// A profile like the administrator's, with another key.
#[track_caller]
pub(crate) fn profile_with(controller: &Controller, name: &str, key: &str) -> Cli {
    let profile = std::fs::read_to_string(controller.profile()).unwrap();
    let mut profile: toml::Table = profile.parse().unwrap();
    profile.insert("key".to_owned(), toml::Value::String(key.to_owned()));
    let path = controller.scratch().join(format!("{name}.toml"));
    std::fs::write(&path, profile.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Cli::new(&path)
}

/// The administrator's key.
pub(crate) fn admin_key(controller: &Controller) -> String {
    let profile = std::fs::read_to_string(controller.profile()).unwrap();
    let profile: toml::Table = profile.parse().unwrap();
    profile["key"].as_str().unwrap().to_owned()
}

/// The records of the audit trail, as lines of JSON.
pub(crate) fn trail(cli: &Cli) -> Vec<Value> {
    list(&cli.json(&["audit", "tail", "-n", "500"]), "records")
}

fn list(answer: &Value, key: &str) -> Vec<Value> {
    let list = if answer.is_array() {
        answer.as_array()
    } else {
        answer[key].as_array()
    };
    list.cloned()
        .unwrap_or_else(|| panic!("no {key} in {answer}"))
}

/// The first of the keys, at the top or one level below, that holds a text.
#[track_caller]
fn text(answer: &Value, keys: &[&str]) -> String {
    let below: Vec<&Value> = answer
        .as_object()
        .map(|object| object.values().collect())
        .unwrap_or_default();
    std::iter::once(answer)
        .chain(below)
        .find_map(|place| {
            keys.iter()
                .find_map(|key| place[*key].as_str().map(str::to_owned))
        })
        .unwrap_or_else(|| panic!("no {keys:?} in {answer}"))
}
