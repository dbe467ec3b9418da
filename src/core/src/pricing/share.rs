//! The fraction of a physical GPU that one unit of a resource is.

use serde::{Deserialize, Serialize};

/// The fraction `part / whole` of one physical GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Share {
    /// Numerator; 0 only of a part that is too small to be written.
    pub part: u32,
    /// Denominator, not below `part`.
    pub whole: u32,
}

impl Share {
    /// A whole GPU.
    pub const WHOLE: Self = Self { part: 1, whole: 1 };

    /// True for a whole GPU.
    pub fn is_whole(&self) -> bool {
        self.part == self.whole
    }

    /// The share of `amount`, rounded down.
    pub fn portion_of(self, amount: i64) -> i64 {
        if self.is_whole() {
            return amount;
        }
        let scaled = i128::from(amount) * i128::from(self.part) / i128::from(self.whole.max(1));
        i64::try_from(scaled).unwrap_or(i64::MAX)
    }

    /// How many physical GPUs `units` of this share make, rounded up.
    pub fn physical(self, units: u32) -> u32 {
        let gpus = (u64::from(units) * u64::from(self.part)).div_ceil(u64::from(self.whole.max(1)));
        u32::try_from(gpus).unwrap_or(u32::MAX)
    }

    /// The compute slices of a MIG profile such as `3g.40gb` or `1c.3g.20gb`, of all slices that
    /// the model has. See NVIDIA's MIG user guide, "Supported MIG Profiles": seven compute slices,
    /// and four on the A30 and the RTX PRO 6000.
    pub(super) fn for_mig_profile(profile: &str, model: Option<&str>) -> Option<Self> {
        let first = profile.split('.').next()?;
        let part: u32 = first.strip_suffix(['g', 'c'])?.parse().ok()?;
        let four = |model: &str| {
            let model = model.to_ascii_uppercase();
            model.contains("A30") || model.contains("RTX-PRO-6000")
        };
        let whole = if model.is_some_and(four) { 4 } else { 7 };
        (1..=whole).contains(&part).then_some(Self { part, whole })
    }

    /// One of `parts` equal parts of it.
    pub(crate) fn divided_by(self, parts: u32) -> Self {
        self.scaled(1, parts)
    }

    /// It, but so much less that `offered` physical GPUs of such units are `there` at most. A node that
    /// offers more units than its GPUs make shares them among these, whatever the reason.
    pub(super) fn within(self, offered: u32, there: u32) -> Self {
        if offered <= there.max(1) {
            self
        } else {
            self.scaled(there, offered)
        }
    }

    /// How many physical GPUs these units make together, rounded up.
    pub(super) fn physical_sum(offers: impl Iterator<Item = (u32, Self)>) -> u32 {
        const MOST: u128 = u64::MAX as u128;
        let (part, whole) = offers.fold((0, 1), |(part, whole): (u128, u128), (units, share)| {
            let each = u128::from(units) * u128::from(share.part);
            let of = u128::from(share.whole.max(1));
            let common = whole / greatest_common_divisor(whole, of) * of;
            if common > MOST {
                (part.div_ceil(whole) + each.div_ceil(of), 1)
            } else {
                let sum = part
                    .saturating_mul(common / whole)
                    .saturating_add(each.saturating_mul(common / of));
                (sum, common)
            }
        });
        u32::try_from(part.div_ceil(whole)).unwrap_or(u32::MAX)
    }

    /// The smaller of two.
    pub(super) fn smaller(self, other: Self) -> Self {
        let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
        if product(other.part, self.whole) < product(self.part, other.whole) {
            other
        } else {
            self
        }
    }

    /// It times `part / whole`, which is at most 1.
    pub(super) fn scaled(self, part: u32, whole: u32) -> Self {
        if part.max(1) == whole.max(1) {
            return self;
        }
        Self::reduced(
            u64::from(self.part) * u64::from(part.max(1)),
            u64::from(self.whole) * u64::from(whole.max(1)),
        )
    }

    /// `part / whole` in its lowest terms; where these are too large, a little less, or nothing.
    fn reduced(part: u64, whole: u64) -> Self {
        let divisor = greatest_common_divisor(part.into(), whole.into());
        let divisor = u64::try_from(divisor).unwrap_or(1).max(1);
        let (mut part, mut whole) = (part / divisor, whole / divisor);
        while whole > u64::from(u32::MAX) {
            (part, whole) = (part / 2, whole.div_ceil(2));
        }
        Self {
            part: u32::try_from(part).unwrap_or(u32::MAX),
            whole: u32::try_from(whole).unwrap_or(u32::MAX),
        }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::WHOLE
    }
}

fn greatest_common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_are_more_than_the_gpus_share_them() {
        let third = Share { part: 3, whole: 7 };
        for (share, units, gpus, want) in [
            (Share::WHOLE, 8, 8, (1, 1)),
            (Share::WHOLE, 4, 8, (1, 1)),
            (Share::WHOLE, 4, 1, (1, 4)),
            (Share::WHOLE, 12, 8, (2, 3)),
            (third, 2, 1, (3, 7)),
            // nine sevenths, which would take two GPUs
            (third, 3, 1, (3, 14)),
            // a node without a GPU has none that could be shared
            (Share::WHOLE, 4, 0, (1, 4)),
        ] {
            let (part, whole) = want;
            let within = share.within(share.physical(units), gpus);
            assert_eq!(within, Share { part, whole }, "{units} of {gpus}");
        }
    }

    #[test]
    fn units_of_several_kinds_make_as_many_gpus_as_all_of_them_together() {
        let seventh = |part| Share { part, whole: 7 };
        for (offers, gpus) in [
            (vec![], 0),
            (vec![(7, Share::WHOLE), (7, seventh(1))], 8),
            (vec![(2, seventh(3)), (1, seventh(1))], 1),
            (vec![(2, seventh(3)), (1, Share { part: 1, whole: 4 })], 2),
            (
                vec![(u32::MAX, Share::WHOLE), (u32::MAX, Share::WHOLE)],
                u32::MAX,
            ),
        ] {
            assert_eq!(
                Share::physical_sum(offers.iter().copied()),
                gpus,
                "{offers:?}"
            );
        }
    }

    #[test]
    fn numbers_without_measure_make_a_small_share_and_no_panic() {
        let least = Share::WHOLE.divided_by(u32::MAX).divided_by(u32::MAX);
        assert_eq!(least.part, 0);
        assert_eq!(least.portion_of(i64::MAX), 0);
        let most = Share::WHOLE.within(u32::MAX, u32::MAX - 1);
        assert!(most.part < most.whole, "{most:?}");
    }
}
