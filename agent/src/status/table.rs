//! The status for a person.

use std::fmt::Write as _;

use protocol::deployment::observed::DeploymentState;
use protocol::time::UnixMillis;

use super::report::{AgentStatus, LinkState};

/// Width of the first column.
const LABEL_WIDTH: usize = 12;

/// The status as lines of text, each ended. What nobody needs to act on is
/// short, what is wrong is said in words.
pub(super) fn render(status: &AgentStatus, now: UnixMillis) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        // Writing to a string cannot fail.
        let _written = writeln!(text, "{label:<LABEL_WIDTH$}{value}");
    };
    line("node", &node(status));
    line("agent", &process(status, now));
    if let Some(update) = &status.update {
        line("update", &update.story);
    }
    line("link", &link(status, now));
    line("clock", &clock(status));
    line("certificate", &certificate(status, now));
    line("outbox", &outbox(status));
    line("budgets", &budgets(status, now));
    line("disk", &disk(status));
    line("trust", &trust(status));
    for (at, text) in gate(status, now).iter().enumerate() {
        line(if at == 0 { "gate" } else { "" }, text);
    }
    if !status.dependencies.is_empty() {
        line("depends on", &dependencies(status, now));
    }
    if !status.refused.is_empty() {
        line("refused", &refused(status));
    }
    if status.problems.is_empty() {
        line("problems", "none");
    }
    for (at, problem) in status.problems.iter().enumerate() {
        let label = if at == 0 { "problems" } else { "" };
        line(label, &format!("{}: {}", problem.code, problem.detail));
    }
    let mut label = "deployments";
    for state in &status.deployments {
        for text in deployment_lines(state, now) {
            line(label, &text);
            label = "";
        }
    }
    if status.commands.is_empty() {
        line("commands", "none yet");
    }
    for (at, command) in status.commands.iter().enumerate() {
        let label = if at == 0 { "commands" } else { "" };
        line(label, &command_line(command, now));
    }
    text
}

fn node(status: &AgentStatus) -> String {
    let node = &status.node;
    let Some(id) = &node.id else {
        return "has not joined a fleet (flotilla-agent join TOKEN)".to_owned();
    };
    let mut text = id.clone();
    if !node.name.is_empty() {
        text = format!("{} ({id})", node.name);
    }
    if let Some(fleet) = &node.fleet {
        text.push_str(&format!(", fleet {fleet}"));
    }
    for (key, value) in &node.labels {
        text.push_str(&format!(" {key}={value}"));
    }
    text
}

fn process(status: &AgentStatus, now: UnixMillis) -> String {
    let process = &status.process;
    format!(
        "{}, process {}, up {}",
        process.version,
        process.pid,
        span(now.since(process.started_at).as_millis())
    )
}

fn link(status: &AgentStatus, now: UnixMillis) -> String {
    let link = &status.link;
    let mut text = match link.state {
        LinkState::Up => "up",
        LinkState::Down => "DOWN",
        LinkState::NotJoined => return "none before the node has joined".to_owned(),
    }
    .to_owned();
    match link.proven_at {
        Some(at) => text.push_str(&format!(", proven {} ago", span(now.since(at).as_millis()))),
        None => text.push_str(", not proven since the agent started"),
    }
    if let Some(broker) = &link.broker {
        text.push_str(&format!(", broker {broker}"));
    }
    if let Some(problem) = &link.problem {
        text.push_str(&format!(": {problem}"));
    }
    text
}

fn clock(status: &AgentStatus) -> String {
    match status.clock.offset_ms {
        None => "not compared with the controller's yet".to_owned(),
        Some(offset) => {
            let most = i64::try_from(protocol::limits::CLOCK_OFFSET_MAX.as_millis());
            let off = most.is_ok_and(|most| offset.saturating_abs() > most);
            format!(
                "{}{} ms against the controller's (within {} ms)",
                if off { "WRONG: " } else { "" },
                offset.saturating_neg(),
                status.clock.error_ms
            )
        }
    }
}

fn certificate(status: &AgentStatus, now: UnixMillis) -> String {
    match &status.certificate {
        None => "none".to_owned(),
        Some(held) if held.expires_at <= now => format!("EXPIRED {}", held.expires_at),
        Some(held) => format!(
            "expires {}, in {}",
            held.expires_at,
            span(held.expires_at.since(now).as_millis())
        ),
    }
}

fn outbox(status: &AgentStatus) -> String {
    let mut parts: Vec<String> = status
        .streams
        .iter()
        .map(|stream| match stream.entries {
            0 => format!("{} 0", stream.stream),
            entries => format!("{} {entries} ({})", stream.stream, bytes(stream.bytes)),
        })
        .collect();
    if status.shed_samples > 0 {
        parts.push(format!("{} samples given up so far", status.shed_samples));
    }
    parts.join(", ")
}

fn budgets(status: &AgentStatus, now: UnixMillis) -> String {
    let used = &status.budgets;
    let lived = now.since(status.process.started_at).as_millis().max(1);
    let hundredths = u128::from(used.cpu_ms) * 10_000 / lived;
    format!(
        "memory {}, processor {}.{:02} %, flash {} today, link {} sent and {} received",
        bytes(used.memory_bytes),
        hundredths / 100,
        hundredths % 100,
        bytes(used.flash_bytes_today),
        bytes(used.sent_bytes),
        bytes(used.received_bytes),
    )
}

fn disk(status: &AgentStatus) -> String {
    let disk = &status.disk;
    let state = match &disk.failing {
        None => "ok".to_owned(),
        Some(code) => format!("FAILING ({code})"),
    };
    format!(
        "{state}, {} free, store {}",
        bytes(disk.free_bytes),
        bytes(disk.store_bytes)
    )
}

fn trust(status: &AgentStatus) -> String {
    let trust = &status.trust;
    format!(
        "set {}, policy epoch {}, generation {}, controller incarnation {}",
        trust.trust_version, trust.policy_epoch, trust.generation, trust.incarnation
    )
}

fn dependencies(status: &AgentStatus, now: UnixMillis) -> String {
    let parts: Vec<String> = status
        .dependencies
        .iter()
        .map(|one| match (one.state.as_str(), one.tries_at) {
            ("closed", _) => format!("{} ok", one.name),
            (state, Some(at)) => format!(
                "{} {} ({}; tried again in {})",
                one.name,
                state.to_uppercase(),
                one.reason,
                span(at.since(now).as_millis())
            ),
            (state, None) => format!("{} {} ({})", one.name, state.to_uppercase(), one.reason),
        })
        .collect();
    parts.join(", ")
}

fn gate(status: &AgentStatus, now: UnixMillis) -> Vec<String> {
    let gate = &status.gate;
    let mut lines = Vec::new();
    if gate.stops.is_empty() {
        lines.push("open: no breaker stops anything here".to_owned());
    }
    for stop in &gate.stops {
        lines.push(format!(
            "breaker {} is {} since {}, stops {}: {}",
            stop.breaker,
            stop.state.to_uppercase(),
            stop.since,
            stop.what,
            stop.reason
        ));
    }
    match &gate.lease {
        None => {}
        Some(lease) if lease.is_over => lines.push(format!(
            "lease is OVER since {}: gated operations are refused until the controller is heard",
            lease.ends_at
        )),
        Some(lease) => lines.push(format!(
            "lease until {}, in {}",
            lease.ends_at,
            span(lease.ends_at.since(now).as_millis())
        )),
    }
    if let Some(file) = &gate.break_glass {
        lines.push(format!(
            "GLASS BROKEN until {}: everything passes ({})",
            file.until, file.reason
        ));
    }
    if let Some(problem) = &gate.break_glass_problem {
        lines.push(format!("the break-glass file does not count: {problem}"));
    }
    lines
}

fn deployment_lines(state: &DeploymentState, now: UnixMillis) -> Vec<String> {
    let revision = |revision: Option<u32>| revision.map_or("-".to_owned(), |r| r.to_string());
    let mut head = format!(
        "{}  {} for {}, wanted {}, committed {}",
        state.deployment,
        state.phase.name(),
        span(now.since(state.since).as_millis()),
        revision(state.wanted),
        revision(state.current),
    );
    for further in [state.code.as_deref().unwrap_or_default(), &state.detail] {
        if !further.is_empty() {
            head.push_str(&format!("  {further}"));
        }
    }
    let workloads = state.workloads.iter().map(|workload| {
        let mut text = format!(
            "  {:<14}  {:<10}  revision {}",
            workload.service,
            workload.state.name(),
            workload.revision
        );
        if workload.restarts > 0 {
            text.push_str(&format!("  {} restarts", workload.restarts));
        }
        if !workload.detail.is_empty() {
            text.push_str(&format!("  {}", workload.detail));
        }
        text
    });
    let drift = state.drift.iter().map(|what| format!("  put back: {what}"));
    std::iter::once(head)
        .chain(workloads)
        .chain(drift)
        .collect()
}

fn refused(status: &AgentStatus) -> String {
    let parts: Vec<String> = status
        .refused
        .iter()
        .map(|(code, count)| format!("{count} {code}"))
        .collect();
    format!("messages not taken: {}", parts.join(", "))
}

fn command_line(command: &super::report::CommandStatus, now: UnixMillis) -> String {
    let mut text = format!(
        "{}  {:<14}  {:<11}",
        command.id, command.action, command.outcome
    );
    if let Some(at) = command.at {
        text.push_str(&format!("  {} ago", span(now.since(at).as_millis())));
    }
    if let Some(code) = &command.code {
        text.push_str(&format!("  {code}"));
    }
    if let Some(first) = command
        .detail
        .lines()
        .next()
        .filter(|line| !line.is_empty())
    {
        text.push_str(&format!("  {first}"));
    }
    text
}

/// A span of milliseconds in the two largest units that matter.
pub(crate) fn span(millis: u128) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A number of bytes with a unit that keeps it short.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while tenths >= 10_240 {
        let Some(next) = units.next() else { break };
        unit = Some(next);
        tenths /= 1024;
    }
    format!(
        "{}.{} {}",
        tenths / 10,
        tenths % 10,
        unit.copied().unwrap_or_default()
    )
}
