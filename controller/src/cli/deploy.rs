//! `flotilla deploy …`
//!
//! The Compose file is read by the controller. What it names on this machine, its
//! files and the variables that it uses, is sent along; nothing else of the
//! environment is.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use crate::cli::Session;
use crate::cli::args::Format;
use crate::cli::args::deploy::{Apply, Deploy, Manner, Project, Staged};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, span};
use crate::cli::rollout::Until;
use crate::domain::deployment::compose::{self, References, Sources};
use crate::exit::Exit;
use crate::operation::view::deployment::{
    ApplyAnswer, ApplyDeployment, DeploymentDetail, DeploymentList, DeploymentView,
    RemoveDeployment, RevisionDetail, RevisionList, RollBackDeployment,
};

/// Names of a wave that a plan shows on its line.
const NAMES_SHOWN_MAX: usize = 8;

pub(super) async fn run(session: &mut Session, command: Deploy) -> Result<Exit, CliFailure> {
    match command {
        Deploy::Apply(asked) => return apply(session, asked).await,
        Deploy::Diff(project) => {
            let mut asked = request(session, &project).await?;
            asked.dry_run = true;
            asked.allow_empty = true;
            let answer: ApplyAnswer = session.client.post("/deployments", &asked).await?;
            session.print.show(&answer, changes)?;
        }
        Deploy::List => {
            let list: DeploymentList = session.client.get("/deployments").await?;
            session.print.show(&list, table)?;
        }
        Deploy::Show {
            deployment,
            revision: None,
        } => {
            let path = format!("/deployments/{deployment}");
            let detail: DeploymentDetail = session.client.get(&path).await?;
            session.print.show(&detail, |print, detail| {
                facts(print, &detail.deployment)?;
                revision_facts(print, &detail.revision)
            })?;
        }
        Deploy::Show {
            deployment,
            revision: Some(revision),
        } => {
            let path = format!("/deployments/{deployment}/revisions/{revision}");
            let detail: RevisionDetail = session.client.get(&path).await?;
            session.print.show(&detail, revision_facts)?;
        }
        Deploy::History { deployment } => {
            let path = format!("/deployments/{deployment}/revisions");
            let list: RevisionList = session.client.get(&path).await?;
            session.print.show(&list, history)?;
        }
        Deploy::Rollback {
            deployment,
            to,
            staged,
            manner,
        } => return roll_back(session, &deployment, to, &staged, &manner).await,
        Deploy::Remove { deployment, yes } => return remove(session, &deployment, yes).await,
        Deploy::Status { deployment, watch } => {
            return super::status::run(session, &deployment, watch).await;
        }
    }
    Ok(Exit::Ok)
}

async fn apply(session: &mut Session, asked: Apply) -> Result<Exit, CliFailure> {
    let mut body = request(session, &asked.project).await?;
    body.allow_empty = asked.allow_empty;
    body.dry_run = true;
    let plan: ApplyAnswer = session.client.post("/deployments", &body).await?;
    if !goes_on(session, &plan, "Roll it out?", &asked.manner)? {
        return Ok(Exit::Ok);
    }
    body.dry_run = false;
    let answer: ApplyAnswer = session.client.post("/deployments", &body).await?;
    conclude(session, answer, &asked.manner).await
}

/// Shows a plan, and asks whether it is to be carried out.
pub(super) fn goes_on(
    session: &mut Session,
    plan: &ApplyAnswer,
    question: &str,
    manner: &Manner,
) -> Result<bool, CliFailure> {
    if manner.dry_run {
        session.print.show(plan, show_plan)?;
        return Ok(false);
    }
    if session.print.format == Format::Table {
        show_plan(&mut session.print, plan)?;
    }
    if plan.changed && !manner.yes && !is_agreed(question)? {
        super::note("Nothing was changed.");
        return Ok(false);
    }
    Ok(true)
}

async fn roll_back(
    session: &mut Session,
    deployment: &str,
    to: Option<u32>,
    staged: &Staged,
    manner: &Manner,
) -> Result<Exit, CliFailure> {
    let path = format!("/deployments/{deployment}");
    let detail: DeploymentDetail = session.client.get(&path).await?;
    let mut body = RollBackDeployment {
        to,
        base: detail.deployment.revision,
        rollout: parameters(staged)?,
        dry_run: true,
    };
    let path = format!("{path}/rollback");
    let plan: ApplyAnswer = session.client.post(&path, &body).await?;
    if !goes_on(session, &plan, "Go back?", manner)? {
        return Ok(Exit::Ok);
    }
    body.dry_run = false;
    let answer: ApplyAnswer = session.client.post(&path, &body).await?;
    conclude(session, answer, manner).await
}

/// Says what was started and how to watch it, or waits for its end.
pub(super) async fn conclude(
    session: &mut Session,
    answer: ApplyAnswer,
    manner: &Manner,
) -> Result<Exit, CliFailure> {
    let Some(rollout) = answer.rollout.as_ref().map(|rollout| rollout.id) else {
        session.print.show(&answer, |print, answer| {
            print.line(format!(
                "{} is at revision {} already, everywhere. Nothing to do.",
                answer.name, answer.revision
            ))
        })?;
        return Ok(Exit::Ok);
    };
    if manner.wait {
        let id = rollout.to_string();
        let until = Until::usual(&session.print);
        return super::rollout::watch(session, &id, until).await;
    }
    session.print.show(&answer, |print, answer| {
        print.line(format!(
            "Revision {} of {} is being rolled out (rollout {rollout}).",
            answer.revision, answer.name
        ))?;
        super::note(&format!("Watch it: flotilla rollout watch {rollout}"));
        Ok(())
    })?;
    Ok(Exit::Ok)
}

async fn remove(session: &mut Session, deployment: &str, yes: bool) -> Result<Exit, CliFailure> {
    let path = format!("/deployments/{deployment}");
    let detail: DeploymentDetail = session.client.get(&path).await?;
    let DeploymentView {
        name,
        nodes,
        revision,
        ..
    } = detail.deployment;
    if !yes && !is_agreed(&format!("Remove {name} from {nodes} nodes?"))? {
        super::note("Nothing was changed.");
        return Ok(Exit::Ok);
    }
    let body = RemoveDeployment { base: revision };
    let view: DeploymentView = session
        .client
        .post(&format!("{path}/remove"), &body)
        .await?;
    session.print.show(&view, |print, view| {
        print.line(format!("{} is being removed. Its volumes stay.", view.name))?;
        super::note(&format!("Look at it: flotilla deploy status {}", view.name));
        Ok(())
    })?;
    Ok(Exit::Ok)
}

/// Asks a person; where there is none, the answer is yes.
fn is_agreed(question: &str) -> Result<bool, CliFailure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    let mut error = std::io::stderr();
    let asked = write!(error, "{question} [y/N] ").and_then(|()| error.flush());
    let mut answer = String::new();
    asked
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|error| CliFailure::because(Exit::Failed, "cannot ask", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What is asked for, with everything that it needs from this machine.
async fn request(session: &Session, project: &Project) -> Result<ApplyDeployment, CliFailure> {
    let compose = read_file(&project.file)?;
    let name = match project.name.clone().or_else(|| own_name(&compose)) {
        Some(name) => name,
        None => {
            return Err(
                CliFailure::new(Exit::Usage, "the deployment has no name").advise("give --name")
            );
        }
    };
    let beside = Beside {
        folder: project
            .file
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default(),
    };
    let references = compose::references(&compose, &beside).map_err(|problems| {
        CliFailure::new(Exit::Usage, problems.to_string()).coded(problems.code())
    })?;
    Ok(ApplyDeployment {
        base: base(session, &name).await?,
        name: Some(name),
        on: project.on.clone(),
        compose,
        files: beside.files(&references)?,
        variables: references.variables,
        rollout: parameters(&project.staged)?,
        dry_run: false,
        allow_empty: false,
    })
}

/// The newest revision of a deployment; 0 when there is none of that name.
async fn base(session: &Session, name: &str) -> Result<u32, CliFailure> {
    let path = format!("/deployments/{name}");
    match session.client.get::<DeploymentDetail>(&path).await {
        Ok(detail) => Ok(detail.deployment.revision),
        Err(failure) if failure.code.as_deref() == Some("deployment.not_found") => Ok(0),
        Err(failure) => Err(failure),
    }
}

/// The file's own `name:`, where it stands alone on its line.
fn own_name(compose: &str) -> Option<String> {
    let value = compose
        .lines()
        .find_map(|line| line.strip_prefix("name:"))?;
    let value = value.split(" #").next()?.trim();
    let name = value.trim_matches(['"', '\'']);
    (!name.is_empty()).then(|| name.to_owned())
}

fn read_file(path: &Path) -> Result<String, CliFailure> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|error| {
        CliFailure::because(
            Exit::NotFound,
            format_args!("cannot read {}", path.display()),
            &error,
        )
    })
}

/// What lies beside the Compose file.
struct Beside {
    folder: PathBuf,
}

impl Sources for Beside {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Option<std::borrow::Cow<'_, [u8]>> {
        std::fs::read(self.folder.join(path)).ok().map(Into::into)
    }
}

impl Beside {
    fn files(&self, references: &References) -> Result<BTreeMap<String, String>, CliFailure> {
        let mut files = BTreeMap::new();
        for (path, reference) in &references.files {
            match std::fs::read(self.folder.join(path)) {
                Ok(bytes) => {
                    files.insert(path.clone(), BASE64.encode(&bytes));
                }
                Err(error)
                    if reference.optional && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(CliFailure::because(
                        Exit::NotFound,
                        format_args!("line {}: cannot read {path}", reference.line),
                        &error,
                    ));
                }
            }
        }
        Ok(files)
    }
}

/// The rollout's parameters from file and flags; none when neither is given.
pub(super) fn parameters(staged: &Staged) -> Result<Option<Value>, CliFailure> {
    let mut table = match &staged.rollout_file {
        Some(path) => from_file(path)?,
        None => Map::new(),
    };
    if !staged.waves.is_empty() {
        let waves = staged.waves.iter().map(|text| wave(text));
        let waves: Vec<Value> = waves.collect::<Result<_, _>>()?;
        table.insert("waves".to_owned(), Value::Array(waves));
    }
    for (key, value) in [
        ("on_halt", &staged.on_halt),
        ("commit", &staged.commit),
        ("silent_deadline", &staged.silent_deadline),
        ("deadline", &staged.deadline),
    ] {
        if let Some(value) = value {
            table.insert(key.to_owned(), json!(value));
        }
    }
    for (outer, key, value) in [
        ("health", "min_healthy", &staged.min_healthy),
        ("health", "healthy_deadline", &staged.healthy_deadline),
        (
            "disruption_budget",
            "max_unavailable",
            &staged.max_unavailable,
        ),
    ] {
        if let Some(value) = value {
            set_inner(&mut table, outer, key, json!(value));
        }
    }
    if !staged.group_by.is_empty() {
        set_inner(
            &mut table,
            "disruption_budget",
            "group_by",
            json!(staged.group_by),
        );
    }
    Ok((!table.is_empty()).then_some(Value::Object(table)))
}

fn set_inner(table: &mut Map<String, Value>, outer: &str, key: &str, value: Value) {
    let inner = table
        .entry(outer)
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        inner.insert(key.to_owned(), value);
    }
}

fn from_file(path: &Path) -> Result<Map<String, Value>, CliFailure> {
    let text = read_file(path)?;
    let wrong = |detail: String| {
        CliFailure::new(Exit::Usage, format!("{}: {detail}", path.display()))
            .advise("it holds one table, [rollout]")
    };
    let table: toml::Table = text.parse().map_err(|error| wrong(format!("{error}")))?;
    if let Some(other) = table.keys().find(|key| *key != "rollout") {
        return Err(wrong(format!("there is no key {other}")));
    }
    let rollout = table.get("rollout").cloned();
    match serde_json::to_value(rollout) {
        Ok(Value::Object(table)) => Ok(table),
        Ok(_) => Err(wrong("there is no [rollout] table".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// A wave as it is written on the command line: `3`, `10%:soak=5m`, `rest:approve`.
fn wave(text: &str) -> Result<Value, CliFailure> {
    let wrong = || {
        CliFailure::new(Exit::Usage, format!("{text:?} is no wave")).advise(
            "write 3, 10% or rest, then :soak=5m, :rate=60, :after=1h and :approve as wished",
        )
    };
    let mut parts = text.split(':');
    let mut wave = Map::new();
    let size = parts.next().unwrap_or_default();
    if let Some(percent) = size.strip_suffix('%') {
        let percent: u64 = percent.parse().map_err(|_| wrong())?;
        wave.insert("percent".to_owned(), json!(percent));
    } else if size != "rest" {
        let count: u64 = size.parse().map_err(|_| wrong())?;
        wave.insert("count".to_owned(), json!(count));
    }
    for part in parts {
        let (key, value) = match part.split_once('=') {
            Some(("soak", value)) => ("soak", json!(value)),
            Some(("after", value)) => ("start_after", json!(value)),
            Some(("rate", value)) => {
                let rate: u64 = value.parse().map_err(|_| wrong())?;
                ("rate_per_min", json!(rate))
            }
            None if part == "approve" => ("approve", json!("human")),
            Some(_) | None => return Err(wrong()),
        };
        wave.insert(key.to_owned(), value);
    }
    Ok(Value::Object(wave))
}

/// What would change, and who would be in which wave.
fn show_plan(print: &mut Printer, plan: &ApplyAnswer) -> Result<(), CliFailure> {
    changes(print, plan)?;
    if !plan.changed {
        return Ok(());
    }
    print.line("")?;
    let nodes: u32 = plan.waves.iter().map(|wave| wave.size).sum();
    print.line(format!(
        "Revision {} of {} goes to {nodes} node{} in {} wave{}:",
        plan.revision,
        plan.name,
        plural(nodes),
        plan.waves.len(),
        if plan.waves.len() == 1 { "" } else { "s" },
    ))?;
    for wave in &plan.waves {
        let shown: Vec<&str> = wave
            .nodes
            .iter()
            .take(NAMES_SHOWN_MAX)
            .map(String::as_str)
            .collect();
        let more = wave.size as usize - shown.len().min(wave.size as usize);
        let mut text = format!("  {:>2}. {:>5} ", wave.wave, wave.size);
        text.push_str(&shown.join(" "));
        if more > 0 {
            text.push_str(&format!(" … {more} more"));
        }
        let mut then = Vec::new();
        if wave.approve != "none" {
            then.push(format!("waits for approval ({})", wave.approve));
        }
        if wave.soak_ms > 0 {
            then.push(format!("watched for {}", span(wave.soak_ms / 1000)));
        }
        if !then.is_empty() {
            text.push_str(&print.tint(&format!("   {}", then.join(", ")), Tone::Faint));
        }
        print.line(text)?;
    }
    if !plan.leaving.is_empty() {
        let text = format!("It leaves: {}", plan.leaving.join(" "));
        print.line(print.tint(&text, Tone::Warn))?;
    }
    Ok(())
}

fn changes(print: &mut Printer, answer: &ApplyAnswer) -> Result<(), CliFailure> {
    if !answer.changed {
        print.line(format!(
            "{} is at revision {} already. Nothing changes.",
            answer.name, answer.revision
        ))?;
    }
    for change in &answer.changes {
        let tone = match (&change.old, &change.new) {
            (None, _) => Tone::Good,
            (_, None) => Tone::Bad,
            (Some(_), Some(_)) => Tone::Warn,
        };
        print.line(print.tint(&change.text, tone))?;
    }
    if answer.changed && answer.changes.is_empty() {
        print.line("Nothing differs; it is rolled out again.")?;
    }
    for note in &answer.notes {
        super::note(&format!("note: {note}"));
    }
    Ok(())
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn state_tone(state: &str) -> Tone {
    match state {
        "settled" => Tone::Good,
        "rolling_out" | "removing" => Tone::Plain,
        "waiting_for_approval" | "paused" | "partial" => Tone::Warn,
        _ => Tone::Bad,
    }
}

fn table(print: &mut Printer, list: &DeploymentList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NAME", "ON", "NODES", "REVISION", "STATE", "APPLIED", "BY"]);
    for view in &list.deployments {
        let revision = match view.settled {
            Some(settled) if settled != view.revision => format!("{} → {}", settled, view.revision),
            Some(_) | None => view.revision.to_string(),
        };
        table.add_row(vec![
            print.cell(&view.name, Tone::Plain),
            print.cell(&view.on, Tone::Plain),
            print.cell(view.nodes, Tone::Plain),
            print.cell(revision, Tone::Plain),
            print.cell(view.state.replace('_', " "), state_tone(&view.state)),
            print.cell(print.ago(view.applied_at), Tone::Plain),
            print.cell(&view.applied_by, Tone::Plain),
        ]);
    }
    print.print(
        table,
        "No deployments yet. Try: flotilla deploy apply -f compose.yaml --name web --on '*'",
    )
}

fn facts(print: &mut Printer, view: &DeploymentView) -> Result<(), CliFailure> {
    let state = print.tint(&view.state.replace('_', " "), state_tone(&view.state));
    let settled = view
        .settled
        .map_or_else(|| "none yet".to_owned(), |settled| settled.to_string());
    for (name, value) in [
        ("name", view.name.clone()),
        ("id", view.id.to_string()),
        ("nodes", format!("{} ({})", view.on, view.nodes)),
        ("state", state),
        ("settled", format!("revision {settled}")),
        (
            "rollout",
            view.rollout
                .map_or_else(|| "-".to_owned(), |id| id.to_string()),
        ),
    ] {
        print.line(format!("{name:<10} {value}"))?;
    }
    Ok(())
}

fn revision_facts(print: &mut Printer, detail: &RevisionDetail) -> Result<(), CliFailure> {
    let revision = &detail.revision;
    for (name, value) in [
        (
            "revision",
            format!("{} ({})", revision.revision, revision.cause),
        ),
        (
            "applied",
            format!("{} by {}", print.ago(revision.at), revision.by),
        ),
        ("digest", revision.digest.clone()),
    ] {
        print.line(format!("{name:<10} {value}"))?;
    }
    print.line("")?;
    let mut table = print.table(&["SERVICE", "IMAGE"]);
    for (service, image) in &revision.images {
        table.add_row(vec![
            print.cell(service, Tone::Plain),
            print.cell(image, Tone::Plain),
        ]);
    }
    print.print(table, "It has no services.")?;
    super::note("All of it: --output json");
    Ok(())
}

fn history(print: &mut Printer, list: &RevisionList) -> Result<(), CliFailure> {
    let mut table = print.table(&["REVISION", "APPLIED", "BY", "CAUSE", "ON", "STATE"]);
    for revision in &list.revisions {
        let (state, tone) = match (revision.settled, revision.proven) {
            (true, _) => ("settled", Tone::Good),
            (false, true) => ("proven", Tone::Plain),
            (false, false) => ("not proven", Tone::Faint),
        };
        table.add_row(vec![
            print.cell(revision.revision, Tone::Plain),
            print.cell(print.ago(revision.at), Tone::Plain),
            print.cell(&revision.by, Tone::Plain),
            print.cell(&revision.cause, Tone::Plain),
            print.cell(&revision.on, Tone::Plain),
            print.cell(state, tone),
        ]);
    }
    print.print(table, "It has no revisions.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_written_short() {
        for (text, expected) in [
            ("3", json!({"count": 3})),
            ("10%:soak=5m", json!({"percent": 10, "soak": "5m"})),
            (
                "rest:approve:rate=60:after=1h",
                json!({"approve": "human", "rate_per_min": 60, "start_after": "1h"}),
            ),
        ] {
            assert_eq!(wave(text).unwrap(), expected, "{text}");
        }
        for text in ["", "x", "10%:soak", "3:colour=red", "%", "3:rate=fast"] {
            assert!(wave(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rollout.toml");
        std::fs::write(
            &file,
            "[rollout]\non_halt = \"keep\"\n[rollout.health]\nmin_healthy = \"1m\"\n",
        )
        .unwrap();
        let staged = Staged {
            rollout_file: Some(file.clone()),
            on_halt: Some("revert".to_owned()),
            healthy_deadline: Some("2m".to_owned()),
            ..Staged::default()
        };
        assert_eq!(
            parameters(&staged).unwrap().unwrap(),
            json!({"on_halt": "revert", "health": {"min_healthy": "1m", "healthy_deadline": "2m"}})
        );
        assert_eq!(parameters(&Staged::default()).unwrap(), None);
        std::fs::write(&file, "[rolout]\n").unwrap();
        assert!(parameters(&staged).is_err());
    }

    #[test]
    fn the_files_own_name_is_found() {
        for (text, name) in [
            ("name: web\nservices: {}\n", Some("web")),
            ("services: {}\nname: \"shop\" # mine\n", Some("shop")),
            ("services:\n  name: x\n", None),
            ("name:\n", None),
        ] {
            assert_eq!(own_name(text).as_deref(), name, "{text:?}");
        }
    }
}
