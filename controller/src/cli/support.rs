//! `flotilla support`: one archive for whoever helps.
//!
//! A bundle is wanted most when the controller is down, so one that cannot be
//! reached is no failure: the bundle says so. On the controller's own host it
//! also holds what its files tell. Secrets are taken out by `support`.

use crate::cli::args::{Global, Support};
use crate::cli::client::Client;
use crate::cli::failure::CliFailure;
use crate::cli::print::Printer;
use crate::cli::profile;
use crate::exit::Exit;
use crate::operation::view::system::SupportView;
use crate::support::{self, Answer, Subject};

pub(super) async fn run(
    global: &Global,
    print: &mut Printer,
    asked: Support,
) -> Result<Exit, CliFailure> {
    let answers = match ask(global).await {
        Ok(view) => answers(&view),
        Err(failure) => vec![answer("controller.txt", failure.to_string())],
    };
    let to = asked
        .to
        .unwrap_or_else(|| support::default_output(print.now()));
    // Elsewhere than on the controller's host there is nothing to load.
    let config = super::config::load(&asked.source)
        .ok()
        .filter(|config| config.state_dir.exists());
    let subject = Subject {
        config: config.as_ref(),
        answers: &answers,
        now: print.now(),
    };
    support::write(&subject, &to).map_err(|error| {
        CliFailure::because(error.exit(), "no support bundle was written", &error)
    })?;
    print.line(to.display().to_string())?;
    super::note("Look into it before you send it: it names hosts and users.");
    Ok(Exit::Ok)
}

async fn ask(global: &Global) -> Result<SupportView, CliFailure> {
    let key = std::env::var("FLOTILLA_KEY").ok();
    let client = Client::new(profile::connection(global, key)?)?;
    client.get("/support").await
}

fn answer(name: &str, text: String) -> Answer {
    Answer {
        name: name.to_owned(),
        text,
    }
}

fn answers(view: &SupportView) -> Vec<Answer> {
    let status =
        serde_json::to_string_pretty(&view.status).unwrap_or_else(|error| error.to_string());
    vec![
        answer("status.json", status),
        answer("health.txt", view.parts.join("\n")),
        answer("configuration.txt", view.configuration.clone()),
        answer("metrics.txt", view.metrics.clone()),
        answer("log.txt", view.log.join("\n")),
    ]
}
