//! A Debian of a test's own, booted by systemd in a container and a network of its
//! own, with the packages to install lying in it.
//!
//! `tests/run` makes the root (`FLOTILLA_TEST_ROOT`, a tar) and the packages
//! (`FLOTILLA_TEST_PACKAGES`, a folder). Where they are missing there is `None`, and
//! `FLOTILLA_REQUIRE_ALL` makes that a failure. Dropping it ends everything in it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Process, children, children_named, signal};
use crate::servers::{program, skipped};
use crate::wait;

const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Where the packages lie inside.
const PACKAGES: &str = "/packages";

/// A booted Debian.
pub struct Debian {
    folder: TempDir,
    container: Process,
}

impl Debian {
    /// Boots one.
    ///
    /// # Panics
    /// When there is everything that it needs and it does not boot.
    pub fn boot() -> Option<Debian> {
        let tar = base()?;
        let packages = packages()?;
        program("systemd-nspawn")?;
        let folder = TempDir::new().expect("the temporary folder is writable");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("a fresh folder is writable");
        let mut unpack = Command::new("tar");
        done(unpack.arg("-xf").arg(tar).arg("-C").arg(&root));
        let mut copy = Command::new("cp");
        done(copy.arg("-r").arg(packages).arg(root.join("packages")));
        fs::write(root.join("etc/hostname"), "node-1\n").expect("the root is writable");
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost node-1\n")
            .expect("the root is writable");
        let container = start(&root, &folder.path().join("console"));
        let mut debian = Debian { folder, container };
        debian.wait_booted();
        Some(debian)
    }

    /// The root, as seen from outside.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Runs a shell script inside, stopping at the first failure.
    pub fn try_run(&self, script: &str) -> Output {
        let leader = self.leader().expect("the container runs");
        Command::new("nsenter")
            .args(["--target", &leader.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid"])
            .args(["--root", "--wd", "--", "sh", "-ec", script])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .output()
            .expect("nsenter can be started")
    }

    /// What a script says.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {text}\n{errors}");
        text
    }

    /// Installs a package, by the beginning of its file's name.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn install(&self, package: &str) {
        self.run(&format!("dpkg -i {PACKAGES}/{package}_*.deb 2>&1"));
    }

    /// Installs a package for rpm, by the beginning of its file's name. What it needs
    /// of others is not looked at, since this is a Debian.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn install_rpm(&self, package: &str) {
        self.run(&format!(
            "rpm --force-debian --nodeps -i {PACKAGES}/{package}-[0-9]*.rpm 2>&1"
        ));
    }

    /// A property of a unit, as `systemctl show` gives it.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --value -p {name} {unit}"))
    }

    /// Restarts the whole of it, in order.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn reboot(&mut self) {
        self.run("systemctl reboot");
        // What supervises a container is to start it again; that is this test.
        let _asks_for_another_start = self.container.ended(BOOT_LIMIT);
        self.container = start(&self.root(), &self.folder.path().join("console"));
        self.wait_booted();
    }

    fn wait_booted(&mut self) {
        let booted = wait::within(BOOT_LIMIT, || {
            self.leader()?;
            let said = self.try_run("systemctl is-system-running");
            let state = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            matches!(state.as_str(), "running" | "degraded").then_some(())
        });
        assert!(booted.is_some(), "no boot\n{}", self.container.tail());
    }

    /// Process 1 of the container.
    fn leader(&self) -> Option<u32> {
        let nspawn = children_named(self.container.id(), "systemd-nspawn");
        let above = nspawn.first().copied().unwrap_or(self.container.id());
        children(above).into_iter().find(|child| {
            fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|name| name.trim() == "systemd")
        })
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // With process 1 everything inside ends, and the container's own process
        // follows and cleans up.
        if let Some(leader) = self.leader() {
            signal(leader, rustix::process::Signal::KILL);
        }
        let _gone = wait::within(Duration::from_secs(10), || {
            (!self.container.runs()).then_some(())
        });
    }
}

fn start(root: &Path, console: &Path) -> Process {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-ec", "ip link set lo up; exec \"$@\"", "sh"]);
    command.arg("systemd-nspawn").arg("--directory").arg(root);
    command.args(["--boot", "--register=no", "--keep-unit", "--console=pipe"]);
    // A name of its own, for several at the same time.
    let name = root.parent().and_then(Path::file_name).unwrap_or_default();
    let name: String = name
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    command.arg(format!("--machine=flotilla-{name}"));
    Process::start("debian", &mut command, console)
}

/// A tar of the Debian that is booted.
pub fn base() -> Option<PathBuf> {
    given("FLOTILLA_TEST_ROOT")
}

/// The folder with the packages.
pub fn packages() -> Option<PathBuf> {
    given("FLOTILLA_TEST_PACKAGES")
}

fn given(variable: &str) -> Option<PathBuf> {
    let path = env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        skipped(
            "a booted Debian",
            &format!("{variable} is not set (tests/run makes it)"),
        );
    }
    path
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().expect("a basic tool can be started");
    assert!(output.status.success(), "{command:?}: {output:?}");
}
