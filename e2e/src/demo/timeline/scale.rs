//! Axes: where a value lies on the picture, and at which values the ticks stand.

/// Maps values to positions, in equal steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    /// The values at both ends.
    domain: (f64, f64),
    /// The positions of both ends, in pixels.
    range: (f64, f64),
}

impl Scale {
    /// A scale from the values of `domain` to the positions of `range`. An empty domain becomes one
    /// of length 1.
    pub(super) fn new(domain: (f64, f64), range: (f64, f64)) -> Self {
        let (low, high) = domain;
        let high = if high > low { high } else { low + 1.0 };
        Self {
            domain: (low, high),
            range,
        }
    }

    /// The position of a value; one outside the domain lies at the end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (low, high) = self.domain;
        let fraction = ((value - low) / (high - low)).clamp(0.0, 1.0);
        self.range.0 + fraction * (self.range.1 - self.range.0)
    }

    /// The largest value.
    pub(super) fn high(&self) -> f64 {
        self.domain.1
    }
}

/// Values at which ticks stand on an axis from 0 to `high`: multiples of 1, 2 or 5 times a power of
/// ten, `most` at most besides 0. With `whole`, only whole numbers.
pub(super) fn ticks(high: f64, most: u32, whole: bool) -> Vec<f64> {
    let least = if whole { 1.0 } else { 1e-4 };
    let mut power = least;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            let step = power * factor;
            if (high / step).floor() <= f64::from(most) {
                return multiples(step, high);
            }
        }
        power *= 10.0;
    }
}

/// Seconds at which ticks stand on an axis of time from 0 to `high`, `most` at most besides 0.
pub(super) fn time_ticks(high: f64, most: u32) -> Vec<f64> {
    const STEPS: [f64; 12] = [
        5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
    ];
    let fits = |step: &f64| (high / step).floor() <= f64::from(most);
    let step = STEPS.into_iter().find(fits);
    multiples(step.unwrap_or(high / f64::from(most.max(1))), high)
}

/// The end of an axis that shows values up to `high` below its top: the next tick, if that is near,
/// or a little more than `high`.
pub(super) fn axis_end(high: f64, most: u32, whole: bool) -> f64 {
    let ticks = ticks(high, most, whole);
    let step = match ticks[..] {
        [.., before, last] => last - before,
        _ => high,
    };
    let next = ticks.last().copied().unwrap_or_default() + step;
    if next <= high * 1.25 {
        next
    } else {
        high * 1.08
    }
}

fn multiples(step: f64, high: f64) -> Vec<f64> {
    let count = (high / step + 1e-9).floor() as u32;
    (0..=count).map(|index| f64::from(index) * step).collect()
}

/// Minutes and seconds.
pub(super) fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// A whole number with commas between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The value at a tick with as many digits after the point as the distance of ticks needs.
pub(super) fn tick_label(value: f64, ticks: &[f64]) -> String {
    let step = match ticks {
        [first, second, ..] => second - first,
        _ => value,
    };
    let mut digits = 0;
    let mut scaled = step;
    while digits < 4 && (scaled - scaled.round()).abs() > 1e-6 {
        scaled *= 10.0;
        digits += 1;
    }
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_and_no_more_than_asked_for() {
        assert_eq!(ticks(4.0, 4, true), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ticks(37.0, 4, true), [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(ticks(1.0, 5, true), [0.0, 1.0]);
        assert_eq!(ticks(0.0, 4, true), [0.0]);
        let money = ticks(1.7, 4, false);
        assert_eq!(money, [0.0, 0.5, 1.0, 1.5]);
        for high in [0.000_3, 0.07, 0.9, 3.3, 12.0, 99.0, 1234.5] {
            let ticks = ticks(high, 4, false);
            assert!((2..=5).contains(&ticks.len()), "{high}: {ticks:?}");
        }
    }

    #[test]
    fn an_axis_ends_at_a_tick_or_a_little_above_the_highest_value() {
        assert_eq!(axis_end(37.0, 4, true), 40.0);
        let end = axis_end(1.51, 4, false);
        assert!(end > 1.51 && end < 1.9, "{end}");
        assert!(axis_end(0.0, 4, true) >= 0.0);
    }

    #[test]
    fn times_are_ticked_at_round_seconds_and_written_as_minutes() {
        assert_eq!(time_ticks(40.0, 10)[..3], [0.0, 5.0, 10.0]);
        assert_eq!(time_ticks(290.0, 10)[..3], [0.0, 30.0, 60.0]);
        assert_eq!(time_ticks(1000.0, 10)[1], 120.0);
        assert!(time_ticks(1e6, 10).len() <= 11);
        assert_eq!(clock(0.0), "0:00");
        assert_eq!(clock(125.0), "2:05");
    }

    #[test]
    fn values_outside_the_domain_stay_on_the_picture() {
        let scale = Scale::new((0.0, 10.0), (100.0, 0.0));
        assert_eq!(scale.at(5.0), 50.0);
        assert_eq!(scale.at(20.0), 0.0);
        assert_eq!(scale.at(-1.0), 100.0);
        assert_eq!(Scale::new((0.0, 0.0), (0.0, 10.0)).at(0.0), 0.0);
    }

    #[test]
    fn labels_have_the_digits_that_their_ticks_need() {
        assert_eq!(tick_label(0.5, &[0.0, 0.5, 1.0]), "0.5");
        assert_eq!(tick_label(1.0, &[0.0, 0.25, 0.5]), "1.00");
        assert_eq!(tick_label(20.0, &[0.0, 10.0, 20.0]), "20");
        assert_eq!(grouped(1_225), "1,225");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000_000), "1,000,000");
    }
}
