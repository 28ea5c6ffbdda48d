//! What program this is: the version that it says of itself everywhere, and the
//! target that it was built for.

use std::sync::OnceLock;

static VERSION: OnceLock<String> = OnceLock::new();

/// The version (semver).
#[must_use]
pub fn version() -> &'static str {
    VERSION.get_or_init(|| env!("CARGO_PKG_VERSION").to_owned())
}

/// Names another version, for programs that are made of this library: tests play the
/// next release with it. False when the version was asked for before.
pub fn set_version(version: &str) -> bool {
    VERSION.set(version.to_owned()).is_ok()
}

/// The target triple, by which a release names its archives.
#[must_use]
pub fn target() -> &'static str {
    if cfg!(all(target_arch = "x86_64", target_env = "musl")) {
        "x86_64-unknown-linux-musl"
    } else if cfg!(target_arch = "x86_64") {
        "x86_64-unknown-linux-gnu"
    } else if cfg!(all(target_arch = "aarch64", target_env = "musl")) {
        "aarch64-unknown-linux-musl"
    } else if cfg!(target_arch = "aarch64") {
        "aarch64-unknown-linux-gnu"
    } else if cfg!(all(target_arch = "arm", target_env = "musl")) {
        "armv7-unknown-linux-musleabihf"
    } else if cfg!(target_arch = "arm") {
        "armv7-unknown-linux-gnueabihf"
    } else {
        std::env::consts::ARCH
    }
}
