//! Given releases, when they are added, rolled out and revoked, then.

use protocol::ErrorCode;
use protocol::key::SigningKey;
use protocol::release::{Archive, LIFETIME_DEFAULT, Release, archive_name};

use super::update::{ApplyUpdate, HEALTH, digest};
use super::{AddRelease, RELEASES_COUNT_MAX, RemoveRelease, RevokeRelease};
use crate::domain::access::caller::Caller;
use crate::domain::given::story::started;
use crate::domain::given::{START, World, apply, decide_next, finished, how};
use crate::domain::operation::Operation;
use crate::domain::rollout::event::Outcome;
use crate::domain::rollout::params::Params;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn fleet() -> World {
    let mut world = World::new();
    world.node(1, "l1", "site=lyon");
    world.node(2, "p1", "site=paris");
    world
}

fn release(version: &str) -> Release {
    Release {
        version: version.to_owned(),
        issued_at: START,
        expires_at: START.after(LIFETIME_DEFAULT),
        from_min: "0.1.0".to_owned(),
        from_max: version.to_owned(),
        archives: vec![Archive {
            target: TARGET.to_owned(),
            name: archive_name(version, TARGET),
            bytes: 10,
            sha256: "ab".repeat(32),
            unpacked_bytes: 10,
        }],
    }
}

fn add(release: Release) -> Operation {
    let key = SigningKey::from_seed(&[3; 32]).unwrap();
    Operation::AddRelease(AddRelease {
        signed: release.sign(&key),
        release: Box::new(release),
    })
}

fn update(name: &str, base: u32, on: &str, version: &str) -> Operation {
    Operation::ApplyUpdate(ApplyUpdate {
        name: name.to_owned(),
        base,
        selector: on.parse().unwrap(),
        version: version.to_owned(),
        how: how(Params {
            health: HEALTH,
            ..Params::default()
        }),
    })
}

fn revoke(version: &str) -> Operation {
    Operation::RevokeRelease(RevokeRelease {
        version: version.to_owned(),
        reason: "it eats samples".to_owned(),
    })
}

#[test]
fn a_version_means_one_release_for_ever() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, add(release("0.2.0")));
    assert!(world.done(admin, add(release("0.2.0"))).is_empty(), "again");
    let other = Release {
        from_min: "0.1.5".to_owned(),
        ..release("0.2.0")
    };
    let refused = world.refused(admin, add(other));
    assert_eq!(refused, ErrorCode::ReleaseConflict.text());
    world.done(admin, revoke("0.2.0"));
    let refused = world.refused(admin, add(release("0.2.0")));
    assert_eq!(refused, ErrorCode::ReleaseRevoked.text());
    assert!(world.done(admin, revoke("0.2.0")).is_empty(), "again");
    assert_eq!(world.fleet.releases().revoked(), ["0.2.0"]);
}

#[test]
fn releases_are_bounded_and_go_when_no_revision_names_them() {
    let mut world = fleet();
    let admin = world.admin;
    for patch in 0..RELEASES_COUNT_MAX {
        world.done(admin, add(release(&format!("0.2.{patch}"))));
    }
    let refused = world.refused(admin, add(release("0.3.0")));
    assert_eq!(refused, ErrorCode::LimitReached.text());
    let newest = world.fleet.releases().newest_first();
    assert_eq!(
        newest[0].release.version, "0.2.63",
        "by version, not by text"
    );
    world.done(admin, update("agent", 0, "site=lyon", "0.2.9"));
    let remove = |version: &str| {
        Operation::RemoveRelease(RemoveRelease {
            version: version.to_owned(),
        })
    };
    let refused = world.refused(admin, remove("0.2.9"));
    assert_eq!(refused, ErrorCode::ReleaseConflict.text());
    world.done(admin, remove("0.2.8"));
    let refused = world.refused(admin, remove("0.2.8"));
    assert_eq!(refused, ErrorCode::ReleaseNotFound.text());
}

#[test]
fn an_update_is_a_deployment_of_the_agent_with_a_rollout() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, add(release("0.2.0")));
    let events = world.done(admin, update("agent", 0, "site=lyon", "0.2.0"));
    started(&events);
    let known = world.fleet.deployments().named("agent").unwrap();
    assert!(known.is_of_updates());
    let newest = known.newest().unwrap();
    assert_eq!(newest.release.as_deref(), Some("0.2.0"));
    assert_eq!(newest.digest, digest("0.2.0"));
    assert!(newest.spec.services.is_empty());
}

#[test]
fn what_is_not_to_be_rolled_out_is_refused() {
    let mut world = fleet();
    let admin = world.admin;
    let missing = world.refused(admin, update("agent", 0, "*", "0.2.0"));
    assert_eq!(missing, ErrorCode::ReleaseNotFound.text());
    world.done(admin, add(release("0.2.0")));
    let expired = Release {
        expires_at: START.after(core::time::Duration::from_secs(1)),
        ..release("0.3.0")
    };
    world.done(admin, add(expired));
    world.now = START.after(core::time::Duration::from_secs(60));
    let late = world.refused(admin, update("agent", 0, "*", "0.3.0"));
    assert_eq!(late, ErrorCode::ReleaseExpired.text());
    let unnamed = world.refused(admin, update("no name", 0, "*", "0.2.0"));
    assert_eq!(unnamed, ErrorCode::DeploymentInvalid.text());
    world.done(admin, revoke("0.2.0"));
    let revoked = world.refused(admin, update("agent", 0, "*", "0.2.0"));
    assert_eq!(revoked, ErrorCode::ReleaseRevoked.text());
}

/// A deployment stays what it is, and a node gets its version from one update.
#[test]
fn projects_and_updates_do_not_mix_and_updates_do_not_overlap() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, add(release("0.2.0")));
    let web = Operation::ApplyDeployment(apply("web", 0, "*", "nginx:1"));
    let rollout = started(&world.done(admin, web));
    let done = decide_next(&world.fleet, rollout, |step| {
        finished(rollout, step, Outcome::Completed)
    });
    world.done(Caller::System, done);
    let mixed = world.refused(admin, update("web", 1, "*", "0.2.0"));
    assert_eq!(mixed, ErrorCode::DeploymentConflict.text());
    let rollout = started(&world.done(admin, update("agent", 0, "site=lyon", "0.2.0")));
    let done = decide_next(&world.fleet, rollout, |step| {
        finished(rollout, step, Outcome::Completed)
    });
    world.done(Caller::System, done);
    let project = Operation::ApplyDeployment(apply("agent", 1, "*", "nginx:1"));
    let mixed = world.refused(admin, project);
    assert_eq!(mixed, ErrorCode::DeploymentConflict.text());
    let both = world.refused(admin, update("other", 0, "*", "0.2.0"));
    assert_eq!(both, ErrorCode::DeploymentConflict.text());
    world.done(admin, update("other", 0, "site=paris", "0.2.0"));
}

#[test]
fn a_revocation_aborts_what_is_rolled_out_in_the_same_record() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, add(release("0.2.0")));
    let rollout = started(&world.done(admin, update("agent", 0, "*", "0.2.0")));
    let events = world.done(admin, revoke("0.2.0"));
    assert_eq!(events.len(), 2, "{events:?}");
    let course = &world.fleet.rollouts().get(rollout).unwrap().course;
    assert!(!course.is_running(), "it goes on");
}
