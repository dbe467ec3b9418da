//! The totals of the run, next to the lanes.

use super::{
    Drawing, SMALL, labels::text_width, lane::Lane, scale::grouped, shapes::text, svg::Svg,
};

/// The column of results.
pub(super) const RESULT_LEFT: f64 = 742.0;
pub(super) const RESULT_WIDTH: f64 = 156.0;

impl Drawing<'_> {
    /// The totals of the run, each figure next to its lane.
    pub(super) fn results(
        &self,
        svg: &mut Svg,
        requests: &Lane<'_>,
        replicas: &Lane<'_>,
        money: &Lane<'_>,
    ) {
        if let Some(outcome) = &self.series.outcome {
            let class = if outcome.lost == 0 { "good" } else { "alarm" };
            let words = if outcome.served == outcome.sent {
                format!("{} requests, all answered with 200", grouped(outcome.sent))
            } else {
                format!(
                    "{} requests, {} answered with 200, {} with 5xx",
                    grouped(outcome.sent),
                    grouped(outcome.served),
                    grouped(outcome.server_errors)
                )
            };
            result(
                svg,
                requests,
                class,
                &format!("{} lost", grouped(outcome.lost)),
                &words,
            );
        }
        let wake_ups = self.series.wake_ups();
        if let Some(median) = median(&wake_ups) {
            let words = format!(
                "wake-up: from the first held request to the scale-up, median of {}",
                wake_ups.len()
            );
            result(svg, replicas, "good", &format!("{median} ms"), &words);
        }
        if let Some((figure, words)) = self.saving() {
            let class = if figure.starts_with('+') {
                "ink"
            } else {
                "good"
            };
            result(svg, money, class, &figure, &words);
        }
    }

    /// The service's saving against replicas that are always on: figure and words.
    pub(super) fn saving(&self) -> Option<(String, String)> {
        let outcome = self.series.outcome.as_ref()?;
        if outcome.always_on_cost <= 0.0 {
            return None;
        }
        let percent = (1.0 - outcome.service_cost / outcome.always_on_cost) * 100.0;
        let sign = if percent >= 0.0 { '−' } else { '+' };
        let currency = &outcome.currency;
        Some((
            format!("{sign}{:.0} %", percent.abs()),
            format!(
                "the service cost {:.2} {currency} instead of {:.2} {currency} for {} replicas always on",
                outcome.service_cost, outcome.always_on_cost, self.series.max_replicas
            ),
        ))
    }
}

/// A figure and words next to a lane.
pub(super) fn result(svg: &mut Svg, lane: &Lane<'_>, class: &str, figure: &str, words: &str) {
    let lines = wrapped(words, RESULT_WIDTH);
    let height = 26.0 + 15.0 * lines.len() as f64;
    let middle = (lane.chart_top() + lane.chart_bottom()) / 2.0;
    let mut y = middle - height / 2.0 + 22.0;
    text(svg, &format!("figure {class}"), RESULT_LEFT, y, figure);
    y += 5.0;
    for words in lines {
        y += 15.0;
        text(svg, "small muted", RESULT_LEFT, y, &words);
    }
}

/// Lines of a text no wider than `width`.
pub(super) fn wrapped(words: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), SMALL) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Median of sorted numbers.
pub(super) fn median(sorted: &[u64]) -> Option<u64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2)
}
