//! What the configuration accepts, refuses and ships with.

use super::*;

fn none() -> Vec<(String, String)> {
    Vec::new()
}

fn check_text(text: &str) -> Result<Config, Vec<String>> {
    let mut layers = Layers::default();
    layers
        .add_file("controller.toml", text)
        .map_err(|problem| vec![problem.to_string()])?;
    check::check(&layers).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = check_text("").unwrap();
    assert_eq!(config.api.listen.port(), 8443);
    assert_eq!(config.pki.dir, Path::new("/var/lib/flotilla/pki"));
    assert_eq!(config.broker.mode, BrokerMode::Embedded);
}

#[test]
fn every_problem_is_reported_at_once_with_path_value_and_range() {
    let problems = check_text(
        r#"
        state_dir = "relative"
        [api]
        listen = "nonsense"
        body_bytes_max = 12
        heder_timeout = "10s"
        [broker]
        mode = "external"
        [log]
        format = "xml"
        "#,
    )
    .unwrap_err();
    assert_eq!(
        problems,
        [
            "api.body_bytes_max: 12 (in controller.toml) is not a number from 1024 to 16777216",
            "api.heder_timeout: no such key (in controller.toml); did you mean api.header_timeout?",
            "api.listen: \"nonsense\" (in controller.toml) is not an address and port, such as \
             \"0.0.0.0:8443\" or \"[::]:8443\"",
            "broker.external.url: needed when broker.mode is \"external\", for instance \
             mqtts://broker.example.net:8883",
            "log.format: \"xml\" (in controller.toml) is not one of auto, journald, text, json",
            "state_dir: relative is not an absolute path",
        ]
    );
}

#[test]
fn a_plain_text_broker_link_is_refused() {
    let problems = check_text("[broker]\nmode='external'\n[broker.external]\nurl='mqtt://b:1883'")
        .unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("always encrypted"), "{problems:?}");
}

#[test]
fn text_that_is_not_toml_is_one_problem_with_its_line() {
    let problems = check_text("[api\nlisten=1").unwrap_err();
    assert!(problems[0].contains("line 1"), "{problems:?}");
}

#[test]
fn later_layers_win_and_unknown_variables_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("controller.toml");
    std::fs::write(
        &file,
        "[api]\nlisten = '127.0.0.1:1'\n[log]\nfilter = 'warn'",
    )
    .unwrap();
    let environment = vec![
        ("FLOTILLA_API_LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("FLOTILLA_KEY".to_owned(), "flk_x".to_owned()),
        ("FLOTILLA_AGENT_LOG_LEVEL".to_owned(), "info".to_owned()),
        ("PATH".to_owned(), "/bin".to_owned()),
    ];
    let flags = vec![("api.listen".to_owned(), "127.0.0.1:3".to_owned())];
    let config = load(Some(&file), environment.clone(), &[]).unwrap();
    assert_eq!(config.api.listen.port(), 2);
    let config = load(Some(&file), environment, &flags).unwrap();
    assert_eq!(config.api.listen.port(), 3);
    assert_eq!(config.log.filter, "warn");

    let typo = vec![("FLOTILLA_API_LISTN".to_owned(), "x".to_owned())];
    let problems = load(Some(&file), typo, &[]).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "environment variable FLOTILLA_API_LISTN sets no known key"
    );
}

#[test]
fn a_file_that_was_asked_for_must_exist() {
    let problems = load(Some(Path::new("/nonexistent/controller.toml")), none(), &[]).unwrap_err();
    assert!(
        problems[0]
            .to_string()
            .contains("/nonexistent/controller.toml")
    );
}

/// The shipped file documents every key with its default, so uncommenting all
/// of it must change nothing and name every key that exists.
#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    let text = include_str!("../../../packaging/controller.toml");
    check_text(text).unwrap();
    let mut missing: std::collections::BTreeSet<_> = keys().into_iter().collect();
    let mut section = String::new();
    for line in text.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((name, _)) = line.split_once(" = ")
            && !line.starts_with(' ')
        {
            let key = format!("{section}{name}");
            assert!(
                missing.remove(key.as_str()),
                "{key} is no key, or is there twice"
            );
        }
    }
    assert!(
        missing.is_empty(),
        "not in packaging/controller.toml: {missing:?}"
    );

    let uncommented: String = text
        .lines()
        .filter_map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') && !key.is_empty() && !key.contains("example") => {
                Some(key)
            }
            Some(_) => None,
            None => Some(line),
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(check_text(&uncommented), check_text(""));
}

#[test]
fn a_node_that_is_late_with_a_heartbeat_is_never_silent() {
    let problems = check_text(
        r#"
        session.heartbeat = "2m"
        "#,
    )
    .unwrap_err();
    assert!(problems[0].contains("notify.silent_after"), "{problems:?}");
    let text = "session.heartbeat = '2m'\nnotify.silent_after = '6m'\n";
    let config = check_text(text).unwrap();
    assert_eq!(config.notify.silent_after.as_secs(), 360);
}
