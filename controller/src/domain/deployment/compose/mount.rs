//! Volumes, bind mounts and tmpfs, short (`data:/var/lib:ro`) and long.
//!
//! A relative path is refused: it is relative to the Compose file, and that is on
//! the operator's machine, not on the node.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use protocol::deployment::spec::{Mount, MountSource, is_name, is_plain_absolute};

use super::key;
use super::problem::shown;
use super::project::Declared;
use super::quantity;
use super::reader::{Item, Reader, Table};

/// Mounts by target.
pub(super) type Mounts = BTreeMap<String, Mount>;

/// The `volumes` of a service.
pub(super) fn volumes(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    declared: &Declared,
    mounts: &mut Mounts,
) {
    for item in reader.list(item) {
        let found = if item.is_map() {
            long(reader, &item)
        } else {
            reader.parsed(&item, short)
        };
        let Some((target, mount)) = found else {
            continue;
        };
        if let MountSource::Volume(name) = &mount.source
            && !declared.volumes.contains(name)
        {
            let text = format!(
                "names {}, which is none of the top-level `volumes`",
                shown(name)
            );
            reader.invalid(&item, text);
            continue;
        }
        add(reader, &item, mounts, target, mount);
    }
}

/// The `tmpfs` of a service.
pub(super) fn tmpfs(reader: &mut Reader<'_>, item: &Item<'_>, mounts: &mut Mounts) {
    let items = if item.is_scalar() {
        vec![item.clone()]
    } else {
        reader.list(item)
    };
    for item in items {
        if let Some((target, mount)) = reader.parsed(&item, short_tmpfs) {
            add(reader, &item, mounts, target, mount);
        }
    }
}

fn add(reader: &mut Reader<'_>, item: &Item<'_>, mounts: &mut Mounts, at: String, mount: Mount) {
    match mounts.entry(at) {
        Entry::Occupied(there) => {
            let text = format!("mounts a second thing at {}", shown(there.key()));
            reader.invalid(item, text);
        }
        Entry::Vacant(free) => {
            free.insert(mount);
        }
    }
}

/// A path inside of a container, in one spelling.
pub(super) fn target(text: &str) -> Result<String, String> {
    let path = absolute(text)?;
    if path == "/" {
        return Err("is mounted at `/`, which is the container itself".to_owned());
    }
    Ok(path)
}

/// An absolute path in one spelling: no `.`, no doubled and no last slash.
pub(super) fn absolute(text: &str) -> Result<String, String> {
    if !is_plain_absolute(text) {
        return Err(format!(
            "{} is not an absolute path without `..`",
            shown(text)
        ));
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    Ok(format!("/{}", parts.join("/")))
}

fn short(text: &str) -> Result<(String, Mount), String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, at, mode) = match *parts.as_slice() {
        [at] => (None, at, ""),
        [source, at] => (Some(source), at, ""),
        [source, at, mode] => (Some(source), at, mode),
        _ => return Err(format!("{} has too many colons", shown(text))),
    };
    let mut read_only = false;
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => {
                return Err(format!(
                    "has the option {}; there are `ro` and `rw`",
                    shown(other)
                ));
            }
        }
    }
    let source = match source {
        None => MountSource::Anonymous,
        Some(source) => named_or_bound(source)?,
    };
    Ok((target(at)?, Mount { source, read_only }))
}

fn named_or_bound(source: &str) -> Result<MountSource, String> {
    if source.starts_with('/') {
        return absolute(source).map(MountSource::Bind);
    }
    if source.starts_with(['.', '~']) || source.contains('/') {
        return Err(format!(
            "{} is a relative path, which a node cannot resolve; give an absolute path of the node, a volume, or a config",
            shown(source)
        ));
    }
    if !is_name(source) {
        return Err(format!(
            "{} is neither a path nor a volume's name",
            shown(source)
        ));
    }
    Ok(MountSource::Volume(source.to_owned()))
}

fn short_tmpfs(text: &str) -> Result<(String, Mount), String> {
    let (at, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size_bytes, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => size_bytes = Some(quantity::bytes(size)?),
            Some(("mode", bits)) => mode = Some(mode_bits(bits)?),
            None if option == "ro" => read_only = true,
            None if option == "rw" => read_only = false,
            Some(_) | None => {
                return Err(format!(
                    "has the option {}; there are `size`, `mode`, `ro` and `rw`",
                    shown(option)
                ));
            }
        }
    }
    let source = MountSource::Tmpfs { size_bytes, mode };
    Ok((target(at)?, Mount { source, read_only }))
}

/// Mode bits, which are always octal: `0440`, `440`, `0o440`.
pub(super) fn mode_bits(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|bits| *bits <= 0o7777 && !digits.starts_with('+'))
        .ok_or_else(|| format!("{} are no mode bits such as `0440`", shown(text)))
}

fn long(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<(String, Mount)> {
    let mut table = reader.table(item)?;
    let kind = reader.require(&mut table, "type");
    let kind = kind.and_then(|item| reader.parsed(&item, mount_kind));
    let at = reader.require(&mut table, "target");
    let at = at.and_then(|item| reader.parsed(&item, target));
    let read_only = reader.take_flag(&mut table, "read_only");
    let source = match kind {
        Some(MountKind::Bind) => bound(reader, &mut table),
        Some(MountKind::Volume) => volume(reader, &mut table),
        Some(MountKind::Tmpfs) => memory(reader, &mut table),
        // Said already; what belongs to a kind is not looked at.
        None => return None,
    };
    reader.finish(table, key::MOUNT);
    Some((
        at?,
        Mount {
            source: source?,
            read_only,
        },
    ))
}

enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

fn mount_kind(text: &str) -> Result<MountKind, String> {
    match text {
        "bind" => Ok(MountKind::Bind),
        "volume" => Ok(MountKind::Volume),
        "tmpfs" => Ok(MountKind::Tmpfs),
        other => Err(format!(
            "{} is none of bind, volume and tmpfs",
            shown(other)
        )),
    }
}

fn bound(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<MountSource> {
    options(reader, table, "bind", key::BIND);
    let source = reader.require(table, "source")?;
    let source = reader.parsed(&source, |path| {
        if path.starts_with('/') {
            absolute(path)
        } else {
            Err(format!(
                "{} is a relative path, which a node cannot resolve; give an absolute path of the node",
                shown(path)
            ))
        }
    })?;
    Some(MountSource::Bind(source))
}

fn volume(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<MountSource> {
    options(reader, table, "volume", key::VOLUME_OF_MOUNT);
    let Some(source) = table.take("source") else {
        return Some(MountSource::Anonymous);
    };
    let name = reader.parsed(&source, |name| {
        if is_name(name) {
            Ok(name.to_owned())
        } else {
            Err(format!("{} is no volume's name", shown(name)))
        }
    })?;
    Some(MountSource::Volume(name))
}

fn memory(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<MountSource> {
    let (mut size_bytes, mut mode) = (None, None);
    if let Some(item) = table.take("tmpfs") {
        let mut options = reader.table(&item)?;
        size_bytes = reader.take_parsed(&mut options, "size", quantity::bytes);
        mode = reader.take_parsed(&mut options, "mode", mode_bits);
        reader.finish(options, &[]);
    }
    Some(MountSource::Tmpfs { size_bytes, mode })
}

/// The options of a kind of mount, of which none is supported.
fn options(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    kind: &'static str,
    reasons: &[(&str, &str)],
) {
    if let Some(item) = table.take(kind)
        && let Some(options) = reader.table(&item)
    {
        reader.finish(options, reasons);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<String, String> {
        let (target, mount) = short(text)?;
        Ok(format!("{target} {:?} {}", mount.source, mount.read_only))
    }

    #[test]
    fn short_volumes_are_read() {
        for (text, expected) in [
            ("/data", "/data Anonymous false"),
            ("db:/data", "/data Volume(\"db\") false"),
            ("db:/data/:ro", "/data Volume(\"db\") true"),
            ("/srv//web/./:/www:rw", "/www Bind(\"/srv/web\") false"),
        ] {
            assert_eq!(check(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn paths_that_a_node_cannot_take_are_refused() {
        for (text, expected) in [
            ("./web:/www", "relative path"),
            ("../web:/www", "relative path"),
            ("~/web:/www", "relative path"),
            ("a/b:/www", "relative path"),
            ("/srv/../etc:/www", "without `..`"),
            ("db:data", "absolute"),
            ("db:/data/../..", "without `..`"),
            ("db:/", "the container itself"),
            ("DB:/data", "neither a path"),
            ("db:/data:z", "`ro` and `rw`"),
            ("a:b:c:d", "colons"),
            ("", "absolute"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn tmpfs_options_are_read() {
        let (target, mount) = short_tmpfs("/run:size=64m,mode=1777,ro").unwrap();
        assert_eq!(target, "/run");
        assert!(mount.read_only);
        let expected = MountSource::Tmpfs {
            size_bytes: Some(64 << 20),
            mode: Some(0o1777),
        };
        assert_eq!(mount.source, expected);
        assert!(short_tmpfs("/run:noexec").is_err());
        assert!(mode_bits("0o440") == Ok(0o440) && mode_bits("888").is_err());
        assert!(mode_bits("17777").is_err() && mode_bits("+1").is_err());
    }
}
