//! Sources laid over each other, and every problem reported at once.

use super::*;

fn source(environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Source {
    Source {
        file: PathBuf::from("/etc/flotilla/agent.toml"),
        file_required: false,
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: flags
            .iter()
            .map(|(path, value)| (*path, (*value).to_owned()))
            .collect(),
    }
}

fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    match source(environment, &[]).check(text) {
        Err(LoadError::Check { problems }) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn an_empty_file_is_the_documented_default() {
    let empty = source(&[], &[]).check("").unwrap();
    let shipped = include_str!("../../../packaging/agent.toml");
    let shipped = source(&[], &[]).check(shipped).unwrap();
    assert_eq!(format!("{shipped:?}"), format!("{empty:?}"));
}

/// The shipped file shows every key; taking the comment signs away must give a
/// file that reads, so that a documented key cannot be a misspelt one.
#[test]
fn every_key_of_the_shipped_file_is_known() {
    let shipped = include_str!("../../../packaging/agent.toml");
    let uncommented: String = shipped
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => rest,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(uncommented.contains("\ninterval = "), "{uncommented}");
    source(&[], &[]).check(&uncommented).unwrap();
}

#[test]
fn a_download_is_limited_sensibly_or_not_at_all() {
    let rate = |value: &str| {
        let file = format!("[update]\ndownload_bytes_per_s_max = {value}");
        source(&[], &[]).check(&file)
    };
    assert_eq!(rate("0").unwrap().update.bytes_per_s_max, None);
    let least = rate("1024").unwrap().update.bytes_per_s_max;
    assert_eq!(least.map(u64::from), Some(1024));
    for value in ["1", "1023", "1000000001", "-1", "\"fast\""] {
        let error = rate(value).unwrap_err().to_string();
        assert!(
            error.contains("download_bytes_per_s_max"),
            "{value}: {error}"
        );
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "[state]\ndir = \"/file\"\n[log]\nlevel = \"warn\"\n[sampling]\ninterval = \"5s\"";
    let config = source(
        &[
            ("FLOTILLA_AGENT_STATE_DIR", "/environment"),
            ("FLOTILLA_AGENT_LOG_LEVEL", "debug"),
            ("FLOTILLA_AGENT_CONFIG", "/elsewhere.toml"),
            ("FLOTILLA_JOIN_TOKEN", "not a configuration value"),
        ],
        &[("state.dir", "/flag")],
    )
    .check(file)
    .unwrap();
    assert_eq!(config.dirs.state, PathBuf::from("/flag"));
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.sampling.interval, Duration::from_secs(5));
}

#[test]
fn the_environment_gives_numbers_lists_and_words() {
    let config = source(
        &[
            ("FLOTILLA_AGENT_COMMAND_SLOTS", "7"),
            ("FLOTILLA_AGENT_COMMAND_RUN", "any"),
            (
                "FLOTILLA_AGENT_UPLINK_BROKERS",
                "[\"mqtts://a:1\", \"wss://[::1]:2\"]",
            ),
            ("FLOTILLA_AGENT_SAMPLING_CONTAINERS", "false"),
        ],
        &[],
    )
    .check("")
    .unwrap();
    assert_eq!(config.command.slots, 7);
    assert_eq!(config.command.run, crate::command::RunMode::Any);
    let brokers: Vec<String> = config
        .uplink
        .brokers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(brokers, ["mqtts://a:1", "wss://[::1]:2/mqtt"]);
    assert!(!config.sampling.containers);
}

#[test]
fn directories_of_systemd_are_defaults() {
    let config = source(
        &[
            ("RUNTIME_DIRECTORY", "/run/x"),
            ("STATE_DIRECTORY", "/a:/b"),
        ],
        &[],
    )
    .check("")
    .unwrap();
    assert_eq!(config.dirs.runtime, PathBuf::from("/run/x"));
    assert_eq!(config.dirs.state, PathBuf::from("/var/lib/flotilla-agent"));
}

#[test]
fn all_problems_come_at_once_with_path_value_and_range() {
    let found = problems(
        "samplin = 3\n[sampling]\ninterval = \"0s\"\nintervall = \"1s\"\n[command]\nslots = 900\nrun = \"maybe\"\n[state]\ndir = \"relative\"\n[uplink]\nbrokers = [\"nowhere\"]\nproxy = \"a:b\"\n",
        &[
            ("FLOTILLA_AGENT_STORE_TELEMETRY_BYTES_MAX", "many"),
            ("FLOTILLA_AGENT_X", "1"),
        ],
    );
    for expected in [
        "samplin: 3 is not a known section",
        "sampling.interval: \"0s\" is not a duration from 1s to 10m, such as \"90s\"",
        "sampling.intervall: \"1s\" is not a known key",
        "command.slots: 900 is not a whole number from 1 to 32",
        "command.run: \"maybe\" is not one of off, allow-list, any",
        "state.dir: \"relative\" is not an absolute path",
        "uplink.brokers: \"nowhere\" is not mqtts://host:port or wss://host:port/path",
        "uplink.proxy: \"a:b\" is not host:port with a port of 1 to 65535",
        "store.telemetry_bytes_max: \"many\" is not a whole number from 65536 to 67108864",
        "FLOTILLA_AGENT_X: \"1\" is not a variable of the form FLOTILLA_AGENT_<SECTION>_<KEY>",
    ] {
        assert!(
            found.iter().any(|line| line == expected),
            "{expected}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), 10, "{found:#?}");
}

#[test]
fn a_login_needs_both_halves() {
    let found = problems("[uplink]\nproxy = \"p:1\"\nproxy_user = \"me\"\n", &[]);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("uplink.proxy_password_file"),
        "{found:?}"
    );
}

#[test]
fn a_file_that_is_not_toml_is_named() {
    let error = source(&[], &[]).check("[state\n").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/etc/flotilla/agent.toml is not valid TOML"),
        "{error}"
    );
}

#[test]
fn a_file_named_by_a_flag_must_exist() {
    let missing = Source {
        file: PathBuf::from("/nonexistent/agent.toml"),
        file_required: true,
        ..source(&[], &[])
    };
    assert!(matches!(missing.load(), Err(LoadError::Read { .. })));
    let optional = Source {
        file_required: false,
        ..missing
    };
    assert!(optional.load().is_ok());
}

#[test]
fn hosts_and_ports_split() {
    for (text, expected) in [
        ("a.example:8883", Some(("a.example", 8883))),
        ("[::1]:443", Some(("::1", 443))),
        ("10.0.0.1:1", Some(("10.0.0.1", 1))),
        ("::1:443", None),
        ("host", None),
        (":1", None),
        ("host:0", None),
        ("host:65536", None),
        ("user@host:1", None),
        ("http://host:1", None),
    ] {
        let expected = expected.map(|(host, port)| (host.to_owned(), port));
        assert_eq!(split_host_and_port(text), expected, "{text}");
    }
}

#[test]
fn what_is_allowed_of_deployments_is_read_and_checked() {
    let text = "[deploy]\nprivileged = true\nhost_paths = [\"/srv\"]\n\
        cap_add = [\"cap_sys_time\"]\nregistries = [\"r.example\"]\n\
        logins = [\"r.example me /etc/password\"]\nstall_timeout = \"5s\"\nname_prefix = \"edge.1\"\n\
        [docker]\nsocket = \"/run/podman/podman.sock\"\n";
    let deploy = source(&[], &[]).check(text).unwrap().deploy;
    assert!(deploy.rules.privileged && !deploy.rules.host_network);
    assert_eq!(deploy.rules.host_paths, [PathBuf::from("/srv")]);
    assert_eq!(deploy.rules.cap_add, ["SYS_TIME"]);
    assert_eq!(deploy.rules.registries, ["r.example"]);
    assert_eq!(deploy.logins[0].user, "me");
    assert_eq!(deploy.name_prefix, "edge.1");
    assert_eq!(
        deploy.docker_socket,
        PathBuf::from("/run/podman/podman.sock")
    );
    let found = problems(
        "[deploy]\nhost_paths = [\"srv\"]\nlogins = [\"r.example me\", \"r me password\"]\n",
        &[],
    );
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].starts_with("deploy.host_paths: \"srv\""),
        "{found:?}"
    );
    let default = source(&[], &[]).check("").unwrap().deploy;
    assert_eq!(default.name_prefix, "flotilla");
    // The engine's names begin with it.
    for bad in ["", "-web", "a/b", "a b", "é", "a".repeat(41).as_str()] {
        let found = problems(&format!("[deploy]\nname_prefix = {bad:?}\n"), &[]);
        assert_eq!(found.len(), 1, "{bad:?}: {found:#?}");
        assert!(found[0].starts_with("deploy.name_prefix"), "{found:?}");
    }
}
