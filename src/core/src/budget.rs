//! Budgets: what may still be spent, when it will be gone, and whether something new may start.
//!
//! A budget is exhausted when `spent + reserve >= limit`, where the reserve is what stopping everything now would still cost. The
//! state latches until the period ends, the limit is raised or money is given back, so that a drain which ends early starts nothing
//! again.

#[cfg(test)]
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::calendar::{Interval, Period};
use crate::money::Money;

/// What happens when a budget is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExhausted {
    /// Everything stops.
    ScaleToZero,
    /// Services shrink to their `minReplicas`, training is suspended.
    ScaleToMin,
    /// Nothing grows or starts, training is suspended.
    Freeze,
}

/// That a budget was exhausted, and under which terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latch {
    /// The start of the period in which it was.
    pub period_start: Timestamp,
    /// The limit that was reached.
    pub limit: Money,
    /// The corrections that were a part of what was spent.
    pub corrections: Money,
}

/// A budget of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The BudgetPolicy's name.
    pub name: String,
    /// Money for one period.
    pub limit: Money,
    /// The period.
    pub period: Period,
    /// What happens at its end.
    pub on_exhausted: OnExhausted,
    /// What starts must be able to run for at least this long.
    pub minimum_useful_run: SignedDuration,
    /// Set once it was exhausted.
    pub latch: Option<Latch>,
    /// Money spent in the period that holds `now`, open charges and corrections included.
    pub spent: Money,
    /// The part of `spent` that corrections are; below zero where more was given back than added.
    pub corrections: Money,
    /// Why `spent` lacks a part that nobody knows, such as a record that cannot be read. Then nothing new starts.
    pub doubt: Option<String>,
}

/// Something that costs money while it runs, and for a while after it was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunningCost {
    /// Money an hour; `None` while no price is known.
    pub rate: Option<Money>,
    /// The highest money an hour that is announced for the time until it would have stopped, if it
    /// were told to now.
    pub stop_rate: Option<Money>,
    /// Seconds from the order to stop until it costs nothing.
    pub stop_seconds: i64,
}

impl RunningCost {
    /// A cost whose rate does not change until it has stopped.
    pub fn constant(rate: Option<Money>, stop_seconds: i64) -> Self {
        Self {
            rate,
            stop_rate: rate,
            stop_seconds,
        }
    }

    /// What stopping it now would still cost.
    pub fn reserve(&self) -> Money {
        self.reserve_of(1)
    }

    /// What stopping so many of it now would still cost.
    pub fn reserve_of(&self, number: u32) -> Money {
        let rate = self.stop_rate.max(self.rate).unwrap_or_default();
        rate.times(number)
            .cost_for_seconds_rounded_up(self.stop_seconds)
    }
}

/// The sums over all that runs or starts in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningTotals {
    /// Money an hour of what holds a node.
    pub rate: Money,
    /// What stopping what holds a node now would still cost.
    pub reserve: Money,
    /// Money an hour of what was ordered and has no node yet, once it has one.
    pub starting_rate: Money,
    /// What stopping that would cost once it has a node. Before, it costs nothing.
    pub starting_reserve: Money,
    /// No price is known for a part of it.
    pub unknown: bool,
}

impl RunningTotals {
    /// The higher of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            rate: self.rate.max(other.rate),
            reserve: self.reserve.max(other.reserve),
            starting_rate: self.starting_rate.max(other.starting_rate),
            starting_reserve: self.starting_reserve.max(other.starting_reserve),
            unknown: self.unknown || other.unknown,
        }
    }

    /// The sums over these.
    pub fn of(loads: &[RunningCost]) -> Self {
        Self {
            rate: loads.iter().filter_map(|load| load.rate).sum(),
            reserve: loads.iter().map(RunningCost::reserve).sum(),
            starting_rate: Money::ZERO,
            starting_reserve: Money::ZERO,
            unknown: loads.iter().any(|load| load.rate.is_none()),
        }
    }
}

/// What a budget's status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is money.
    Active,
    /// The limit is reached; what `on_exhausted` says is done.
    Exhausted,
    /// More than the limit is spent.
    OverLimit,
    /// Something runs for which no price is known, or a part of what was spent is not known.
    Unknown,
}

/// Where a budget stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetState {
    /// The budget.
    pub budget: Budget,
    /// The present period.
    pub period: Interval,
    /// What stopping what holds a node now would still cost.
    pub reserve: Money,
    /// Money an hour of what holds a node.
    pub rate: Money,
    /// The phase.
    pub phase: Phase,
    /// When it will be exhausted at this rate; `None` when the period ends before, or when it is exhausted.
    pub exhausted_at: Option<Timestamp>,
}

impl BudgetState {
    /// Where `budget` stands at `now` under these loads. Its latch is set or released.
    #[cfg(test)]
    pub fn of(budget: Budget, loads: &[RunningCost], now: Timestamp, zone: &TimeZone) -> Self {
        let period = budget.period.bounds(now, zone);
        Self::in_period(budget, period, RunningTotals::of(loads), now)
    }

    /// Where `budget` stands at `now`, which lies in `period`. Its latch is set or released.
    pub fn in_period(
        mut budget: Budget,
        period: Interval,
        running: RunningTotals,
        now: Timestamp,
    ) -> Self {
        let RunningTotals {
            rate,
            reserve,
            unknown,
            ..
        } = running;
        let left = budget.limit - budget.spent - reserve;
        // a credit gives money as a raised limit does
        let given = budget.limit - budget.corrections;
        let holds = |latch: &Latch| {
            latch.period_start == period.start && given <= latch.limit - latch.corrections
        };
        budget.latch = budget.latch.filter(holds).or_else(|| {
            let exhausted = left <= Money::ZERO;
            exhausted.then_some(Latch {
                period_start: period.start,
                limit: budget.limit,
                corrections: budget.corrections,
            })
        });
        let phase = if budget.spent > budget.limit {
            Phase::OverLimit
        } else if budget.latch.is_some() {
            Phase::Exhausted
        } else if budget.doubt.is_some() || unknown {
            Phase::Unknown
        } else {
            Phase::Active
        };
        let exhausted_at = match budget.latch {
            None => seconds_of(left, rate)
                .and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok())
                .filter(|at| *at < period.end),
            Some(_) => None,
        };
        Self {
            budget,
            period,
            reserve,
            rate,
            phase,
            exhausted_at,
        }
    }

    /// Money neither spent nor reserved; below zero once a limit was missed.
    pub fn remaining(&self) -> Money {
        self.budget.limit - self.budget.spent - self.reserve
    }

    /// Seconds that what starts at `start` must be able to run: to the end of the period at most.
    fn useful_seconds(&self, start: Timestamp) -> i64 {
        let left = self.period.end.as_second() - start.as_second();
        self.budget.minimum_useful_run.as_secs().min(left)
    }

    /// The money that is missing for what has no node yet and would cost so much to stop once it
    /// has one; `None` if nothing is missing, or where no promise is made or kept any more.
    pub(crate) fn missing_for(&self, without_node: Money) -> Option<Money> {
        let missing = without_node - self.remaining();
        let promises = self.budget.on_exhausted == OnExhausted::ScaleToZero;
        let is_missing = promises && !self.is_exhausted() && missing > Money::ZERO;
        is_missing.then_some(missing)
    }

    /// When money for that will be missing at this rate.
    pub(crate) fn missing_at(&self, without_node: Money, now: Timestamp) -> Option<Timestamp> {
        if self.is_exhausted() || without_node <= Money::ZERO {
            return None;
        }
        let seconds = seconds_of(self.remaining() - without_node, self.rate)?.max(0);
        let span = SignedDuration::from_secs(seconds.checked_add(1)?);
        now.checked_add(span).ok()
    }

    /// True once the limit is reached.
    pub fn is_exhausted(&self) -> bool {
        self.budget.latch.is_some()
    }

    /// The replicas that this budget leaves of `desired`, before anything new is paid for.
    pub fn cap(&self, desired: u32, current: u32, min: u32) -> u32 {
        match (self.is_exhausted(), self.budget.on_exhausted) {
            (false, _) => desired,
            (true, OnExhausted::ScaleToZero) => 0,
            (true, OnExhausted::ScaleToMin) => desired.min(min).min(current),
            (true, OnExhausted::Freeze) => desired.min(current),
        }
    }
}

/// Whole seconds until `money` is gone at `rate` an hour, rounded down so that nothing stops too late.
fn seconds_of(money: Money, rate: Money) -> Option<i64> {
    if rate <= Money::ZERO {
        return None;
    }
    i64::try_from((money.nanos() * 3600).div_euclid(rate.nanos())).ok()
}

/// Why a budget lets something not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no money for it.
    Budget {
        /// The budget.
        name: String,
        /// A sentence with the numbers.
        message: String,
        /// When the next period begins.
        retry_at: Timestamp,
        /// No period has the money, even if nothing else is spent in it.
        in_no_period: bool,
    },
    /// What it or something beside it costs, or what was spent, is not known; a sentence that says which.
    Unknown(String),
}

/// The money of all budgets of a namespace, handed out one start at a time.
#[derive(Clone, Debug)]
pub struct BudgetAdmission {
    budget_states: Vec<BudgetState>,
    running: RunningTotals,
    now: Timestamp,
}

impl BudgetAdmission {
    /// What these budgets admit, with the sums they were computed from.
    pub fn new(budget_states: Vec<BudgetState>, running: RunningTotals, now: Timestamp) -> Self {
        Self {
            budget_states,
            running,
            now,
        }
    }

    /// Where the budgets stand.
    pub fn budget_states(&self) -> &[BudgetState] {
        &self.budget_states
    }

    /// The sums over what runs and what was paid for.
    pub fn running(&self) -> RunningTotals {
        self.running
    }

    /// The standings, back.
    #[cfg(test)]
    pub fn into_standings(self) -> Vec<BudgetState> {
        self.budget_states
    }

    /// Pays for a start, or says why not. A start needs, in every budget, money for the reserve that includes it and for everything
    /// to run on for the minimum useful time (or to the end of the period, if that is sooner).
    ///
    /// # Errors
    /// The refusal; nothing is taken then.
    pub fn admit(&mut self, load: RunningCost) -> Result<(), Denied> {
        self.admit_all(&[(load, 1)])
    }

    /// As [`BudgetAdmission::admit`], for several of each that start together or not at all.
    ///
    /// # Errors
    /// The refusal; nothing is taken then.
    pub fn admit_all(&mut self, loads: &[(RunningCost, u32)]) -> Result<(), Denied> {
        let with = self.with(loads)?;
        self.running = with;
        Ok(())
    }

    /// Whether a start would be paid for; nothing is taken.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, load: RunningCost) -> Result<(), Denied> {
        self.check_all(&[(load, 1)])
    }

    /// As [`BudgetAdmission::check`], for several of each that start together or not at all.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_all(&self, loads: &[(RunningCost, u32)]) -> Result<(), Denied> {
        self.with(loads).map(drop)
    }

    fn with(&self, loads: &[(RunningCost, u32)]) -> Result<RunningTotals, Denied> {
        let running = self.known_with(loads)?;
        for budget_state in &self.budget_states {
            self.fits(budget_state, running)?;
        }
        Ok(running)
    }

    /// What would run with a start, if its cost is known and some period has the money.
    fn known_with(&self, loads: &[(RunningCost, u32)]) -> Result<RunningTotals, Denied> {
        let mut running = self.running;
        if self.budget_states.is_empty() {
            return Ok(running);
        }
        let mut doubts = self.budget_states.iter();
        if let Some(doubt) = doubts.find_map(|budget_state| budget_state.budget.doubt.clone()) {
            return Err(Denied::Unknown(doubt));
        }
        for (load, count) in loads {
            let Some(rate) = load.rate else {
                let why = "no price is known for its GPUs, and the namespace has a budget";
                return Err(Denied::Unknown(why.to_owned()));
            };
            running.starting_rate += rate.times(*count);
            running.starting_reserve += load.reserve_of(*count);
        }
        if self.running.unknown {
            let why = "something beside it runs that no price is known for, and the namespace has a budget";
            return Err(Denied::Unknown(why.to_owned()));
        }
        for budget_state in &self.budget_states {
            fits_some_period(budget_state, loads)?;
        }
        Ok(running)
    }

    /// What one budget must have left for everything that would run, and how many seconds that is to
    /// run on for.
    fn needed(&self, budget_state: &BudgetState, running: RunningTotals) -> (Money, i64) {
        let useful = budget_state.useful_seconds(self.now);
        let rate = running.rate + running.starting_rate;
        let reserve = running.reserve + running.starting_reserve;
        (reserve + rate.cost_for_seconds_rounded_up(useful), useful)
    }

    /// What each budget would have left beside a start, below zero where it refuses it; `None` if
    /// the answer has nothing to do with how much is left.
    pub(crate) fn left_beside(&self, loads: &[(RunningCost, u32)]) -> Option<Vec<Money>> {
        let with = self.known_with(loads).ok()?;
        let left = |budget_state: &BudgetState| {
            let budget = &budget_state.budget;
            budget.limit - budget.spent - self.needed(budget_state, with).0
        };
        Some(self.budget_states.iter().map(left).collect())
    }

    /// Money an hour of everything that would run beside a start.
    pub(crate) fn rate_beside(&self, loads: &[(RunningCost, u32)]) -> Money {
        let rates = loads
            .iter()
            .map(|(load, count)| load.rate.unwrap_or_default().times(*count));
        self.running.rate + self.running.starting_rate + rates.sum()
    }

    /// Whether one budget pays for everything that would run.
    fn fits(&self, budget_state: &BudgetState, running: RunningTotals) -> Result<(), Denied> {
        let budget = &budget_state.budget;
        let name = &budget.name;
        let refuse = |message| {
            Err(Denied::Budget {
                name: name.clone(),
                message,
                retry_at: budget_state.period.end,
                in_no_period: false,
            })
        };
        if budget_state.is_exhausted() {
            let (spent, limit) = (budget.spent.rounded(2), budget.limit.rounded(2));
            return refuse(format!(
                "budget {name} is exhausted: {spent} of {limit} spent"
            ));
        }
        let (needed, useful) = self.needed(budget_state, running);
        let left = budget.limit - budget.spent;
        if needed > left {
            return refuse(format!(
                "budget {name} has {} left; running on for {useful} s and stopping would take {}",
                left.rounded(4),
                needed.rounded(4),
            ));
        }
        Ok(())
    }
}

/// Whether the whole money of one period would pay for a start of which nothing else takes any.
fn fits_some_period(
    budget_state: &BudgetState,
    loads: &[(RunningCost, u32)],
) -> Result<(), Denied> {
    let (budget, period) = (&budget_state.budget, &budget_state.period);
    let useful = budget_state.useful_seconds(period.start);
    let cost = |(load, count): &(RunningCost, u32)| {
        let rate = load.rate.unwrap_or_default().times(*count);
        rate.cost_for_seconds_rounded_up(load.stop_seconds.saturating_add(useful))
    };
    let needed: Money = loads.iter().map(cost).sum();
    // what was given back can be spent as well
    let most = budget.limit - budget.corrections.min(Money::ZERO);
    if needed <= most {
        return Ok(());
    }
    let name = &budget.name;
    Err(Denied::Budget {
        name: name.clone(),
        message: format!(
            "budget {name} has {} in a whole period, and running for {useful} s and stopping \
             would take {}: it never starts unless the limit is raised",
            most.rounded(4),
            needed.rounded(4),
        ),
        retry_at: budget_state.period.end,
        in_no_period: true,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: &str = "2026-11-11T12:00:00Z";

    fn now() -> Timestamp {
        NOON.parse().unwrap()
    }

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn budget(limit: &str, spent: &str) -> Budget {
        Budget {
            name: "team".into(),
            limit: money(limit),
            period: Period::Daily,
            on_exhausted: OnExhausted::ScaleToZero,
            minimum_useful_run: SignedDuration::from_mins(5),
            latch: None,
            doubt: None,
            spent: money(spent),
            corrections: Money::ZERO,
        }
    }

    fn load(rate: &str, stop_seconds: i64) -> RunningCost {
        RunningCost::constant(Some(money(rate)), stop_seconds)
    }

    fn budget_state(budget: Budget, loads: &[RunningCost]) -> BudgetState {
        BudgetState::of(budget, loads, now(), &TimeZone::UTC)
    }

    #[test]
    fn it_is_exhausted_while_stopping_can_still_be_paid_for() {
        let loads = [load("36", 100)];
        assert_eq!(
            budget_state(budget("10", "8.99"), &loads).phase,
            Phase::Active
        );
        let exhausted = budget_state(budget("10", "9"), &loads);
        assert_eq!(
            (exhausted.phase, exhausted.reserve, exhausted.cap(3, 3, 1)),
            (Phase::Exhausted, money("1"), 0)
        );
    }

    #[test]
    fn it_stays_exhausted_when_the_drain_ends_early_and_opens_with_a_new_limit_or_period() {
        let exhausted = budget_state(budget("10", "9.5"), &[load("36", 100)]).budget;
        assert!(
            budget_state(exhausted.clone(), &[]).is_exhausted(),
            "the reserve is back, but the latch holds"
        );
        let raised = Budget {
            limit: money("11"),
            ..exhausted.clone()
        };
        assert!(!budget_state(raised, &[]).is_exhausted());
        let lowered = Budget {
            limit: money("9.9"),
            ..exhausted.clone()
        };
        assert!(
            budget_state(lowered, &[]).is_exhausted(),
            "less money opens nothing"
        );
        let tomorrow = now() + SignedDuration::from_hours(24);
        let rolled = BudgetState::of(
            Budget {
                spent: Money::ZERO,
                ..exhausted
            },
            &[],
            tomorrow,
            &TimeZone::UTC,
        );
        assert_eq!(rolled.phase, Phase::Active);
    }

    #[test]
    fn it_opens_with_a_credit_as_with_a_raised_limit_and_not_with_money_that_only_comes_back_from_a_charge()
     {
        let corrected = |budget: &Budget, ledger: &str, corrections: &str| {
            let budget = Budget {
                spent: money(ledger) + money(corrections),
                corrections: money(corrections),
                ..budget.clone()
            };
            budget_state(budget, &[]).budget
        };
        let latched = |budget: &Budget| budget.latch.is_some();
        let exhausted = corrected(&budget("10", "0"), "10", "0");
        assert!(latched(&exhausted));
        assert!(
            !latched(&corrected(&exhausted, "10", "-2")),
            "a credit is money"
        );
        let charged = corrected(&exhausted, "10", "3");
        assert!(latched(&charged));
        let taken_back = corrected(&charged, "10", "0");
        assert!(
            latched(&taken_back),
            "an adjustment that is taken back gives nothing that was not there"
        );
        // a wrong adjustment exhausted it; the one that takes it back opens it
        let wrong = corrected(&budget("10", "0"), "4", "1000");
        assert!(latched(&wrong) && !latched(&corrected(&wrong, "4", "0")));
        assert!(
            latched(&corrected(&exhausted, "13", "-2")),
            "a credit that does not bring it under the limit opens nothing"
        );
    }

    #[test]
    fn the_moment_of_exhaustion_follows_from_the_rate() {
        let budget_state = budget_state(budget("10", "8"), &[load("36", 100)]);
        assert_eq!(
            budget_state.exhausted_at,
            Some(now() + SignedDuration::from_secs(100))
        );
        assert_eq!(budget_state.remaining(), money("1"));
    }

    #[test]
    fn min_and_freeze_only_stop_growth() {
        let over = Budget {
            on_exhausted: OnExhausted::ScaleToMin,
            ..budget("10", "11")
        };
        let min = budget_state(over.clone(), &[]);
        assert_eq!(
            (min.phase, min.cap(5, 3, 2), min.cap(5, 1, 2)),
            (Phase::OverLimit, 2, 1)
        );
        let frozen = budget_state(
            Budget {
                on_exhausted: OnExhausted::Freeze,
                ..over
            },
            &[],
        );
        assert_eq!((frozen.cap(5, 3, 2), frozen.cap(1, 3, 2)), (3, 1));
    }

    #[test]
    fn nothing_starts_that_could_not_run_for_a_useful_time() {
        let loads = [];
        let mut admission = BudgetAdmission::new(
            vec![budget_state(budget("10", "6"), &loads)],
            RunningTotals::of(&loads),
            now(),
        );
        let start = load("12", 60);
        // 12 an hour: 1.00 for five minutes and 0.20 to stop
        assert_eq!(admission.admit(start), Ok(()));
        assert_eq!(admission.admit(start), Ok(()));
        assert_eq!(admission.admit(start), Ok(()));
        assert!(
            matches!(admission.admit(start), Err(Denied::Budget { .. })),
            "4.80 does not fit into 4.00"
        );
    }

    #[test]
    fn an_unknown_price_starts_nothing_under_a_budget_and_anything_without() {
        let unknown = RunningCost::constant(None, 60);
        let mut admission = BudgetAdmission::new(
            vec![budget_state(budget("10", "0"), &[])],
            RunningTotals::default(),
            now(),
        );
        assert!(matches!(admission.admit(unknown), Err(Denied::Unknown(_))));
        assert_eq!(
            BudgetAdmission::new(vec![], RunningTotals::default(), now()).admit(unknown),
            Ok(())
        );
        let beside = BudgetAdmission::new(
            vec![budget_state(budget("10", "0"), &[unknown])],
            RunningTotals::of(&[unknown]),
            now(),
        )
        .admit(load("1", 1));
        assert!(matches!(beside, Err(Denied::Unknown(_))));
    }

    proptest! {
        /// The promise: what runs until its exhaustion time and then stops within its stop time never costs more than the limit.
        #[test]
        fn spend_stays_within_the_limit(
            limit in 1i128..10i128.pow(13),
            rates in prop::collection::vec((1i128..10i128.pow(12), 0i64..4000), 1..6),
        ) {
            let loads: Vec<_> = rates
                .iter()
                .map(|(rate, stop_seconds)| RunningCost::constant(Some(Money::from_nanos(*rate)), *stop_seconds))
                .collect();
            let budget = Budget { limit: Money::from_nanos(limit), ..budget("0", "0") };
            let budget_state = budget_state(budget, &loads);
            let until = match (budget_state.is_exhausted(), budget_state.exhausted_at) {
                (true, _) => return Ok(()),
                (false, at) => at.unwrap_or(budget_state.period.end),
            };
            let run = until.as_second() - now().as_second();
            let spent: Money = loads
                .iter()
                .map(|load| load.rate.unwrap().cost_for_seconds(run + if until < budget_state.period.end { load.stop_seconds } else { 0 }))
                .sum();
            prop_assert!(spent <= budget_state.budget.limit, "{spent} of {}", budget_state.budget.limit);
        }
    }
}
