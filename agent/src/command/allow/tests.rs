//! The allow-list against what diagnostics need and what an intruder would try.

use super::*;
use proptest::prelude::*;

fn argv(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn verdict(line: &str) -> Result<Trust, ArgvError> {
    judge(RunMode::AllowList, &[], &argv(line))
}

#[test]
fn everyday_diagnostics_are_allowed() {
    for line in [
        "uptime",
        "uptime -p",
        "uname -a",
        "uname -srm",
        "df",
        "df -h",
        "df -hT /var /home",
        "df -x tmpfs --total",
        "df --type=ext4",
        "free -m",
        "free -hw",
        "nproc",
        "lscpu -J",
        "lsblk -f",
        "lsmod",
        "findmnt -l",
        "hostname",
        "hostname -I",
        "date",
        "date -u",
        "date -Iseconds",
        "who -a",
        "id",
        "vmstat 1 5",
        "dmesg -T -l err,crit",
        "ip a",
        "ip addr",
        "ip -br addr show",
        "ip -4 addr show dev eth0",
        "ip -s link show",
        "ip route show table all",
        "ip route get 10.0.0.1",
        "ip -j neigh",
        "ss -tulpn",
        "ss -tan state established",
        "ss -tn dport = :443",
        "ss -s",
        "ps aux",
        "ps -ef",
        "ps -eo pid,comm,rss --sort=-rss",
        "ps -p 1 -o pid,args",
        "systemctl",
        "systemctl --failed",
        "systemctl status nginx.service",
        "systemctl --no-pager status ssh.service cron.service",
        "systemctl is-active ssh",
        "systemctl list-units --type=service --state=running",
        "journalctl -u nginx.service -n 50",
        "journalctl -n50 --no-pager -o short-iso",
        "journalctl --unit=ssh --since=-1h",
        "journalctl -p err -b",
        "journalctl -k -r",
        "timedatectl",
        "hostnamectl status",
        "loginctl list-sessions",
        "networkctl list",
        "resolvectl status",
    ] {
        assert_eq!(verdict(line), Ok(Trust::System), "{line}");
    }
}

#[test]
fn time_with_a_space_is_one_word() {
    let mut words = argv("journalctl -u ssh --since");
    words.push("2026-11-23 10:00:00".to_owned());
    assert_eq!(judge(RunMode::AllowList, &[], &words), Ok(Trust::System));
}

#[test]
fn escapes_are_refused() {
    for line in [
        // Other programs, shells and paths to a lookalike.
        "sh -c id",
        "bash",
        "env uptime",
        "sudo uptime",
        "./uptime",
        "/tmp/uptime",
        "/usr/bin/uptime",
        "../bin/uptime",
        "UPTIME",
        "uptime;id",
        "uptime ;",
        "uptime && id",
        "uptime | sh",
        "uptime $(id)",
        "uptime `id`",
        "uptime > /tmp/x",
        "busybox uptime",
        "xargs uptime",
        "nice uptime",
        "timeout 5 uptime",
        "watch uptime",
        "find / -exec id",
        "cat /etc/shadow",
        "tail /var/log/syslog",
        // Options that do not end.
        "free -s 1",
        "free -hs1",
        "free --seconds 1",
        "vmstat 1",
        "vmstat 1 100000",
        "journalctl -f",
        "journalctl -fu ssh",
        "journalctl --follow",
        "journalctl --fol",
        "dmesg -w",
        "dmesg --follow",
        "ss -E",
        "ss --events",
        "ip monitor",
        // Options that write or change something.
        "hostname evil",
        "hostname -F /tmp/name",
        "hostname -b evil",
        "date 010100002030",
        "date -s tomorrow",
        "date --set=tomorrow",
        "date --se tomorrow",
        "date -f /etc/shadow",
        "dmesg -C",
        "dmesg -c",
        "dmesg -Tc",
        "dmesg --clear",
        "dmesg -n 1",
        "dmesg -F /etc/shadow",
        "journalctl --vacuum-size=1",
        "journalctl --vacuum-time=1s",
        "journalctl --rotate",
        "journalctl --flush",
        "journalctl --sync",
        "journalctl --relinquish-var",
        "journalctl --setup-keys",
        "journalctl --update-catalog",
        "journalctl --cursor-file=/etc/x",
        "journalctl --cursor-f /etc/x",
        "journalctl -D /tmp/j",
        "journalctl --directory=/tmp/j",
        "journalctl --file=/tmp/j",
        "journalctl --root=/tmp",
        "journalctl --image=/tmp/x",
        "journalctl -M other",
        "journalctl --machine=other",
        "journalctl -o export",
        "journalctl /usr/bin/x",
        "timedatectl set-time 10:00",
        "timedatectl set-ntp false",
        "timedatectl -H root@other status",
        "hostnamectl set-hostname evil",
        "hostnamectl hostname evil",
        "loginctl kill-user root",
        "networkctl down eth0",
        "resolvectl flush-caches",
        "resolvectl dns eth0 10.0.0.1",
        // systemctl: changes, secrets, other machines, pagers, editors.
        "systemctl restart ssh",
        "systemctl stop ssh",
        "systemctl kill ssh",
        "systemctl edit ssh",
        "systemctl cat ssh",
        "systemctl show ssh",
        "systemctl show-environment",
        "systemctl -p Environment show ssh",
        "systemctl --property=Environment show ssh",
        "systemctl -H root@other status",
        "systemctl -Hroot@other status",
        "systemctl --host=other status",
        "systemctl --host other status",
        "systemctl -M other status",
        "systemctl --root=/tmp status",
        "systemctl --image=/tmp/x status",
        "systemctl --lines=1000000000000 status",
        "systemctl reboot",
        "systemctl isolate rescue.target",
        "systemctl daemon-reload",
        "systemctl set-environment A=b",
        "systemctl link /tmp/x.service",
        "systemctl status --now",
        "systemctl status ../../x",
        // ip: set by abbreviation, batches, namespaces that run programs.
        "ip link set eth0 down",
        "ip link s eth0 down",
        "ip l s eth0 down",
        "ip addr add 10.0.0.1/8 dev eth0",
        "ip addr a 10.0.0.1/8 dev eth0",
        "ip addr flush dev eth0",
        "ip route add default via 10.0.0.1",
        "ip route del default",
        "ip -b /tmp/batch",
        "ip -batch /tmp/batch",
        "ip -force -batch /tmp/batch",
        "ip -n other addr",
        "ip -netns other addr",
        "ip netns exec x sh",
        "ip netns",
        "ip vrf exec x sh",
        "ip addr save",
        "ip addr restore",
        "ip addr showdump",
        "ip route save",
        "ip xfrm state",
        // ss: closing sockets and files.
        "ss -K",
        "ss -tK dst 10.0.0.1",
        "ss --kill",
        "ss --ki",
        "ss -D /tmp/x",
        "ss -D/tmp/x",
        "ss --diag=/tmp/x",
        "ss -F /etc/shadow",
        "ss --filter=/etc/shadow",
        "ss -N other",
        "ss --net=other",
        "ss -r",
        "ss -ntr",
        // ps: environments.
        "ps e",
        "ps aux e",
        "ps auxe",
        "ps axe",
        "ps eww",
        "ps -eo environ",
        "ps -o pid=X",
        "ps -q 1",
        // df: paths upwards, abbreviations.
        "df ../../etc",
        "df /var/../etc",
        "df --sync",
        "df --output=source",
        // The end of options, lone dashes, empty words, attached values.
        "uptime --",
        "df -- -x",
        "df -",
        "df ",
        "uname --al",
        "uname --all=x",
        "uptime --pretty=1",
        "free --human=",
        "journalctl -u",
        "journalctl -u -f",
        "journalctl --unit",
        "journalctl --unit --follow",
        "journalctl -n -f",
        "journalctl --since --follow",
        "journalctl -o",
        "ps --sort",
        "ps --sort=$(id)",
        "dmesg -l err;id",
        "vmstat 1 5 6",
        "swapon",
        "swapon -a",
        "swapoff -a",
        "mount",
    ] {
        let refused = verdict(line);
        assert!(refused.is_err(), "{line} was let through");
    }
}

#[test]
fn refusals_name_the_word() {
    assert_eq!(
        verdict("ss -tK").unwrap_err().to_string(),
        "option \"-tK\" of ss is not on this node's allow-list"
    );
    assert_eq!(
        verdict("rm -rf /").unwrap_err().to_string(),
        "program \"rm\" is not on this node's allow-list"
    );
    assert_eq!(
        verdict("hostname evil").unwrap_err().to_string(),
        "arguments \"evil\" of hostname are not on this node's allow-list"
    );
}

#[test]
fn malformed_lists_are_refused_in_every_mode() {
    let none: Vec<String> = Vec::new();
    for mode in [RunMode::AllowList, RunMode::Any] {
        assert_eq!(judge(mode, &[], &none), Err(ArgvError::Empty));
        assert_eq!(judge(mode, &[], &argv("")), Err(ArgvError::Empty));
        assert!(matches!(
            judge(mode, &[], &argv("bin/x")),
            Err(ArgvError::RelativeProgram(_))
        ));
    }
}

#[test]
fn off_runs_nothing_and_any_runs_everything() {
    assert_eq!(
        judge(RunMode::Off, &[], &argv("uptime")),
        Err(ArgvError::Off)
    );
    assert_eq!(judge(RunMode::Any, &[], &argv("sh -c id")), Ok(Trust::Path));
    assert_eq!(
        judge(RunMode::Any, &[], &argv("/opt/tool x")),
        Ok(Trust::Path)
    );
}

#[test]
fn configured_lists_match_word_for_word() {
    let allowed: Vec<AllowedArgv> = ["smartctl -a /dev/sda", "/opt/check ..."]
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    let judged = |line: &str| judge(RunMode::AllowList, &allowed, &argv(line));
    assert_eq!(judged("smartctl -a /dev/sda"), Ok(Trust::Path));
    assert_eq!(judged("/opt/check"), Ok(Trust::Path));
    assert_eq!(judged("/opt/check --deep 3"), Ok(Trust::Path));
    for line in [
        "smartctl",
        "smartctl -a",
        "smartctl -a /dev/sdb",
        "smartctl -a /dev/sda -s off",
        "check --deep",
        "/opt/checker",
    ] {
        assert!(judged(line).is_err(), "{line}");
    }
}

#[test]
fn configured_lists_are_checked() {
    assert!(matches!(
        "".parse::<AllowedArgv>(),
        Err(ParseAllowedArgvError::Empty(_))
    ));
    assert!(matches!(
        "...".parse::<AllowedArgv>(),
        Err(ParseAllowedArgvError::Empty(_))
    ));
    assert!(matches!(
        "bin/x ...".parse::<AllowedArgv>(),
        Err(ParseAllowedArgvError::Relative(_))
    ));
    assert_eq!(
        "a  b ...".parse::<AllowedArgv>().unwrap().to_string(),
        "a b ..."
    );
    assert!("anything".parse::<RunMode>().is_err());
    for mode in [RunMode::Off, RunMode::AllowList, RunMode::Any] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
}

proptest! {
    #[test]
    fn invariant_no_allowed_word_has_a_character_that_a_shell_or_path_could_misuse(
        program in prop::sample::select(vec!["df", "ss", "ps", "ip", "systemctl", "journalctl", "dmesg"]),
        words in prop::collection::vec("[-a-zA-Z0-9=/.;|$`<>&*(){}'\"\\[\\]~!# ]{0,12}", 0..5),
    ) {
        let mut list = vec![program.to_owned()];
        list.extend(words);
        if judge(RunMode::AllowList, &[], &list).is_ok() {
            for word in &list {
                let misused = word.contains(|c: char| ";|$`<>&(){}'\"~!#".contains(c));
                prop_assert!(!misused && !word.split('/').any(|part| part == ".."));
            }
        }
    }
}
