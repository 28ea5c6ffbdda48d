//! Docker Compose files, read into a [`Spec`].
//!
//! A file is read as a tree that knows its places, and each key of it is taken by
//! name. **Invariant:** nothing is ignored. A key that nobody takes is a problem
//! with its line, whether Compose knows it (then with what to do about it) or not
//! (then with the nearest key that there is). Keys that begin with `x-` are the
//! user's own and mean nothing.
//!
//! The file's text is untrusted: its size, its nesting and what its aliases amount
//! to have bounds, so reading takes a bounded time and memory. All problems are
//! collected and said at once.
//!
//! What the file names (`env_file`, and the files of configs and secrets) lies on
//! the operator's machine. [`references`] says what to send along; nodes never see
//! a path of it. Contents of configs and secrets leave in [`Project::contents`]
//! and not in the spec, which holds their digests.
//!
//! Where this differs from Compose, and why, is in decision 0010.

mod env_file;
mod image;
mod interpolate;
mod key;
mod mount;
mod port;
pub mod problem;
mod project;
mod quantity;
mod reader;
mod resource;
mod service;
#[cfg(test)]
mod tests;
mod words;
mod yaml;

use core::fmt;
use std::borrow::Cow;
use std::collections::BTreeMap;

use protocol::deployment::spec::{FileKind, Spec};

pub use image::normalise as normalise_image;
use problem::Problems;
use reader::Reader;
pub use yaml::TEXT_BYTES_MAX;

/// What lies beside a Compose file.
pub trait Sources {
    /// The value of a variable; none when it is not given.
    fn variable(&self, name: &str) -> Option<String>;

    /// The content of a file by the path that the Compose file has for it; none
    /// when it is not there.
    fn file(&self, path: &str) -> Option<Cow<'_, [u8]>>;
}

/// What the controller holds of configs and secrets.
pub trait Contents {
    /// The digest by which a content is kept and fetched.
    fn digest(&self, kind: FileKind, content: &[u8]) -> String;

    /// A config or secret of Flotilla's own, by name.
    fn named(&self, kind: FileKind, name: &str) -> Option<Named>;
}

/// A config or secret that is held already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its digest.
    pub digest: String,
    /// Bytes of it.
    pub size_bytes: u32,
}

/// What a Compose file comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// The file's own `name:`.
    pub name: Option<String>,
    /// What should run.
    pub spec: Spec,
    /// The contents that the spec names and that are not held yet, by digest.
    pub contents: BTreeMap<String, Content>,
}

/// The content of a config or secret. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// Which of the two.
    pub kind: FileKind,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({:?}, {} bytes)", self.kind, self.bytes.len())
    }
}

/// What a Compose file needs from the machine where it lies.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct References {
    /// The files, by the path that the Compose file has for them.
    pub files: BTreeMap<String, Reference>,
    /// The variables that it uses and that are given, with their values; so that
    /// no more of the operator's environment is sent.
    pub variables: BTreeMap<String, String>,
}

impl fmt::Debug for References {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("References")
            .field("files", &self.files)
            .field("variables", &self.variables.keys())
            .finish()
    }
}

/// A file that a Compose file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// What it is for.
    pub purpose: Purpose,
    /// The line that names it first.
    pub line: usize,
    /// Whether the file may be missing.
    pub optional: bool,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Variables of a service: `env_file`.
    Environment,
    /// The content of a config.
    Config,
    /// The content of a secret: it must not be shown.
    Secret,
}

/// Reads a Compose file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(
    text: &str,
    sources: &dyn Sources,
    contents: &dyn Contents,
) -> Result<Project, Problems> {
    let root = yaml::parse(text)?;
    let mut reader = Reader::new(sources, contents);
    let project = project::read(&mut reader, &root);
    match (reader.into_problems(), project) {
        (None, Some(project)) => Ok(project),
        (Some(problems), _) => Err(problems),
        (None, None) => Err(Problems::one(root.at, "is no Compose file")),
    }
}

/// Which files and variables a Compose file needs, so that they can be sent with
/// it. What is wrong otherwise is left to [`read`].
///
/// # Errors
/// When the text is no YAML, or past its bounds.
pub fn references(text: &str, sources: &dyn Sources) -> Result<References, Problems> {
    struct Nothing;
    impl Contents for Nothing {
        fn digest(&self, _: FileKind, _: &[u8]) -> String {
            String::new()
        }
        fn named(&self, _: FileKind, _: &str) -> Option<Named> {
            None
        }
    }
    let root = yaml::parse(text)?;
    let mut reader = Reader::new(sources, &Nothing);
    // Only what it looked at on its way matters here.
    let _project: Option<Project> = project::read(&mut reader, &root);
    Ok(reader.into_references())
}
