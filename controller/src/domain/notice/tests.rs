//! What a notice holds, and when it says something new.

use super::*;

fn notice(state: NoticeState, severity: Severity) -> Notice {
    Notice::new(
        UnixMillis(7),
        NoticeKind::Node,
        severity,
        state,
        "silent/web-1".to_owned(),
    )
}

#[test]
fn what_is_raised_is_told_once_and_resolved_once() {
    use NoticeState::{Once, Raised, Resolved};
    let standing = |severity| Some(Standing::raised(3, severity, None));
    let cases = [
        (Raised, Severity::Warning, None, true),
        (
            Raised,
            Severity::Warning,
            standing(Severity::Warning),
            false,
        ),
        (
            Raised,
            Severity::Critical,
            standing(Severity::Warning),
            true,
        ),
        (Resolved, Severity::Warning, None, false),
        (Resolved, Severity::Info, standing(Severity::Warning), true),
        (Once, Severity::Info, None, true),
        (Once, Severity::Info, standing(Severity::Info), true),
    ];
    for (state, severity, standing, expected) in cases {
        assert_eq!(
            notice(state, severity).is_news(standing),
            expected,
            "{state:?} {severity:?} {standing:?}"
        );
    }
}

#[test]
fn a_notice_is_cut_at_characters_edges() {
    let mut huge = notice(NoticeState::Once, Severity::Info);
    huge.title = "ä".repeat(1000);
    huge.detail = "x".repeat(100_000);
    huge.key = format!("x{}", "€".repeat(1000));
    huge.subject = huge.key.clone();
    huge.facts = (0..100)
        .map(|number| (format!("{number:03}"), "v".repeat(10_000)))
        .collect();
    let bounded = huge.bounded();
    assert_eq!(bounded.title.len(), TITLE_BYTES_MAX);
    assert_eq!(bounded.detail.len(), DETAIL_BYTES_MAX);
    assert_eq!(bounded.key.len(), 1 + 3 * 85, "no half of a character");
    assert_eq!(bounded.facts.len(), FACTS_COUNT_MAX);
    assert!(
        bounded
            .facts
            .values()
            .all(|value| value.len() == KEY_BYTES_MAX)
    );
    assert_eq!(bounded.clone().bounded(), bounded);
}

#[test]
fn names_are_read_back_and_others_are_refused() {
    for kind in NoticeKind::CHOICES {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    for severity in Severity::ALL {
        assert_eq!(severity.name().parse(), Ok(severity));
    }
    let error = "test".parse::<NoticeKind>().unwrap_err().to_string();
    assert!(error.contains("breaker, rollout"), "{error}");
    assert!("fatal".parse::<Severity>().is_err());
}
