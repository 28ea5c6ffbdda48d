//! The command line as people type it.

use clap::CommandFactory as _;

use super::*;

async fn check(args: &[&str], variables: &[(&str, &str)]) -> (Exit, String, String) {
    let cli = Cli::try_parse_from(args).unwrap();
    let environment = Environment {
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Environment::default()
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = run(cli, environment, &mut out, &mut err).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (exit, text(out), text(err))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_shows_the_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for exit in [Exit::Usage, Exit::Denied, Exit::Config, Exit::Store] {
        assert!(help.contains(&exit.code().to_string()), "{help}");
    }
}

#[tokio::test]
async fn config_check_says_all_problems_and_ends_with_78() {
    let variables = [
        ("FLOTILLA_AGENT_SAMPLING_INTERVAL", "0s"),
        ("FLOTILLA_AGENT_NONSENSE_KEY", "1"),
    ];
    let (exit, out, err) = check(&["flotilla-agent", "config", "check"], &variables).await;
    assert_eq!((exit, out.as_str()), (Exit::Config, ""));
    assert!(err.contains("sampling.interval"), "{err}");
    assert!(err.contains("nonsense"), "{err}");
    assert!(err.contains("config.invalid"), "{err}");
}

#[tokio::test]
async fn a_named_file_that_is_missing_is_a_problem() {
    let args = [
        "flotilla-agent",
        "config",
        "check",
        "--config",
        "/nonexistent.toml",
    ];
    let (exit, _, err) = check(&args, &[]).await;
    assert_eq!(exit, Exit::Config);
    assert!(err.contains("/nonexistent.toml"), "{err}");
}

#[tokio::test]
async fn joining_without_a_token_says_where_to_put_one() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state").display().to_string();
    let args = ["flotilla-agent", "join", "--state-dir", &state];
    let (exit, _, err) = check(&args, &[]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("--token-file"), "{err}");
}

#[tokio::test]
async fn a_damaged_token_is_refused_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state").display().to_string();
    let args = ["flotilla-agent", "join", "flj1_x", "--state-dir", &state];
    let (exit, _, err) = check(&args, &[]).await;
    assert_eq!(exit, Exit::Data);
    assert!(err.contains("token.malformed"), "{err}");
}

#[test]
fn relative_directories_are_from_where_one_stands() {
    let here = std::env::current_dir().unwrap().join("x");
    assert_eq!(absolute("x"), here.display().to_string());
    assert_eq!(absolute("/x"), "/x");
}
