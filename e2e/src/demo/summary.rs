//! The numbers of a run, printed at its end.

use bursar_client::Tally;

use super::{journal::Outcome, terminal::Terminal};

/// A median wake-up, from the first held request to the Deployment's patch, that takes longer is
/// pointed out.
const WAKE_LIMIT_MS: u64 = 100;

/// The numbers of a run.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    /// The load generator's counts.
    pub(super) tally: Tally,
    /// The most replicas of the service.
    pub(super) max_replicas: u32,
    /// From the last answer until the last replica had gone.
    pub(super) idle_seconds: f64,
    /// Seconds in which the service had no pods.
    pub(super) at_zero: f64,
    /// Seconds since the service was applied.
    pub(super) lifetime: f64,
    /// Milliseconds from the first held request to the Deployment's patch, as the leader measured
    /// them.
    pub(super) wake_up_ms: Vec<u64>,
    /// Money that the service cost.
    pub(super) spent: f64,
    /// Money an hour that one replica costs.
    pub(super) replica_rate: f64,
    /// ISO 4217 code.
    pub(super) currency: String,
    /// Money that was spent when everything had stopped, and the limit.
    pub(super) spent_and_limit: (f64, String),
    /// The answer to the request that was refused.
    pub(super) refusal: String,
    /// Steps of the training job, and whether every worker did each step once.
    pub(super) steps: (u64, bool),
}

impl Summary {
    /// Whether no request was lost or failed, no training step was lost or repeated, and a wake-up
    /// was measured.
    pub(super) fn is_good(&self) -> bool {
        self.tally.is_perfect() && self.steps.1 && !self.wake_up_ms.is_empty()
    }

    /// A wake-up that was not measured is not fast.
    fn is_wake_up_fast(&self) -> bool {
        self.median().is_some_and(|median| median <= WAKE_LIMIT_MS)
    }

    /// Median of the wake-ups, in milliseconds; of an even number, the mean of the two in the
    /// middle.
    fn median(&self) -> Option<u64> {
        let mut sorted = self.wake_up_ms.clone();
        sorted.sort_unstable();
        let upper = sorted.get(sorted.len() / 2)?;
        let lower = sorted.get((sorted.len() - 1) / 2)?;
        Some((lower + upper) / 2)
    }

    /// The cost of `replicas` that run all the time.
    fn always_on(&self, replicas: u32) -> f64 {
        self.replica_rate * f64::from(replicas) * self.lifetime / 3600.0
    }

    /// The part that the journal keeps.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome {
            currency: self.currency.clone(),
            sent: self.tally.sent as u64,
            served: self.tally.served() as u64,
            lost: self.tally.lost as u64,
            server_errors: self.tally.server_errors() as u64,
            service_cost: self.spent,
            always_on_cost: self.always_on(self.max_replicas),
        }
    }

    /// Prints the numbers.
    pub(super) fn print(&self, terminal: &Terminal) {
        let Self {
            tally,
            currency,
            max_replicas,
            ..
        } = self;
        let mut lines = vec![
            String::new(),
            "Summary".to_owned(),
            row(
                "requests",
                &format!(
                    "{} sent, {} served, {} lost, {} answered with 5xx",
                    tally.sent,
                    tally.served(),
                    tally.lost,
                    tally.server_errors()
                ),
            ),
        ];
        if let Some(example) = &tally.example {
            lines.push(row("", &format!("not served: {example}")));
        }
        let wake_up_ms: Vec<String> = self.wake_up_ms.iter().map(u64::to_string).collect();
        lines.push(row(
            "idle to zero",
            &format!("{:.1} s after the last answer", self.idle_seconds),
        ));
        lines.push(row(
            "wake-up",
            &match self.median() {
                Some(median) => format!(
                    "{median} ms from the first held request to the Deployment's patch (median of {}){}",
                    wake_up_ms.join(", "),
                    if self.is_wake_up_fast() {
                        String::new()
                    } else {
                        format!(": MORE THAN {WAKE_LIMIT_MS}")
                    }
                ),
                None => "NOT MEASURED: the leader's log names no wake-up".to_owned(),
            },
        ));
        lines.push(row(
            "at zero",
            &format!("{:.0} s of {:.0} s", self.at_zero, self.lifetime),
        ));
        let (one, all) = (self.always_on(1), self.always_on(*max_replicas));
        lines.push(row(
            "chat cost",
            &format!(
                "{:.4} {currency}; {max_replicas} replicas always on: {all:.4} ({}); 1, too few for the trace: {one:.4} ({})",
                self.spent,
                relative(self.spent, all),
                relative(self.spent, one)
            ),
        ));
        let (spent, limit) = &self.spent_and_limit;
        lines.push(row(
            "budget",
            &format!(
                "{spent:.4} of {limit} {currency} spent when all had stopped; {}",
                self.refusal
            ),
        ));
        let (steps, each_once) = self.steps;
        let outcome = if each_once {
            "none lost, none done twice"
        } else {
            "SOME LOST OR DONE TWICE"
        };
        lines.push(row(
            "training",
            &format!("{steps} steps through suspension and resumption, {outcome}"),
        ));
        terminal.print(&lines.join("\n"));
    }
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:<14}{text}")
}

fn relative(spent: f64, other: f64) -> String {
    if other <= 0.0 {
        return "no comparison".to_owned();
    }
    let percent = (spent / other - 1.0) * 100.0;
    format!("{percent:+.0} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            tally: Tally::default(),
            max_replicas: 4,
            idle_seconds: 0.0,
            at_zero: 0.0,
            lifetime: 1800.0,
            wake_up_ms: vec![90, 10, 20],
            spent: 1.0,
            replica_rate: 6.0,
            currency: "USD".into(),
            spent_and_limit: (0.0, String::new()),
            refusal: String::new(),
            steps: (1, true),
        }
    }

    #[test]
    fn the_median_does_not_depend_on_order_and_always_on_counts_the_whole_time() {
        let summary = summary();
        assert_eq!(summary.median(), Some(20));
        assert!((summary.always_on(2) - 6.0).abs() < 1e-9);
        assert_eq!(relative(1.0, 4.0), "-75 %");
    }

    #[test]
    fn a_lost_request_is_a_failed_demo() {
        let mut summary = summary();
        assert!(summary.is_good());
        summary.tally.sent = 1;
        summary.tally.lost = 1;
        assert!(!summary.is_good());
    }

    #[test]
    fn a_slow_wake_up_is_said_and_an_unmeasured_one_is_a_failed_demo() {
        let mut summary = summary();
        summary.wake_up_ms = vec![100, 900, 20];
        assert!(summary.is_wake_up_fast() && summary.is_good());
        summary.wake_up_ms.push(102);
        assert_eq!(summary.median(), Some(101));
        // the time depends on the machine too
        assert!(!summary.is_wake_up_fast() && summary.is_good());
        summary.wake_up_ms.clear();
        assert!(!summary.is_good());
    }
}
