//! The image of the controller: a Docker engine builds it from the packages, on a base
//! that is there, and runs it.

use std::path::Path;
use std::time::Duration;

use harness::debian::{base, packages};
use harness::engine::Engine;
use harness::wait;

const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn image_of_the_controller_serves_as_its_own_user_and_keeps_its_state() {
    let (Some(base), Some(packages)) = (base(), packages()) else {
        return;
    };
    let Some(engine) = Engine::start() else {
        return;
    };
    let definition =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/container/Containerfile");
    let (base, definition, packages) = (
        base.display().to_string(),
        definition.display().to_string(),
        packages.display().to_string(),
    );
    engine.docker(&["import", &base, "base"]);
    let build = ["build", "-q", "--network=none", "--build-arg=BASE=base"];
    engine.docker(
        &[
            &build[..],
            &["-t", "flotilla", "-f", &definition, &packages],
        ]
        .concat(),
    );

    let run = |name: &str| {
        let state = "--volume=state:/var/lib/flotilla";
        let address = "--env=FLOTILLA_API_ADVERTISE=fleet.example.net:8443";
        let run = ["run", "-d", "--network=none", "--name", name];
        engine.docker(&[&run[..], &[state, address, "flotilla"]].concat());
        wait::until_true("the controller serves", WITHIN, || {
            operator(&engine, name, "node list").is_some()
        });
    };
    run("first");
    let user = engine.docker(&["exec", "first", "id", "-un"]);
    assert_eq!(user.trim(), "flotilla");
    operator(&engine, "first", "token create --expires 1h").expect("a token is made");
    let tokens = operator(&engine, "first", "token list -o json").expect("tokens are listed");

    // It ends in order when it is asked to, and another one goes on with the state.
    engine.docker(&["stop", "first"]);
    let ended = engine.docker(&["inspect", "-f", "{{.State.ExitCode}}", "first"]);
    assert_eq!(ended.trim(), "0");
    run("second");
    let again = operator(&engine, "second", "token list -o json");
    assert_eq!(again.as_deref(), Some(tokens.as_str()));
}

/// What the command line says inside, as the first operator.
fn operator(engine: &Engine, container: &str, words: &str) -> Option<String> {
    let profile = "--profile=/var/lib/flotilla/admin-profile.toml";
    let api = "--api=https://localhost:8443";
    let mut command = vec!["exec", container, "flotilla", profile, api];
    command.extend(words.split(' '));
    engine.try_docker(&command)
}
