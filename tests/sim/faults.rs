//! What goes wrong, and when: drawn from the seed.

use std::time::Duration;

use harness::sim::chance::Chance;
use harness::sim::net::Weather;

use super::world::World;

/// A source of trouble.
pub(crate) struct Faults {
    chance: Chance,
    next: u64,
    mean: Duration,
    repairs: Vec<(u64, Repair)>,
}

#[derive(Clone, Copy, Debug)]
enum Repair {
    Heal(usize),
    Weather,
    NodeDisk(usize),
    ControllerDisks,
}

impl Faults {
    /// Nothing goes wrong.
    pub(crate) fn none() -> Faults {
        Faults {
            chance: Chance::new(0),
            next: u64::MAX,
            mean: Duration::ZERO,
            repairs: Vec::new(),
        }
    }

    /// Something happens about this often, operators' wishes among it.
    pub(crate) fn every(mean: Duration, chance: Chance) -> Faults {
        Faults {
            chance,
            next: 3_000,
            mean,
            repairs: Vec::new(),
        }
    }

    pub(crate) fn next_at(&self) -> u64 {
        let repair = self.repairs.iter().map(|(at, _)| *at).min();
        self.next.min(repair.unwrap_or(u64::MAX))
    }

    /// Does what is due.
    pub(crate) fn strike(&mut self, world: &mut World) {
        let now = world.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.repairs)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.repairs = later;
        for (_, repair) in due {
            repair.apply(world);
        }
        if self.next <= now {
            let mean = u64::try_from(self.mean.as_millis()).unwrap_or(u64::MAX);
            self.next = now + 1 + self.chance.below(mean * 2);
            self.happen(world);
        }
    }

    /// Everything is repaired at once.
    pub(crate) fn end(&mut self, world: &mut World) {
        for (_, repair) in std::mem::take(&mut self.repairs) {
            repair.apply(world);
        }
        world.net.set(Weather::FAIR);
        self.next = u64::MAX;
    }

    fn happen(&mut self, world: &mut World) {
        let now = world.now;
        let index = self.chance.index(world.hosts.len());
        match self.chance.below(23) {
            0..=4 => world.issue(Some(index)),
            5..=6 => world.issue(None),
            7 => {
                if let Some(command) = world.history.issued.last().copied() {
                    world.machine.cancel(command, now);
                }
            }
            8..=9 => {
                if let Some(host) = world.hosts.get_mut(index)
                    && host.is_on()
                {
                    host.kill(now);
                    world.break_connection(index);
                }
            }
            10..=11 => {
                if let Some(host) = world.hosts.get_mut(index)
                    && host.is_on()
                {
                    host.cut_power(now);
                    world.break_connection(index);
                }
            }
            12 => {
                if world.machine.is_on() {
                    world.machine.kill(now);
                    world.controller_gone();
                }
            }
            13 => {
                if world.machine.is_on() {
                    world.machine.cut_power(now);
                    world.controller_gone();
                }
            }
            14 => {
                // Silent for both sides: nothing tells them but time.
                world.cut(index);
                self.repair(now, 120_000, Repair::Heal(index));
            }
            15 => world.break_connection(index),
            16..=17 => {
                world.net.set(Weather::FOUL);
                self.repair(now, 120_000, Repair::Weather);
            }
            18 => {
                if let Some(host) = world.hosts.get(index) {
                    host.disk.fail(true);
                    self.repair(now, 60_000, Repair::NodeDisk(index));
                }
            }
            19..=21 => {
                let fails = self.chance.below(3) == 0;
                let share = self.chance.below(3);
                world.apply(fails.then_some(share));
            }
            _ => {
                world.machine.fail_disks(true);
                self.repair(now, 20_000, Repair::ControllerDisks);
            }
        }
    }

    fn repair(&mut self, now: u64, within: u64, repair: Repair) {
        let at = now + 1_000 + self.chance.below(within);
        self.repairs.push((at, repair));
    }
}

impl Repair {
    fn apply(self, world: &mut World) {
        match self {
            Repair::Heal(index) => world.heal(index),
            Repair::Weather => world.net.set(Weather::FAIR),
            Repair::NodeDisk(index) => {
                if let Some(host) = world.hosts.get(index) {
                    host.disk.fail(false);
                }
            }
            Repair::ControllerDisks => world.machine.fail_disks(false),
        }
    }
}
