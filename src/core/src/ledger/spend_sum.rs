//! The sum of many accounts' spend, as a function of time.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::linear_spend::{LinearSpend, SpendFunction};

/// The sum of many accounts' spend, kept up to date one account at a time.
#[derive(Clone, Debug)]
pub struct SpendSum<K> {
    total: LinearSpend,
    functions: BTreeMap<K, SpendFunction>,
    /// Accounts by when their functions cease to hold.
    ends: BTreeSet<(Timestamp, K)>,
}

impl<K: Ord + Clone> Default for SpendSum<K> {
    fn default() -> Self {
        Self {
            total: LinearSpend::default(),
            functions: BTreeMap::new(),
            ends: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone> SpendSum<K> {
    /// Puts an account's function in the place of its former one.
    pub fn set(&mut self, key: K, function: SpendFunction) {
        self.remove(&key);
        self.total += function.spend;
        self.ends.insert((function.valid_until, key.clone()));
        self.functions.insert(key, function);
    }

    /// Takes an account out.
    pub fn remove(&mut self, key: &K) {
        if let Some(function) = self.functions.remove(key) {
            self.total -= function.spend;
            self.ends.remove(&(function.valid_until, key.clone()));
        }
    }

    /// Whether the account is in the sum.
    pub fn contains(&self, key: &K) -> bool {
        self.functions.contains_key(key)
    }

    /// The sum, which holds while none has expired.
    pub fn total(&self) -> SpendFunction {
        SpendFunction {
            spend: self.total,
            valid_until: self.ends.first().map_or(Timestamp::MAX, |(end, _)| *end),
        }
    }

    /// The accounts whose functions do not hold at `now` any more.
    pub fn expired(&self, now: Timestamp) -> impl Iterator<Item = &K> {
        let expired = self.ends.iter().take_while(move |(end, _)| *end < now);
        expired.map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Money;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + seconds).unwrap()
    }

    proptest! {
        #[test]
        fn a_sum_is_kept_by_what_changes(
            changes in prop::collection::vec(
                (0..4u8, prop::option::of((-1_000_000_000..1_000_000_000i64, 0..1_000i64))),
                1..30,
            ),
        ) {
            let mut sum = SpendSum::default();
            let mut known = BTreeMap::new();
            for (key, change) in changes {
                match change {
                    Some((nanos, until)) => {
                        let function = SpendFunction {
                            spend: LinearSpend::constant(Money::from_nanos(nanos.into())),
                            valid_until: at(until),
                        };
                        sum.set(key, function);
                        known.insert(key, function);
                    }
                    None => {
                        sum.remove(&key);
                        known.remove(&key);
                    }
                }
                let anew = known.values().copied().fold(SpendFunction::ZERO, SpendFunction::together);
                prop_assert_eq!(sum.total(), anew);
                let expired = known.iter().filter(|(_, function)| function.valid_until < at(500));
                let expired: BTreeSet<u8> = expired.map(|(key, _)| *key).collect();
                prop_assert_eq!(sum.expired(at(500)).copied().collect::<BTreeSet<_>>(), expired);
                prop_assert_eq!(sum.contains(&0), known.contains_key(&0));
            }
        }
    }
}
