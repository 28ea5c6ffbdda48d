//! A Docker engine of a test's own, in a network of its own, and a registry beside
//! it: to be stopped and started again without anyone else noticing.
//!
//! The engine has bridge networks and published ports, since its iptables rules are
//! those of its own network namespace. It gives `None`, and says so, where it
//! cannot be started; `FLOTILLA_REQUIRE_ALL` makes that a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::servers::{program, skipped};
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(40);

/// The engine.
pub struct Engine {
    folder: TempDir,
    /// Keeps the network namespace while the engine is stopped.
    holder: Process,
    dockerd: Option<Process>,
}

impl Engine {
    /// Starts one.
    ///
    /// # Panics
    /// When it is installed, root asks, and it does not start.
    pub fn start() -> Option<Engine> {
        program("dockerd")?;
        program("docker")?;
        if !rustix::process::geteuid().is_root() {
            skipped("a Docker engine", "it can be started by root alone");
            return None;
        }
        let folder = TempDir::new().expect("the temporary folder is writable");
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-ec", "ip link set lo up; exec sleep 3600"]);
        let holder = Process::start("network", &mut command, &folder.path().join("network.log"));
        fs::write(folder.path().join("daemon.json"), "{}").expect("a fresh folder is writable");
        let mut engine = Engine {
            folder,
            holder,
            dockerd: None,
        };
        engine.run();
        Some(engine)
    }

    /// The engine's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// A folder that lives as long as the engine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command that runs in the engine's network.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--net",
            "--target",
            &self.holder.id().to_string(),
            "--",
            program,
        ]);
        command
    }

    /// Starts the engine again.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn run(&mut self) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let _stale = fs::remove_file(self.folder.path().join("pid"));
        let mut command = self.inside("dockerd");
        command.args([
            "--config-file",
            &at("daemon.json"),
            "--data-root",
            &at("data"),
        ]);
        command.args(["--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["--host", &format!("unix://{}", at("docker.sock"))]);
        command.args(["--ip6tables=false", "--shutdown-timeout", "5"]);
        let log = self.folder.path().join("dockerd.log");
        self.dockerd = Some(Process::start("dockerd", &mut command, &log));
        wait::until_true("the engine answers", START_LIMIT, || {
            self.try_docker(&["version"]).is_some()
        });
    }

    /// Stops the engine as an update of its package does.
    pub fn stop(&mut self) {
        if let Some(mut dockerd) = self.dockerd.take() {
            let _ended = dockerd.terminate();
        }
    }

    /// What `docker` says, or none when it failed.
    pub fn try_docker(&self, words: &[&str]) -> Option<String> {
        let ran = Command::new("docker")
            .args(words)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
        ran.status.success().then_some(text)
    }

    /// What `docker` says.
    ///
    /// # Panics
    /// When it fails.
    pub fn docker(&self, words: &[&str]) -> String {
        self.try_docker(words)
            .unwrap_or_else(|| panic!("docker {} failed", words.join(" ")))
    }

    /// Makes an image that holds busybox and nothing else.
    ///
    /// # Panics
    /// When there is no static busybox.
    pub fn image(&self, name: &str, script: &str) {
        let script = script.replace('"', "\\\"");
        let change = format!("CMD [\"/busybox\", \"sh\", \"-c\", \"{script}\"]");
        let made = Command::new("sh")
            .args([
                "-ec",
                "tar -C /bin -cf - busybox | docker import -c \"$1\" - \"$2\"",
            ])
            .args(["sh", &change, name])
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .output()
            .expect("sh can be started");
        assert!(made.status.success(), "{name}: {made:?}");
    }

    /// Starts a registry on a port of the engine's loopback.
    ///
    /// # Panics
    /// When it is installed and does not listen.
    pub fn registry(&self, port: u16) -> Option<Process> {
        program("docker-registry")?;
        let config = self.folder.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            self.folder.path().join("registry").display()
        );
        fs::write(&config, text).expect("a fresh folder is writable");
        let mut command = self.inside("docker-registry");
        command.arg("serve").arg(&config);
        let log = self.folder.path().join("registry.log");
        let registry = Process::start("docker-registry", &mut command, &log);
        let address = format!("http://127.0.0.1:{port}/v2/");
        wait::until_true("the registry listens", START_LIMIT, || {
            let asked = self
                .inside("/bin/busybox")
                .args(["wget", "-qO-", &address])
                .output();
            asked.is_ok_and(|asked| asked.status.success())
        });
        Some(registry)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(ids) = self.try_docker(&["ps", "-aq"]) {
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                let _removed = self.try_docker(&[&["rm", "-f"], &ids[..]].concat());
            }
        }
        self.stop();
        // What containers left mounted would keep the folder.
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let below = format!("{}/", self.folder.path().display());
        let mut mounted: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|at| at.starts_with(&below))
            .collect();
        mounted.sort_unstable();
        for at in mounted.iter().rev() {
            let _unmounted = Command::new("umount").args(["-l", at]).output();
        }
    }
}
