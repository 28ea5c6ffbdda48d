//! Rollouts as stories: scripts that say what happens, and beside each the story
//! that the controller's machine made of it.
//!
//! A script is read line by line; `#` begins a comment. Times are counted from the
//! start. Every node works for five seconds and succeeds after thirty, unless the
//! script says otherwise.
//!
//! ```text
//! nodes 5 site=lyon,paris   nodes n1 to n5, whose sites take turns
//! rollout ... end           a [rollout] table in TOML; else the defaults
//! start                     plans it and begins
//! plan                      who is in which wave
//! bad n1 n2 [failed]        these fail with that class; `bad 8%` of all
//! good n1                   these succeed again
//! mute n1 n2                these say nothing any more, links included
//! away n1 / back n1         the link goes down, comes up
//! join n9 site=nice         comes to match; `leave n9` no longer does
//! degrade n1                says that it is not well
//! pass 5m                   time goes by
//! approve by bob            opens the next gate; ann asked for the rollout
//! pause / resume / abort keep|revert
//! trip halt|hold / reset    a breaker
//! half_open n1 n2           it lets these pass
//! quiet                     decisions only from here on
//! show                      how many stand where
//! ```
//!
//! `FLOTILLA_BLESS=1` writes the stories down as they are.

#[cfg(test)]
mod script;
#[cfg(test)]
mod world;

/// The scripts that must be there, so that none is lost unseen.
#[cfg(test)]
const STORIES: [&str; 14] = [
    "approval_by_another",
    "barrier_commit",
    "breaker_trips",
    "breaker_tries_again",
    "budget_by_site",
    "canary_fails",
    "good_revision_with_background_failures",
    "half_a_wave_goes_silent",
    "halt_and_go_back",
    "late_joiners",
    "offline_and_back",
    "resume_after_halt",
    "slow_burn",
    "two_nodes_one_failure",
];

#[test]
fn every_story_is_told_as_expected() {
    use std::fs;

    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let bless = std::env::var_os("FLOTILLA_BLESS").is_some();
    let mut broken = Vec::new();
    for name in STORIES {
        let script = fs::read_to_string(folder.join(format!("{name}.txt"))).expect(name);
        let told = script::tell(&script);
        let path = folder.join(format!("{name}.expected"));
        if bless {
            fs::write(&path, &told).expect("the story can be written");
            continue;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if told != expected {
            broken.push(format!("{name}:\n{}", first_difference(&expected, &told)));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let scripts = fs::read_dir(&folder)
        .expect("the folder can be read")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "txt"))
        .count();
    assert_eq!(scripts, STORIES.len(), "every script is in the list");
}

#[cfg(test)]
fn first_difference(expected: &str, told: &str) -> String {
    let mut lines = expected.lines();
    for line in told.lines() {
        let wanted = lines.next();
        if wanted != Some(line) {
            return format!(
                "  expected: {}\n  told:     {line}",
                wanted.unwrap_or("the end")
            );
        }
    }
    format!(
        "  expected: {}\n  told:     the end",
        lines.next().unwrap_or("the end")
    )
}
