//! A program that an operator names.
//!
//! **Invariant:** nothing starts that the node's own rules do not let through,
//! and no shell sees the words. It fails as [`super::allow`] or the process
//! says.

use protocol::ErrorCode;

use super::allow::judge;
use super::ending::Ending;
use super::process::{Job, locate, run};
use super::task::Context;

/// Runs an argument list, if this node lets it.
pub(crate) async fn execute(context: &mut Context, argv: &[String]) -> Ending {
    let trust = match judge(context.settings.run, &context.settings.allow, argv) {
        Ok(trust) => trust,
        Err(error) => return Ending::refused(ErrorCode::CommandNotAllowed, &error),
    };
    let Some((program, arguments)) = argv.split_first() else {
        return Ending::refused(ErrorCode::CommandInvalid, &super::allow::ArgvError::Empty);
    };
    let program = match locate(program, trust) {
        Ok(program) => program,
        Err(error) => return Ending::failed(ErrorCode::CommandStart, &error),
    };
    let job = Job {
        program,
        arguments: arguments.to_vec(),
        folder: context.folder.clone(),
    };
    Ending::of(run(&job, context.bounds, &context.stop, &mut context.progress).await)
}
