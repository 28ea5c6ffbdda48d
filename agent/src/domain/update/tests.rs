//! Which version is started after every power cut, crash and order.

use std::collections::BTreeSet;

use protocol::ErrorCode;
use protocol::deployment::desired::{Cause, HealthRule};
use protocol::deployment::observed::ChangeOutcome;
use protocol::key::SigningKey;
use protocol::release::{Archive, Release, ReleaseError, Update, archive_name};
use protocol::time::UnixMillis;

use super::course::{BUSY_MAX, LASTS_AFTER, Next, Order, Seen, TRIES_MAX, Wait, next};
use super::launch::{Launch, launch};
use super::record::{PROBATION_STARTS_MAX, Phase, Slot, TRIAL_STARTS_MAX, UpdateRecord};
use crate::domain::deployment::record::Stage;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const NOW: UnixMillis = UnixMillis(10_000_000);

/// A trial of version 0.2.0 over the launcher's own 0.1.0.
pub(crate) fn trial() -> UpdateRecord {
    UpdateRecord {
        generation: 7,
        version: "0.2.0".to_owned(),
        to: Some("0.2.0".to_owned()),
        from_version: "0.1.0".to_owned(),
        from: None,
        base: "0.1.0".to_owned(),
        phase: Phase::Trial,
        starts: 0,
        window_ms: 300_000,
        steady_ms: 30_000,
    }
}

/// What is durable of a node, and what has been started on it.
#[derive(Clone, Debug, Default)]
struct Disk {
    record: Option<UpdateRecord>,
    selected: Slot,
    bad_starts: u32,
}

impl Disk {
    /// A launcher starts and is cut off after `steps` of what it has to do: writing
    /// the record, selecting, starting. All of them when it is not.
    fn launch(&mut self, steps: usize) -> Option<Launch> {
        let launch = launch(self.record.as_ref(), &self.selected, "0.1.0", None);
        let mut done = 0;
        let mut step = || {
            done += 1;
            done <= steps
        };
        if let Some(record) = &launch.record {
            if !step() {
                return None;
            }
            self.record = Some(record.clone());
        }
        if let Some(slot) = &launch.select {
            if !step() {
                return None;
            }
            self.selected = slot.clone();
        }
        if !step() {
            return None;
        }
        if launch.run.is_some() {
            self.bad_starts += 1;
        }
        Some(launch)
    }
}

/// The old version writes the trial and selects, and is cut off after any step; the
/// launcher is cut off after any step, again and again, and the new version never
/// confirms itself: it is started three times at most, and the old one runs.
#[test]
fn a_power_cut_at_any_step_ends_on_a_version_that_runs() {
    let mut ends = BTreeSet::new();
    for swapped in 0..=2 {
        for cuts in 0..3_u32.pow(5) {
            let mut disk = Disk::default();
            if swapped >= 1 {
                disk.record = Some(trial());
            }
            if swapped >= 2 {
                disk.selected = Some("0.2.0".to_owned());
            }
            let mut left = cuts;
            for _ in 0..5 {
                disk.launch((left % 3) as usize);
                left /= 3;
            }
            for _ in 0..=TRIAL_STARTS_MAX {
                disk.launch(9);
            }
            let last = disk.launch(9).unwrap();
            assert_eq!(last.run, None, "{swapped} {cuts}: {disk:?}");
            assert!(!last.watch);
            assert!(disk.bad_starts <= TRIAL_STARTS_MAX, "{swapped} {cuts}");
            assert_eq!(disk.selected, None);
            ends.insert(disk.record.map(|record| format!("{:?}", record.phase)));
        }
    }
    let told: Vec<String> = ends.into_iter().flatten().collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|phase| phase == "Abandoned"), "{told:?}");
    assert!(told.iter().any(|phase| phase.contains("did not confirm")));
}

#[test]
fn a_version_that_confirms_and_then_dies_is_given_up_too() {
    let mut disk = Disk {
        record: Some(trial().to(Phase::Proven)),
        selected: Some("0.2.0".to_owned()),
        bad_starts: 0,
    };
    for _ in 0..PROBATION_STARTS_MAX {
        let launch = disk.launch(9).unwrap();
        assert!(launch.watch && launch.run.is_some());
    }
    let last = disk.launch(9).unwrap();
    assert_eq!(last.run, None);
    let Some(Phase::Reverted { reason, proven }) = disk.record.map(|record| record.phase) else {
        panic!("it goes on");
    };
    assert!(
        proven && reason.contains("had confirmed itself"),
        "{reason}"
    );
}

#[test]
fn a_version_that_lasted_is_started_without_being_watched() {
    let mut disk = Disk {
        record: Some(trial().to(Phase::Settled)),
        selected: Some("0.2.0".to_owned()),
        bad_starts: 0,
    };
    for _ in 0..10 {
        let launch = disk.launch(9).unwrap();
        assert!(!launch.watch && launch.run.is_some());
    }
}

#[test]
fn a_package_that_is_installed_takes_the_place_of_any_update() {
    for phase in [Phase::Trial, Phase::Proven, Phase::Settled] {
        let record = trial().to(phase);
        let launch = launch(Some(&record), &Some("0.2.0".to_owned()), "0.3.0", None);
        assert_eq!(launch.run, None);
        assert_eq!(launch.select, Some(None));
        assert_eq!(launch.record.unwrap().base, "0.3.0");
    }
}

#[test]
fn a_record_reads_back_and_damage_is_told() {
    let record = trial().reverted("it hung");
    assert_eq!(UpdateRecord::decode(&record.encode()), Ok(record.clone()));
    assert!(UpdateRecord::decode(&[]).is_err());
    assert!(UpdateRecord::decode(&record.encode()[..9]).is_err());
    let newer = [&[9], &record.encode()[1..]].concat();
    assert!(
        UpdateRecord::decode(&newer)
            .unwrap_err()
            .contains("format 9")
    );
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[4; 32]).unwrap()
}

fn release(version: &str) -> Release {
    Release {
        version: version.to_owned(),
        issued_at: UnixMillis(1),
        expires_at: UnixMillis(NOW.0 + 1),
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

fn update(release: &Release) -> Update {
    Update {
        revision: 2,
        release: release.sign(&key()),
        revoked: Vec::new(),
        rollout: None,
        cause: Cause::Change,
        health: HealthRule::default(),
    }
}

const ABLE: Seen<'_> = Seen {
    running: "0.1.0",
    target: TARGET,
    able: Ok(()),
    controller: Some(NOW),
    kept: false,
    ready: false,
    up: Some(LASTS_AFTER),
    heard: true,
    open_commands: 0,
    waited: core::time::Duration::ZERO,
    tries: 0,
};

/// The release of an update, as a node knows it that believes the key.
fn known(update: &Update) -> Result<Release, ReleaseError> {
    update.release.verify(&[key().public()])
}

#[track_caller]
fn ask(update: &Update, stage: &Stage, record: Option<&UpdateRecord>, seen: Seen<'_>) -> Next {
    let release = known(update);
    let order = Order {
        generation: 7,
        update,
        release: &release,
        stage,
    };
    next(Some(order), record, seen)
}

#[track_caller]
fn refused(update: &Update, seen: Seen<'_>) -> ErrorCode {
    let next = ask(update, &Stage::New, None, seen);
    let Next::Refuse(code, _) = next else {
        panic!("it is not refused: {next:?}");
    };
    code
}

#[test]
fn what_is_not_to_be_installed_is_refused_before_anything_is_fetched() {
    let good = update(&release("0.2.0"));
    assert_eq!(ask(&good, &Stage::New, None, ABLE), Next::Begin);

    let mut unsigned = good.clone();
    unsigned.release.signature.clear();
    assert_eq!(refused(&unsigned, ABLE), ErrorCode::ReleaseUntrusted);
    let mut wrongly = good.clone();
    wrongly.release = release("0.2.0").sign(&SigningKey::from_seed(&[5; 32]).unwrap());
    assert_eq!(refused(&wrongly, ABLE), ErrorCode::ReleaseUntrusted);

    let mut revoked = good.clone();
    revoked.revoked = vec!["0.2.0".to_owned()];
    assert_eq!(refused(&revoked, ABLE), ErrorCode::ReleaseRevoked);

    let older = update(&release("0.1.0"));
    let newer = Seen {
        running: "0.2.0",
        ..ABLE
    };
    assert_eq!(refused(&older, newer), ErrorCode::ReleaseForbidden);
    let back = Update {
        cause: Cause::Rollback,
        ..older
    };
    assert_eq!(
        refused(&back, newer),
        ErrorCode::ReleaseForbidden,
        "it is not kept"
    );
    let kept = Seen {
        kept: true,
        ..newer
    };
    assert_eq!(ask(&back, &Stage::New, None, kept), Next::Begin);

    let elsewhere = Seen {
        target: "riscv64gc-unknown-linux-gnu",
        ..ABLE
    };
    assert_eq!(refused(&good, elsewhere), ErrorCode::ReleaseNoTarget);
    let unable = Seen {
        able: Err("switched off"),
        ..ABLE
    };
    assert_eq!(refused(&good, unable), ErrorCode::UpdateUnsupported);
}

/// The node's own clock plays no part: an expiry is judged by the controller's time,
/// and waits until that is proven.
#[test]
fn an_expiry_waits_for_the_controllers_time_and_is_judged_again_before_the_swap() {
    let good = update(&release("0.2.0"));
    let unproven = Seen {
        controller: None,
        ..ABLE
    };
    assert_eq!(
        ask(&good, &Stage::New, None, unproven),
        Next::Wait(Wait::Time)
    );
    let late = Seen {
        controller: Some(UnixMillis(NOW.0 + 1)),
        ..ABLE
    };
    assert_eq!(refused(&good, late), ErrorCode::ReleaseExpired);
    let ready = Seen {
        ready: true,
        ..late
    };
    let Next::End(ChangeOutcome::Reverted, Some(failure)) =
        ask(&good, &Stage::Changing, None, ready)
    else {
        panic!("it is installed late");
    };
    assert_eq!(failure.code, ErrorCode::ReleaseExpired.text());
}

#[test]
fn an_update_waits_for_commands_and_gives_up_in_the_end() {
    let good = update(&release("0.2.0"));
    let changing = |seen| ask(&good, &Stage::Changing, None, seen);
    assert!(matches!(changing(ABLE), Next::Prepare(_)));
    let busy = Seen {
        ready: true,
        open_commands: 2,
        ..ABLE
    };
    assert_eq!(changing(busy), Next::Wait(Wait::Commands(2)));
    assert_eq!(
        changing(Seen {
            open_commands: 0,
            ..busy
        }),
        Next::Swap
    );
    let Next::End(ChangeOutcome::Reverted, Some(failure)) = changing(Seen {
        waited: BUSY_MAX,
        ..busy
    }) else {
        panic!("it waits for ever");
    };
    assert_eq!(failure.code, ErrorCode::UpdateBusy.text());
    let tried = Seen {
        tries: TRIES_MAX,
        ..ABLE
    };
    let Next::End(_, Some(failure)) = changing(tried) else {
        panic!("it is tried for ever");
    };
    assert_eq!(failure.code, ErrorCode::UpdateFailed.text());
}

#[test]
fn a_new_version_confirms_itself_by_its_link_and_by_being_heard() {
    let good = update(&release("0.2.0"));
    let record = trial();
    let new = Seen {
        running: "0.2.0",
        ..ABLE
    };
    let ask = |seen, record: &UpdateRecord| ask(&good, &Stage::Changing, Some(record), seen);
    let waits = Next::Wait(Wait::Confirmation);
    assert_eq!(
        ask(
            Seen {
                heard: false,
                ..new
            },
            &record
        ),
        waits
    );
    assert_eq!(ask(Seen { up: None, ..new }, &record), waits);
    let short = Some(core::time::Duration::from_secs(29));
    assert_eq!(ask(Seen { up: short, ..new }, &record), waits);
    assert_eq!(ask(new, &record), Next::Confirm);

    let proven = record.to(Phase::Proven);
    let success = Next::End(ChangeOutcome::Succeeded, None);
    assert_eq!(ask(new, &proven), success);
    let settled = Stage::Settled(ChangeOutcome::Succeeded, None);
    let release = known(&good);
    let order = Order {
        generation: 7,
        update: &good,
        release: &release,
        stage: &settled,
    };
    assert_eq!(next(Some(order), Some(&proven), new), Next::Settle);
    let early = Seen { up: short, ..new };
    assert_eq!(
        next(Some(order), Some(&proven), early),
        Next::Wait(Wait::Probation)
    );
}

#[test]
fn the_version_before_tells_why_it_is_back() {
    let good = update(&release("0.2.0"));
    let record = trial().reverted("it hung");
    let Next::End(ChangeOutcome::Reverted, Some(failure)) =
        ask(&good, &Stage::Changing, Some(&record), ABLE)
    else {
        panic!("it is tried again");
    };
    assert_eq!(failure.code, ErrorCode::UpdateReverted.text());
    assert_eq!(failure.detail, "it hung");
    // What was cut off before it was selected is tried again.
    let cut_off = trial().to(Phase::Abandoned);
    let again = ask(&good, &Stage::Changing, Some(&cut_off), ABLE);
    assert!(matches!(again, Next::Prepare(_)), "{again:?}");
}

/// A recall of a version that is on trial does not wait for its end.
#[test]
fn an_order_of_the_version_before_recalls_a_trial() {
    let back = Update {
        cause: Cause::Rollback,
        ..update(&release("0.1.0"))
    };
    let new = Seen {
        running: "0.2.0",
        kept: true,
        ..ABLE
    };
    let recalled = ask(&back, &Stage::New, Some(&trial()), new);
    assert!(matches!(recalled, Next::GoBack(_)), "{recalled:?}");
    let other = update(&release("0.3.0"));
    let confirmed_first = ask(&other, &Stage::New, Some(&trial()), new);
    assert_eq!(confirmed_first, Next::Confirm);
}
