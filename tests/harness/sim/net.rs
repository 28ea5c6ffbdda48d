//! A simulated network between numbered ends: messages are lost, delayed,
//! reordered, doubled, and cut off by partitions, as chance wills.
//!
//! Times are ticks of the simulation, in milliseconds. What is in flight when a
//! partition begins is lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::chance::Chance;

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Lost messages, per mille.
    pub lost: u32,
    /// Messages that arrive twice, per mille.
    pub doubled: u32,
    /// Messages that take up to [`Weather::late_most`], per mille, and so arrive
    /// after later ones.
    pub late: u32,
    /// The usual delay's bounds.
    pub delay: (Duration, Duration),
    /// The longest delay of a late one.
    pub late_most: Duration,
}

impl Weather {
    /// Nothing goes wrong, in 1 to 20 ms.
    pub const FAIR: Weather = Weather {
        lost: 0,
        doubled: 0,
        late: 0,
        delay: (Duration::from_millis(1), Duration::from_millis(20)),
        late_most: Duration::from_millis(20),
    };

    /// Everything goes wrong now and then.
    pub const FOUL: Weather = Weather {
        lost: 50,
        doubled: 30,
        late: 50,
        delay: (Duration::from_millis(1), Duration::from_millis(400)),
        late_most: Duration::from_secs(20),
    };
}

/// A message that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival<M> {
    /// From which end.
    pub from: usize,
    /// At which end.
    pub to: usize,
    /// What.
    pub message: M,
}

/// Messages in flight.
#[derive(Debug)]
pub struct SimNet<M> {
    chance: Chance,
    weather: Weather,
    flying: BTreeMap<(u64, u64), Arrival<M>>,
    sent: u64,
    lost: u64,
    cut: BTreeSet<(usize, usize)>,
}

impl<M: Clone> SimNet<M> {
    /// An empty network.
    pub fn new(chance: Chance, weather: Weather) -> SimNet<M> {
        SimNet {
            chance,
            weather,
            flying: BTreeMap::new(),
            sent: 0,
            lost: 0,
            cut: BTreeSet::new(),
        }
    }

    /// Changes the weather for what is sent from here on.
    pub fn set(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Sends a message at `now`.
    pub fn send(&mut self, from: usize, to: usize, message: M, now: u64) {
        self.sent += 1;
        if self.is_cut(from, to) || self.chance.permille(self.weather.lost) {
            self.lost += 1;
            return;
        }
        let copies = if self.chance.permille(self.weather.doubled) {
            2
        } else {
            1
        };
        for copy in 0..copies {
            let (least, most) = self.weather.delay;
            let delay = if self.chance.permille(self.weather.late) {
                self.chance.time(least, self.weather.late_most)
            } else {
                self.chance.time(least, most)
            };
            let at = now + u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1);
            let arrival = Arrival {
                from,
                to,
                message: message.clone(),
            };
            self.flying.insert((at, self.sent * 2 + copy), arrival);
        }
    }

    /// When the next message arrives.
    pub fn next_at(&self) -> Option<u64> {
        self.flying.keys().next().map(|(at, _)| *at)
    }

    /// Takes the next message that has arrived by `now`.
    pub fn arrive(&mut self, now: u64) -> Option<Arrival<M>> {
        let entry = self.flying.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// Cuts two ends off from each other, both ways.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert(ordered(a, b));
        self.drop_between(a, b);
    }

    /// Joins them again.
    pub fn heal(&mut self, a: usize, b: usize) {
        self.cut.remove(&ordered(a, b));
    }

    /// Whether the two are cut off from each other.
    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&ordered(a, b))
    }

    /// Loses what is in flight between two ends: a connection ended.
    pub fn drop_between(&mut self, a: usize, b: usize) {
        let before = self.flying.len();
        self.flying
            .retain(|_, arrival| ordered(arrival.from, arrival.to) != ordered(a, b));
        self.lost += u64::try_from(before - self.flying.len()).unwrap_or(0);
    }

    /// Messages that were sent and never arrive.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Messages that were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

fn ordered(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, weather: Weather) -> Vec<u64> {
        let mut net = SimNet::new(Chance::new(seed), weather);
        for number in 0..1000 {
            net.send(0, 1, number, number);
        }
        let mut got = Vec::new();
        while let Some(at) = net.next_at() {
            while let Some(arrival) = net.arrive(at) {
                got.push(arrival.message);
            }
        }
        got
    }

    #[test]
    fn a_seed_makes_the_same_run() {
        assert_eq!(run(7, Weather::FOUL), run(7, Weather::FOUL));
        assert_ne!(run(7, Weather::FOUL), run(8, Weather::FOUL));
    }

    #[test]
    fn foul_weather_loses_doubles_and_reorders_and_fair_weather_does_not() {
        let foul = run(3, Weather::FOUL);
        let distinct: BTreeSet<u64> = foul.iter().copied().collect();
        assert!(distinct.len() < 1000 && foul.len() > distinct.len());
        assert!(!foul.is_sorted());
        assert_eq!(run(3, Weather::FAIR).len(), 1000);
    }

    #[test]
    fn a_partition_loses_what_is_in_flight_and_what_is_sent() {
        let mut net = SimNet::new(Chance::new(1), Weather::FAIR);
        net.send(0, 1, "flying", 0);
        net.cut(1, 0);
        net.send(0, 1, "sent", 1);
        assert_eq!(net.next_at(), None);
        net.heal(0, 1);
        net.send(0, 1, "later", 2);
        assert!(net.next_at().is_some());
        assert_eq!(net.lost(), 2);
    }
}
