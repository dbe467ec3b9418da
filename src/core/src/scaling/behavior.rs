//! How fast replicas follow what is asked for, in the terms of HorizontalPodAutoscaler v2.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::history::ReplicaLog;
use super::milli::Milli;

/// How fast replicas follow what is asked for. By default nothing limits it but the window of lower
/// numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behavior {
    /// Towards a higher number.
    pub scale_up: ScalingRules,
    /// Towards a lower number.
    pub scale_down: ScalingRules,
    /// What counts as a burst, if bursts are treated otherwise.
    pub panic: Option<Panic>,
}

/// How fast replicas follow in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScalingRules {
    /// How long a number must last before it is followed; `None` for the default of the direction.
    pub window: Option<SignedDuration>,
    /// How much may change in a period. Without any, everything may at once.
    pub policies: Vec<ScalingPolicy>,
    /// Which of the policies counts.
    pub select: SelectPolicy,
    /// What is asked for changes nothing while it differs from the replicas by no more than this part
    /// of them.
    pub tolerance: Milli,
}

/// How much may change in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingPolicy {
    /// How much.
    pub amount: PolicyAmount,
    /// The period, at most [`LONGEST_PERIOD`](super::LONGEST_PERIOD).
    pub period: SignedDuration,
}

/// How much a policy lets change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyAmount {
    /// So many replicas.
    Pods(u32),
    /// So many percent of those at the beginning of the period.
    Percent(u32),
}

/// Which of several policies counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SelectPolicy {
    /// That which lets the most change.
    #[default]
    Max,
    /// That which lets the least change.
    Min,
    /// Nothing changes in this direction.
    Disabled,
}

/// What counts as a burst: while one goes on, and for a window after it, nothing limits a higher number
/// and no replica is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panic {
    /// Demand asks for so many percent of the replicas that there are, or more.
    pub threshold_percent: u32,
    /// How long it must have asked for less before everything is as otherwise.
    pub window: SignedDuration,
}

/// How far policies let replicas go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLimit {
    /// So many at most, or at least.
    pub replicas: u32,
    /// When that changes though nothing happens.
    pub changes_at: Option<Timestamp>,
    /// The policy with its numbers.
    pub reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Behavior {
    /// The default, with a window of lower numbers; `None` leaves that to what is learned.
    pub fn with_scale_down_window(window: Option<SignedDuration>) -> Self {
        Self {
            scale_down: ScalingRules {
                window,
                ..ScalingRules::default()
            },
            ..Self::default()
        }
    }

    /// Whether it limits how much may change in a period.
    pub fn has_policies(&self) -> bool {
        !(self.scale_up.policies.is_empty() && self.scale_down.policies.is_empty())
    }

    /// How long a higher number must last before it is followed: not at all, by default.
    pub fn scale_up_window(&self) -> SignedDuration {
        self.scale_up.window.unwrap_or(SignedDuration::ZERO)
    }

    /// The tolerance within which it changes nothing that demand needs so many replicas, and fractions of
    /// one, where there are `current`; `None` if it is beyond it. Whether there are replicas at all is
    /// beyond any tolerance.
    pub fn tolerates(&self, needed: Milli, current: u32) -> Option<Milli> {
        let Milli(there) = Milli::from_units(current);
        if needed.0 == 0 || there == 0 || needed.0.div_ceil(1000) == u64::from(current) {
            return None;
        }
        let rules = match needed.0 > there {
            true => &self.scale_up,
            false => &self.scale_down,
        };
        let within = u64::from(current).saturating_mul(rules.tolerance.0);
        (needed.0.abs_diff(there) <= within).then_some(rules.tolerance)
    }

    /// Whether `asked` for is a burst for `current` replicas.
    pub fn is_burst(&self, asked: u32, current: u32) -> bool {
        self.panic.is_some_and(|panic| {
            let threshold = u64::from(current.max(1)) * u64::from(panic.threshold_percent);
            asked > current && u64::from(asked) * 100 >= threshold
        })
    }

    /// The most replicas that policies let it have now; `None` if there are none. The first replica is
    /// never limited.
    pub fn most(&self, current: u32, log: &ReplicaLog, now: Timestamp) -> Option<PolicyLimit> {
        let limit = self.scale_up.limit(Direction::Up, current, log, now)?;
        Some(PolicyLimit {
            replicas: limit.replicas.max(current).max(1),
            ..limit
        })
    }

    /// The fewest replicas that policies let it have now; `None` if there are none.
    pub fn fewest(&self, current: u32, log: &ReplicaLog, now: Timestamp) -> Option<PolicyLimit> {
        let limit = self.scale_down.limit(Direction::Down, current, log, now)?;
        Some(PolicyLimit {
            replicas: limit.replicas.min(current),
            ..limit
        })
    }
}

impl ScalingRules {
    fn limit(
        &self,
        direction: Direction,
        current: u32,
        log: &ReplicaLog,
        now: Timestamp,
    ) -> Option<PolicyLimit> {
        let field = match direction {
            Direction::Up => "scaleUp",
            Direction::Down => "scaleDown",
        };
        if self.select == SelectPolicy::Disabled {
            return Some(PolicyLimit {
                replicas: current,
                changes_at: None,
                reason: format!("{field}.selectPolicy is Disabled"),
            });
        }
        let limits = self.policies.iter().map(|policy| {
            let began = now.checked_sub(policy.period).unwrap_or(Timestamp::MIN);
            let before = log.at(began).unwrap_or(current);
            let change = log.next_change(began);
            let changes_at = change.and_then(|at| at.checked_add(policy.period).ok());
            let replicas = policy.amount.limit(direction, before);
            (replicas, before, changes_at, policy)
        });
        let limits: Vec<_> = limits.collect();
        let changes_at = limits.iter().filter_map(|limit| limit.2).min();
        let most = limits.iter().max_by_key(|limit| limit.0);
        let fewest = limits.iter().min_by_key(|limit| limit.0);
        let (replicas, before, _, policy) = match (self.select, direction) {
            (SelectPolicy::Max, Direction::Up) | (SelectPolicy::Min, Direction::Down) => most?,
            _ => fewest?,
        };
        Some(PolicyLimit {
            replicas: *replicas,
            changes_at,
            reason: format!("{field} policy {policy}, from {before}"),
        })
    }
}

impl PolicyAmount {
    /// How far it goes from the replicas at the beginning of a period. Percentages are rounded away
    /// from what they are of, so that each lets something change, and count from one replica at least.
    fn limit(self, direction: Direction, before: u32) -> u32 {
        match (self, direction) {
            (Self::Pods(pods), Direction::Up) => before.saturating_add(pods),
            (Self::Pods(pods), Direction::Down) => before.saturating_sub(pods),
            (Self::Percent(percent), Direction::Up) => {
                let before = u64::from(before.max(1));
                let most = (before * (100 + u64::from(percent))).div_ceil(100);
                u32::try_from(most).unwrap_or(u32::MAX)
            }
            (Self::Percent(percent), Direction::Down) => {
                let left = u64::from(before) * u64::from(100u32.saturating_sub(percent)) / 100;
                u32::try_from(left).unwrap_or(before)
            }
        }
    }
}

impl fmt::Display for ScalingPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.amount {
            PolicyAmount::Pods(pods) => write!(f, "Pods {pods}")?,
            PolicyAmount::Percent(percent) => write!(f, "Percent {percent}")?,
        }
        write!(f, " in {} s", self.period.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + seconds).unwrap()
    }

    fn policy(amount: PolicyAmount, seconds: i64) -> ScalingPolicy {
        ScalingPolicy {
            amount,
            period: SignedDuration::from_secs(seconds),
        }
    }

    fn both(select: SelectPolicy, policies: Vec<ScalingPolicy>) -> Behavior {
        let rules = ScalingRules {
            policies,
            select,
            ..ScalingRules::default()
        };
        Behavior {
            scale_up: rules.clone(),
            scale_down: rules,
            panic: None,
        }
    }

    fn limits(behavior: &Behavior, current: u32, log: &ReplicaLog, second: i64) -> (u32, u32) {
        let most = behavior.most(current, log, at(second)).unwrap();
        let fewest = behavior.fewest(current, log, at(second)).unwrap();
        (fewest.replicas, most.replicas)
    }

    #[test]
    fn policies_count_from_the_replicas_when_their_period_began() {
        let mut log = ReplicaLog::default();
        for (second, replicas) in [(0, 10), (30, 12), (50, 13)] {
            log.observe(replicas, at(second));
        }
        let pods = policy(PolicyAmount::Pods(4), 60);
        let percent = policy(PolicyAmount::Percent(50), 15);
        for (select, policies, second, range) in [
            (SelectPolicy::Max, vec![pods], 60, (6, 14)),
            (SelectPolicy::Max, vec![pods], 90, (8, 16)),
            (SelectPolicy::Max, vec![pods], 110, (9, 17)),
            (SelectPolicy::Max, vec![percent], 60, (6, 18)),
            (SelectPolicy::Max, vec![percent], 65, (6, 20)),
            (SelectPolicy::Max, vec![pods, percent], 90, (6, 20)),
            (SelectPolicy::Min, vec![pods, percent], 90, (8, 16)),
            (SelectPolicy::Disabled, vec![pods], 90, (13, 13)),
        ] {
            let behavior = both(select, policies);
            let found = limits(&behavior, 13, &log, second);
            assert_eq!(found, range, "{behavior:?} at {second}");
        }
        let limit = both(SelectPolicy::Max, vec![pods])
            .most(13, &log, at(60))
            .unwrap();
        assert_eq!(limit.changes_at, Some(at(90)));
        assert_eq!(limit.reason, "scaleUp policy Pods 4 in 60 s, from 10");
    }

    #[test]
    fn no_policy_is_no_limit_and_the_first_replica_is_never_limited() {
        let log = ReplicaLog::default();
        assert_eq!(Behavior::default().most(3, &log, at(0)), None);
        assert_eq!(Behavior::default().fewest(3, &log, at(0)), None);
        let disabled = both(SelectPolicy::Disabled, vec![]);
        assert_eq!(limits(&disabled, 0, &log, 0), (0, 1));
        let tenth = both(
            SelectPolicy::Max,
            vec![policy(PolicyAmount::Percent(10), 60)],
        );
        assert_eq!(limits(&tenth, 0, &log, 0), (0, 2));
        assert_eq!(
            limits(&tenth, 1, &log, 0),
            (0, 2),
            "each lets something change"
        );
    }

    #[test]
    fn what_is_asked_for_is_within_the_tolerance_or_not() {
        let mut behavior = Behavior::default();
        behavior.scale_up.tolerance = Milli(100);
        behavior.scale_down.tolerance = Milli(200);
        for (needed, current, tolerated) in [
            (11_000, 10, true),
            (11_001, 10, false),
            (8_000, 10, true),
            (7_999, 10, false),
            (10_000, 10, false),
            (9_500, 10, false),
            (0, 10, false),
            (1_000, 0, false),
            // the fourth replica would be for a tenth of one
            (3_100, 3, true),
            (3_400, 3, false),
        ] {
            let found = behavior.tolerates(Milli(needed), current).is_some();
            assert_eq!(found, tolerated, "{needed} thousandths of {current}");
        }
        let none = Behavior::default();
        assert_eq!(none.tolerates(Milli(1_000_001), 1000), None);
    }

    #[test]
    fn a_burst_asks_for_a_multiple_of_what_is_there() {
        let mut behavior = Behavior::default();
        assert!(!behavior.is_burst(100, 1));
        behavior.panic = Some(Panic {
            threshold_percent: 200,
            window: SignedDuration::from_secs(60),
        });
        for (asked, current, burst) in [
            (1, 0, false),
            (2, 0, true),
            (2, 1, true),
            (9, 5, false),
            (10, 5, true),
            (0, 0, false),
        ] {
            assert_eq!(
                behavior.is_burst(asked, current),
                burst,
                "{asked} of {current}"
            );
        }
    }

    fn any_policy() -> impl Strategy<Value = ScalingPolicy> {
        let amount = prop_oneof![
            (1u32..6).prop_map(PolicyAmount::Pods),
            (1u32..150).prop_map(PolicyAmount::Percent),
        ];
        (amount, 1i64..120).prop_map(|(amount, seconds)| policy(amount, seconds))
    }

    proptest! {
        /// Whatever is asked for and whenever: each change is within each policy (of which the least
        /// counts), from what there was when its period began, and one that waits is let through when
        /// it was said to be.
        #[test]
        fn policies_are_never_exceeded_over_any_period(
            policies in prop::collection::vec(any_policy(), 1..3),
            asked in prop::collection::vec((0u32..40, 0i64..50), 1..40),
        ) {
            let behavior = both(SelectPolicy::Min, policies.clone());
            let mut log = ReplicaLog::default();
            let (mut current, mut second) = (1u32, 0i64);
            let mut past = vec![(at(-10_000), current)];
            log.observe(current, at(-10_000));
            for (asked, seconds) in asked {
                second += seconds;
                let now = at(second);
                let most = behavior.most(current, &log, now).unwrap();
                let fewest = behavior.fewest(current, &log, now).unwrap();
                let next = asked.clamp(fewest.replicas, most.replicas);
                for policy in &policies {
                    let began = now - policy.period;
                    let before = past.iter().rev().find(|(at, _)| *at <= began).unwrap().1;
                    let (up, down) = match policy.amount {
                        PolicyAmount::Pods(pods) => (before + pods, before.saturating_sub(pods)),
                        PolicyAmount::Percent(percent) => (
                            (f64::from(before.max(1)) * (1.0 + f64::from(percent) / 100.0) - 1e-9).ceil() as u32,
                            (f64::from(before) * (1.0 - f64::from(percent) / 100.0) + 1e-9).max(0.0) as u32,
                        ),
                    };
                    prop_assert!(next <= current || next <= up.max(1), "{next} of {current}, {policy} from {before}");
                    prop_assert!(next >= current || next >= down, "{next} of {current}, {policy} from {before}");
                }
                if let Some(changes_at) = most.changes_at.filter(|_| asked > next) {
                    prop_assert!(changes_at > now);
                }
                current = next;
                log.observe(current, now);
                past.push((now, current));
            }
        }
    }
}
