//! Plans from any observation, records over orders, and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proptest::prelude::*;
use protocol::deployment::desired::{Cause, Commit, Desired, HealthRule, OnFailure, Target, Want};
use protocol::deployment::observed::ChangeOutcome;
use protocol::deployment::spec::{
    Device, Image, Mount, MountSource, Network, NetworkMode, Port, PortProtocol, Restart, Service,
    Spec, Volume,
};
use protocol::id::{DeploymentId, NodeId};
use protocol::time::UnixMillis;

use super::goal::{Goal, conflicts, image_handle, repository};
use super::observed::{Container, FileCopy, Observed, Owner, Run};
use super::plan::{Aim, End, Hints, Plan, Step, end_of, plan};
use super::record::{Failure, Record, Stage};
use super::rules::{Resolved, Rules, refusals};

const NODE: NodeId = NodeId::from_bytes([9; 10]);
const ID: DeploymentId = DeploymentId::from_bytes([1; 10]);
const SERVICES: [&str; 3] = ["cache", "db", "web"];

fn service(image: &str) -> Service {
    Service {
        image: Image {
            reference: format!("r.example/{image}:1"),
            ..Image::default()
        },
        network: NetworkMode::None,
        restart: Restart::Always,
        ..Service::default()
    }
}

fn spec(images: &[&str]) -> Spec {
    Spec {
        services: SERVICES
            .iter()
            .zip(images)
            .map(|(name, image)| ((*name).to_owned(), service(image)))
            .collect(),
        ..Spec::default()
    }
}

fn target(revision: u32, spec: Spec) -> Target {
    Target {
        revision,
        spec,
        rollout: None,
        cause: Cause::Change,
        health: HealthRule::default(),
        on_failure: OnFailure::Revert,
        commit: Commit::WhenHealthy,
    }
}

fn desired(generation: u64, want: Want) -> Desired {
    Desired {
        deployment: ID,
        number: 1,
        name: "shop".to_owned(),
        generation,
        at: UnixMillis(0),
        want,
    }
}

/// Carries a step out as an engine would.
fn apply(step: &Step, goal: &Goal<'_>, observed: &mut Observed, made: &mut u32) {
    let container = |observed: &mut Observed, id: &str, change: &dyn Fn(&mut Container)| {
        for container in &mut observed.containers {
            if container.id == id {
                change(container);
            }
        }
    };
    match step {
        Step::FetchImage { service, .. } => {
            observed
                .images
                .insert(goal.services[service.as_str()].image.clone());
        }
        Step::FetchFile { copy, .. } => {
            observed.files.insert(copy.clone());
        }
        Step::CreateNetwork { name, .. } => {
            observed.networks.insert(name.clone(), true);
        }
        Step::CreateVolume { name, .. } => {
            observed.volumes.insert(name.clone());
        }
        Step::Create { service, .. } => {
            *made += 1;
            let wanted = &goal.services[service.as_str()];
            observed.containers.push(Container {
                id: format!("made-{made}"),
                owner: Some(Owner {
                    deployment: ID,
                    service: service.clone(),
                    revision: goal.target.revision,
                    hash: wanted.hash.clone(),
                }),
                run: Run::Created,
                started_at: None,
                settings: goal.settings(service, wanted, goal.target.revision),
                ..foreign("made")
            });
        }
        Step::Start { id, .. } | Step::Unpause { id, .. } => {
            container(observed, id, &|c| {
                c.run = Run::Running;
                c.started_at = Some(UnixMillis(1));
            });
        }
        Step::Stop { id, .. } => container(observed, id, &|c| c.run = Run::Exited),
        Step::Remove { id, .. } => observed.containers.retain(|c| c.id != *id),
        Step::RemoveNetwork { name } => {
            observed.networks.remove(name);
        }
        Step::RemoveFiles { keep } => observed.files.retain(|copy| keep.contains(copy)),
    }
}

fn foreign(id: &str) -> Container {
    Container {
        id: id.to_owned(),
        owner: None,
        run: Run::Running,
        health: None,
        exit_code: None,
        oom_killed: false,
        error: String::new(),
        restarts: 0,
        started_at: Some(UnixMillis(1)),
        image_digest: None,
        settings: super::observed::Settings::default(),
        log_tail: Vec::new(),
    }
}

/// A container of any service and revision, in any state, perhaps meddled with,
/// perhaps foreign.
fn any_container() -> impl Strategy<Value = (usize, u32, Run, bool, bool)> {
    let run = prop_oneof![
        Just(Run::Created),
        Just(Run::Running),
        Just(Run::Paused),
        Just(Run::Restarting),
        Just(Run::Exited),
        Just(Run::Dead),
    ];
    (
        0..SERVICES.len(),
        1_u32..4,
        run,
        any::<bool>(),
        any::<bool>(),
    )
}

fn observation(goals: &[&Goal<'_>], containers: &[(usize, u32, Run, bool, bool)]) -> Observed {
    let mut observed = Observed::default();
    for (at, (service, revision, run, meddled, foreign_one)) in containers.iter().enumerate() {
        let service = SERVICES[*service];
        let goal = goals[usize::try_from(*revision).unwrap() % goals.len()];
        let wanted = &goal.services[service];
        let mut settings = goal.settings(service, wanted, *revision);
        if *meddled {
            settings.memory_bytes = 77;
        }
        observed.containers.push(Container {
            owner: (!foreign_one).then(|| Owner {
                deployment: ID,
                service: service.to_owned(),
                revision: *revision,
                hash: wanted.hash.clone(),
            }),
            run: *run,
            settings,
            exit_code: Some(0),
            ..foreign(&format!("c{at}"))
        });
    }
    observed.networks.insert("old-network".to_owned(), true);
    observed.networks.insert("theirs".to_owned(), false);
    observed.files.insert(FileCopy {
        digest: "00".to_owned(),
        mode: 0o400,
        owner: (0, 0),
    });
    observed
}

fn plan_for(goal: Option<&Goal<'_>>, spare: Option<&Goal<'_>>, observed: &Observed) -> Plan {
    let none = BTreeSet::new();
    let hints = Hints {
        revive: &none,
        tolerate: &none,
    };
    plan(Aim { goal, spare }, observed, hints)
}

proptest! {
    #[test]
    fn invariant_plans_converge_and_touch_nothing_foreign(
        containers in prop::collection::vec(any_container(), 0..12),
        with_spare: bool,
        nothing_wanted in prop::bool::weighted(0.2),
    ) {
        let (old, new) = (target(1, spec(&["a", "b", "c"])), target(2, spec(&["a", "x", "y"])));
        let (old, new) = (Goal::new("flotilla-shop", &old), Goal::new("flotilla-shop", &new));
        let mut observed = observation(&[&old, &new], &containers);
        let before: Vec<Container> =
            observed.containers.iter().filter(|c| c.owner.is_none()).cloned().collect();
        let of_old = |observed: &Observed, service: &str| {
            observed.containers.iter().any(|c| {
                let hash = &old.services[service].hash;
                c.run != Run::Dead
                    && c.owner.as_ref().is_some_and(|o| o.service == service && o.hash == *hash)
            })
        };
        let kept: Vec<&str> =
            SERVICES.into_iter().filter(|service| of_old(&observed, service)).collect();
        let goal = (!nothing_wanted).then_some(&new);
        let spare = with_spare.then_some(&old);
        let mut made = 0;
        let mut rounds = 0;
        loop {
            let planned = plan_for(goal, spare, &observed);
            if planned.steps.is_empty() {
                prop_assert!(planned.waits.is_empty());
                break;
            }
            rounds += 1;
            prop_assert!(rounds <= 5, "{planned:?}");
            for step in &planned.steps {
                apply(step, &new, &mut observed, &mut made);
            }
        }
        let after: Vec<Container> =
            observed.containers.iter().filter(|c| c.owner.is_none()).cloned().collect();
        prop_assert_eq!(before, after);
        if with_spare && !nothing_wanted {
            // What ran of the committed revision is still there.
            for service in kept {
                prop_assert!(of_old(&observed, service));
            }
        }
        // The old one goes only now.
        let mut rounds = 0;
        while let planned = plan_for(goal, None, &observed) && !planned.steps.is_empty() {
            rounds += 1;
            prop_assert!(rounds <= 5);
            for step in &planned.steps {
                apply(step, &new, &mut observed, &mut made);
            }
        }
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for owner in observed.containers.iter().filter_map(|c| c.owner.as_ref()) {
            *left.entry(owner.service.as_str()).or_default() += 1;
        }
        let expected = if nothing_wanted { 0 } else { SERVICES.len() };
        prop_assert_eq!(left.len(), expected);
        prop_assert!(left.values().all(|count| *count == 1));
        prop_assert_eq!(observed.networks.len(), 1);
        prop_assert!(observed.files.is_empty());
    }

    #[test]
    fn invariant_a_record_reads_back_as_it_was_written(generation: u64, revision: u32, begun: bool) {
        let want = Want::Run(Box::new(target(revision, spec(&["a", "b", "c"]))));
        let mut record = Record::new(desired(generation, want));
        if begun {
            record = record.begin().record;
            record = record.fail(Failure::new(protocol::ErrorCode::WorkloadExited, "x"), UnixMillis(1)).record;
        }
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn a_record_of_another_format_is_refused() {
    assert!(Record::decode(&[]).is_err());
    assert!(Record::decode(&[9, 1, 2]).unwrap_err().contains("format 9"));
}

#[test]
fn an_order_that_was_begun_has_one_result_whatever_comes() {
    let at = UnixMillis(5);
    let run = |generation, revision, images: [&str; 3]| {
        let target = target(revision, spec(&images));
        desired(generation, Want::Run(Box::new(target)))
    };
    let first = Record::new(run(1, 1, ["a", "b", "c"]));
    // One that was not begun has none.
    assert!(first.take(run(2, 2, ["x", "b", "c"]), at).result.is_none());
    let done = first.begin().record.succeed(at);
    assert_eq!(done.result.unwrap().outcome, ChangeOutcome::Succeeded);
    let second = done.record.take(run(2, 2, ["x", "b", "c"]), at);
    assert!(second.result.is_none());
    let third = second
        .record
        .begin()
        .record
        .take(run(3, 3, ["y", "b", "c"]), at);
    let result = third.result.unwrap();
    assert_eq!(
        (result.generation, result.outcome),
        (2, ChangeOutcome::Superseded)
    );
    assert!(third.record.disturbed);
    assert_eq!(third.record.committed.as_ref().unwrap().revision, 1);
    let failing = third.record.begin().record;
    let reverting = failing.fail(Failure::new(protocol::ErrorCode::WorkloadExited, "x"), at);
    assert!(reverting.result.is_none());
    let back = reverting.record.reverted(None, at);
    assert_eq!(back.result.unwrap().outcome, ChangeOutcome::Reverted);
    assert!(matches!(
        back.record.stage,
        Stage::Settled(ChangeOutcome::Reverted, Some(_))
    ));
}

#[test]
fn a_hash_covers_what_a_container_is_made_from_and_not_what_is_empty() {
    let hash = |change: &dyn Fn(&mut Spec)| {
        let mut spec = spec(&["a", "b", "c"]);
        change(&mut spec);
        let target = target(1, spec);
        Goal::new("flotilla-shop", &target).services["web"]
            .hash
            .clone()
    };
    let plain = hash(&|_| {});
    // Changed by a new way of hashing, every container of every node is made anew.
    assert_eq!(plain, "c42ee0cc1e86ee79");
    let web = |spec: &mut Spec, change: &dyn Fn(&mut Service)| {
        change(spec.services.get_mut("web").unwrap());
    };
    assert_ne!(plain, hash(&|spec| web(spec, &|web| web.read_only = true)));
    assert_ne!(
        plain,
        hash(&|spec| web(spec, &|web| web.image.digest = Some("d".to_owned())))
    );
    assert_eq!(plain, hash(&|spec| drop(spec.services.remove("db"))));
    let connected = |internal| {
        hash(&|spec| {
            spec.networks.insert(
                "net".to_owned(),
                Network {
                    internal,
                    ..Network::default()
                },
            );
            web(spec, &|web| {
                web.network = NetworkMode::Networks([("net".to_owned(), Vec::new())].into());
            });
        })
    };
    assert_ne!(connected(true), connected(false));
}

#[test]
fn images_are_asked_for_by_digest_tag_or_archive() {
    let image = |reference: &str, digest: Option<&str>, archive: Option<&str>| {
        image_handle(&Image {
            reference: reference.to_owned(),
            digest: digest.map(str::to_owned),
            archive: archive.map(str::to_owned),
        })
    };
    assert_eq!(image("r:5000/a/b:1", None, None), "r:5000/a/b:1");
    assert_eq!(
        image("r:5000/a/b:1", Some("sha256:0"), None),
        "r:5000/a/b@sha256:0"
    );
    assert_eq!(repository("r:5000/a/b"), "r:5000/a/b");
    let archives = [
        image("a:1", None, Some("00")),
        image("b:1", None, Some("00")),
        image("a:1", None, Some("01")),
    ];
    assert_eq!(BTreeSet::from(archives.clone()).len(), 3);
    assert!(archives.iter().all(|handle| handle.len() <= 17 + 128));
}

#[test]
fn ends_are_taken_by_the_restart_policy() {
    let ended = |code, oom_killed, restarts| Container {
        run: Run::Exited,
        exit_code: Some(code),
        oom_killed,
        restarts,
        ..foreign("c")
    };
    for (restart, container, expected) in [
        (Restart::No, ended(0, false, 0), End::Complete),
        (Restart::No, ended(3, false, 0), End::Failed),
        (Restart::No, ended(143, false, 0), End::Stopped),
        (Restart::No, ended(137, true, 0), End::Failed),
        (Restart::Always, ended(0, false, 0), End::Stopped),
        (Restart::OnFailure(2), ended(1, false, 2), End::Failed),
        (Restart::OnFailure(2), ended(1, false, 1), End::Stopped),
        (Restart::OnFailure(0), ended(0, false, 9), End::Complete),
        (Restart::UnlessStopped, ended(1, false, 0), End::Stopped),
    ] {
        assert_eq!(
            end_of(&container, restart),
            expected,
            "{restart:?} {container:?}"
        );
    }
}

#[test]
fn services_conflict_over_ports_places_devices_and_the_nodes_network() {
    let plain = service("a");
    let port = |number, ip: Option<&str>| {
        let mut service = service("a");
        service.ports = vec![Port {
            published: Some(number),
            target: 80,
            protocol: PortProtocol::Tcp,
            host_ip: ip.map(str::to_owned),
        }];
        service
    };
    let mounted = |source, read_only| {
        let mut service = service("a");
        service
            .mounts
            .insert("/data".to_owned(), Mount { source, read_only });
        service
    };
    let volume = || MountSource::Volume("data".to_owned());
    let host = Service {
        network: NetworkMode::Host,
        ..service("a")
    };
    for (a, b, expected) in [
        (plain.clone(), plain.clone(), false),
        (port(80, None), port(80, Some("10.0.0.1")), true),
        (
            port(80, Some("10.0.0.2")),
            port(80, Some("10.0.0.1")),
            false,
        ),
        (port(80, Some("0.0.0.0")), port(80, Some("10.0.0.1")), true),
        (port(80, None), port(81, None), false),
        (mounted(volume(), false), mounted(volume(), false), true),
        (mounted(volume(), false), mounted(volume(), true), false),
        (
            mounted(MountSource::Anonymous, false),
            mounted(MountSource::Anonymous, false),
            false,
        ),
        (host.clone(), host.clone(), true),
        (host, plain, false),
    ] {
        assert_eq!(conflicts(&a, &b), expected, "{a:?} {b:?}");
    }
}

/// What the rules have against a spec with one service, after a change to each.
fn judged(
    rules: impl Fn(&mut Rules),
    change: impl Fn(&mut Spec, &mut Service),
    paths: &[(&str, &str)],
) -> Vec<String> {
    let mut allowed = Rules::default();
    rules(&mut allowed);
    let (mut spec, mut web) = (Spec::default(), service("a"));
    change(&mut spec, &mut web);
    spec.services.insert("web".to_owned(), web);
    let resolved: Resolved = paths
        .iter()
        .map(|(path, real)| ((*path).to_owned(), Ok(PathBuf::from(real))))
        .collect();
    refusals(
        &allowed,
        &spec,
        &resolved,
        &[PathBuf::from("/run/docker.sock")],
    )
}

#[test]
fn a_plain_project_is_allowed_and_everything_else_is_named() {
    let nothing = |_: &mut Rules| {};
    assert_eq!(judged(nothing, |_, _| {}, &[]), Vec::<String>::new());
    let off = judged(|rules| rules.enabled = false, |_, _| {}, &[]);
    assert_eq!(off.len(), 1);
    let all = judged(
        |rules| {
            rules.registries = vec!["corp.example".to_owned()];
            rules.images = vec!["*/shop/*".to_owned()];
        },
        |spec, web| {
            web.privileged = true;
            web.network = NetworkMode::Host;
            web.cap_add = vec![
                "CAP_SYS_ADMIN".to_owned(),
                "CHOWN".to_owned(),
                "all".to_owned(),
            ];
            web.security_opt = vec![
                "seccomp=unconfined".to_owned(),
                "no-new-privileges".to_owned(),
            ];
            web.sysctls = [
                ("kernel.shmmax".to_owned(), "1".to_owned()),
                ("net.ipv4.ip_forward".to_owned(), "0".to_owned()),
            ]
            .into();
            web.devices = vec![Device {
                source: "/dev/mem".to_owned(),
                target: "/dev/mem".to_owned(),
                permissions: "rwm".to_owned(),
            }];
            let external = Network {
                external: Some("host".to_owned()),
                ..Network::default()
            };
            let macvlan = Network {
                driver: Some("macvlan".to_owned()),
                ..Network::default()
            };
            spec.networks = [("a".to_owned(), external), ("b".to_owned(), macvlan)].into();
        },
        &[],
    );
    for reason in [
        "registry \"r.example\"",
        "the image",
        "privileged",
        "the node's network",
        "SYS_ADMIN",
        "capability ALL",
        "seccomp=unconfined",
        "kernel.shmmax",
        "/dev/mem",
        "\"host\"",
        "\"macvlan\"",
    ] {
        assert!(
            all.iter().any(|found| found.contains(reason)),
            "{reason}: {all:#?}"
        );
    }
    assert_eq!(all.len(), 11, "{all:#?}");
}

#[test]
fn paths_of_the_node_are_confined_to_their_roots() {
    let bind = |path: &'static str| {
        move |_: &mut Spec, web: &mut Service| {
            let source = MountSource::Bind(path.to_owned());
            web.mounts.insert(
                "/x".to_owned(),
                Mount {
                    source,
                    read_only: true,
                },
            );
        }
    };
    let volume = |kind: &'static str, device: &'static str| {
        move |spec: &mut Spec, _: &mut Service| {
            let options = [("type", kind), ("o", "bind"), ("device", device)];
            let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
            spec.volumes.insert(
                "v".to_owned(),
                Volume {
                    options: options.into(),
                    ..Volume::default()
                },
            );
        }
    };
    let srv = |rules: &mut Rules| rules.host_paths = vec![PathBuf::from("/srv")];
    let open = |rules: &mut Rules| {
        rules.host_paths = vec![PathBuf::from("/")];
    };
    let socket = |rules: &mut Rules| rules.docker_socket = true;
    let path = |real: &'static str| vec![("/srv/a", real)];
    assert!(judged(srv, bind("/srv/a"), &path("/srv/a")).is_empty());
    assert!(!judged(|_| {}, bind("/srv/a"), &path("/srv/a")).is_empty());
    // A link out of the root, a sibling with the same beginning, and one that was
    // never resolved.
    let link = judged(srv, bind("/srv/a"), &path("/etc"));
    assert!(link[0].contains("which leads to \"/etc\""), "{link:?}");
    assert!(!judged(srv, bind("/srv/a"), &path("/srv2/a")).is_empty());
    assert!(!judged(srv, bind("/srv/a"), &[]).is_empty());
    // The engine's socket, and what it lies in, whatever the roots say.
    for real in ["/run/docker.sock", "/run", "/"] {
        let found = judged(open, bind("/srv/a"), &path(real));
        assert!(found[0].contains("socket"), "{real}: {found:?}");
    }
    assert!(judged(socket, bind("/srv/a"), &path("/run/docker.sock")).is_empty());
    assert!(!judged(socket, bind("/srv/a"), &path("/run")).is_empty());
    // A volume that is a bind mount in disguise.
    assert!(judged(srv, volume("none", "/srv/a"), &path("/srv/a")).is_empty());
    assert!(!judged(srv, volume("none", "/srv/a"), &path("/etc")).is_empty());
    assert!(
        !judged(
            srv,
            volume("ext4", "/dev/sda1"),
            &[("/dev/sda1", "/dev/sda1")]
        )
        .is_empty()
    );
}

#[test]
fn labels_of_another_node_make_no_owner() {
    let owner = Owner {
        deployment: ID,
        service: "web".to_owned(),
        revision: 3,
        hash: "h".to_owned(),
    };
    let labels = owner.labels(NODE);
    let read = |node| Owner::read(node, |key| labels.get(key).cloned());
    assert_eq!(read(NODE), Some(owner.clone()));
    assert_eq!(read(NodeId::from_bytes([8; 10])), None);
    for missing in labels.keys() {
        let part = |key: &str| labels.get(key).filter(|_| key != missing).cloned();
        assert_eq!(Owner::read(NODE, part), None, "{missing}");
    }
}
