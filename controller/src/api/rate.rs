//! Rate limits: per API key, per address, and for failed authentications.
//!
//! Each limit is a token bucket of one minute's worth. The tables are bounded:
//! entries that are full again are dropped, and a table that is too large all
//! the same refuses newcomers rather than grow.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protocol::id::ApiKeyId;

/// Failed authentications a minute from one address. A person with a stale key
/// notices after one; a guesser of 256-bit secrets gets nowhere either way, so
/// this only keeps the log quiet.
const FAILURES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();

/// Entries above which idle ones are dropped before another is let in. At about
/// 100 bytes each this is 6 MB.
const ENTRIES_MAX: usize = 65_536;

/// Addresses count by network: a whole IPv6 /64 belongs to one subscriber.
type Network = u64;

/// The limiters.
pub(crate) struct Rates {
    keys: DefaultKeyedRateLimiter<ApiKeyId>,
    networks: DefaultKeyedRateLimiter<Network>,
    failures: DefaultKeyedRateLimiter<Network>,
    clock: DefaultClock,
}

/// Too many; try again after this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany(pub(crate) Duration);

impl Rates {
    pub(crate) fn new(key_per_minute: u32, address_per_minute: u32) -> Self {
        let quota =
            |count: u32| Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        Self {
            keys: RateLimiter::keyed(quota(key_per_minute)),
            networks: RateLimiter::keyed(quota(address_per_minute)),
            failures: RateLimiter::keyed(Quota::per_minute(FAILURES_PER_MINUTE)),
            clock: DefaultClock::default(),
        }
    }

    /// Counts one request from an address.
    pub(crate) fn address(&self, address: IpAddr) -> Result<(), TooMany> {
        self.check(&self.networks, &network(address))
    }

    /// Counts one request with a key.
    pub(crate) fn key(&self, key: ApiKeyId) -> Result<(), TooMany> {
        self.check(&self.keys, &key)
    }

    /// Counts one failed authentication from an address.
    pub(crate) fn failure(&self, address: IpAddr) -> Result<(), TooMany> {
        self.check(&self.failures, &network(address))
    }

    fn check<K: std::hash::Hash + Eq + Clone>(
        &self,
        limiter: &DefaultKeyedRateLimiter<K>,
        key: &K,
    ) -> Result<(), TooMany> {
        if limiter.len() >= ENTRIES_MAX {
            limiter.retain_recent();
            if limiter.len() >= ENTRIES_MAX {
                return Err(TooMany(Duration::from_secs(60)));
            }
        }
        limiter
            .check_key(key)
            .map_err(|until| TooMany(until.wait_time_from(self.clock.now())))
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
    fn one_ipv6_subscriber_is_one_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
