//! Limits: `deploy.resources`, and the older keys beside it.

use std::collections::BTreeMap;

use protocol::deployment::spec::Resources;

use super::key;
use super::problem::shown;
use super::quantity;
use super::reader::{Item, Reader, Table};

/// Takes every key of a service that limits it.
pub(super) fn resources(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Resources {
    let deployed = deploy(reader, table);
    let memory = older(
        reader,
        table,
        "mem_limit",
        quantity::bytes,
        deployed.memory_bytes,
    );
    let kept = older(
        reader,
        table,
        "mem_reservation",
        quantity::bytes,
        deployed.memory_reservation_bytes,
    );
    let cpus = older(
        reader,
        table,
        "cpus",
        quantity::billionths,
        deployed.nano_cpus,
    );
    let pids = older(reader, table, "pids_limit", pids, deployed.pids);
    let found = Resources {
        memory_bytes: some(memory),
        memory_reservation_bytes: some(kept),
        nano_cpus: some(cpus),
        pids: some(pids),
        shm_bytes: some(reader.take_parsed(table, "shm_size", quantity::bytes)),
    };
    if let (Some(limit), Some(kept)) = (found.memory_bytes, found.memory_reservation_bytes)
        && kept > limit
    {
        let item = table.item.clone();
        reader.invalid(&item, "reserves more memory than its limit");
    }
    found
}

/// Zero is no limit.
fn some(limit: Option<u64>) -> Option<u64> {
    limit.filter(|limit| *limit > 0)
}

/// An older key, which may stand beside `deploy` if it says the same.
fn older(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    key: &'static str,
    parse: fn(&str) -> Result<u64, String>,
    deployed: Option<u64>,
) -> Option<u64> {
    let Some(item) = table.take(key) else {
        return deployed;
    };
    let value = reader.parsed(&item, parse);
    if let (Some(value), Some(deployed)) = (value, deployed)
        && value != deployed
    {
        reader.invalid(&item, "differs from what `deploy.resources` says");
    }
    value
}

fn pids(text: &str) -> Result<u64, String> {
    match text {
        "-1" => Ok(0),
        text => text
            .parse()
            .map_err(|_| format!("{} is no number of processes", shown(text))),
    }
}

fn deploy(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Resources {
    let mut found = Resources::default();
    let Some(item) = table.take("deploy") else {
        return found;
    };
    let Some(mut deploy) = reader.table(&item) else {
        return found;
    };
    if let Some(item) = deploy.take("replicas")
        && reader.number(&item).is_some_and(|count: u64| count != 1)
    {
        reader.unsupported(
            &item,
            "a node runs one container of a service; name further services",
        );
    }
    if let Some(item) = deploy.take("mode")
        && reader.text(&item).is_some_and(|mode| mode != "replicated")
    {
        reader.unsupported(&item, "the deployment's selector says which nodes");
    }
    if let Some(item) = deploy.take("resources")
        && let Some(mut resources) = reader.table(&item)
    {
        if let Some(item) = resources.take("limits")
            && let Some(mut limits) = reader.table(&item)
        {
            found.memory_bytes = reader.take_parsed(&mut limits, "memory", quantity::bytes);
            found.nano_cpus = reader.take_parsed(&mut limits, "cpus", quantity::billionths);
            found.pids = reader.take_parsed(&mut limits, "pids", pids);
            reader.finish(limits, key::RESOURCES);
        }
        if let Some(item) = resources.take("reservations")
            && let Some(mut kept) = reader.table(&item)
        {
            found.memory_reservation_bytes =
                reader.take_parsed(&mut kept, "memory", quantity::bytes);
            if let Some(item) = kept.take("cpus") {
                reader.unsupported(&item, "an engine reserves no processors; use `limits`");
            }
            reader.finish(kept, key::RESOURCES);
        }
        reader.finish(resources, &[]);
    }
    reader.finish(deploy, key::DEPLOY);
    found
}

/// The `ulimits` of a service: soft and hard.
pub(super) fn ulimits(reader: &mut Reader<'_>, item: &Item<'_>) -> BTreeMap<String, (i64, i64)> {
    let mut found = BTreeMap::new();
    for (name, item) in reader.entries(item) {
        let limit = if item.is_map() {
            soft_and_hard(reader, &item)
        } else {
            reader.number(&item).map(|both: i64| (both, both))
        };
        let Some((soft, hard)) = limit else {
            continue;
        };
        if !name.bytes().all(|b| b.is_ascii_lowercase()) {
            reader.invalid(&item, "is no name of a limit");
        } else if soft < -1 || hard < -1 || (hard != -1 && (soft == -1 || soft > hard)) {
            reader.invalid(&item, "has a soft limit past the hard one, or below -1");
        } else {
            found.insert(name, (soft, hard));
        }
    }
    found
}

fn soft_and_hard(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<(i64, i64)> {
    let mut table = reader.table(item)?;
    let soft = reader.require(&mut table, "soft");
    let soft = soft.and_then(|item| reader.number(&item));
    let hard = reader.require(&mut table, "hard");
    let hard = hard.and_then(|item| reader.number(&item));
    reader.finish(table, &[]);
    Some((soft?, hard?))
}
