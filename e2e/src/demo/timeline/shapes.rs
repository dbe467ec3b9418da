//! The shapes of which the timeline is made.

use std::fmt::Display;

use super::svg::{Number, Svg};

pub(super) fn text(svg: &mut Svg, class: &str, x: f64, y: f64, words: &str) {
    svg.with_text(
        "text",
        &[("class", &class), ("x", &Number(x)), ("y", &Number(y))],
        words,
    );
}

pub(super) fn line(svg: &mut Svg, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ends: [&dyn Display; 4] = [
        &Number(from.0),
        &Number(from.1),
        &Number(to.0),
        &Number(to.1),
    ];
    svg.empty(
        "line",
        &[
            ("class", &class),
            ("x1", ends[0]),
            ("y1", ends[1]),
            ("x2", ends[2]),
            ("y2", ends[3]),
        ],
    );
}

pub(super) fn rect(svg: &mut Svg, class: &str, across: (f64, f64), down: (f64, f64)) {
    svg.empty(
        "rect",
        &[
            ("class", &class),
            ("x", &Number(across.0)),
            ("y", &Number(down.0)),
            ("width", &Number((across.1 - across.0).max(0.0))),
            ("height", &Number((down.1 - down.0).max(0.0))),
        ],
    );
}

pub(super) fn circle(svg: &mut Svg, class: &str, x: f64, y: f64, radius: f64) {
    svg.empty(
        "circle",
        &[
            ("class", &class),
            ("cx", &Number(x)),
            ("cy", &Number(y)),
            ("r", &Number(radius)),
        ],
    );
}
