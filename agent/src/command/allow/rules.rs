//! The built-in rules: each program, the options and the operands that only
//! read.
//!
//! To add a program, read its manual for options that write, execute, signal,
//! follow for ever, take a file or reach another machine, and list the others.

/// One program and what may follow its name.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// Whether single letters may be joined behind one dash.
    pub(super) clusters: bool,
    /// Options without a value, as they are written, separated by spaces.
    flags: &'static str,
    /// Options with a value, attached or as the next word.
    values: &'static [(&'static str, Kind)],
    /// The words that are not options: fixed ones first, then at most a number
    /// of words of one kind.
    pub(super) shapes: &'static [(&'static str, Kind, usize)],
}

/// What an option takes.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    Nothing,
    Value(Kind),
}

impl Program {
    /// What the option of this name takes; none when no rule names it.
    pub(super) fn option(&self, name: &str) -> Option<Takes> {
        let among = |list: &str| list.split_whitespace().any(|one| one == name);
        if among(self.flags) {
            return Some(Takes::Nothing);
        }
        self.values
            .iter()
            .find(|(names, _)| among(names))
            .map(|(_, kind)| Takes::Value(*kind))
    }
}

/// What a value may be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Up to nine digits.
    Number,
    /// A name: letters, digits and `._:@,+-\`, not starting with a dash.
    Word,
    /// A point in time as journalctl reads it.
    Time,
    /// An absolute path without `..`.
    Path,
    /// An address or prefix.
    Address,
    /// A term of a socket filter.
    Filter,
    /// One of a list, separated by spaces.
    OneOf(&'static str),
    /// Some of a list, separated by commas in the value.
    Fields(&'static str),
}

impl Kind {
    pub(super) fn accepts(self, value: &str) -> bool {
        let made_of = |most: usize, extra: &str| {
            !value.is_empty()
                && value.len() <= most
                && value
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        match self {
            Self::Number => {
                !value.is_empty() && value.len() <= 9 && value.bytes().all(|b| b.is_ascii_digit())
            }
            Self::Word => made_of(255, "._:@,+-\\") && !value.starts_with('-'),
            Self::Time => {
                let relative = value
                    .strip_prefix('-')
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
                made_of(64, ":.,+@ -") && (!value.starts_with('-') || relative)
            }
            Self::Path => {
                value.starts_with('/')
                    && made_of(1024, "/._:@,+-")
                    && value.split('/').all(|part| part != "..")
            }
            Self::Address => made_of(64, ".:/%-_") && !value.starts_with('-'),
            Self::Filter => made_of(64, ".:=/*[]") && !value.starts_with('-'),
            Self::OneOf(list) => list.split(' ').any(|one| one == value),
            Self::Fields(list) => value
                .split(',')
                .all(|field| !field.is_empty() && list.split(' ').any(|one| one == field)),
        }
    }
}

/// A program that takes no operands.
const BARE: &[(&str, Kind, usize)] = &[("", Kind::Word, 0)];

/// Columns of `ps -o`. The command line is among them, the environment is not.
const PS_FIELDS: &str = "pid ppid pgid sid user uid group gid stat state s pcpu %cpu pmem %mem rss \
    vsz etime etimes time comm args cmd command nlwp pri ni psr wchan lstart start tty tt cls \
    rtprio cgroup unit min_flt maj_flt sz lwp";

const PS_SORT: &str = "pid ppid user pcpu %cpu pmem %mem rss vsz etime etimes time comm nlwp -pid \
    -ppid -user -pcpu -%cpu -pmem -%mem -rss -vsz -etime -etimes -time -comm -nlwp +pid +pcpu \
    +%cpu +pmem +%mem +rss +vsz +time";

const DMESG_LEVELS: &str = "emerg alert crit err warn notice info debug";

const JOURNAL_OUTPUTS: &str = "short short-iso short-precise short-full verbose json cat";

pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "uptime",
        clusters: true,
        flags: "-p --pretty -s --since",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "uname",
        clusters: true,
        flags: "-a --all -s --kernel-name -n --nodename -r --kernel-release -v --kernel-version \
            -m --machine -p -i -o --operating-system",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "df",
        clusters: true,
        // Not --sync (writes what is cached).
        flags: "-a --all -h --human-readable -H --si -i --inodes -k -l --local -P --portability \
            -T --print-type --total --no-sync",
        values: &[("-t --type -x --exclude-type", Kind::Word)],
        shapes: &[("", Kind::Path, 8)],
    },
    Program {
        name: "free",
        clusters: true,
        // Not -s and -c (repeat).
        flags: "-b --bytes -k --kibi -m --mebi -g --gibi -h --human -w --wide -t --total -l --lohi \
            --si",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "nproc",
        clusters: false,
        flags: "--all",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "lscpu",
        clusters: false,
        // Not -s (another root).
        flags: "-J --json -a --all -b -c",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "lsblk",
        clusters: true,
        flags: "-a --all -b --bytes -f --fs -J --json -l --list -m -n -p -t -S -d -i",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "lsmod",
        clusters: false,
        flags: "",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "findmnt",
        clusters: true,
        // Not --poll (never ends), -F and -N (other tables).
        flags: "-l --list -J --json -D --df -k --kernel -n -a --real --pseudo",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "hostname",
        clusters: false,
        flags: "-s --short -I --all-ip-addresses",
        values: &[],
        // An operand would set the name.
        shapes: BARE,
    },
    Program {
        name: "date",
        clusters: false,
        flags: "-u --utc -R --rfc-email -Iseconds -Ins",
        values: &[],
        // An operand could set the clock.
        shapes: BARE,
    },
    Program {
        name: "who",
        clusters: true,
        flags: "-a -b -H -q -r -u",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "id",
        clusters: false,
        flags: "",
        values: &[],
        shapes: BARE,
    },
    Program {
        name: "vmstat",
        clusters: true,
        flags: "-a -w -s -d -D -t -n",
        values: &[],
        // Interval and count: an interval alone would never end.
        shapes: &[
            ("", Kind::Word, 0),
            ("1 2", Kind::Word, 0),
            ("1 5", Kind::Word, 0),
            ("1 10", Kind::Word, 0),
        ],
    },
    Program {
        name: "dmesg",
        clusters: true,
        // Not -C, -c, -D, -E, -n (change the console or the buffer), -w.
        flags: "-T --ctime -k --kernel -x --decode -r --raw",
        values: &[("-l --level", Kind::Fields(DMESG_LEVELS))],
        shapes: BARE,
    },
    Program {
        name: "ip",
        clusters: false,
        // Not -b (a file of changes), -n and -a (namespaces).
        flags: "-4 -6 -s -stats -d -details -br -brief -j -json -p -pretty -o -oneline -h -human",
        values: &[],
        // ip takes any prefix of a verb, and 's' is 'set': verbs are whole.
        shapes: &[
            ("addr", Kind::Word, 0),
            ("address", Kind::Word, 0),
            ("a", Kind::Word, 0),
            ("link", Kind::Word, 0),
            ("route", Kind::Word, 0),
            ("r", Kind::Word, 0),
            ("rule", Kind::Word, 0),
            ("neigh", Kind::Word, 0),
            ("maddr", Kind::Word, 0),
            ("addr show", Kind::Word, 4),
            ("address show", Kind::Word, 4),
            ("link show", Kind::Word, 4),
            ("route show", Kind::Word, 4),
            ("rule show", Kind::Word, 0),
            ("neigh show", Kind::Word, 4),
            ("maddr show", Kind::Word, 4),
            ("route get", Kind::Address, 1),
        ],
    },
    Program {
        name: "ss",
        clusters: true,
        // Not -K (closes sockets), -D and -F (files), -N (namespaces), -E
        // (never ends), -r (asks the name server).
        flags: "-t --tcp -u --udp -x --unix -w --raw -l --listening -n --numeric -a --all \
            -p --processes -s --summary -4 --ipv4 -6 --ipv6 -e --extended -o --options \
            -m --memory -i --info -H --no-header -O --oneline",
        values: &[],
        shapes: &[("", Kind::Filter, 8)],
    },
    Program {
        name: "ps",
        clusters: true,
        flags: "-e -A -f -F -l -H -L -w --forest --no-headers",
        values: &[
            ("-o --format", Kind::Fields(PS_FIELDS)),
            ("--sort", Kind::Fields(PS_SORT)),
            ("-C", Kind::Word),
            ("-p --pid --ppid", Kind::Number),
        ],
        // BSD letters as whole words: an 'e' among them would print the
        // environment of every process.
        shapes: &[
            ("", Kind::Word, 0),
            ("aux", Kind::Word, 0),
            ("auxw", Kind::Word, 0),
            ("auxww", Kind::Word, 0),
            ("auxf", Kind::Word, 0),
            ("auxwwf", Kind::Word, 0),
            ("ax", Kind::Word, 0),
            ("axf", Kind::Word, 0),
        ],
    },
    Program {
        name: "systemctl",
        clusters: true,
        // Not -H and -M (other machines), --root and --image, and neither cat
        // nor show (both print the unit's environment).
        flags: "--no-pager --no-legend --failed --all -a -l --full --plain",
        values: &[
            ("-n --lines", Kind::Number),
            ("-t --type --state", Kind::Word),
        ],
        shapes: &[
            ("", Kind::Word, 0),
            ("status", Kind::Word, 8),
            ("is-active", Kind::Word, 8),
            ("is-enabled", Kind::Word, 8),
            ("is-failed", Kind::Word, 8),
            ("is-system-running", Kind::Word, 0),
            ("list-units", Kind::Word, 8),
            ("list-unit-files", Kind::Word, 8),
            ("list-timers", Kind::Word, 8),
            ("list-sockets", Kind::Word, 8),
            ("list-jobs", Kind::Word, 0),
            ("list-dependencies", Kind::Word, 1),
        ],
    },
    Program {
        name: "journalctl",
        clusters: true,
        // Not -D, --file, --root, --image, -M (other journals), --cursor-file
        // (writes), --vacuum-*, --rotate, --flush, --sync, --setup-keys,
        // --update-catalog (change the journal), -f (never ends: 'logs
        // --follow' has a deadline).
        flags: "--no-pager -q --quiet -r --reverse -k --dmesg -b --boot --list-boots --disk-usage \
            --utc --no-hostname -a --all -e",
        values: &[
            ("-u --unit -t --identifier -p --priority", Kind::Word),
            ("-n --lines", Kind::Number),
            ("-S --since -U --until", Kind::Time),
            ("-o --output", Kind::OneOf(JOURNAL_OUTPUTS)),
        ],
        shapes: BARE,
    },
    Program {
        name: "timedatectl",
        clusters: false,
        flags: "--no-pager",
        values: &[],
        shapes: &[
            ("", Kind::Word, 0),
            ("status", Kind::Word, 0),
            ("timesync-status", Kind::Word, 0),
        ],
    },
    Program {
        name: "hostnamectl",
        clusters: false,
        flags: "--no-pager",
        values: &[],
        shapes: &[("", Kind::Word, 0), ("status", Kind::Word, 0)],
    },
    Program {
        name: "loginctl",
        clusters: false,
        flags: "--no-pager --no-legend",
        values: &[],
        shapes: &[
            ("list-sessions", Kind::Word, 0),
            ("list-users", Kind::Word, 0),
        ],
    },
    Program {
        name: "networkctl",
        clusters: false,
        flags: "--no-pager --no-legend",
        values: &[],
        shapes: &[("list", Kind::Word, 0), ("status", Kind::Word, 1)],
    },
    Program {
        name: "resolvectl",
        clusters: false,
        flags: "--no-pager",
        values: &[],
        shapes: &[("status", Kind::Word, 1)],
    },
];
