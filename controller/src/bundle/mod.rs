//! Making and reading a release where it was built: a folder with archives, and the
//! signed manifest beside them. Nothing of it needs a controller.
//!
//! **Invariant:** what is signed was looked at, whole: the digest and the sizes in a
//! manifest are those of the file that lies there, and its archive holds plain files
//! below one folder, with the program in it. A manifest is read by its own name alone.

pub mod key;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, Take};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::bufread::GzDecoder;
use protocol::ErrorCode;
use protocol::key::SigningKey;
use protocol::message;
use protocol::release::entries::{Entries, EntryKind, TAR_OVERHEAD_BYTES};
use protocol::release::{
    ARCHIVE_BYTES_MAX, Archive, MANIFEST_BYTES_MAX, Release, ReleaseError, SignedRelease,
    UNPACKED_BYTES_MAX, archive_name, manifest_name,
};
use protocol::time::UnixMillis;

use crate::archive::digest_of;
use crate::durable;

/// What a release is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its version.
    pub version: String,
    /// The oldest version that it may be installed over.
    pub from_min: String,
    /// The newest one; its own version where none is given.
    pub from_max: Option<String>,
    /// How long it may be installed.
    pub lifetime: Duration,
    /// Now.
    pub now: UnixMillis,
}

/// A release in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// As it was signed.
    pub signed: SignedRelease,
    /// What it says. Whether its signature holds is for whoever knows the keys.
    pub release: Release,
    /// The files of its archives, in the manifest's order.
    pub files: Vec<PathBuf>,
}

/// Why a release cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What it says contradicts itself.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

impl BundleError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::File { .. } | Self::Invalid { .. } => ErrorCode::ReleaseInvalid,
            Self::Release(error) => error.code(),
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BundleError {
    let path = path.to_owned();
    move |source| BundleError::File { what, path, source }
}

fn invalid(path: &Path, reason: impl Into<String>) -> BundleError {
    BundleError::Invalid {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// Signs a release of the archives in a folder that bear the version, and writes its
/// manifest beside them. Returns what it says, and the manifest's file.
///
/// # Errors
/// [`BundleError`]; nothing is written then.
pub fn sign(folder: &Path, key: &SigningKey, ask: &Ask) -> Result<(Release, PathBuf), BundleError> {
    protocol::release::version(&ask.version)?;
    let mut archives = Vec::new();
    let before = archive_name(&ask.version, "");
    let (begins, ends) = before.split_once("-.").unwrap_or((before.as_str(), ""));
    let mut names: Vec<String> = fs::read_dir(folder)
        .map_err(failed("list", folder))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in names {
        let target = name
            .strip_prefix(&format!("{begins}-"))
            .and_then(|rest| rest.strip_suffix(&format!(".{ends}")));
        let Some(target) = target.filter(|target| !target.is_empty()) else {
            continue;
        };
        archives.push(look(&folder.join(&name), target, &name)?);
    }
    if archives.is_empty() {
        let wanted = archive_name(&ask.version, "TARGET");
        return Err(invalid(folder, format!("there is no {wanted} in it")));
    }
    let release = Release {
        version: ask.version.clone(),
        issued_at: ask.now,
        expires_at: ask.now.after(ask.lifetime),
        from_min: ask.from_min.clone(),
        from_max: ask.from_max.clone().unwrap_or_else(|| ask.version.clone()),
        archives,
    };
    release.check()?;
    let path = folder.join(manifest_name(&ask.version));
    let bytes = message::encode(&release.sign(key));
    durable::replace(&path, &bytes).map_err(failed("write", &path))?;
    Ok((release, path))
}

/// Reads a release: a manifest, or the one manifest in a folder; and looks at every
/// archive that it names.
///
/// # Errors
/// [`BundleError`] with the first file that is wrong.
pub fn open(path: &Path) -> Result<Bundle, BundleError> {
    let manifest = if path.is_dir() {
        only_manifest(path)?
    } else {
        path.to_owned()
    };
    let mut bytes = Vec::new();
    File::open(&manifest)
        .and_then(|file| {
            file.take(MANIFEST_BYTES_MAX as u64 * 2)
                .read_to_end(&mut bytes)
        })
        .map_err(failed("read", &manifest))?;
    let signed: SignedRelease = message::decode_exactly(&bytes)
        .map_err(|why| invalid(&manifest, format!("it is no signed manifest: {why}")))?;
    let release: Release = message::decode_exactly(&signed.bytes)
        .map_err(|why| invalid(&manifest, format!("it is no manifest: {why}")))?;
    release.check()?;
    let name = manifest_name(&release.version);
    if manifest
        .file_name()
        .is_none_or(|found| found != name.as_str())
    {
        let version = &release.version;
        return Err(invalid(
            &manifest,
            format!("it is signed as version {version}, whose manifest is named {name}"),
        ));
    }
    let folder = manifest.parent().unwrap_or(Path::new("."));
    let mut files = Vec::new();
    for archive in &release.archives {
        let file = folder.join(&archive.name);
        let found = look(&file, &archive.target, &archive.name)?;
        if found != *archive {
            return Err(invalid(
                &file,
                format!(
                    "it has {} bytes with the SHA-256 {}, and was signed with {} and {}",
                    found.bytes, found.sha256, archive.bytes, archive.sha256
                ),
            ));
        }
        files.push(file);
    }
    Ok(Bundle {
        signed,
        release,
        files,
    })
}

fn only_manifest(folder: &Path) -> Result<PathBuf, BundleError> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(failed("list", folder))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "release"))
        .collect();
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(invalid(folder, "there is no manifest (*.release) in it")),
        (Some(_), more) => Err(invalid(
            folder,
            format!("there are {} manifests in it; name one", more + 1),
        )),
    }
}

/// Looks at an archive: its digest, and what it unpacks to.
fn look(path: &Path, target: &str, name: &str) -> Result<Archive, BundleError> {
    let mut file = File::open(path).map_err(failed("read", path))?;
    let bytes = file.metadata().map_err(failed("read", path))?.len();
    if bytes > ARCHIVE_BYTES_MAX {
        let reason = format!("it has {bytes} bytes; at most {ARCHIVE_BYTES_MAX}");
        return Err(invalid(path, reason));
    }
    let unpacked_bytes = inspect(&mut file).map_err(|reason| invalid(path, reason))?;
    let digest = file.rewind().and_then(|()| digest_of(&mut file));
    let (digest, bytes) = digest.map_err(failed("read", path))?;
    Ok(Archive {
        target: target.to_owned(),
        name: name.to_owned(),
        bytes,
        sha256: digest.to_string(),
        unpacked_bytes,
    })
}

/// Reads an archive through, within the bounds of a release. Returns the bytes of its
/// files.
fn inspect(reader: impl Read) -> Result<u64, String> {
    let bound = UNPACKED_BYTES_MAX + TAR_OVERHEAD_BYTES;
    let mut tar = tar::Archive::new(GzDecoder::new(BufReader::new(reader)).take(bound));
    let damaged = |error: io::Error| format!("it cannot be read: {error}");
    let mut judged = Entries::new(UNPACKED_BYTES_MAX);
    // Raw, as nodes read it: what extends the header of another entry is one.
    for entry in tar.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let kind = match entry.header().entry_type() {
            kind if kind.is_file() => EntryKind::File,
            kind if kind.is_dir() => EntryKind::Folder,
            kind => EntryKind::Other(kind.as_byte()),
        };
        let size = entry.size();
        if let Some(name) = judged.take(&entry.path_bytes(), kind, size)? {
            let read = io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
            if read != size {
                return Err(format!("{} ends early", name.display()));
            }
        }
    }
    let bytes = judged.end()?;
    if follows(tar.into_inner()).map_err(damaged)? {
        return Err("something follows its end".to_owned());
    }
    Ok(bytes)
}

/// Whether anything but the filling of the last record follows an archive's end, in the
/// gzip member or behind it: nodes refuse that.
fn follows(mut rest: Take<GzDecoder<BufReader<impl Read>>>) -> io::Result<bool> {
    let mut block = [0; 4096];
    loop {
        match rest.read(&mut block)? {
            0 => break,
            count if block.iter().take(count).any(|byte| *byte != 0) => return Ok(true),
            _ => {}
        }
    }
    let mut member = rest.into_inner();
    let more = member.read(&mut block)?;
    Ok(more > 0 || !member.into_inner().fill_buf()?.is_empty())
}
