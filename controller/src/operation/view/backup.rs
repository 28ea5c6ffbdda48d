//! Backups.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which backup is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeBackup {
    /// Whether image archives and those of releases are left out. Deployments and
    /// updates that need them wait until they are pushed again.
    #[serde(default)]
    pub without_archives: bool,
}
