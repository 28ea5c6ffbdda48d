//! CPU time by mode, load, and what the scheduler holds.

use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::{Label, SampleSet};

use super::cgroup::Cgroup;
use super::source::{CollectError, Source};

/// Ticks in a second as `/proc` counts them: USER_HZ is 100 on every
/// architecture that Linux has had since 2.6.
const TICK_CENTISECONDS: u64 = 1;

/// CPU times. Where the cgroup counts its own (a container without lxcfs), the
/// host's times would be somebody else's: only user and system are told then.
pub(super) fn times(
    source: &mut Source,
    cgroup: &Cgroup,
    out: &mut SampleSet,
) -> Result<(), CollectError> {
    if let Some((user_us, system_us)) = cgroup.cpu_times_us(source) {
        out.push_u64(SeriesId::CPU_USER, &Label::NONE, user_us / 10_000);
        out.push_u64(SeriesId::CPU_SYSTEM, &Label::NONE, system_us / 10_000);
    }
    let own_times = !out.is_empty() && out.get(SeriesId::CPU_USER, "").is_some();
    let Some(stat) = source.proc("stat")? else {
        return Ok(());
    };
    let line = stat
        .text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "));
    let mut ticks = [0_u64; 10];
    let fields = line
        .ok_or_else(|| stat.lacks("line of all CPUs"))?
        .split_whitespace();
    for (slot, field) in ticks.iter_mut().zip(fields) {
        *slot = field
            .parse()
            .map_err(|_| stat.lacks("number in the line of all CPUs"))?;
    }
    let [
        user,
        nice,
        system,
        idle,
        iowait,
        irq,
        softirq,
        steal,
        guest,
        guest_nice,
    ] = ticks;
    if !own_times {
        // The kernel counts guests' time in user and nice as well.
        for (series, value) in [
            (SeriesId::CPU_USER, user.max(guest)),
            (SeriesId::CPU_NICE, nice.max(guest_nice)),
            (SeriesId::CPU_SYSTEM, system),
            (SeriesId::CPU_IDLE, idle),
            (SeriesId::CPU_IOWAIT, iowait),
            (SeriesId::CPU_IRQ, irq.saturating_add(softirq)),
            (SeriesId::CPU_STEAL, steal),
        ] {
            out.push_u64(
                series,
                &Label::NONE,
                value.saturating_mul(TICK_CENTISECONDS),
            );
        }
    }
    for (series, key) in [
        (SeriesId::PROC_RUNNING, "procs_running "),
        (SeriesId::PROC_BLOCKED, "procs_blocked "),
    ] {
        if let Some(value) = stat.number_after(key) {
            out.push_u64(series, &Label::NONE, value);
        }
    }
    let online = stat
        .text
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("cpu"))
        .count() as u64;
    let hundredths = cgroup
        .cpu_quota_hundredths(source)
        .map_or(online * 100, |quota| quota.min(online * 100));
    out.push_u64(SeriesId::CPU_COUNT, &Label::NONE, hundredths);
    Ok(())
}

/// Load averages.
pub(super) fn load(source: &mut Source, out: &mut SampleSet) -> Result<(), CollectError> {
    let Some(file) = source.proc("loadavg")? else {
        return Ok(());
    };
    let series = [SeriesId::LOAD_1, SeriesId::LOAD_5, SeriesId::LOAD_15];
    let mut fields = file.text.split_whitespace();
    for id in series {
        let hundredths = fields
            .next()
            .and_then(hundredths)
            .ok_or_else(|| file.lacks("load average"))?;
        out.push_u64(id, &Label::NONE, hundredths);
    }
    Ok(())
}

/// Seconds since the host (or the container, where `/proc` is its own) started.
pub(super) fn uptime(source: &mut Source, out: &mut SampleSet) -> Result<(), CollectError> {
    let Some(file) = source.proc("uptime")? else {
        return Ok(());
    };
    let hundredths = file
        .text
        .split_whitespace()
        .next()
        .and_then(hundredths)
        .ok_or_else(|| file.lacks("uptime"))?;
    out.push_u64(SeriesId::UPTIME, &Label::NONE, (hundredths + 50) / 100);
    Ok(())
}

/// `12.34` as 1234: the kernel prints two decimals.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    let part: u64 = if part.len() == 2 {
        part.parse().ok()?
    } else {
        return None;
    };
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(100)?
        .checked_add(part)
}
