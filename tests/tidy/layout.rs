//! The rules of the layout: the top level that the project's user fixed, the
//! documents that must exist, and shell scripts that can be run.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::source::{none, paths, root, texts};

#[test]
fn the_top_level_is_as_it_was_fixed() {
    let fixed: BTreeSet<&str> = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE",
        "cross.toml",
        "agent",
        "controller",
        "protocol",
        "packaging",
        "systemd",
        "tests",
    ]
    .into();
    let broken: BTreeSet<String> = paths()
        .iter()
        .filter_map(|path| path.split('/').next())
        .filter(|top| !top.starts_with('.') && !fixed.contains(top))
        .map(str::to_owned)
        .collect();
    none(
        "the visible top level is fixed",
        &broken.into_iter().collect::<Vec<_>>(),
    );
}

#[test]
fn the_workspace_has_these_members() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    let manifest: toml::Table = manifest.parse().expect("the manifest is TOML");
    let members: Vec<&str> = manifest["workspace"]["members"]
        .as_array()
        .expect("members is an array")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    assert_eq!(
        members,
        ["agent", "controller", "packaging", "protocol", "tests"]
    );
}

#[test]
fn every_package_takes_versions_and_lints_from_the_workspace() {
    let mut broken = Vec::new();
    for source in texts(|p| p.ends_with("/Cargo.toml")) {
        let manifest: toml::Table = source.text.parse().expect("a manifest is TOML");
        let inherits = manifest
            .get("lints")
            .and_then(|l| l.get("workspace"))
            .and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            broken.push(format!("{}: [lints] workspace = true", source.path));
        }
        for table in ["dependencies", "dev-dependencies"] {
            let Some(entries) = manifest.get(table).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, value) in entries {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    broken.push(format!("{}: {name} has a version of its own", source.path));
                }
            }
        }
    }
    none("one place for versions and lints", &broken);
}

#[test]
fn scripts_can_be_run() {
    let broken: Vec<String> = [
        ".ci/run",
        "packaging/arm",
        "packaging/build",
        "packaging/release",
        "packaging/tar/install.sh",
        "packaging/tool",
        "tests/run",
    ]
    .into_iter()
    .filter(|path| {
        let mode = fs::metadata(root().join(path)).map(|m| m.permissions().mode());
        !mode.is_ok_and(|mode| mode & 0o111 == 0o111)
    })
    .map(str::to_owned)
    .collect();
    none("scripts have their run bit", &broken);
}

#[test]
fn the_cross_file_says_how_it_is_used() {
    let text = fs::read_to_string(root().join("cross.toml")).expect("cross.toml");
    let first = text.lines().next().unwrap_or_default();
    assert!(first.contains("CROSS_CONFIG=cross.toml"), "{first}");
}

#[test]
fn packages_have_the_licences_that_may_be_in_the_tree() {
    let list = |file: &str, path: &[&str]| {
        let text = fs::read_to_string(root().join(file)).expect("the file is there");
        let table: toml::Table = text.parse().expect("it is TOML");
        let mut value = &toml::Value::Table(table);
        for key in path {
            value = &value[key];
        }
        value.clone()
    };
    assert_eq!(
        list("packaging/about.toml", &["accepted"]),
        list(".deny.toml", &["licenses", "allow"])
    );
}
