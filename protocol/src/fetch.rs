//! Fetching what is too large for an envelope: the contents of configs and
//! secrets, image archives, and archives of releases.
//!
//! `POST /node/v1/file`, `/node/v1/archive` and `/node/v1/release`. The body of a request is an
//! envelope that the node signed, as of a renewal. The answer is 200 and the
//! bytes, with their number in `Content-Length`; or an error as everywhere
//! ([`crate::join::ErrorBody`]). A node gets only what a deployment that was
//! ordered of it names.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::{Kind, Message};
use crate::time::UnixMillis;

/// How far the time of a request may be from the controller's. A request that was
/// recorded is of no use after that.
pub const FRESH_MAX: Duration = Duration::from_secs(5 * 60);

/// The header of an answer with the SHA-256 of what a file holds, in lowercase
/// hexadecimal: what a node checks a secret by, whose digest is keyed.
pub const SHA256_HEADER: &str = "flotilla-sha256";

/// Asks for the content of a config or secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchFile {
    /// Its digest, as in [`crate::deployment::spec::File::digest`].
    pub digest: String,
    /// The controller's time, as the node knows it; the clock of the node itself
    /// may be wrong.
    pub now: UnixMillis,
}

impl Message for FetchFile {
    const KIND: Kind = Kind::FETCH_FILE;
    const VERSION: u16 = 1;
}

/// Asks for an image archive, from some byte on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchArchive {
    /// Its SHA-256, as in [`crate::deployment::spec::Image::archive`].
    pub digest: String,
    /// How many bytes the node has already. The answer has the rest, so the
    /// archive's size is this and `Content-Length` together.
    pub offset: u64,
    /// The controller's time, as the node knows it.
    pub now: UnixMillis,
}

impl Message for FetchArchive {
    const KIND: Kind = Kind::FETCH_ARCHIVE;
    const VERSION: u16 = 1;
}

/// Asks for an archive of a release, from some byte on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRelease {
    /// Its SHA-256, as in [`crate::release::Archive::sha256`].
    pub sha256: String,
    /// How many bytes the node has already, as in [`FetchArchive::offset`].
    pub offset: u64,
    /// The controller's time, as the node knows it.
    pub now: UnixMillis,
}

impl Message for FetchRelease {
    const KIND: Kind = Kind::FETCH_RELEASE;
    const VERSION: u16 = 1;
}
