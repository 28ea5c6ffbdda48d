//! The journal of a unit.
//!
//! Its files have two stable readers. journalctl is on every host that has a journal,
//! and costs a process for each request; the library is that of the feature `journal`,
//! which cannot be linked statically: a program with it runs on hosts with systemd
//! alone. Lines are the same but for how the time is written.

#[cfg(feature = "journal")]
mod library;
#[cfg(not(feature = "journal"))]
mod program;

use protocol::ErrorCode;

use super::Query;
use crate::command::ending::Ending;
use crate::command::service::UnitName;
use crate::command::task::Context;
#[cfg(feature = "journal")]
use library as reader;
#[cfg(not(feature = "journal"))]
use program as reader;

pub(super) async fn read(context: &mut Context, unit: &str, query: Query) -> Ending {
    match unit.parse::<UnitName>() {
        Ok(unit) => reader::read(context, &unit, query).await,
        Err(error) => Ending::refused(ErrorCode::CommandInvalid, &error),
    }
}
