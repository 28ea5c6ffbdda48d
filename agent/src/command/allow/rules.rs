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
    pub(super) options: &'static [Opt],
    pub(super) shapes: &'static [Shape],
}

/// An option as it is written, dashes included.
pub(super) enum Opt {
    /// Takes no value.
    Flag(&'static str),
    /// Takes a value, attached or as the next word.
    Value(&'static str, Kind),
}

impl Opt {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Flag(name) | Self::Value(name, _) => name,
        }
    }
}

/// The words that are not options: fixed ones first, then a number of words of
/// one kind.
pub(super) struct Shape {
    pub(super) words: &'static [&'static str],
    pub(super) rest: Option<(Kind, usize)>,
}

/// What a value may be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Up to nine digits.
    Number,
    /// A name: letters, digits and `._:@,+-`, not starting with a dash.
    Word,
    /// A point in time as journalctl reads it.
    Time,
    /// An absolute path without `..`.
    Path,
    /// An address or prefix.
    Address,
    /// A term of a socket filter.
    Filter,
    /// One of a list.
    OneOf(&'static [&'static str]),
    /// Some of a list, separated by commas.
    Fields(&'static [&'static str]),
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
            Self::OneOf(list) => list.contains(&value),
            Self::Fields(list) => {
                !value.is_empty() && value.split(',').all(|field| list.contains(&field))
            }
        }
    }
}

use Opt::{Flag, Value};

const BARE: &[Shape] = &[Shape {
    words: &[],
    rest: None,
}];

const IP_WORDS: Option<(Kind, usize)> = Some((Kind::Word, 4));

/// Columns of `ps -o`. The command line is among them, the environment is not.
const PS_FIELDS: &[&str] = &[
    "pid", "ppid", "pgid", "sid", "user", "uid", "group", "gid", "stat", "state", "s", "pcpu",
    "%cpu", "pmem", "%mem", "rss", "vsz", "etime", "etimes", "time", "comm", "args", "cmd",
    "command", "nlwp", "pri", "ni", "psr", "wchan", "lstart", "start", "tty", "tt", "cls",
    "rtprio", "cgroup", "unit", "min_flt", "maj_flt", "sz", "lwp",
];

const PS_SORT: &[&str] = &[
    "pid", "ppid", "user", "pcpu", "%cpu", "pmem", "%mem", "rss", "vsz", "etime", "etimes", "time",
    "comm", "nlwp", "-pid", "-ppid", "-user", "-pcpu", "-%cpu", "-pmem", "-%mem", "-rss", "-vsz",
    "-etime", "-etimes", "-time", "-comm", "-nlwp", "+pid", "+pcpu", "+%cpu", "+pmem", "+%mem",
    "+rss", "+vsz", "+time",
];

pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "uptime",
        clusters: true,
        options: &[Flag("-p"), Flag("--pretty"), Flag("-s"), Flag("--since")],
        shapes: BARE,
    },
    Program {
        name: "uname",
        clusters: true,
        options: &[
            Flag("-a"),
            Flag("--all"),
            Flag("-s"),
            Flag("-n"),
            Flag("-r"),
            Flag("-v"),
            Flag("-m"),
            Flag("-p"),
            Flag("-i"),
            Flag("-o"),
            Flag("--kernel-name"),
            Flag("--nodename"),
            Flag("--kernel-release"),
            Flag("--kernel-version"),
            Flag("--machine"),
            Flag("--operating-system"),
        ],
        shapes: BARE,
    },
    Program {
        name: "df",
        clusters: true,
        options: &[
            Flag("-a"),
            Flag("--all"),
            Flag("-h"),
            Flag("--human-readable"),
            Flag("-H"),
            Flag("--si"),
            Flag("-i"),
            Flag("--inodes"),
            Flag("-k"),
            Flag("-l"),
            Flag("--local"),
            Flag("-P"),
            Flag("--portability"),
            Flag("-T"),
            Flag("--print-type"),
            Flag("--total"),
            Flag("--no-sync"),
            Value("-t", Kind::Word),
            Value("--type", Kind::Word),
            Value("-x", Kind::Word),
            Value("--exclude-type", Kind::Word),
        ],
        shapes: &[Shape {
            words: &[],
            rest: Some((Kind::Path, 8)),
        }],
    },
    Program {
        name: "free",
        clusters: true,
        options: &[
            Flag("-b"),
            Flag("-k"),
            Flag("-m"),
            Flag("-g"),
            Flag("-h"),
            Flag("-w"),
            Flag("-t"),
            Flag("-l"),
            Flag("--bytes"),
            Flag("--kibi"),
            Flag("--mebi"),
            Flag("--gibi"),
            Flag("--human"),
            Flag("--wide"),
            Flag("--total"),
            Flag("--lohi"),
            Flag("--si"),
        ],
        shapes: BARE,
    },
    Program {
        name: "nproc",
        clusters: false,
        options: &[Flag("--all")],
        shapes: BARE,
    },
    Program {
        name: "lscpu",
        clusters: false,
        options: &[
            Flag("-J"),
            Flag("--json"),
            Flag("-a"),
            Flag("--all"),
            Flag("-b"),
            Flag("-c"),
        ],
        shapes: BARE,
    },
    Program {
        name: "lsblk",
        clusters: true,
        options: &[
            Flag("-a"),
            Flag("--all"),
            Flag("-b"),
            Flag("--bytes"),
            Flag("-f"),
            Flag("--fs"),
            Flag("-J"),
            Flag("--json"),
            Flag("-l"),
            Flag("--list"),
            Flag("-m"),
            Flag("-n"),
            Flag("-p"),
            Flag("-t"),
            Flag("-S"),
            Flag("-d"),
            Flag("-i"),
        ],
        shapes: BARE,
    },
    Program {
        name: "lsmod",
        clusters: false,
        options: &[],
        shapes: BARE,
    },
    Program {
        name: "findmnt",
        clusters: true,
        options: &[
            Flag("-l"),
            Flag("--list"),
            Flag("-J"),
            Flag("--json"),
            Flag("-D"),
            Flag("--df"),
            Flag("-k"),
            Flag("--kernel"),
            Flag("-n"),
            Flag("-a"),
            Flag("--real"),
            Flag("--pseudo"),
        ],
        shapes: BARE,
    },
    Program {
        name: "hostname",
        clusters: false,
        options: &[
            Flag("-s"),
            Flag("--short"),
            Flag("-I"),
            Flag("--all-ip-addresses"),
        ],
        // An operand would set the name.
        shapes: BARE,
    },
    Program {
        name: "date",
        clusters: false,
        options: &[
            Flag("-u"),
            Flag("--utc"),
            Flag("-R"),
            Flag("--rfc-email"),
            Flag("-Iseconds"),
            Flag("-Ins"),
        ],
        // An operand could set the clock.
        shapes: BARE,
    },
    Program {
        name: "who",
        clusters: true,
        options: &[
            Flag("-a"),
            Flag("-b"),
            Flag("-H"),
            Flag("-q"),
            Flag("-r"),
            Flag("-u"),
        ],
        shapes: BARE,
    },
    Program {
        name: "id",
        clusters: false,
        options: &[],
        shapes: BARE,
    },
    Program {
        name: "vmstat",
        clusters: true,
        options: &[
            Flag("-a"),
            Flag("-w"),
            Flag("-s"),
            Flag("-d"),
            Flag("-D"),
            Flag("-t"),
            Flag("-n"),
        ],
        // Two numbers are interval and count; one alone would never end.
        shapes: &[
            Shape {
                words: &[],
                rest: None,
            },
            Shape {
                words: &["1", "2"],
                rest: None,
            },
            Shape {
                words: &["1", "5"],
                rest: None,
            },
            Shape {
                words: &["1", "10"],
                rest: None,
            },
        ],
    },
    Program {
        name: "dmesg",
        clusters: true,
        options: &[
            Flag("-T"),
            Flag("--ctime"),
            Flag("-k"),
            Flag("--kernel"),
            Flag("-x"),
            Flag("--decode"),
            Flag("-r"),
            Flag("--raw"),
            Value(
                "-l",
                Kind::Fields(&[
                    "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
                ]),
            ),
            Value(
                "--level",
                Kind::Fields(&[
                    "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
                ]),
            ),
        ],
        shapes: BARE,
    },
    Program {
        name: "ip",
        clusters: false,
        options: &[
            Flag("-4"),
            Flag("-6"),
            Flag("-s"),
            Flag("-stats"),
            Flag("-d"),
            Flag("-details"),
            Flag("-br"),
            Flag("-brief"),
            Flag("-j"),
            Flag("-json"),
            Flag("-p"),
            Flag("-pretty"),
            Flag("-o"),
            Flag("-oneline"),
            Flag("-h"),
            Flag("-human"),
        ],
        // ip takes any prefix of a verb, and 's' is 'set': verbs are whole.
        shapes: &[
            Shape {
                words: &["addr"],
                rest: None,
            },
            Shape {
                words: &["address"],
                rest: None,
            },
            Shape {
                words: &["a"],
                rest: None,
            },
            Shape {
                words: &["link"],
                rest: None,
            },
            Shape {
                words: &["route"],
                rest: None,
            },
            Shape {
                words: &["r"],
                rest: None,
            },
            Shape {
                words: &["rule"],
                rest: None,
            },
            Shape {
                words: &["neigh"],
                rest: None,
            },
            Shape {
                words: &["maddr"],
                rest: None,
            },
            Shape {
                words: &["addr", "show"],
                rest: IP_WORDS,
            },
            Shape {
                words: &["address", "show"],
                rest: IP_WORDS,
            },
            Shape {
                words: &["link", "show"],
                rest: IP_WORDS,
            },
            Shape {
                words: &["route", "show"],
                rest: IP_WORDS,
            },
            Shape {
                words: &["rule", "show"],
                rest: None,
            },
            Shape {
                words: &["neigh", "show"],
                rest: IP_WORDS,
            },
            Shape {
                words: &["maddr", "show"],
                rest: IP_WORDS,
            },
            Shape {
                words: &["route", "get"],
                rest: Some((Kind::Address, 1)),
            },
        ],
    },
    Program {
        name: "ss",
        clusters: true,
        // Not -K (closes sockets), -D and -F (files), -N (namespaces), -E
        // (never ends), -r (asks the name server).
        options: &[
            Flag("-t"),
            Flag("--tcp"),
            Flag("-u"),
            Flag("--udp"),
            Flag("-x"),
            Flag("--unix"),
            Flag("-w"),
            Flag("--raw"),
            Flag("-l"),
            Flag("--listening"),
            Flag("-n"),
            Flag("--numeric"),
            Flag("-a"),
            Flag("--all"),
            Flag("-p"),
            Flag("--processes"),
            Flag("-s"),
            Flag("--summary"),
            Flag("-4"),
            Flag("--ipv4"),
            Flag("-6"),
            Flag("--ipv6"),
            Flag("-e"),
            Flag("--extended"),
            Flag("-o"),
            Flag("--options"),
            Flag("-m"),
            Flag("--memory"),
            Flag("-i"),
            Flag("--info"),
            Flag("-H"),
            Flag("--no-header"),
            Flag("-O"),
            Flag("--oneline"),
        ],
        shapes: &[Shape {
            words: &[],
            rest: Some((Kind::Filter, 8)),
        }],
    },
    Program {
        name: "ps",
        clusters: true,
        options: &[
            Flag("-e"),
            Flag("-A"),
            Flag("-f"),
            Flag("-F"),
            Flag("-l"),
            Flag("-H"),
            Flag("-L"),
            Flag("-w"),
            Flag("--forest"),
            Flag("--no-headers"),
            Value("-o", Kind::Fields(PS_FIELDS)),
            Value("--format", Kind::Fields(PS_FIELDS)),
            Value("--sort", Kind::Fields(PS_SORT)),
            Value("-C", Kind::Word),
            Value("-p", Kind::Number),
            Value("--pid", Kind::Number),
            Value("--ppid", Kind::Number),
        ],
        // BSD letters as whole words: an 'e' among them would print the
        // environment of every process.
        shapes: &[
            Shape {
                words: &[],
                rest: None,
            },
            Shape {
                words: &["aux"],
                rest: None,
            },
            Shape {
                words: &["auxw"],
                rest: None,
            },
            Shape {
                words: &["auxww"],
                rest: None,
            },
            Shape {
                words: &["auxf"],
                rest: None,
            },
            Shape {
                words: &["auxwwf"],
                rest: None,
            },
            Shape {
                words: &["ax"],
                rest: None,
            },
            Shape {
                words: &["axf"],
                rest: None,
            },
        ],
    },
    Program {
        name: "systemctl",
        clusters: true,
        // Not -H and -M (other machines), --root and --image, and neither cat
        // nor show (both print the unit's environment).
        options: &[
            Flag("--no-pager"),
            Flag("--no-legend"),
            Flag("--failed"),
            Flag("--all"),
            Flag("-a"),
            Flag("-l"),
            Flag("--full"),
            Flag("--plain"),
            Value("-n", Kind::Number),
            Value("--lines", Kind::Number),
            Value("-t", Kind::Word),
            Value("--type", Kind::Word),
            Value("--state", Kind::Word),
        ],
        shapes: &[
            Shape {
                words: &[],
                rest: None,
            },
            Shape {
                words: &["status"],
                rest: Some((Kind::Word, 8)),
            },
            Shape {
                words: &["is-active"],
                rest: Some((Kind::Word, 8)),
            },
            Shape {
                words: &["is-enabled"],
                rest: Some((Kind::Word, 8)),
            },
            Shape {
                words: &["is-failed"],
                rest: Some((Kind::Word, 8)),
            },
            Shape {
                words: &["is-system-running"],
                rest: None,
            },
            Shape {
                words: &["list-units"],
                rest: Some((Kind::Word, 8)),
            },
            Shape {
                words: &["list-unit-files"],
                rest: Some((Kind::Word, 8)),
            },
            Shape {
                words: &["list-timers"],
                rest: Some((Kind::Word, 8)),
            },
            Shape {
                words: &["list-sockets"],
                rest: Some((Kind::Word, 8)),
            },
            Shape {
                words: &["list-jobs"],
                rest: None,
            },
            Shape {
                words: &["list-dependencies"],
                rest: Some((Kind::Word, 1)),
            },
        ],
    },
    Program {
        name: "journalctl",
        clusters: true,
        // Not -D, --file, --root, --image, -M (other journals), --cursor-file
        // (writes), --vacuum-*, --rotate, --flush, --sync, --setup-keys,
        // --update-catalog (change the journal), -f (never ends: 'logs
        // --follow' has a deadline).
        options: &[
            Flag("--no-pager"),
            Flag("-q"),
            Flag("--quiet"),
            Flag("-r"),
            Flag("--reverse"),
            Flag("-k"),
            Flag("--dmesg"),
            Flag("-b"),
            Flag("--boot"),
            Flag("--list-boots"),
            Flag("--disk-usage"),
            Flag("--utc"),
            Flag("--no-hostname"),
            Flag("-a"),
            Flag("--all"),
            Flag("-e"),
            Value("-u", Kind::Word),
            Value("--unit", Kind::Word),
            Value("-n", Kind::Number),
            Value("--lines", Kind::Number),
            Value("-t", Kind::Word),
            Value("--identifier", Kind::Word),
            Value("-p", Kind::Word),
            Value("--priority", Kind::Word),
            Value("-S", Kind::Time),
            Value("--since", Kind::Time),
            Value("-U", Kind::Time),
            Value("--until", Kind::Time),
            Value(
                "-o",
                Kind::OneOf(&[
                    "short",
                    "short-iso",
                    "short-precise",
                    "short-full",
                    "verbose",
                    "json",
                    "cat",
                ]),
            ),
            Value(
                "--output",
                Kind::OneOf(&[
                    "short",
                    "short-iso",
                    "short-precise",
                    "short-full",
                    "verbose",
                    "json",
                    "cat",
                ]),
            ),
        ],
        shapes: BARE,
    },
    Program {
        name: "timedatectl",
        clusters: false,
        options: &[Flag("--no-pager")],
        shapes: &[
            Shape {
                words: &[],
                rest: None,
            },
            Shape {
                words: &["status"],
                rest: None,
            },
            Shape {
                words: &["timesync-status"],
                rest: None,
            },
        ],
    },
    Program {
        name: "hostnamectl",
        clusters: false,
        options: &[Flag("--no-pager")],
        shapes: &[
            Shape {
                words: &[],
                rest: None,
            },
            Shape {
                words: &["status"],
                rest: None,
            },
        ],
    },
    Program {
        name: "loginctl",
        clusters: false,
        options: &[Flag("--no-pager"), Flag("--no-legend")],
        shapes: &[
            Shape {
                words: &["list-sessions"],
                rest: None,
            },
            Shape {
                words: &["list-users"],
                rest: None,
            },
        ],
    },
    Program {
        name: "networkctl",
        clusters: false,
        options: &[Flag("--no-pager"), Flag("--no-legend")],
        shapes: &[
            Shape {
                words: &["list"],
                rest: None,
            },
            Shape {
                words: &["status"],
                rest: Some((Kind::Word, 1)),
            },
        ],
    },
    Program {
        name: "resolvectl",
        clusters: false,
        options: &[Flag("--no-pager")],
        shapes: &[Shape {
            words: &["status"],
            rest: Some((Kind::Word, 1)),
        }],
    },
];
