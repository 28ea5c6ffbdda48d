//! The packages, installed on a Debian that systemd boots: the first start, what
//! systemd does about a program that dies or hangs, reboots, upgrades, and what is
//! left after a purge.

use std::path::Path;
use std::time::Duration;

use harness::debian::Debian;
use harness::release::Maker;
use harness::wait;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(60);

/// systemd waits this long for a sign of life in these tests.
const HASTE: &str = "[Service]\nWatchdogSec=10s\nTimeoutAbortSec=1s\nRestartSec=1s\n";

/// Installs a package of the controller and starts it; its operator is root.
fn controller(debian: &Debian, package: &str) {
    debian.install(package);
    start_controller(debian);
}

fn start_controller(debian: &Debian) {
    start_controller_again(debian);
    debian.run(
        "mkdir -p ~/.config/flotilla
         cp /var/lib/flotilla/admin-profile.toml ~/.config/flotilla/profile.toml",
    );
}

/// Starts a controller whose operator has a profile already.
fn start_controller_again(debian: &Debian) {
    debian.run(
        "sed -i 's/^#advertise = \"fleet.*/advertise = \"127.0.0.1:8443\"/; \
                s/^#names = .*/names = [\"127.0.0.1\"]/' /etc/flotilla/controller.toml
         systemctl start flotilla-controller",
    );
}

/// Installs a package of the agent, joins and starts it.
fn agent(debian: &Debian, package: &str) {
    debian.install(package);
    join(debian);
}

fn join(debian: &Debian) {
    debian.run(
        "flotilla token create --expires 1h -o json | grep -o 'flj1_[^\"]*' > /run/token
         flotilla-agent join --token-file /run/token
         systemctl start flotilla-agent",
    );
    wait_up(debian);
}

#[track_caller]
fn wait_up(debian: &Debian) {
    wait::until_true("the node is up", WITHIN, || {
        let listed = debian.try_run("flotilla node list -o json");
        String::from_utf8_lossy(&listed.stdout).contains("\"up\"")
            && debian.property("flotilla-agent", "StatusText") == "link up"
    });
}

/// Hurries systemd, for a unit.
fn hasten(debian: &Debian, unit: &str) {
    debian.run(&format!(
        "mkdir -p /etc/systemd/system/{unit}.service.d
         printf '{HASTE}' > /etc/systemd/system/{unit}.service.d/haste.conf
         systemctl daemon-reload
         systemctl restart {unit}"
    ));
}

#[track_caller]
fn wait_another(debian: &Debian, unit: &str, before: &str) {
    wait::until_true("systemd has started it again", WITHIN, || {
        debian.property(unit, "MainPID") != before
            && debian.property(unit, "ActiveState") == "active"
    });
}

#[test]
fn boot_runs_both_services_through_death_hanging_and_a_reboot() {
    let Some(mut debian) = Debian::boot() else {
        return;
    };
    controller(&debian, "flotilla-controller");
    agent(&debian, "flotilla-agent");

    // A journal entry is found by the command that it is about.
    let ran = debian.run("flotilla run node-1 -- uname -s");
    assert_eq!(ran, "Linux");
    let commands = debian.run("journalctl -u flotilla-agent -F FLOTILLA_COMMAND");
    let command = commands.lines().next().expect("the run is in the journal");
    let entries = debian.run(&format!(
        "journalctl -q -u flotilla-agent FLOTILLA_COMMAND={command} -o cat"
    ));
    assert!(entries.contains("command ended"), "{entries}");
    // The node's journal is read from afar.
    let logs = debian.run("flotilla logs node-1 --unit flotilla-agent -n 50");
    assert!(logs.contains("the link to the controller is up"), "{logs}");
    // systemd does what the sandboxed agent asks of it, where the node allows that.
    debian.run(
        "sed -i 's/^#units = .*/units = [\"systemd-logind.service\"]/' /etc/flotilla/agent.toml
         systemctl reload flotilla-agent; sleep 1",
    );
    let before = debian.property("systemd-logind", "MainPID");
    debian.run("flotilla service restart systemd-logind node-1");
    assert_ne!(before, debian.property("systemd-logind", "MainPID"));

    for unit in ["flotilla-agent", "flotilla-controller"] {
        hasten(&debian, unit);
        for signal in ["KILL", "STOP"] {
            let before = debian.property(unit, "MainPID");
            debian.run(&format!("kill -{signal} {before}"));
            wait_another(&debian, unit, &before);
        }
        let journal = debian.run(&format!("journalctl -q -u {unit} -o cat"));
        assert!(journal.contains("Watchdog timeout"), "{journal}");
    }
    wait_up(&debian);

    debian.reboot();
    wait_up(&debian);
    assert_eq!(debian.property("flotilla-agent", "NRestarts"), "0");
    debian.run("flotilla audit export --to /run/trail && flotilla audit verify /run/trail");
}

/// An agent with the feature `journal` reads what journalctl reads, without it.
#[test]
fn boot_reads_a_units_journal_through_its_library() {
    let Some(debian) = Debian::boot() else {
        return;
    };
    let Some(program) = std::env::var_os("FLOTILLA_TEST_JOURNAL_AGENT") else {
        harness::servers::skipped(
            "the journal through its library",
            "FLOTILLA_TEST_JOURNAL_AGENT is not set (tests/run builds it)",
        );
        return;
    };
    controller(&debian, "flotilla-controller");
    debian.install("flotilla-agent");
    std::fs::copy(program, debian.root().join("usr/bin/flotilla-agent")).unwrap();
    join(&debian);
    let say = |text: &str| {
        debian.run(&format!(
            "systemd-run -q --collect --unit=talker --wait sh -c 'printf \"{text}\" | logger --journald'"
        ));
    };
    say("MESSAGE=first");
    say("MESSAGE=second\\nMESSAGE=and more of it");
    // What systemd says of the unit is there, too.
    let expected = debian.run("journalctl -q --no-pager --utc -o short-iso -u talker -n 100");
    assert!(expected.lines().count() > 4, "{expected}");
    debian.run("mv /usr/bin/journalctl /usr/bin/journalctl.away");
    let logs = |asked: &str| debian.run(&format!("flotilla logs node-1 --unit {asked}"));
    assert_eq!(plain(&logs("talker -n 100")), plain(&expected));
    let last = plain(&expected).split_off(plain(&expected).len() - 1);
    assert_eq!(plain(&logs("talker -n 1")), last);
    assert_eq!(plain(&logs("talker -n 100 --since 1h")), plain(&expected));
    debian.run("sleep 3");
    assert_eq!(logs("talker -n 100 --since 1s"), "");
    assert_eq!(logs("nobody -n 100"), "");

    debian
        .run("(timeout 20 flotilla logs node-1 --unit talker -n 1 --follow >/run/followed 2>&1 &)");
    wait::until_true("it follows", WITHIN, || {
        let said = debian.run("cat /run/followed");
        if !said.contains("third") {
            say("MESSAGE=third");
        }
        said.contains("third")
    });
}

/// Lines without their times, which the two write differently, and what stands before
/// further lines, which is as long.
fn plain(lines: &str) -> Vec<String> {
    lines
        .lines()
        .map(|line| match line.strip_prefix(' ') {
            Some(more) => more.trim_start().to_owned(),
            None => line.split_once(' ').map_or("", |(_, rest)| rest).to_owned(),
        })
        .collect()
}

/// What the programs do is what their units let them do: nothing in the sandbox is
/// in the way of measuring.
#[test]
fn boot_measures_inside_the_sandbox_what_is_there_without_it() {
    let Some(debian) = Debian::boot() else {
        return;
    };
    controller(&debian, "flotilla-controller");
    agent(&debian, "flotilla-agent");
    let doctor = debian.try_run("flotilla-agent doctor");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains(" 0 failed"), "{doctor}");
    let inside = series(&debian);
    debian.run(
        "systemctl stop flotilla-agent
         systemd-run --unit=bare --property=Type=notify flotilla-agent run",
    );
    wait::until_true("it is up without a sandbox", WITHIN, || {
        debian.property("bare", "StatusText") == "link up"
    });
    assert_eq!(inside, series(&debian));
}

/// The names of all series of the node, with their labels.
fn series(debian: &Debian) -> Vec<String> {
    debian.run("sleep 25");
    let listed = debian.run("flotilla metrics node-1 -o json");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let mut names: Vec<String> = listed["values"]
        .as_array()
        .expect("a list of values")
        .iter()
        .map(|one| format!("{} {}", one["series"], one["of"]))
        .collect();
    names.sort();
    names
}

#[test]
fn boot_shows_what_is_wrong_with_a_configuration_and_does_not_try_again() {
    let Some(debian) = Debian::boot() else {
        return;
    };
    debian.install("flotilla-agent");
    debian.install("flotilla-controller");
    for (unit, file) in [
        ("flotilla-agent", "agent"),
        ("flotilla-controller", "controller"),
    ] {
        debian.run(&format!("echo 'coulour = 1' >> /etc/flotilla/{file}.toml"));
        assert!(
            !debian
                .try_run(&format!("systemctl start {unit}"))
                .status
                .success()
        );
        let status = debian.try_run(&format!("systemctl status --no-pager -n 20 {unit}"));
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(
            status.contains("coulour") && status.contains("78"),
            "{status}"
        );
        // Longer than RestartSec.
        debian.run("sleep 6");
        assert_eq!(debian.property(unit, "ActiveState"), "failed");
        assert_eq!(debian.property(unit, "NRestarts"), "0");
    }
}

#[test]
fn boot_upgrades_with_data_and_configuration_and_purges_everything() {
    let Some(debian) = Debian::boot() else {
        return;
    };
    let before = files(&debian);
    // The same programs under an older number: there is no older release yet.
    debian.run(
        "cd /packages; mkdir old
         for package in flotilla-*.deb; do
           dpkg-deb -R $package tree
           sed -i 's/^Version: .*/Version: 0.0.1-1/' tree/DEBIAN/control
           dpkg-deb -Znone -b tree old/$(echo $package | sed 's/_[^_]*_/_0.0.1-1_/') >/dev/null
           rm -r tree
         done",
    );
    controller(&debian, "old/flotilla-controller");
    agent(&debian, "old/flotilla-agent");
    debian.run("sed -i 's/^#interval = .*/interval = \"5s\"/' /etc/flotilla/agent.toml");
    let node = debian.run("flotilla node list -o json | grep '\"id\"'");
    let running = |unit: &str| debian.property(unit, "MainPID");
    let old = (running("flotilla-agent"), running("flotilla-controller"));

    debian.install("flotilla-agent");
    debian.install("flotilla-controller");
    for package in ["flotilla-agent", "flotilla-controller"] {
        papers(&debian, &format!("/usr/share/doc/{package}"));
    }
    assert_ne!(old.0, running("flotilla-agent"));
    assert_ne!(old.1, running("flotilla-controller"));
    wait_up(&debian);
    assert_eq!(
        node,
        debian.run("flotilla node list -o json | grep '\"id\"'")
    );
    debian.run("grep -qx 'interval = \"5s\"' /etc/flotilla/agent.toml");

    debian.run("dpkg --remove flotilla-agent flotilla-controller 2>&1");
    assert_eq!(debian.property("flotilla-agent", "ActiveState"), "inactive");
    debian.run("test -e /var/lib/flotilla/journal.redb && test -e /etc/flotilla/agent.toml");
    debian
        .run("dpkg --purge flotilla-agent flotilla-controller 2>&1; rm -r ~/.config /packages/old");
    let left: Vec<String> = files(&debian)
        .into_iter()
        .filter(|file| !before.contains(file))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    assert!(!debian.try_run("getent passwd flotilla").status.success());
}

/// What a program is made of, and under which licences, is beside it.
fn papers(debian: &Debian, folder: &str) {
    let sbom: Value = serde_json::from_str(&debian.run(&format!("cat {folder}/sbom.cdx.json")))
        .expect("the SBOM is JSON");
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    let components = sbom["components"].as_array().expect("it has components");
    for (name, its) in [("redb", true), ("insta", false)] {
        let listed = components.iter().any(|component| component["name"] == name);
        assert_eq!(listed, its, "{name}");
    }
    let licences = debian.run(&format!("cat {folder}/THIRD-PARTY-LICENSES"));
    assert!(licences.contains("  redb "), "each crate is named");
    assert!(licences.contains("Permission is hereby granted"));
}

/// Files and folders but for those that the package manager and systemd keep for
/// themselves.
fn files(debian: &Debian) -> Vec<String> {
    let found = debian.run(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp \
         -o -path /var/log -o -path /var/tmp -o -path /var/lib/systemd -o -path /var/cache \\) \
         -prune -o -print",
    );
    let own = [
        "/etc/.pwd.lock",
        "/var/lib/dpkg/",
        "/etc/passwd-",
        "/etc/group-",
        "/etc/shadow-",
        "/etc/gshadow-",
    ];
    found
        .lines()
        .filter(|path| !own.iter().any(|start| path.starts_with(start)))
        .map(str::to_owned)
        .collect()
}

/// The machine of the controller is lost: its backup is restored on another one, by
/// root, and the nodes come back with nobody touching them.
#[test]
fn boot_restores_a_backup_after_the_controller_was_lost_and_nodes_come_back() {
    let Some(debian) = Debian::boot() else {
        return;
    };
    controller(&debian, "flotilla-controller");
    agent(&debian, "flotilla-agent");
    let recipient = debian.run("flotilla backup key create ~/backup.key 2>/dev/null");
    let configure = || {
        debian.run(&format!(
            "sed -i 's/^#recipients = .*/recipients = [\"{recipient}\"]/' /etc/flotilla/controller.toml"
        ));
    };
    let unconfigured = debian.try_run("flotilla backup create --to ~/fleet.backup");
    let said = String::from_utf8_lossy(&unconfigured.stderr).into_owned();
    assert!(said.contains("backup.unconfigured"), "{said}");
    configure();
    debian.run("systemctl restart flotilla-controller");
    wait_up(&debian);
    debian.run("printf hunter2 | flotilla secret set db-password");
    debian.run("flotilla run node-1 -- uname -s");
    debian.run("flotilla backup create --to ~/fleet.backup");
    let node = debian.run("flotilla node list -o json | grep '\"id\"'");
    let verified = debian.run("flotilla backup verify ~/fleet.backup --key ~/backup.key");
    assert!(
        verified.contains("good") && verified.contains("1 nodes"),
        "{verified}"
    );

    let agent = debian.property("flotilla-agent", "MainPID");
    debian.run("dpkg --purge flotilla-controller 2>&1; test ! -e /var/lib/flotilla");
    debian.install("flotilla-controller");
    configure();
    debian.run("flotilla backup restore ~/fleet.backup --key ~/backup.key");
    start_controller_again(&debian);
    wait_up(&debian);
    assert_eq!(agent, debian.property("flotilla-agent", "MainPID"));
    assert_eq!(
        node,
        debian.run("flotilla node list -o json | grep '\"id\"'"),
        "the same node comes back"
    );
    assert_eq!(debian.run("flotilla run node-1 -- uname -s"), "Linux");
    assert!(debian.run("flotilla secret list").contains("db-password"));
    let strangers = debian.run("find /var/lib/flotilla ! -user flotilla");
    assert_eq!(strangers, "", "all of it is the controller's own user's");
    let trail = debian.run("flotilla audit tail -n 20");
    assert!(
        trail.contains("backup.made") && trail.contains("incarnation"),
        "{trail}"
    );
    debian.run("flotilla audit export --to /run/trail && flotilla audit verify /run/trail");
}

/// The units as systemd judges them (0 is closed, 10 open), so that a relaxation is
/// seen by whoever makes it.
#[test]
fn boot_units_are_as_closed_as_they_were() {
    if harness::servers::program("systemd-analyze").is_none() {
        return;
    }
    for (unit, most) in [("flotilla-agent", 2.4), ("flotilla-controller", 1.5)] {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../systemd/{unit}.service"));
        let judged = std::process::Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(&unit)
            .output()
            .expect("it can be started");
        let judged = String::from_utf8_lossy(&judged.stdout).into_owned();
        let exposure: f64 = judged
            .lines()
            .find_map(|line| line.split_once("Overall exposure level for"))
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or_else(|| panic!("{judged}"));
        assert!(exposure <= most, "{}: {exposure}\n{judged}", unit.display());
    }
}

/// The end of an update to a broken release: the old version runs, says why, and
/// nobody touched the node. Then a good one, over a reboot, and back by hand.
#[test]
fn boot_ends_a_broken_update_on_the_version_before_and_keeps_a_good_one() {
    let Some(mut debian) = Debian::boot() else {
        return;
    };
    controller(&debian, "flotilla-controller");
    agent(&debian, "flotilla-agent");
    let maker = Maker::new();
    for (version, fault) in [("0.2.0", "exit-78"), ("0.2.1", "")] {
        let folder = maker.release(version, fault);
        let to = debian.root().join("root").join(version);
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let quick = "[rollout.health]\nmin_healthy = \"2s\"\nhealthy_deadline = \"60s\"\n";
    std::fs::write(debian.root().join("root/quick.toml"), quick).unwrap();
    debian.run(&format!("flotilla release key add {}", maker.public()));
    let update = |version: &str| {
        debian.run(&format!(
            "flotilla release add ~/{version}
             flotilla update apply {version} --on '*' --rollout ~/quick.toml --wave rest --on-halt keep --yes"
        ));
    };
    // What every target of the newest rollout came to.
    let targets = || {
        debian.run(
            "id=$(flotilla rollout list -o json | grep -o '\"id\": *\"[^\"]*\"' | head -n 1 | cut -d'\"' -f4)
             flotilla rollout show $id --targets -o json",
        )
    };
    let version =
        || debian.run("flotilla node list -o json | grep -o '\"agent_version\": *\"[^\"]*\"'");
    update("0.2.0");
    wait::until_true("the broken release is given up", 3 * WITHIN, || {
        targets().contains("update.reverted")
    });
    assert!(targets().contains("exit status: 78"), "{}", targets());
    let before = debian.property("flotilla-agent", "MainPID");
    wait_up(&debian);
    assert!(version().contains("0.1.0"), "{}", version());
    let status = debian.run("flotilla-agent status");
    assert!(status.contains("since 0.2.0 was given up"), "{status}");

    update("0.2.1");
    wait::until_true("the good release runs", 3 * WITHIN, || {
        version().contains("0.2.1")
    });
    wait_up(&debian);
    // One process id through the swaps: systemd saw a service that went on.
    assert_eq!(debian.property("flotilla-agent", "MainPID"), before);
    debian.reboot();
    wait_up(&debian);
    let version =
        || debian.run("flotilla node list -o json | grep -o '\"agent_version\": *\"[^\"]*\"'");
    wait::until_true("it still does", WITHIN, || version().contains("0.2.1"));
    let back = debian.run("flotilla-agent rollback");
    assert!(back.contains("was started again"), "{back}");
    wait::until_true("the old one is back", WITHIN, || {
        version().contains("0.1.0")
    });
    wait_up(&debian);
}

#[test]
fn boot_from_an_archive_installs_upgrades_and_keeps_what_the_node_knows() {
    let Some(debian) = Debian::boot() else {
        return;
    };
    debian.run("mkdir /opt/archive && tar -xzf /packages/flotilla-[0-9]*.tar.gz -C /opt/archive --strip-components=1");
    debian.run("/opt/archive/install.sh controller");
    start_controller(&debian);
    debian.run("/opt/archive/install.sh agent");
    join(&debian);
    let node = debian.run("flotilla node list -o json | grep -o '\"id\": *\"[^\"]*\"' | head -n 1");

    // What was configured is kept, and a service that runs gets the new program.
    debian.run("echo '# ours' >> /etc/flotilla/agent.toml");
    let before = debian.property("flotilla-agent", "MainPID");
    debian.run("/opt/archive/install.sh agent");
    wait_another(&debian, "flotilla-agent", &before);
    wait_up(&debian);
    debian.run("grep -q '# ours' /etc/flotilla/agent.toml");

    // Nothing of the program is left, and all of the node's.
    debian.run("/opt/archive/install.sh --uninstall agent");
    debian.run(
        "test ! -e /usr/local/bin/flotilla-agent
         test ! -e /etc/systemd/system/flotilla-agent.service
         ! ls /usr/local/share/man/man1/flotilla-agent*
         test -e /usr/local/bin/flotilla -a -e /usr/local/share/man/man1/flotilla-run.1
         test -s /var/lib/flotilla-agent/agent.redb
         grep -q '# ours' /etc/flotilla/agent.toml",
    );
    debian.run("/opt/archive/install.sh agent && systemctl start flotilla-agent");
    wait_up(&debian);
    let again =
        debian.run("flotilla node list -o json | grep -o '\"id\": *\"[^\"]*\"' | head -n 1");
    assert_eq!(node, again, "the same node comes back");

    // It does not install over a package, nor guess what is wanted.
    for (asked, code) in [("", 64), ("both", 64), ("agent --prefix", 64)] {
        let refused = debian.try_run(&format!("/opt/archive/install.sh {asked}"));
        assert_eq!(refused.status.code(), Some(code), "{asked}");
    }
    debian.run("touch /usr/bin/flotilla-agent");
    let refused = debian.try_run("/opt/archive/install.sh agent");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("remove the package first"));
}

#[test]
fn boot_from_rpm_runs_both_services_and_keeps_what_is_configured() {
    let Some(debian) = Debian::boot() else {
        return;
    };
    debian.install_rpm("flotilla-controller");
    debian.install_rpm("flotilla-agent");
    for package in ["flotilla-agent", "flotilla-controller"] {
        papers(&debian, &format!("/usr/share/doc/{package}"));
    }
    let running = |unit: &str| debian.property(unit, "ActiveState");
    assert_eq!(
        running("flotilla-agent"),
        "inactive",
        "nothing runs unasked"
    );
    start_controller(&debian);
    join(&debian);
    let user =
        debian.run("ps -o user= -p $(systemctl show --value -p MainPID flotilla-controller)");
    assert_eq!(user, "flotilla");

    debian.run("echo '# ours' >> /etc/flotilla/agent.toml");
    // Only what is configured differs from what the package says.
    let differs = debian.run("rpm --force-debian -V --nodeps flotilla-agent || true");
    assert_eq!(differs.lines().count(), 1, "{differs}");
    assert!(differs.contains(" c /etc/flotilla/agent.toml"), "{differs}");
    debian.run("rpm --force-debian --nodeps -U --replacepkgs /packages/flotilla-agent-*.rpm 2>&1");
    debian.run("grep -q '# ours' /etc/flotilla/agent.toml");
    wait_up(&debian);

    debian.run("rpm --force-debian -e flotilla-agent flotilla-controller 2>&1");
    assert_eq!(running("flotilla-agent"), "inactive");
    debian.run(
        "test ! -e /usr/bin/flotilla-agent -a ! -e /usr/lib/systemd/system/flotilla-agent.service
         test -s /var/lib/flotilla-agent/agent.redb -a -s /var/lib/flotilla/journal.redb
         grep -q '# ours' /etc/flotilla/agent.toml.rpmsave",
    );
}
