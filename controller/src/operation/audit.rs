//! The audit trail.

use protocol::ErrorCode;
use protocol::time::UnixMillis;
use serde_json::Value;

use super::stream::{Bytes, written};
use super::view::audit::{AuditKey, ReadAudit, RecordPage, RecordView};
use super::{Operations, Who};
use crate::clock;
use crate::domain::access::caller::Caller;
use crate::domain::fleet::Fleet;
use crate::journal::Stored;
use crate::operation::failure::Failure;

/// Most records in one answer.
const RECORDS_MAX: u32 = 1000;

/// Records in one answer unless the caller says otherwise.
const RECORDS_DEFAULT: u32 = 100;

impl Operations {
    /// Records of the trail, oldest first.
    ///
    /// # Errors
    /// When it is denied, or the journal cannot be read.
    pub fn read_audit(&self, who: &Who, asked: &ReadAudit) -> Result<RecordPage, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("audit", "read"), &[])?;
        let journal = self.engine.journal();
        let limit = u64::from(asked.limit.unwrap_or(RECORDS_DEFAULT).clamp(1, RECORDS_MAX));
        let head = fleet.seq();
        let from = match asked.after {
            Some(after) => after.saturating_add(1),
            None => (head + 1).saturating_sub(limit).max(1),
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let records = journal.read(from, limit).map_err(|error| {
            Failure::fault(
                ErrorCode::JournalUnavailable,
                "the journal cannot be read",
                &error,
            )
        })?;
        Ok(RecordPage {
            records: records.iter().map(|stored| view(&fleet, stored)).collect(),
            head,
        })
    }

    /// The whole trail, as `flotilla audit verify` reads it.
    ///
    /// # Errors
    /// When it is denied.
    pub fn export_audit(&self, who: &Who) -> Result<Bytes, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("audit", "export"), &[])?;
        let journal = self.engine.journal().clone();
        Ok(written("an export of the audit trail", move |to| {
            journal.export(1, clock::now(), to).map(drop)
        }))
    }

    /// What verifies the trail.
    ///
    /// # Errors
    /// When it is denied.
    pub fn audit_key(&self, who: &Who) -> Result<AuditKey, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("audit", "read"), &[])?;
        let current = self.about.pki.signing().borrow().public();
        let mut keys = fleet.trust().controller_keys.clone();
        keys.insert(current);
        Ok(AuditKey {
            public_keys: keys.iter().map(ToString::to_string).collect(),
            fleet: fleet.id().to_string(),
        })
    }
}

fn view(fleet: &Fleet, stored: &Stored) -> RecordView {
    let record = &stored.record;
    let caller = match record.by {
        Caller::Principal { id, .. } => fleet
            .access()
            .principal(id)
            .map_or_else(|| id.to_string(), |principal| principal.name.clone()),
        Caller::Host => "host".to_owned(),
        Caller::Node(node) => super::command::node_name(fleet, node),
        Caller::System => "system".to_owned(),
        Caller::Anonymous => "anonymous".to_owned(),
    };
    RecordView {
        sequence: record.seq,
        at: record.at.into(),
        caller,
        kind: record.event.name().to_owned(),
        summary: summary(record),
        event: serde_json::to_value(&record.event).unwrap_or_default(),
        hash: stored.hash.to_string(),
    }
}

/// Characters of a summary: two lines of a wide terminal.
const SUMMARY_CHARS_MAX: usize = 240;

/// Bytes of a list or table in a summary that are still read at a glance.
const NESTED_BYTES_MAX: usize = 60;

/// The event's content on one line: its fields as they are recorded, large ones
/// left out. Secrets are stored as digests, and are left out even so.
fn summary(record: &crate::domain::audit::record::Record) -> String {
    let Ok(Value::Object(outer)) = serde_json::to_value(&record.event) else {
        return record.operation.clone();
    };
    let fields: Vec<_> = outer
        .values()
        .filter_map(Value::as_object)
        .flatten()
        .filter(|(name, value)| !is_noise(name, value))
        .map(|(name, value)| field(name, value))
        .collect();
    one_line(&fields.join(" "))
}

/// The text without line breaks, cut to what a summary may have.
fn one_line(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= SUMMARY_CHARS_MAX {
        return shown.collect();
    }
    let mut cut: String = shown.take(SUMMARY_CHARS_MAX - 1).collect();
    cut.push('…');
    cut
}

/// Digests say nothing to people, and neither does what is empty.
fn is_noise(name: &str, value: &Value) -> bool {
    let is_empty = match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    is_empty
        || [
            "secret",
            "digest",
            "merkle_root",
            "controller_keys",
            "authorities",
            "authority",
            "signed",
        ]
        .contains(&name)
        || name.ends_with("_digest")
}

/// A list or table, or how many it holds when that is more than a glance.
fn elided(name: &str, value: &Value, count: usize) -> String {
    let text = value.to_string();
    if text.len() <= NESTED_BYTES_MAX {
        format!("{name}={text}")
    } else {
        format!("{name}=({count})")
    }
}

fn field(name: &str, value: &Value) -> String {
    let is_time = name.ends_with("_at") || matches!(name, "start_by" | "from" | "until");
    match value {
        Value::String(text) => format!("{name}={text}"),
        Value::Number(number) if is_time => {
            format!("{name}={}", UnixMillis(number.as_u64().unwrap_or_default()))
        }
        Value::Object(fields) if name == "counts" => {
            let counts: Vec<_> = fields
                .iter()
                .filter(|(_, count)| count.as_u64() != Some(0))
                .map(|(state, count)| format!("{state}={count}"))
                .collect();
            counts.join(" ")
        }
        Value::Array(items) => elided(name, value, items.len()),
        Value::Object(fields) => elided(name, value, fields.len()),
        Value::Null | Value::Bool(_) | Value::Number(_) => format!("{name}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::given::story;

    #[test]
    fn a_summary_is_one_bounded_line_whatever_was_recorded() {
        let world = story::everything();
        let mut elided = 0;
        for record in &world.records {
            let said = summary(record);
            assert!(said.chars().count() <= SUMMARY_CHARS_MAX, "{said}");
            assert!(!said.contains(char::is_control), "{said}");
            elided += usize::from(said.contains("spec=("));
        }
        assert!(elided > 0, "a spec is not printed");
        assert_eq!(one_line(&"x".repeat(240)), "x".repeat(240));
        assert!(one_line(&"x".repeat(241)).ends_with("x\u{2026}"));
    }
}
