//! A Docker engine of a test's own, in a network of its own, and a registry beside
//! it: to be stopped and started again without anyone else noticing. Or a Podman
//! that speaks the same interface.
//!
//! The engine has bridge networks and published ports, since its iptables rules are
//! those of its own network namespace. It gives `None`, and says so, where it
//! cannot be started; `FLOTILLA_REQUIRE_ALL` makes that a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::disk::SmallDisk;
use crate::process::Process;
use crate::servers::{program, skipped};
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(40);

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Docker,
    /// With cgroup v2, whatever the host has: in mounts of its own.
    DockerOnCgroup2,
    Podman,
}

/// The engine.
pub struct Engine {
    kind: Kind,
    folder: TempDir,
    /// Where it keeps images and containers.
    data: PathBuf,
    /// Keeps the network namespace while the engine is stopped.
    holder: Process,
    server: Option<Process>,
}

impl Engine {
    /// Starts a Docker engine.
    ///
    /// # Panics
    /// When it is installed, root asks, and it does not start.
    pub fn start() -> Option<Engine> {
        program("dockerd")?;
        Engine::of(Kind::Docker, None)
    }

    /// Starts a Docker engine that keeps images and containers on another disk,
    /// which must outlive it.
    ///
    /// # Panics
    /// When it is installed, root asks, and it does not start.
    pub fn start_on(disk: &SmallDisk) -> Option<Engine> {
        program("dockerd")?;
        Engine::of(Kind::Docker, Some(disk.path()))
    }

    /// Starts a Docker engine that finds cgroup v2 where it looks for cgroups. It has
    /// the controllers that the host does not use with v1, which may be none.
    ///
    /// # Panics
    /// When it is installed, root asks, and it does not start.
    pub fn start_on_cgroup2() -> Option<Engine> {
        program("dockerd")?;
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.contains("cgroup2") {
            skipped("an engine on cgroup v2", "the kernel has no cgroup v2");
            return None;
        }
        Engine::of(Kind::DockerOnCgroup2, None)
    }

    /// Starts a Podman that serves Docker's interface.
    ///
    /// # Panics
    /// When it is installed, root asks, and it does not start.
    pub fn podman() -> Option<Engine> {
        program("podman")?;
        Engine::of(Kind::Podman, None)
    }

    fn of(kind: Kind, disk: Option<&Path>) -> Option<Engine> {
        program("docker")?;
        if !rustix::process::geteuid().is_root() {
            skipped("a container engine", "it can be started by root alone");
            return None;
        }
        let folder = TempDir::new().expect("the temporary folder is writable");
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-ec", "ip link set lo up; exec sleep 3600"]);
        let holder = Process::start("network", &mut command, &folder.path().join("network.log"));
        // Entered before it has one of its own, it would lead to everybody's.
        let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
        wait::until_true("there is a network", START_LIMIT, || {
            let own = network(&holder.id().to_string());
            own.is_some() && own != network("self")
        });
        for (name, text) in [
            ("daemon.json", "{}".to_owned()),
            ("containers.conf", containers_conf(folder.path())),
        ] {
            fs::write(folder.path().join(name), text).expect("a fresh folder is writable");
        }
        let data = disk.unwrap_or(folder.path()).join("data");
        let mut engine = Engine {
            kind,
            data,
            folder,
            holder,
            server: None,
        };
        engine.run();
        Some(engine)
    }

    /// The engine's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// The engine's process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.server.as_ref().map(Process::id)
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
        let host = format!("unix://{}", at("docker.sock"));
        let (name, mut command) = match self.kind {
            Kind::Docker => ("dockerd", self.inside("dockerd")),
            Kind::DockerOnCgroup2 => {
                let mut command = self.inside("unshare");
                let script = "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; \
                              exec dockerd \"$@\"";
                command.args(["--mount", "sh", "-ec", script, "sh"]);
                ("dockerd", command)
            }
            Kind::Podman => ("podman", self.inside("podman")),
        };
        match self.kind {
            Kind::Docker | Kind::DockerOnCgroup2 => {
                let _stale = fs::remove_file(self.folder.path().join("pid"));
                let (config, data) = (at("daemon.json"), self.data.display().to_string());
                command.args(["--config-file", &config, "--data-root", &data]);
                command.args(["--exec-root", &at("exec"), "--pidfile", &at("pid")]);
                command.args(["--host", &host]);
                command.args(["--ip6tables=false", "--shutdown-timeout", "5"]);
            }
            Kind::Podman => {
                command.env("CONTAINERS_CONF", at("containers.conf"));
                command.args(["--root", &self.data.display().to_string()]);
                command.args(["--runroot", &at("run")]);
                command.args(["--tmpdir", &at("tmp"), "--storage-driver", "overlay"]);
                command.args(["system", "service", "--time=0", &host]);
            }
        }
        let log = self.folder.path().join(format!("{name}.log"));
        self.server = Some(Process::start(name, &mut command, &log));
        wait::until_true("the engine answers", START_LIMIT, || {
            self.try_docker(&["version"]).is_some()
        });
    }

    /// Stops the engine as an update of its package does.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ended = server.terminate();
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
        self.image_with(name, script, 0);
    }

    /// Makes an image that holds busybox and so many MiB that cannot be compressed.
    ///
    /// # Panics
    /// When there is no static busybox.
    pub fn image_with(&self, name: &str, script: &str, mebibytes: u32) {
        let script = script.replace('"', "\\\"");
        let change = format!("CMD [\"/busybox\", \"sh\", \"-c\", \"{script}\"]");
        let made = Command::new("sh")
            .args([
                "-ec",
                "head -c \"$3\" /dev/urandom > \"$4\"; \
                 tar -cf - -C /bin busybox -C \"${4%/*}\" ballast | docker import -c \"$1\" - \"$2\"",
            ])
            .args(["sh", &change, name, &format!("{mebibytes}M")])
            .arg(self.folder.path().join("ballast"))
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

/// Podman's configuration: everything below the folder, and limits that whoever runs
/// the test may give away.
fn containers_conf(folder: &Path) -> String {
    format!(
        "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         [network]\nnetwork_config_dir = {:?}\n",
        folder.join("networks")
    )
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
