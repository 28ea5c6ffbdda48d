//! Rate limits: per API key, per address, and for failed authentications.
//!
//! Each limit is a token bucket of one minute's worth. The tables are bounded:
//! entries that are full again are dropped, and a table that is too large all
//! the same refuses rather than grow.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protocol::id::ApiKeyId;

use crate::clock;

/// Failed authentications a minute from one address. A person with a stale key
/// notices after one; a guesser of 256-bit secrets gets nowhere either way, so
/// this only keeps the log quiet.
const FAILURES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();

/// Entries above which idle ones are dropped before another is let in. At about
/// 100 bytes each this is 6 MB.
const ENTRIES_MAX: usize = 65_536;

/// A full table is searched for idle entries this often: the search looks at all
/// of them, and a flood would have it done for every request.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Addresses count by network: a whole IPv6 /64 belongs to one subscriber.
type Network = u64;

/// The limiters.
pub(crate) struct Rates {
    keys: Table<ApiKeyId>,
    networks: Table<Network>,
    failures: Table<Network>,
}

/// The buckets of one limit.
struct Table<K: Hash + Eq + Clone> {
    buckets: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    swept_at: Mutex<Option<Instant>>,
}

/// Too many; try again after this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany(pub(crate) Duration);

impl Rates {
    pub(crate) fn new(key_per_minute: u32, address_per_minute: u32) -> Self {
        let quota =
            |count: u32| Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        Self {
            keys: Table::new(quota(key_per_minute)),
            networks: Table::new(quota(address_per_minute)),
            failures: Table::new(Quota::per_minute(FAILURES_PER_MINUTE)),
        }
    }

    /// Counts one request from an address.
    pub(crate) fn address(&self, address: IpAddr) -> Result<(), TooMany> {
        self.networks.check(&network(address))
    }

    /// Counts one request with a key.
    pub(crate) fn key(&self, key: ApiKeyId) -> Result<(), TooMany> {
        self.keys.check(&key)
    }

    /// Counts one failed authentication from an address.
    pub(crate) fn failure(&self, address: IpAddr) -> Result<(), TooMany> {
        self.failures.check(&network(address))
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn new(quota: Quota) -> Self {
        Self {
            buckets: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            swept_at: Mutex::default(),
        }
    }

    fn check(&self, key: &K) -> Result<(), TooMany> {
        if self.is_full() {
            self.sweep();
            if self.is_full() {
                return Err(TooMany(Duration::from_secs(60)));
            }
        }
        self.buckets
            .check_key(key)
            .map_err(|until| TooMany(until.wait_time_from(self.clock.now())))
    }

    fn is_full(&self) -> bool {
        self.buckets.len() >= ENTRIES_MAX
    }

    /// Drops idle entries, unless that was done a moment ago.
    fn sweep(&self) {
        let now = clock::monotonic();
        let mut swept_at = self.swept_at.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = swept_at.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_EVERY);
        if !lately {
            *swept_at = Some(now);
            self.buckets.retain_recent();
        }
    }
}

fn network(address: IpAddr) -> Network {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => u64::from(address.to_bits()),
            // The upper half of an IPv6 address; above 2^32 for any that is routed.
            None => u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_from_one_address_leaves_another_alone() {
        let rates = Rates::new(10, 3);
        let flooder: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(rates.address(flooder), Ok(()));
        }
        let TooMany(wait) = rates.address(flooder).unwrap_err();
        assert!(wait > Duration::from_secs(10), "{wait:?}");
        assert_eq!(rates.address("192.0.2.2".parse().unwrap()), Ok(()));
    }

    #[test]
    fn a_flood_from_a_million_networks_takes_bounded_memory_and_time() {
        let rates = Rates::new(10, 3);
        let began = clock::monotonic();
        let refused = (0..1_000_000_u32)
            .filter(|bits| rates.address(IpAddr::V4((*bits).into())).is_err())
            .count();
        assert!(rates.networks.buckets.len() <= ENTRIES_MAX);
        assert!(refused >= 1_000_000 - ENTRIES_MAX);
        // Were the full table searched for every request, this would be hours.
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn one_ipv6_subscriber_is_one_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
