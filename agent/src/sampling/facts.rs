//! What the host is, as the `state` stream tells it.

use protocol::state::Facts;
use protocol::time::UnixMillis;
use sysinfo::System;

use super::container::Engine;
use super::host::Host;

/// Looks at the host. What it does not say stays empty.
pub(super) fn observe(
    host: &mut Host,
    engine: Option<&Engine>,
    certificate_expires_at: UnixMillis,
) -> Facts {
    let (source, cgroup) = host.parts();
    let memory_kib = source
        .proc("meminfo")
        .ok()
        .flatten()
        .and_then(|file| file.number_after("MemTotal:"))
        .unwrap_or_default();
    let memory_bytes = cgroup.memory(source).map_or(memory_kib * 1_024, |memory| {
        memory.limit.min(memory_kib * 1_024)
    });
    let boot_seconds = source
        .proc("stat")
        .ok()
        .flatten()
        .and_then(|file| file.number_after("btime "))
        .unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    Facts {
        hostname: System::host_name().unwrap_or_default(),
        os: System::long_os_version().unwrap_or_default(),
        kernel: System::kernel_version().unwrap_or_default(),
        arch: std::env::consts::ARCH.to_owned(),
        agent_version: crate::program::version().to_owned(),
        cpus: u32::try_from(processors).unwrap_or(u32::MAX),
        memory_bytes,
        virtualisation: virtualisation(source, cgroup).to_owned(),
        docker: engine.and_then(|engine| engine.version.clone()),
        booted_at: UnixMillis(boot_seconds * 1_000),
        certificate_expires_at,
    }
}

fn virtualisation(
    source: &mut super::source::Source,
    cgroup: &super::cgroup::Cgroup,
) -> &'static str {
    if cgroup.is_container(source) {
        return "container";
    }
    let is_guest = matches!(
        source.proc("cpuinfo"),
        Ok(Some(file)) if file
            .text
            .lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
    );
    if is_guest { "vm" } else { "none" }
}
