//! The subsystem over an engine in memory: updates that succeed and fail, hands
//! that meddle, engines that stop, and an agent that is killed at every call.

mod fetch;
mod world;

use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::desired::{Cause, Commit, OnFailure, Want};
use protocol::deployment::observed::{ChangeOutcome, Phase, WorkloadState};
use protocol::deployment::spec::{Condition, NetworkMode, Port, PortProtocol, Restart, Service};
use protocol::policy::Refusal;

use crate::domain::deployment::machine::{Class, StepError};
use crate::domain::deployment::record::Stage;
use world::{
    Behaviour, FakeContainer, WEB, When, World, checked, desired, run, service, spec, target,
};

const A_WHILE: Duration = Duration::from_secs(40);

fn web(image: &str) -> Vec<(&'static str, Service)> {
    vec![("web", service(image))]
}

/// Publishes a port, so that two revisions cannot run at the same time.
fn published(mut service: Service) -> Service {
    service.network = NetworkMode::default();
    service.ports = vec![Port {
        published: Some(80),
        target: 80,
        protocol: PortProtocol::Tcp,
        host_ip: None,
    }];
    service
}

/// A node on which revision 1 runs.
async fn with_revision_1(services: &[(&str, Service)]) -> World {
    let world = World::new();
    world.with(|inner| {
        for image in ["one", "two", "three"] {
            inner.registry.insert(format!("r.example/{image}"));
        }
        inner.containers.push(FakeContainer::foreign("other"));
    });
    world.order(run(1, target(1, spec(services))));
    world.run_for(A_WHILE).await;
    assert_eq!(outcomes(&world), [(1, ChangeOutcome::Succeeded)]);
    world
}

fn outcomes(world: &World) -> Vec<(u64, ChangeOutcome)> {
    world
        .results()
        .iter()
        .map(|result| (result.generation, result.outcome))
        .collect()
}

fn foreign_is_there(world: &World) {
    world.with(|inner| assert!(inner.containers.iter().any(|c| c.id == "foreign-other")));
}

/// One revision of the service runs, nothing else of the deployment is there.
fn ends_on(world: &World, revision: &str) {
    assert_eq!(world.running("web"), [revision]);
    world.with(|inner| {
        let ours = inner.containers.iter().filter(|c| !c.labels.is_empty());
        assert_eq!(ours.count(), 1, "{:?}", inner.log);
    });
    foreign_is_there(world);
}

#[tokio::test(start_paused = true)]
async fn a_new_revision_is_up_before_the_old_one_goes() {
    let world = with_revision_1(&web("one")).await;
    world.order(run(2, target(2, spec(&web("two")))));
    world.run_for(Duration::from_secs(5)).await;
    let mut both = world.running("web");
    both.sort();
    assert_eq!(both, ["1", "2"]);
    assert_eq!(world.state().phase, Phase::Verifying);
    world.run_for(A_WHILE).await;
    ends_on(&world, "2");
    let state = world.state();
    assert_eq!((state.phase, state.current), (Phase::Running, Some(2)));
    assert_eq!(state.workloads[0].state, WorkloadState::Running);
    assert!(state.drift.is_empty(), "{:?}", state.drift);
    assert_eq!(outcomes(&world)[1], (2, ChangeOutcome::Succeeded));
    assert_eq!(world.generation(), 2);
}

#[tokio::test(start_paused = true)]
async fn with_the_same_port_the_old_one_is_stopped_first_and_started_again_on_failure() {
    let old = published(service("one"));
    let world = with_revision_1(&[("web", old)]).await;
    world.with(|inner| {
        inner
            .behaviour
            .insert("r.example/two".to_owned(), Behaviour::EndsAfter(5_000, 1));
    });
    world.order(run(
        2,
        target(2, spec(&[("web", published(service("two")))])),
    ));
    world.run_for(Duration::from_secs(3)).await;
    assert_eq!(world.running("web"), ["2"]);
    world.run_for(A_WHILE).await;
    ends_on(&world, "1");
    assert_eq!(outcomes(&world)[1], (2, ChangeOutcome::Reverted));
    let state = world.state();
    assert_eq!(state.phase, Phase::Reverted);
    assert_eq!(state.code.as_deref(), Some("workload.exited"));
}

/// What a revision does that fails, by which code, and within which time.
#[tokio::test(start_paused = true)]
async fn revisions_that_fail_go_back_and_say_why() {
    for (behaviour, checks, code) in [
        (Behaviour::Ends(3), false, ErrorCode::WorkloadExited),
        (
            Behaviour::EndsAfter(5_000, 1),
            false,
            ErrorCode::WorkloadExited,
        ),
        (Behaviour::NeverHealthy, true, ErrorCode::WorkloadUnhealthy),
        (Behaviour::Restarts, false, ErrorCode::WorkloadCrashLoop),
    ] {
        let world = with_revision_1(&web("one")).await;
        world.with(|inner| {
            inner
                .behaviour
                .insert("r.example/two".to_owned(), behaviour);
        });
        let mut new = service("two");
        if checks {
            new = checked(new);
        }
        world.order(run(2, target(2, spec(&[("web", new)]))));
        world.run_for(Duration::from_secs(100)).await;
        ends_on(&world, "1");
        let result = world.results().pop().unwrap();
        assert_eq!(result.outcome, ChangeOutcome::Reverted, "{behaviour:?}");
        assert_eq!(result.code.as_deref(), Some(code.text()), "{behaviour:?}");
        let state = world.state();
        let failed = state.workloads.iter().find(|w| w.revision == 2);
        if code == ErrorCode::WorkloadExited {
            assert_eq!(failed.unwrap().log_tail, ["last words"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_there_leaves_the_old_revision_untouched() {
    let world = with_revision_1(&web("one")).await;
    let calls = world.with(|inner| inner.log.len());
    world.order(run(2, target(2, spec(&web("missing")))));
    world.run_for(A_WHILE).await;
    ends_on(&world, "1");
    let result = world.results().pop().unwrap();
    assert_eq!(result.code.as_deref(), Some("image.unavailable"));
    world.with(|inner| {
        let later = inner.log.split_off(calls);
        assert!(!later.iter().any(|call| call == "stop" || call == "start"));
    });
}

/// An order that waits for what never comes ends by its deadline.
#[tokio::test(start_paused = true)]
async fn a_change_without_progress_ends() {
    let world = with_revision_1(&web("one")).await;
    world.with(|inner| {
        let never = Behaviour::EndsAfter(10_000_000, 0);
        inner.behaviour.insert("r.example/three".to_owned(), never);
    });
    let mut waits = service("two");
    waits.depends_on = [("job".to_owned(), Condition::Completed)].into();
    let mut new = target(2, spec(&[("web", waits), ("job", service("three"))]));
    new.health.healthy_deadline_ms = 10_000_000;
    world.order(run(2, new));
    world.run_for(Duration::from_secs(200)).await;
    ends_on(&world, "1");
    let result = world.results().pop().unwrap();
    let code = ErrorCode::DeploymentDeadline.text();
    assert_eq!(result.code.as_deref(), Some(code));
    assert!(result.detail.contains("waits for job"), "{}", result.detail);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_no_node_could_run_is_refused() {
    let world = with_revision_1(&web("one")).await;
    world.order(run(2, target(2, spec(&[]))));
    world.run_for(A_WHILE).await;
    ends_on(&world, "1");
    let result = world.results().pop().unwrap();
    let code = ErrorCode::DeploymentInvalid.text();
    assert_eq!(result.code.as_deref(), Some(code));
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_fails_for_a_while_is_taken_up_again() {
    let world = with_revision_1(&web("one")).await;
    let busy = || {
        let error = StepError {
            code: ErrorCode::ImageUnavailable,
            class: Class::Passing,
            detail: "502 bad gateway".to_owned(),
        };
        ("pull", error)
    };
    world.with(|inner| inner.fail_next = (0..5).map(|_| busy()).collect());
    world.order(run(2, target(2, spec(&web("two")))));
    world.run_for(Duration::from_secs(90)).await;
    ends_on(&world, "2");
}

#[tokio::test(start_paused = true)]
async fn what_did_not_change_is_left_running() {
    let both = [("web", service("one")), ("db", service("one"))];
    let world = with_revision_1(&both).await;
    let db = |world: &World| {
        world.with(|inner| {
            let of =
                |c: &&FakeContainer| c.labels.get("flotilla.service").is_some_and(|s| s == "db");
            inner.containers.iter().find(of).map(|c| c.id.clone())
        })
    };
    let before = db(&world);
    let after = [("web", service("two")), ("db", service("one"))];
    world.order(run(2, target(2, spec(&after))));
    world.run_for(A_WHILE).await;
    assert_eq!(db(&world), before);
    assert_eq!(world.running("web"), ["2"]);
    let shown = world.state().workloads;
    assert!(shown.iter().all(|workload| workload.revision == 2));
}

#[tokio::test(start_paused = true)]
async fn services_wait_for_what_they_depend_on() {
    let mut web = service("two");
    web.depends_on = [
        ("db".to_owned(), Condition::Healthy),
        ("job".to_owned(), Condition::Completed),
    ]
    .into();
    let world = World::new();
    world.with(|inner| {
        for image in ["one", "two", "three"] {
            inner.registry.insert(format!("r.example/{image}"));
        }
        inner.behaviour.insert(
            "r.example/three".to_owned(),
            Behaviour::EndsAfter(20_000, 0),
        );
    });
    let services = [
        ("web", web),
        ("db", checked(service("one"))),
        ("job", service("three")),
    ];
    world.order(run(1, target(1, spec(&services))));
    world.run_for(Duration::from_secs(10)).await;
    assert!(world.running("web").is_empty());
    assert!(
        world
            .state()
            .detail
            .contains("waits for job to be completed")
    );
    world.run_for(A_WHILE).await;
    assert_eq!(world.running("web"), ["1"]);
    assert_eq!(outcomes(&world), [(1, ChangeOutcome::Succeeded)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_hand_did_is_undone_and_named() {
    let mut always = service("one");
    always.restart = Restart::Always;
    let world = with_revision_1(&[("web", always)]).await;
    for (hand, what) in [
        ("gone", "web: was not there"),
        ("stopped", "web: stopped from outside"),
        ("paused", "web: paused by hand"),
        ("memory", "web: memory changed by hand"),
    ] {
        world.with(|inner| {
            let at = inner
                .containers
                .iter()
                .position(|c| !c.labels.is_empty())
                .unwrap();
            match hand {
                "gone" => drop(inner.containers.remove(at)),
                "stopped" => inner.containers[at].stop_by_hand(0),
                "paused" => inner.containers[at].paused = true,
                _ => inner.containers[at].settings.memory_bytes = 5,
            }
        });
        world.run_for(Duration::from_secs(90)).await;
        ends_on(&world, "1");
        let state = world.state();
        assert_eq!(state.phase, Phase::Running, "{hand}: {state:?}");
        assert_eq!(state.drift.last().map(String::as_str), Some(what));
    }
    assert_eq!(world.results().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_difference_that_the_engine_keeps_is_not_repaired_for_ever() {
    let mut limited = service("one");
    limited.resources.memory_bytes = Some(64 << 20);
    let world = World::new();
    world.with(|inner| {
        inner.registry.insert("r.example/one".to_owned());
        inner.drops_memory = true;
        inner.containers.push(FakeContainer::foreign("other"));
    });
    world.order(run(1, target(1, spec(&[("web", limited)]))));
    world.run_for(Duration::from_secs(1_200)).await;
    let created = world.with(|inner| inner.log.iter().filter(|call| *call == "create").count());
    assert_eq!(created, 1);
    ends_on(&world, "1");
    let state = world.state();
    assert_eq!(state.phase, Phase::Running);
    assert!(
        state.detail.contains("sets memory of web"),
        "{}",
        state.detail
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stops_in_mid_update_is_waited_for() {
    for code in [0, 137] {
        let world = with_revision_1(&web("one")).await;
        world.order(run(2, target(2, spec(&web("two")))));
        let script = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            world.engine_stops(code);
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert_eq!(outcomes(&world).len(), 1, "nothing is claimed meanwhile");
            let state = world.state();
            assert_eq!(state.code.as_deref(), Some("container.unavailable"));
            world.with(|inner| inner.engine_away = false);
            tokio::time::sleep(Duration::from_secs(60)).await;
        };
        world.run_while(script).await;
        ends_on(&world, "2");
        assert_eq!(outcomes(&world)[1], (2, ChangeOutcome::Succeeded));
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_order_recalls_work_in_progress() {
    let world = with_revision_1(&web("one")).await;
    world.order(run(2, target(2, spec(&web("two")))));
    world.run_for(Duration::from_secs(3)).await;
    let mut back = target(1, spec(&web("one")));
    back.cause = Cause::Rollback;
    world.order(run(3, back));
    world.order(run(2, target(2, spec(&web("two")))));
    world.run_for(A_WHILE).await;
    ends_on(&world, "1");
    assert_eq!(
        outcomes(&world)[1..],
        [
            (2, ChangeOutcome::Superseded),
            (3, ChangeOutcome::Succeeded)
        ]
    );
    let code = ErrorCode::DeploymentSuperseded.text();
    assert_eq!(world.results()[1].code.as_deref(), Some(code));
}

#[tokio::test(start_paused = true)]
async fn at_a_barrier_the_revision_before_is_kept_until_the_commit() {
    let world = with_revision_1(&web("one")).await;
    let mut new = target(2, spec(&web("two")));
    new.commit = Commit::Barrier;
    world.order(run(2, new.clone()));
    world.run_for(A_WHILE).await;
    let state = world.state();
    assert_eq!(
        (state.phase, state.current),
        (Phase::AwaitingCommit, Some(1))
    );
    ends_on(&world, "2");
    // A breaker does not keep a node from committing what it runs.
    *world.refuse.lock().unwrap() = Some(refusal());
    new.commit = Commit::WhenHealthy;
    world.order(run(3, new));
    world.run_for(A_WHILE).await;
    let state = world.state();
    assert_eq!((state.phase, state.current), (Phase::Running, Some(2)));
    assert_eq!(
        outcomes(&world)[1..],
        [(2, ChangeOutcome::Succeeded), (3, ChangeOutcome::Succeeded)]
    );
}

fn refusal() -> Refusal {
    Refusal::Breaker {
        breaker: "default".to_owned(),
        state: "open",
        epoch: 4,
        reason: "too many failures".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_gate_stops_changes_and_lets_rollbacks_removals_and_repairs_pass() {
    let world = with_revision_1(&web("one")).await;
    *world.refuse.lock().unwrap() = Some(refusal());
    world.order(run(2, target(2, spec(&web("two")))));
    world.run_for(A_WHILE).await;
    ends_on(&world, "1");
    let result = world.results().pop().unwrap();
    assert_eq!(result.outcome, ChangeOutcome::Refused);
    assert_eq!(
        (result.code.as_deref(), result.policy_epoch),
        (Some("breaker.open"), 4)
    );
    world.with(|inner| inner.containers.retain(|c| c.labels.is_empty()));
    world.run_for(Duration::from_secs(120)).await;
    ends_on(&world, "1");
    let mut back = target(2, spec(&web("two")));
    back.cause = Cause::Rollback;
    world.order(run(3, back));
    world.run_for(A_WHILE).await;
    ends_on(&world, "2");
    world.order(desired(4, Want::Remove));
    world.run_for(A_WHILE).await;
    assert!(world.running("web").is_empty());
    assert_eq!(world.state().phase, Phase::Removed);
    assert_eq!(
        world.results().pop().unwrap().outcome,
        ChangeOutcome::Succeeded
    );
    foreign_is_there(&world);
}

#[tokio::test(start_paused = true)]
async fn what_the_node_forbids_is_refused_once_with_every_reason() {
    let world = with_revision_1(&web("one")).await;
    let mut bad = service("two");
    bad.privileged = true;
    bad.cap_add = vec!["SYS_ADMIN".to_owned()];
    world.order(run(2, target(2, spec(&[("web", bad)]))));
    world.run_for(Duration::from_secs(600)).await;
    ends_on(&world, "1");
    let refused: Vec<_> = world.results().into_iter().skip(1).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].code.as_deref(), Some("deployment.forbidden"));
    for reason in ["privileged", "SYS_ADMIN"] {
        assert!(refused[0].detail.contains(reason), "{}", refused[0].detail);
    }
    assert_eq!(world.state().phase, Phase::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_revision_is_taken_away_or_kept_as_asked() {
    for (on_failure, left) in [(OnFailure::Revert, 0), (OnFailure::Keep, 1)] {
        let world = World::new();
        world.with(|inner| {
            inner.registry.insert("r.example/one".to_owned());
            inner
                .behaviour
                .insert("r.example/one".to_owned(), Behaviour::Ends(1));
        });
        let mut first = target(1, spec(&web("one")));
        first.on_failure = on_failure;
        world.order(run(1, first));
        world.run_for(A_WHILE).await;
        assert_eq!(outcomes(&world), [(1, ChangeOutcome::Failed)]);
        let state = world.state();
        assert_eq!(state.phase, Phase::Failed);
        assert_eq!(state.workloads[0].log_tail, ["last words"]);
        assert_eq!(world.with(|inner| inner.containers.len()), left);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_running_that_the_engine_did_not_say_runs() {
    let world = with_revision_1(&web("one")).await;
    world.order(run(2, target(2, spec(&web("missing")))));
    world.run_for(A_WHILE).await;
    let told = world.told.lock().unwrap().clone();
    let never = told
        .iter()
        .flat_map(|state| &state.workloads)
        .filter(|workload| workload.revision == 2);
    for workload in never {
        assert!(
            matches!(
                workload.state,
                WorkloadState::Fetching | WorkloadState::Pending
            ),
            "{workload:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn configs_and_archives_come_from_the_controller() {
    use protocol::deployment::spec::{File, FileKind, FileMount};
    let digest = |content: &[u8]| {
        let hash = ring::digest::digest(&ring::digest::SHA256, content);
        data_encoding::HEXLOWER.encode(hash.as_ref())
    };
    let owner = Some((
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    ));
    let world = World::new();
    let (config, archive) = (b"listen = 1".to_vec(), b"a tar archive".to_vec());
    let mut web = service("one");
    web.image.archive = Some(digest(&archive));
    web.files.insert(
        "/etc/web.toml".to_owned(),
        FileMount {
            file: "config".to_owned(),
            mode: 0o444,
            owner,
        },
    );
    let mut whole = spec(&[("web", web)]);
    whole.files.insert(
        "config".to_owned(),
        File {
            kind: FileKind::Config,
            digest: digest(&config),
            size_bytes: u32::try_from(config.len()).unwrap(),
        },
    );
    let mut wanted = target(1, whole);
    wanted.on_failure = OnFailure::Revert;
    world.order(run(1, wanted.clone()));
    world.run_for(A_WHILE).await;
    assert_eq!(
        world.results()[0].code.as_deref(),
        Some("archive.not_found")
    );
    world.with(|inner| {
        let other = b"another archive".to_vec();
        inner.contents.insert(digest(&archive), other);
    });
    world.order(run(2, wanted.clone()));
    world.run_for(Duration::from_secs(20)).await;
    let state = world.state();
    assert_eq!(state.code.as_deref(), Some("archive.invalid"), "{state:?}");
    world.with(|inner| {
        inner.contents.insert(digest(&archive), archive.clone());
    });
    world.order(run(3, wanted.clone()));
    world.run_for(A_WHILE).await;
    let failed = world.results().pop().unwrap();
    assert_eq!(failed.code.as_deref(), Some("file.not_found"));
    world.with(|inner| {
        inner
            .contents
            .insert(digest(&config), b"listen = 2".to_vec());
    });
    world.order(run(4, wanted));
    world.run_for(Duration::from_secs(20)).await;
    assert!(world.running("web").is_empty(), "wrong content is not used");
    world.with(|inner| inner.contents.insert(digest(&config), config));
    world.run_for(Duration::from_secs(150)).await;
    assert_eq!(world.running("web"), ["1"]);
}

/// Runs a story with a crash at every single call, before and after its effect.
async fn crash_everywhere<S>(story: impl Fn() -> S, check: impl Fn(&World))
where
    S: Future<Output = World>,
{
    let world = story().await;
    let first = world.with(|inner| inner.calls);
    world.run_for(Duration::from_secs(300)).await;
    check(&world);
    let last = world.with(|inner| inner.calls).min(first + 60);
    assert!(last > first + 5, "the story has calls to crash at");
    for at in first + 1..=last {
        for when in [When::Before, When::After] {
            let world = story().await;
            world.with(|inner| inner.crash_at = Some((at, when)));
            world.run_for(Duration::from_secs(300)).await;
            check(&world);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_call_of_an_update_ends_on_the_new_revision() {
    crash_everywhere(
        async || {
            let world = with_revision_1(&web("one")).await;
            world.order(run(2, target(2, spec(&web("two")))));
            world
        },
        |world| {
            ends_on(world, "2");
            assert_eq!(outcomes(world)[1..], [(2, ChangeOutcome::Succeeded)]);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_call_of_a_failing_update_ends_on_the_old_revision() {
    for old in [service("one"), published(service("one"))] {
        crash_everywhere(
            async || {
                let world = with_revision_1(&[("web", old.clone())]).await;
                world.with(|inner| {
                    let fails = Behaviour::EndsAfter(2_000, 1);
                    inner.behaviour.insert("r.example/two".to_owned(), fails);
                });
                let mut new = old.clone();
                new.image = service("two").image;
                world.order(run(2, target(2, spec(&[("web", new)]))));
                world
            },
            |world| {
                ends_on(world, "1");
                assert_eq!(outcomes(world)[1..], [(2, ChangeOutcome::Reverted)]);
                assert!(matches!(world.stage(), Stage::Settled(..)));
            },
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_call_of_a_removal_leaves_nothing() {
    crash_everywhere(
        async || {
            let world = with_revision_1(&web("one")).await;
            world.order(desired(2, Want::Remove));
            world.order(run(3, target(2, spec(&web("two")))));
            world.order(desired(4, Want::Remove));
            world
        },
        |world| {
            assert!(world.running("web").is_empty());
            world.with(|inner| assert_eq!(inner.containers.len(), 1));
            assert_eq!(world.results().pop().map(|r| r.generation), Some(4));
            assert_eq!(world.state().deployment, WEB);
        },
    )
    .await;
}
