//! The next release of the agent, for tests: the real agent under the version that the
//! file `VERSION` beside it says, and with the fault that a file `FAULT` names.

use std::env;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use agent::domain::update::record::Phase;
use agent::update::layout::Layout;

fn beside(program: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(program.with_file_name(name)).ok()?;
    Some(text.trim().to_owned())
}

fn main() -> ExitCode {
    let program = env::current_exe().expect("a process knows its own file");
    if let Some(version) = beside(&program, "VERSION") {
        agent::program::set_version(&version);
    }
    let arguments: Vec<String> = env::args().collect();
    let runs = arguments.iter().any(|word| word == "run");
    let fault = beside(&program, "FAULT").filter(|_| runs);
    match fault.as_deref() {
        None => {}
        Some("crash") => return ExitCode::FAILURE,
        Some("exit-78") => return ExitCode::from(78),
        Some("never-ready") => forever(),
        Some("hang") => {
            notify("READY=1");
            forever();
        }
        Some("never-confirm") => loop {
            notify("READY=1\nWATCHDOG=1");
            rest(Duration::from_millis(200));
        },
        Some("die-after-confirm") => die_once_proven(&state_dir(&arguments)),
        Some(other) => panic!("no fault is called {other:?}"),
    }
    agent::cli::main()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program that hangs, on purpose"
)]
fn rest(pause: Duration) {
    thread::sleep(pause);
}

fn forever() -> ! {
    loop {
        rest(Duration::from_secs(1));
    }
}

fn notify(text: &str) {
    if let Some(socket) = env::var_os("NOTIFY_SOCKET")
        && let Ok(sender) = UnixDatagram::unbound()
    {
        let _nobody_hears = sender.send_to(text.as_bytes(), socket);
    }
}

fn state_dir(arguments: &[String]) -> PathBuf {
    let flag = arguments.iter().position(|word| word == "--state-dir");
    let given = flag.and_then(|at| arguments.get(at + 1));
    PathBuf::from(given.map_or("/var/lib/flotilla-agent", String::as_str))
}

#[expect(clippy::exit, reason = "a program that dies, on purpose")]
fn die() -> ! {
    std::process::exit(1);
}

fn die_once_proven(state: &Path) {
    let layout = Layout::below(state);
    thread::spawn(move || {
        loop {
            let record = layout.record().ok().flatten();
            if record.is_some_and(|record| record.phase == Phase::Proven) {
                // So that its result is on its way.
                rest(Duration::from_secs(2));
                die();
            }
            rest(Duration::from_millis(100));
        }
    });
}
