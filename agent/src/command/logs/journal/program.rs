//! Through journalctl.

use protocol::ErrorCode;

use crate::command::allow::Trust;
use crate::command::ending::Ending;
use crate::command::logs::Query;
use crate::command::process::{Job, locate, run};
use crate::command::service::UnitName;
use crate::command::task::Context;

pub(super) async fn read(context: &mut Context, unit: &UnitName, query: Query) -> Ending {
    let program = match locate("journalctl", Trust::System) {
        Ok(program) => program,
        Err(error) => return Ending::failed(ErrorCode::LogUnavailable, &error),
    };
    let job = Job {
        program,
        arguments: arguments(unit, query),
        folder: context.folder.clone(),
    };
    Ending::of(run(&job, context.bounds, &context.stop, &mut context.progress).await)
}

fn arguments(unit: &UnitName, query: Query) -> Vec<String> {
    let mut arguments = vec![
        "--no-pager".to_owned(),
        "--quiet".to_owned(),
        "--utc".to_owned(),
        "--output=short-iso".to_owned(),
        format!("--unit={}", unit.as_str()),
        format!("--lines={}", query.lines),
    ];
    if let Some(age) = query.since {
        arguments.push(format!("--since=-{}s", age.as_secs().max(1)));
    }
    if query.follow {
        arguments.push("--follow".to_owned());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_value_is_attached_to_its_option() {
        let unit: UnitName = "ssh".parse().unwrap();
        let query = Query {
            lines: 20,
            since: Some(Duration::from_millis(90_500)),
            follow: true,
        };
        assert_eq!(
            arguments(&unit, query),
            [
                "--no-pager",
                "--quiet",
                "--utc",
                "--output=short-iso",
                "--unit=ssh.service",
                "--lines=20",
                "--since=-90s",
                "--follow",
            ]
        );
    }
}
