//! Curves and areas over time.

use super::{
    Drawing,
    scale::Scale,
    svg::{Path, Svg},
};

impl Drawing<'_> {
    pub(super) fn curve(
        &self,
        svg: &mut Svg,
        class: &str,
        scale: &Scale,
        values: &[(f64, Option<f64>)],
    ) {
        let mut path = Path::default();
        for run in self.runs(scale, values) {
            for (index, (x, y)) in run.iter().enumerate() {
                if index == 0 {
                    path.move_to(*x, *y);
                } else {
                    path.line_to(*x, *y);
                }
            }
        }
        if !path.is_empty() {
            svg.empty("path", &[("class", &class), ("d", &path)]);
        }
    }

    pub(super) fn area(
        &self,
        svg: &mut Svg,
        class: &str,
        scale: &Scale,
        values: &[(f64, Option<f64>)],
    ) {
        let zero: Vec<(f64, Option<f64>)> = values
            .iter()
            .map(|(t, value)| (*t, value.map(|_| 0.0)))
            .collect();
        self.band(svg, class, scale, &zero, values);
    }

    /// The area between two series of the same times.
    pub(super) fn band(
        &self,
        svg: &mut Svg,
        class: &str,
        scale: &Scale,
        low: &[(f64, Option<f64>)],
        high: &[(f64, Option<f64>)],
    ) {
        let mut path = Path::default();
        let runs = self
            .runs(scale, low)
            .into_iter()
            .zip(self.runs(scale, high));
        for (low, high) in
            runs.filter(|(low, high)| low.iter().chain(high).any(|(_, y)| *y != low[0].1))
        {
            for (index, (x, y)) in high.iter().chain(low.iter().rev()).enumerate() {
                if index == 0 {
                    path.move_to(*x, *y);
                } else {
                    path.line_to(*x, *y);
                }
            }
            path.close();
        }
        if !path.is_empty() {
            svg.empty("path", &[("class", &class), ("d", &path)]);
        }
    }

    /// Points of a series, in one list for each stretch without a gap. Where several share a
    /// position, the highest and the last remain.
    pub(super) fn runs(
        &self,
        scale: &Scale,
        values: &[(f64, Option<f64>)],
    ) -> Vec<Vec<(f64, f64)>> {
        let mut runs: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
        for (t, value) in values {
            match value {
                Some(value) => {
                    let point = (self.time.at(*t), scale.at(*value));
                    if let Some(run) = runs.last_mut() {
                        run.push(point);
                    }
                }
                None => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| run.len() > 1);
        runs.iter().map(|run| straightened(run)).collect()
    }
}

pub(super) fn maximum(values: &[(f64, Option<f64>)]) -> f64 {
    values
        .iter()
        .filter_map(|(_, value)| *value)
        .fold(0.0, f64::max)
}

/// A value that holds until the next one.
pub(super) fn stepped(values: &[(f64, Option<f64>)], end: f64) -> Vec<(f64, Option<f64>)> {
    let mut steps: Vec<(f64, Option<f64>)> = Vec::new();
    for (t, value) in values {
        if let Some((_, before)) = steps.last().copied() {
            if before == *value {
                continue;
            }
            steps.push((*t, before));
        }
        steps.push((*t, *value));
    }
    if let Some((_, last)) = steps.last().copied() {
        steps.push((end, last));
    }
    steps
}

/// From when until when a series has the same known value.
pub(super) fn constant_spans(values: &[(f64, Option<f64>)], end: f64) -> Vec<(f64, f64, f64)> {
    let mut spans: Vec<(f64, f64, f64)> = Vec::new();
    let mut before = None;
    for (t, value) in values {
        if *value != before {
            if before.is_some()
                && let Some(last) = spans.last_mut()
            {
                last.1 = *t;
            }
            spans.extend(value.map(|value| (*t, end, value)));
            before = *value;
        }
    }
    spans
}

/// A line without the points that lie on the straight between their neighbours.
pub(super) fn straightened(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for (index, point) in points.iter().enumerate() {
        if let (Some(before), Some(after)) = (kept.last(), points.get(index + 1)) {
            let (dx, dy) = (after.0 - before.0, after.1 - before.1);
            let height = (point.0 - before.0) * dy - (point.1 - before.1) * dx;
            let between = (before.0..=after.0).contains(&point.0)
                && point.1 >= before.1.min(after.1)
                && point.1 <= before.1.max(after.1);
            // less than a tenth of a pixel
            if between && height.abs() <= 0.1 * dx.abs().max(dy.abs()) {
                continue;
            }
        }
        kept.push(*point);
    }
    kept
}
