//! Which of several accounts of one workload and month counts, and in which currency a record is
//! kept.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{ConsolidatedAccount, SpendRecord};

/// How much an account counts next to others of the same workload and month. The greatest is read,
/// and the others are not, so that nothing is counted twice, or not at all, while a month is
/// consolidated or a backup is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordPrecedence {
    /// A record that was made, and not written to yet.
    Unwritten,
    /// A section of a consolidated record, of that version.
    Section(i64),
    /// A record of the workload's own.
    Own,
}

impl RecordPrecedence {
    /// The precedence of a workload's own record, by whether it has a status.
    pub fn of_own(is_written: bool) -> Self {
        match is_written {
            false => Self::Unwritten,
            true => Self::Own,
        }
    }
}

impl ConsolidatedAccount {
    /// How much the section counts.
    pub fn precedence(&self) -> RecordPrecedence {
        RecordPrecedence::Section(self.version)
    }
}

/// The one of each account that counts; of two that count the same, the first.
pub fn authoritative<K: Ord, T>(
    all: impl IntoIterator<Item = (K, RecordPrecedence, T)>,
) -> BTreeMap<K, T> {
    let mut greatest: BTreeMap<K, (RecordPrecedence, T)> = BTreeMap::new();
    for (account, precedence, each) in all {
        match greatest.entry(account) {
            Entry::Occupied(entry) if entry.get().0 >= precedence => {}
            Entry::Occupied(mut entry) => drop(entry.insert((precedence, each))),
            Entry::Vacant(entry) => drop(entry.insert((precedence, each))),
        }
    }
    let greatest = greatest.into_iter();
    greatest
        .map(|(account, (_, each))| (account, each))
        .collect()
}

impl SpendRecord {
    /// The currency of its amounts, as an ISO 4217 code; `None` for a record that was made while no
    /// PriceList was known, and holds no money.
    pub fn currency(&self) -> Option<&str> {
        Some(self.spec.currency.as_str()).filter(|currency| !currency.is_empty())
    }

    /// True if it holds money in another currency than this one. Amounts of two currencies are
    /// never summed, and a record stays in the currency that it has.
    pub fn is_in_other_currency(&self, currency: &str) -> bool {
        self.currency().is_some_and(|own| own != currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_precedence_counts_and_of_two_that_are_equal_the_first() {
        use RecordPrecedence::{Own, Section, Unwritten};
        let all = [
            ("a", Section(7), 1),
            ("a", Own, 2),
            ("a", Unwritten, 3),
            ("b", Unwritten, 4),
            ("b", Section(0), 5),
            ("c", Section(7), 6),
            ("c", Section(8), 7),
            ("c", Section(8), 8),
        ];
        let counting: Vec<_> = authoritative(all).into_iter().collect();
        assert_eq!(counting, [("a", 2), ("b", 5), ("c", 7)]);
    }
}
