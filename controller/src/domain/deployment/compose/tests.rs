use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use protocol::ErrorCode;
use protocol::deployment::spec::{FileKind, Spec};

use super::{
    Contents, Named, Project, Purpose, Reference, Sources, problem::Problems, read, references,
};
use crate::domain::digest::Digest;

mod golden;
mod hostile;
mod property;

/// What lies beside the files of these tests.
#[derive(Default)]
struct Beside {
    variables: BTreeMap<String, String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Beside {
    fn with(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Self {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        Self {
            variables: owned(variables).into_iter().collect(),
            files: owned(files)
                .into_iter()
                .map(|(path, text)| (path, text.into_bytes()))
                .collect(),
        }
    }
}

impl Sources for Beside {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }
    fn file(&self, path: &str) -> Option<Cow<'_, [u8]>> {
        self.files
            .get(path)
            .map(|content| Cow::Borrowed(content.as_slice()))
    }
}

/// Holds one secret, `stored`.
struct Held;

impl Contents for Held {
    fn digest(&self, kind: FileKind, content: &[u8]) -> String {
        Digest::of(&format!("{kind:?}"), &[content]).to_string()
    }
    fn named(&self, kind: FileKind, name: &str) -> Option<Named> {
        (kind == FileKind::Secret && name == "stored").then(|| Named {
            digest: "5".repeat(64),
            size_bytes: 5,
        })
    }
}

fn check(text: &str) -> Result<Project, Problems> {
    check_with(text, &Beside::default())
}

fn check_with(text: &str, beside: &Beside) -> Result<Project, Problems> {
    read(text, beside, &Held)
}

/// A service `a` with these lines, indented as they are below it.
fn service(lines: &str) -> String {
    let mut text = "services:\n  a:\n    image: busybox\n".to_owned();
    for line in lines.lines() {
        writeln!(text, "    {line}").unwrap();
    }
    text
}

fn only(project: &Project) -> &protocol::deployment::spec::Service {
    &project.spec.services["a"]
}

#[test]
fn every_problem_is_said_at_once_with_its_line() {
    let text = "\
services:
  web:
    build: .
    image: Nginx
    ports: [\"99999:80\"]
    volumes:
      - ./data:/data
    enviroment:
      A: b
    links: [db]
  db:
    container_name: x
x-mine: {anything: 1}
volume:
";
    let problems = check(text).unwrap_err();
    let said: Vec<String> = problems.list().iter().map(ToString::to_string).collect();
    let expected = [
        "line 3, column 5: services.web.build is not supported: nodes do not build; build the image elsewhere and name it by `image`",
        "line 4, column 5: services.web.image \"Nginx\" is no image: a name is lowercase letters and digits, with . _ - between them",
        "line 5, column 13: services.web.ports[0] \"99999\" is no port from 1 to 65535",
        "line 7, column 9: services.web.volumes[0] \"./data\" is a relative path, which a node cannot resolve; give an absolute path of the node, a volume, or a config",
        "line 8, column 5: services.web.enviroment is not supported: did you mean `environment`?",
        "line 10, column 5: services.web.links is not supported: services of one network reach each other by name; remove it",
        "line 11, column 3: services.db has no `image`",
        "line 12, column 5: services.db.container_name is not supported: containers are named after deployment and service; remove it",
        "line 14, column 1: volume is not supported: did you mean `volumes`?",
    ];
    assert_eq!(said, expected);
    assert_eq!(problems.code(), ErrorCode::DeploymentUnsupported);
}

#[test]
fn what_is_only_wrong_has_another_code() {
    let problems = check("services: {a: {image: \"\"}}").unwrap_err();
    assert_eq!(problems.code(), ErrorCode::DeploymentInvalid);
}

#[test]
fn more_problems_than_a_screen_are_counted() {
    let mut text = "services:\n".to_owned();
    for n in 0..60 {
        writeln!(text, "  s{n}: {{image: x, build: .}}").unwrap();
    }
    let problems = check(&text).unwrap_err();
    assert_eq!((problems.list().len(), problems.more()), (50, 10));
    assert!(problems.to_string().ends_with("\nand 10 more"));
}

#[test]
fn each_line_of_a_service_is_refused_for_its_reason() {
    for (lines, expected) in [
        ("command: a && b", "shell"),
        ("environment: {A: [b]}", "a list where a single value"),
        ("environment: [A=1, A=2]", "a second time"),
        ("environment: {\"A=B\": c}", "no name of a variable"),
        ("environment: [\"=b\"]", "no name in front"),
        ("environment: {A: $NONE}", "variable NONE"),
        ("environment: {A: \"x\\0y\"}", "NUL"),
        ("env_file: .env", "which is not there"),
        ("network_mode: service:b", "not supported"),
        (
            "network_mode: host\nnetworks: [default]",
            "excludes `networks`",
        ),
        ("network_mode: host\nports: [80]", "publishes `ports`"),
        ("networks: [front]", "none of the top-level `networks`"),
        (
            "networks: {default: {ipv4_address: 10.0.0.1}}",
            "ipv4_address is not supported",
        ),
        ("volumes: [data:/data]", "none of the top-level `volumes`"),
        ("volumes: [/a:/x, /b:/x]", "a second thing"),
        (
            "volumes: [{type: bind, source: ./a, target: /a}]",
            "relative path",
        ),
        (
            "volumes: [{type: npipe, target: /a}]",
            "none of bind, volume and tmpfs",
        ),
        ("volumes: [{type: bind, target: /a}]", "has no `source`"),
        ("volumes: [{type: volume}]", "has no `target`"),
        (
            "volumes: [{type: volume, target: /a, volume: {nocopy: true}}]",
            "nocopy is not supported",
        ),
        (
            "volumes: [{type: tmpfs, target: /a, source: b}]",
            "source is not supported",
        ),
        ("tmpfs: /run:noexec", "the option"),
        ("depends_on: [b]", "which is no service"),
        ("depends_on: [a]", "depends on itself: a → a"),
        ("depends_on: {a: {condition: service_fine}}", "no condition"),
        (
            "depends_on: {a: {required: false}}",
            "required is not supported",
        ),
        (
            "depends_on: {a: {restart: true}}",
            "restart is not supported",
        ),
        ("healthcheck: {test: [curl]}", "neither"),
        ("healthcheck: {test: x, interval: 10}", "no time"),
        ("healthcheck: {test: x, interval: 25h}", "more than 24 h"),
        (
            "healthcheck: {test: x, start_interval: 1s}",
            "start_interval is not supported",
        ),
        ("restart: sometimes", "none of no, always"),
        ("restart: on-failure:x", "no number of times"),
        ("cap_add: [\"NET ADMIN\"]", "no capability"),
        ("privileged: maybe", "neither true nor false"),
        (
            "security_opt: [seccomp=./profile.json]",
            "a profile of your own",
        ),
        ("deploy: {replicas: 2}", "replicas is not supported"),
        ("deploy: {mode: global}", "mode is not supported"),
        (
            "deploy: {restart_policy: {}}",
            "restart_policy is not supported",
        ),
        (
            "deploy: {resources: {reservations: {cpus: 1}}}",
            "reserves no processors",
        ),
        ("mem_limit: 64x", "no size"),
        (
            "mem_limit: 64m\ndeploy: {resources: {limits: {memory: 65m}}}",
            "differs",
        ),
        (
            "mem_limit: 64m\nmem_reservation: 65m",
            "more memory than its limit",
        ),
        ("cpus: many", "no number"),
        ("pids_limit: -2", "no number of processes"),
        ("logging: {options: {a: b}}", "has no `driver`"),
        ("ulimits: {nofile: {soft: 2, hard: 1}}", "past the hard one"),
        ("ulimits: {nofile: {soft: 2}}", "has no `hard`"),
        ("extra_hosts: [\"a:b\"]", "no IP address"),
        (
            "extra_hosts: [\"a:1.1.1.1\", \"a:1.1.1.2\"]",
            "a second address",
        ),
        ("dns: [here]", "no IP address"),
        ("devices: [vendor.com/class=x]", "absolute path"),
        ("devices: [\"/dev/a:/dev/b:x\"]", "not of r, w and m"),
        ("hostname: a_b", "no host name"),
        ("working_dir: here", "absolute"),
        ("stop_grace_period: soon", "no time"),
        ("configs: [nope]", "none of the top-level `configs`"),
        (
            "secrets: [{source: nope}]",
            "none of the top-level `secrets`",
        ),
        ("ports: [{published: 80}]", "has no `target`"),
        (
            "ports: [{target: 80, mode: ingress}]",
            "mode is not supported",
        ),
        ("ports: [\"80:1\", \"80:2\"]", "which a publishes too"),
        ("ports: 80", "a single value where a list"),
        ("labels: {a: {}}", "a map where a single value"),
        ("scale: 1", "scale is not supported"),
        ("profiles: [x]", "profiles is not supported"),
        ("pid: host", "pid is not supported"),
        ("ipc: host", "ipc is not supported"),
        ("userns_mode: host", "userns_mode is not supported"),
        ("extends: {service: b}", "extends is not supported"),
    ] {
        let problems = check(&service(lines)).expect_err(lines);
        let said = problems.to_string();
        assert!(said.contains(expected), "{lines}: {said}");
        assert!(
            problems.list().iter().all(|p| p.place.line >= 2),
            "{lines}: {said}"
        );
    }
}

#[test]
fn each_part_of_the_top_level_is_refused_for_its_reason() {
    let service = "services: {a: {image: x, secrets: [s]}}\n";
    for (lines, expected) in [
        ("secrets: {s: {file: ./s}}", "which is not there"),
        (
            "secrets: {s: {environment: S}}",
            "variable \"S\", which is not given",
        ),
        ("secrets: {s: {content: x}}", "content is not supported"),
        ("secrets: {s: {}}", "exactly one"),
        (
            "secrets: {s: {external: true}}",
            "Flotilla has no such secret",
        ),
        ("secrets: {s: {external: true, file: x}}", "exactly one"),
        (
            "secrets: {s: {external: true, name: stored}}\nconfigs: {s: {content: x}}",
            "has the name of a config",
        ),
        (
            "secrets: {\"a/b\": {external: true}, s: {external: true, name: stored}}",
            "is no name",
        ),
        (
            "secrets: {s: {external: true, name: stored}}\nnetworks: {n: {name: x}}",
            "name is not supported",
        ),
        (
            "secrets: {s: {external: true, name: stored}}\nnetworks: {n: {external: true, driver: x}}",
            "nothing else",
        ),
        (
            "secrets: {s: {external: true, name: stored}}\nnetworks: {N: {}}",
            "is no name",
        ),
        (
            "secrets: {s: {external: true, name: stored}}\nvolumes: {v: {name: x}}",
            "name is not supported",
        ),
        (
            "secrets: {s: {external: true, name: stored}}\nvolumes: {v: {external: true, labels: [a]}}",
            "nothing else",
        ),
        (
            "secrets: {s: {external: true, name: stored}}\ninclude: [x]",
            "include is not supported",
        ),
        (
            "secrets: {s: {external: true, name: stored}}\nname: A",
            "is no name",
        ),
    ] {
        let said = check(&format!("{service}{lines}\n"))
            .expect_err(lines)
            .to_string();
        assert!(said.contains(expected), "{lines}: {said}");
    }
    for (text, expected) in [
        ("", "empty"),
        ("a", "a single value where a map"),
        ("services: {}", "give at least one"),
        ("services:", "has no `services`"),
        ("services: {A: {image: x}}", "is no name"),
        ("networks: {}", "has no `services`"),
    ] {
        let said = check(text).expect_err(text).to_string();
        assert!(said.contains(expected), "{text}: {said}");
    }
}

#[test]
fn the_environment_comes_from_files_then_from_itself_then_from_outside() {
    let beside = Beside::with(
        &[("GIVEN", "given"), ("HOME_DIR", "/h")],
        &[
            ("a.env", "A=1\nB=1\nD=${HOME_DIR}\nGIVEN"),
            ("b.env", "B=2\nC=\"$B\""),
        ],
    );
    let text = service(
        "env_file: [a.env, {path: b.env}, {path: none.env, required: false}]\nenvironment:\n  C: 3\n  GIVEN:\n  ABSENT:\n  E: \"${A:-e}\"",
    );
    let project = check_with(&text, &beside).unwrap();
    let environment: Vec<(&str, &str)> = only(&project)
        .environment
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let expected = [
        ("A", "1"),
        ("B", "2"),
        ("C", "3"),
        ("D", "/h"),
        ("E", "e"),
        ("GIVEN", "given"),
    ];
    assert_eq!(environment, expected);
}

#[test]
fn a_wrong_line_of_a_file_is_said_with_the_file_and_no_value() {
    let beside = Beside::with(&[], &[("a.env", "A=1\nB='hunter2")]);
    let problems = check_with(&service("env_file: a.env"), &beside).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "a.env, line 2, column 1: has a ' that is not closed"
    );
}

#[test]
fn references_are_the_files_and_variables_that_are_used() {
    let beside = Beside::with(
        &[
            ("STAGE", "prod"),
            ("TOKEN", "hunter2"),
            ("IN_FILE", "x"),
            ("UNUSED", "y"),
        ],
        &[("prod.env", "A=$IN_FILE")],
    );
    let text = "\
services:
  a:
    image: x:${TAG:-1}
    env_file:
      - ${STAGE}.env
      - {path: maybe.env, required: false}
    secrets: [key, token]
secrets:
  key: {file: ./key.pem}
  token: {environment: TOKEN}
configs:
  conf: {file: ./app.conf}
";
    let found = references(text, &beside).unwrap();
    let reference = |purpose, line, optional| Reference {
        purpose,
        line,
        optional,
    };
    let expected = [
        ("./app.conf", reference(Purpose::Config, 12, false)),
        ("./key.pem", reference(Purpose::Secret, 9, false)),
        ("maybe.env", reference(Purpose::Environment, 6, true)),
        ("prod.env", reference(Purpose::Environment, 5, false)),
    ];
    let expected = expected.map(|(path, reference)| (path.to_owned(), reference));
    assert_eq!(found.files, BTreeMap::from(expected));
    let variables: Vec<&str> = found.variables.keys().map(String::as_str).collect();
    assert_eq!(variables, ["IN_FILE", "STAGE", "TOKEN"]);
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[test]
fn contents_leave_apart_and_debug_hides_them() {
    let beside = Beside::with(&[("PW", "hunter2")], &[]);
    let text = format!(
        "{}secrets:\n  pw: {{environment: PW}}\n  unused: {{environment: PW}}\n  own: {{external: true, name: stored}}\n",
        service("secrets: [pw, {source: own, target: /etc/own, uid: \"7\", mode: 0400}]")
    );
    let project = check_with(&text, &beside).unwrap();
    assert_eq!(project.contents.len(), 1);
    let digest = &project.spec.files["pw"].digest;
    assert_eq!(project.contents[digest].bytes, b"hunter2");
    assert_eq!(project.spec.files["own"].digest, "5".repeat(64));
    assert!(!project.spec.files.contains_key("unused"));
    let mounted = &only(&project).files;
    assert_eq!(mounted["/run/secrets/pw"].mode, 0o444);
    assert_eq!(mounted["/etc/own"].owner, Some((7, 0)));
    assert!(!format!("{project:?}").contains("hunter2"));
}

#[test]
fn names_and_extensions_are_the_users_own() {
    let text = "version: '3.9'\nname: shop\nx-a: &env {A: 1}\nservices:\n  a:\n    image: x\n    x-note: y\n    environment:\n      <<: *env\n      B: 2\n";
    let project = check(text).unwrap();
    assert_eq!(project.name.as_deref(), Some("shop"));
    assert_eq!(only(&project).environment.len(), 2);
}

#[test]
fn the_engines_bridge_is_external() {
    let project = check(&service("network_mode: bridge")).unwrap();
    let bridge = &project.spec.networks["bridge"];
    assert_eq!(bridge.external.as_deref(), Some("bridge"));
    assert_eq!(project.spec.networks.len(), 1);
    let own = service("network_mode: bridge") + "networks: {bridge: {internal: true}}\n";
    let said = check(&own).unwrap_err().to_string();
    assert!(said.contains("the engine's own"), "{said}");
}

fn rendered(spec: &Spec) -> String {
    serde_json::to_string_pretty(spec).unwrap() + "\n"
}
