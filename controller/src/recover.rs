//! `flotilla recover`: what must work on the controller's own host when nothing
//! else does.
//!
//! A running controller is asked through its host socket. Without one the
//! journal is opened here; its lock makes sure that nobody else has it open.

use crate::cli::args::{ConfigSource, Format, Global, Recover};
use crate::cli::config;
use crate::cli::failure::CliFailure;
use crate::cli::print::Printer;
use crate::clock;
use crate::config::Config;
use crate::exit::Exit;
use crate::host::{self, Answer, Ask};
use crate::serve::store;

/// Runs the subcommand.
///
/// # Errors
/// What to print, and the code to exit with.
pub fn run(global: &Global, command: Recover) -> Result<Exit, CliFailure> {
    let (source, ask): (ConfigSource, Ask) = match command {
        Recover::Key { source, name } => (source, Ask::Key { name }),
        Recover::Incarnation { source, reason } => (source, Ask::Incarnation { reason }),
    };
    let config = config::load(&source)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliFailure::because(Exit::Bug, "cannot start a runtime", &error))?;
    let answer = runtime.block_on(answer(&config, ask))?;
    show(global.output, answer)
}

async fn answer(config: &Config, ask: Ask) -> Result<Answer, CliFailure> {
    let asked = host::ask(&config.state_dir, &ask).await.map_err(|error| {
        CliFailure::because(
            Exit::Unavailable,
            format_args!(
                "the controller's socket {} does not answer",
                config.state_dir.join(host::SOCKET).display()
            ),
            &error,
        )
        .advise("run this as root, or as the user that the controller runs as")
    })?;
    match asked {
        Some(answer) => Ok(answer),
        None => offline(config, ask).await,
    }
}

async fn offline(config: &Config, ask: Ask) -> Result<Answer, CliFailure> {
    let (engine, closing) = store::open_alone(config)?;
    let answer = match ask {
        Ask::Key { name } => host::new_admin_key(&engine, &name)
            .await
            .map(|text| Answer::Key {
                principal: name,
                text,
            }),
        Ask::Incarnation { reason } => host::raise_incarnation(&engine, reason)
            .await
            .map(|incarnation| Answer::Incarnation { incarnation }),
    };
    closing.close().await;
    answer.map_err(|failure| {
        let mut shown = CliFailure::new(Exit::Store, failure.detail.clone());
        shown.code = Some(failure.code.text().to_owned());
        shown.action = Some(failure.code.info().action.to_owned());
        shown
    })
}

fn show(format: Format, answer: Answer) -> Result<Exit, CliFailure> {
    let mut print = Printer::stdout(format, clock::now());
    if let Answer::Refused { code, detail } = answer {
        let mut failure = CliFailure::new(Exit::Denied, detail);
        failure.code = Some(code);
        return Err(failure);
    }
    print.show(&answer, |print, answer| match answer {
        Answer::Key { principal, text } => {
            print.line(text)?;
            crate::cli::note(&format!(
                "API key of {principal}, an administrator, shown once. Use it as FLOTILLA_KEY or in a profile."
            ));
            Ok(())
        }
        Answer::Incarnation { incarnation } => {
            print.line(format!("The incarnation is {incarnation}."))
        }
        Answer::Refused { .. } => Ok(()),
    })?;
    Ok(Exit::Ok)
}
