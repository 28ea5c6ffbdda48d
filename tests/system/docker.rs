//! Containers, with a real Docker engine: they are measured, and their logs read.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::agent::Agent;
use harness::controller::Plan;
use harness::{servers, wait};

use crate::fleet;

fn docker(socket: &Path, arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A container that prints its name once a second. Removed when dropped.
struct Talker<'a> {
    socket: &'a Path,
    name: String,
}

impl Talker<'_> {
    fn start(socket: &Path) -> Talker<'_> {
        let name = format!("flotilla-talker-{}", std::process::id());
        let image = format!("{name}-image");
        let imported = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "tar -C /bin -cf - busybox | docker -H unix://{} import - {image}",
                socket.display()
            ))
            .status();
        assert!(imported.is_ok_and(|status| status.success()));
        let script = "while true; do echo the talker talks; /busybox sleep 1; done";
        docker(
            socket,
            &[
                "run",
                "-d",
                "--network",
                "none",
                "--name",
                &name,
                &image,
                "/busybox",
                "sh",
                "-c",
                script,
            ],
        );
        Talker { socket, name }
    }
}

impl Drop for Talker<'_> {
    fn drop(&mut self) {
        let _gone = Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .args(["rm", "-f", &self.name])
            .output();
    }
}

#[test]
fn containers_are_measured_and_their_logs_are_read() {
    let Some(socket) = servers::docker() else {
        return;
    };
    let talker = Talker::start(&socket);
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("ship").joined(&fleet::token(&cli));
    agent.configure(&format!(
        "[docker]\nsocket = {:?}\n\n[sampling]\ninterval = \"1s\"\nframe = \"2s\"\n",
        socket.display().to_string()
    ));
    agent.start();
    fleet::await_up(&cli, "ship");

    let logs = cli.ok(&["logs", "ship", "--container", &talker.name, "-n", "5"]);
    assert!(logs.contains("the talker talks"), "{logs}");
    let unknown = fleet::issue(&cli, &["logs", "ship", "--container", "nobody"]);
    let target = fleet::outcome(&cli, &unknown);
    assert_ne!(target["state"], "succeeded", "{target}");

    wait::until_true("the container's series", Duration::from_secs(60), || {
        cli.json(&["metrics", "ship"])
            .to_string()
            .contains(&talker.name)
    });
}
