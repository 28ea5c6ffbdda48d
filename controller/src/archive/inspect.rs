//! What an image archive holds: a tar as `docker save` makes it (`manifest.json`),
//! or an OCI layout (`index.json`).
//!
//! **Invariant:** only headers and a few small files are read, whatever the
//! archive's size, and what is read has a bound. Nothing is unpacked; a path that
//! leaves the archive's root is refused nevertheless, because an engine will
//! unpack it.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tar::EntryType;

use crate::domain::deployment::compose::normalise_image;

/// Entries of an archive. An image has two for each layer; the largest that are
/// seen have a few hundred.
const ENTRIES_COUNT_MAX: usize = 20_000;

/// Images of one archive.
const IMAGES_COUNT_MAX: usize = 256;

/// Bytes of a JSON file in it.
const JSON_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes of a path, and of the header that holds a long one.
const PATH_BYTES_MAX: u64 = 4096;

/// An image of an archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchivedImage {
    /// The references by which it is known, with registry and tag spelled out.
    pub references: Vec<String>,
    /// The digests of its configs (`sha256:…`), one for each platform.
    pub configs: Vec<String>,
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It could not be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// It is not an image archive, or a damaged one.
    #[error("{0}")]
    Invalid(String),
}

impl InspectError {
    fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}

/// Reads which images an archive holds.
pub(super) fn inspect(file: &mut (impl Read + Seek)) -> Result<Vec<ArchivedImage>, InspectError> {
    let members = members(file)?;
    let mut archive = Archive { file, members };
    let images = if archive.members.contains_key("manifest.json") {
        archive.docker()?
    } else if archive.members.contains_key("index.json") {
        archive.oci()?
    } else {
        return Err(InspectError::invalid(
            "it has neither manifest.json nor index.json at its root",
        ));
    };
    if images.is_empty() {
        return Err(InspectError::invalid("it holds no image"));
    }
    Ok(images)
}

/// Where a regular file lies; links and folders have no place.
#[derive(Clone, Copy)]
struct Member {
    offset: u64,
    size_bytes: u64,
}

type Members = BTreeMap<String, Option<Member>>;

/// Lists the members by walking the headers.
fn members(file: &mut (impl Read + Seek)) -> Result<Members, InspectError> {
    let length = file.seek(SeekFrom::End(0)).map_err(InspectError::Read)?;
    file.seek(SeekFrom::Start(0)).map_err(InspectError::Read)?;
    let mut start = [0; 2];
    let compressed = matches!(file.read(&mut start), Ok(2)) && start == [0x1f, 0x8b];
    if compressed {
        return Err(InspectError::invalid(
            "it is compressed; give it as `docker save` writes it",
        ));
    }
    file.seek(SeekFrom::Start(0)).map_err(InspectError::Read)?;
    let mut found = Members::new();
    let mut archive = tar::Archive::new(file);
    // Raw, because otherwise long names are read into memory without a bound.
    let entries = archive.entries_with_seek().map_err(not_a_tar)?.raw(true);
    let mut long_path: Option<String> = None;
    let mut long_link: Option<String> = None;
    for (count, entry) in entries.enumerate() {
        if count >= ENTRIES_COUNT_MAX {
            let text = format!("it has more than {ENTRIES_COUNT_MAX} entries");
            return Err(InspectError::Invalid(text));
        }
        let mut entry = entry.map_err(not_a_tar)?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            long_path = Some(long_text(&mut entry)?);
            continue;
        } else if kind.is_gnu_longlink() {
            long_link = Some(long_text(&mut entry)?);
            continue;
        } else if kind.is_pax_local_extensions() {
            let records = pax(&mut entry)?;
            long_path = records.path.or(long_path);
            long_link = records.link.or(long_link);
            continue;
        } else if kind.is_pax_global_extensions() {
            continue;
        }
        let path = match long_path.take() {
            Some(path) => path,
            None => utf8(entry.header().path_bytes().to_vec())?,
        };
        let link = match long_link.take() {
            Some(link) => Some(link),
            None => match entry.header().link_name_bytes() {
                Some(link) => Some(utf8(link.to_vec())?),
                None => None,
            },
        };
        let inside = inside(&[], &path)?;
        let member = member(kind, &entry, &inside, link.as_deref())?;
        let path = inside.join("/");
        // The walk seeks, and so does not notice where the file ends.
        if member.is_some_and(|m| m.offset.saturating_add(m.size_bytes) > length) {
            let text = format!("it is cut short inside of {path:?}");
            return Err(InspectError::Invalid(text));
        }
        if found.insert(path.clone(), member).flatten().is_some() && member.is_some() {
            let text = format!("it has {path:?} twice");
            return Err(InspectError::Invalid(text));
        }
    }
    Ok(found)
}

fn member<R: Read>(
    kind: EntryType,
    entry: &tar::Entry<'_, R>,
    path: &[&str],
    link: Option<&str>,
) -> Result<Option<Member>, InspectError> {
    if kind.is_file() || kind == EntryType::Continuous {
        return Ok(Some(Member {
            offset: entry.raw_file_position(),
            size_bytes: entry.header().entry_size().map_err(not_a_tar)?,
        }));
    }
    if kind.is_dir() {
        return Ok(None);
    }
    let link = link.unwrap_or_default();
    if kind.is_symlink() {
        // It is relative to the folder that it is in.
        let folder = path.split_last().map_or(&[][..], |(_, folder)| folder);
        inside(folder, link)?;
        return Ok(None);
    }
    if kind.is_hard_link() {
        inside(&[], link)?;
        return Ok(None);
    }
    let text = format!("{:?} is no file, folder or link", path.join("/"));
    Err(InspectError::Invalid(text))
}

/// A path in parts, seen from a folder of the archive.
fn inside<'p>(folder: &[&'p str], path: &'p str) -> Result<Vec<&'p str>, InspectError> {
    let leaves = || {
        let shown: String = path.chars().take(100).collect();
        InspectError::Invalid(format!("{shown:?} leaves the archive"))
    };
    if path.starts_with('/') || path.contains('\0') {
        return Err(leaves());
    }
    let mut parts = folder.to_vec();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(leaves)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts)
}

fn long_text(entry: &mut impl Read) -> Result<String, InspectError> {
    let mut bytes = bounded(entry, PATH_BYTES_MAX, "a path")?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    utf8(bytes)
}

fn utf8(bytes: Vec<u8>) -> Result<String, InspectError> {
    String::from_utf8(bytes).map_err(|_| InspectError::invalid("it has a path that is not UTF-8"))
}

fn bounded(source: &mut impl Read, most: u64, what: &str) -> Result<Vec<u8>, InspectError> {
    let mut bytes = Vec::new();
    source
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(not_a_tar)?;
    if bytes.len() as u64 > most {
        let text = format!("{what} in it has more than {most} bytes");
        return Err(InspectError::Invalid(text));
    }
    Ok(bytes)
}

#[derive(Default)]
struct Pax {
    path: Option<String>,
    link: Option<String>,
}

/// The records of an extended header: `length key=value\n`, one after another.
fn pax(entry: &mut impl Read) -> Result<Pax, InspectError> {
    let bytes = bounded(entry, 4 * PATH_BYTES_MAX, "an extended header")?;
    let broken = || InspectError::invalid("it has an extended header that is damaged");
    let mut found = Pax::default();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let blank = rest.iter().position(|b| *b == b' ').ok_or_else(broken)?;
        let digits = rest.get(..blank).and_then(|d| core::str::from_utf8(d).ok());
        let length: usize = digits.and_then(|d| d.parse().ok()).ok_or_else(broken)?;
        let record = rest.get(blank + 1..length).ok_or_else(broken)?;
        let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
        let value = || utf8(record.get(equals + 1..).unwrap_or_default().to_vec());
        match record.get(..equals) {
            Some(b"path") => found.path = Some(value()?),
            Some(b"linkpath") => found.link = Some(value()?),
            // The walk goes by the header's own size.
            Some(b"size") => {
                return Err(InspectError::invalid("it has an entry of more than 8 GiB"));
            }
            Some(_) | None => {}
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(found)
}

fn not_a_tar(error: io::Error) -> InspectError {
    // What the reader of tars says itself, and not the disk.
    let about_contents = matches!(
        error.kind(),
        io::ErrorKind::Other | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    );
    if about_contents {
        InspectError::Invalid(format!("it is no tar, or cut short: {error}"))
    } else {
        InspectError::Read(error)
    }
}

/// An image of `manifest.json`.
#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Vec<String>,
}

/// An index of OCI: images, or images by platform.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// A manifest of OCI, or an index in its place.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Where OCI layouts have an image's name: containerd's is a whole reference.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

struct Archive<'f, F> {
    file: &'f mut F,
    members: Members,
}

impl<F: Read + Seek> Archive<'_, F> {
    fn docker(&mut self) -> Result<Vec<ArchivedImage>, InspectError> {
        let listed: Vec<DockerImage> = self.json("manifest.json")?;
        few(listed.len())?;
        let mut images = Vec::new();
        for image in listed {
            let config = self.small(&image.config)?;
            let digest = sha256(&config);
            let name = image.config.trim_start_matches("blobs/sha256/");
            let name = name.strip_suffix(".json").unwrap_or(name);
            if is_sha256(name) && name != digest {
                let text = format!("{} is not what its name says", image.config);
                return Err(InspectError::Invalid(text));
            }
            for layer in &image.layers {
                self.require(layer)?;
            }
            let tags = image.tags.unwrap_or_default();
            images.push(ArchivedImage {
                references: tags
                    .iter()
                    .map(|tag| reference(tag))
                    .collect::<Result<_, _>>()?,
                configs: vec![format!("sha256:{digest}")],
            });
        }
        Ok(images)
    }

    fn oci(&mut self) -> Result<Vec<ArchivedImage>, InspectError> {
        let index: Index = self.json("index.json")?;
        few(index.manifests.len())?;
        // Names of one image are entries of their own.
        let mut images: BTreeMap<String, ArchivedImage> = BTreeMap::new();
        for descriptor in index.manifests {
            let name = NAMES
                .iter()
                .find_map(|key| descriptor.annotations.get(*key));
            let configs = self.configs(&descriptor.digest)?;
            let image = images
                .entry(descriptor.digest)
                .or_insert_with(|| ArchivedImage {
                    references: Vec::new(),
                    configs,
                });
            if let Some(name) = name {
                image.references.push(reference(name)?);
            }
        }
        Ok(images.into_values().collect())
    }

    /// The configs of a manifest, or of the manifests of an index.
    fn configs(&mut self, digest: &str) -> Result<Vec<String>, InspectError> {
        let manifest = self.blob(digest)?;
        if let Some(config) = manifest.config {
            self.checked_manifest(&config, &manifest.layers)?;
            return Ok(vec![config.digest]);
        }
        few(manifest.manifests.len())?;
        let mut configs = Vec::new();
        for platform in manifest.manifests {
            // An archive of one platform keeps the index of all of them.
            if !self.members.contains_key(&blob_path(&platform.digest)?) {
                continue;
            }
            let manifest = self.blob(&platform.digest)?;
            if let Some(config) = manifest.config {
                self.checked_manifest(&config, &manifest.layers)?;
                configs.push(config.digest);
            }
        }
        if configs.is_empty() {
            let text = format!("it has no platform of {digest}");
            return Err(InspectError::Invalid(text));
        }
        Ok(configs)
    }

    fn checked_manifest(
        &self,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<(), InspectError> {
        for part in core::iter::once(config).chain(layers) {
            self.require(&blob_path(&part.digest)?)?;
        }
        Ok(())
    }

    fn blob(&mut self, digest: &str) -> Result<Manifest, InspectError> {
        let path = blob_path(digest)?;
        let bytes = self.small(&path)?;
        if format!("sha256:{}", sha256(&bytes)) != digest {
            return Err(InspectError::Invalid(format!(
                "{path} is not what its name says"
            )));
        }
        parse(&path, &bytes)
    }

    fn json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, InspectError> {
        let bytes = self.small(path)?;
        parse(path, &bytes)
    }

    fn require(&self, path: &str) -> Result<(), InspectError> {
        let path = inside(&[], path)?.join("/");
        if self.members.contains_key(&path) {
            Ok(())
        } else {
            Err(InspectError::Invalid(format!("it lacks {path:?}")))
        }
    }

    fn small(&mut self, path: &str) -> Result<Vec<u8>, InspectError> {
        let path = inside(&[], path)?.join("/");
        let Some(Some(member)) = self.members.get(&path).copied() else {
            return Err(InspectError::Invalid(format!("it lacks the file {path:?}")));
        };
        if member.size_bytes > JSON_BYTES_MAX {
            let text = format!("{path:?} has more than {JSON_BYTES_MAX} bytes");
            return Err(InspectError::Invalid(text));
        }
        self.file
            .seek(SeekFrom::Start(member.offset))
            .map_err(InspectError::Read)?;
        let mut bytes = Vec::new();
        self.file
            .take(member.size_bytes)
            .read_to_end(&mut bytes)
            .map_err(InspectError::Read)?;
        if bytes.len() as u64 != member.size_bytes {
            return Err(InspectError::Invalid(format!("{path:?} is cut short")));
        }
        Ok(bytes)
    }
}

fn few(count: usize) -> Result<(), InspectError> {
    if count > IMAGES_COUNT_MAX {
        let text = format!("it has {count} images; at most {IMAGES_COUNT_MAX}");
        return Err(InspectError::Invalid(text));
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, InspectError> {
    serde_json::from_slice(bytes)
        .map_err(|error| InspectError::Invalid(format!("{path} is not as it should be: {error}")))
}

fn reference(name: &str) -> Result<String, InspectError> {
    normalise_image(name)
        .map(|image| image.reference)
        .map_err(InspectError::Invalid)
}

fn blob_path(digest: &str) -> Result<String, InspectError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if is_sha256(hex) => Ok(format!("blobs/sha256/{hex}")),
        Some(_) | None => Err(InspectError::invalid("it has a digest that is no SHA-256")),
    }
}

fn is_sha256(text: &str) -> bool {
    HEXLOWER
        .decode(text.as_bytes())
        .is_ok_and(|d| d.len() == 32)
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}
