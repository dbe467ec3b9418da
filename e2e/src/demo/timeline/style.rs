//! The colours and type of the timeline, for light and dark.

use std::fmt::Write;

/// A viewer's own sans-serif font.
const FONTS: &str =
    "system-ui,-apple-system,\"Segoe UI\",Roboto,\"Helvetica Neue\",Arial,sans-serif";

/// Class, property, and its colour on light and on dark ground.
const COLOURS: [(&str, &str, &str, &str); 26] = [
    ("ground", "fill", "#ffffff", "#0d1117"),
    ("ground", "stroke", "#d8dee4", "#30363d"),
    ("ink", "fill", "#1b2430", "#e8edf3"),
    ("muted", "fill", "#57636f", "#9daab8"),
    ("grid", "stroke", "#e9edf1", "#1f262e"),
    ("base", "stroke", "#aab4be", "#4a5561"),
    ("phase", "stroke", "#c3ccd5", "#3a444f"),
    ("phase-band", "fill", "#eff2f5", "#1a2029"),
    ("exhausted", "fill", "#fdf0ef", "#231416"),
    ("leader", "stroke", "#8894a0", "#6b7784"),
    ("arrivals", "fill", "#c9d5e3", "#34465c"),
    ("queue", "stroke", "#2563c9", "#6cabff"),
    ("queue-area", "fill", "#2563c9", "#6cabff"),
    ("held", "fill", "#e08a00", "#f2b04d"),
    ("ready", "stroke", "#0b7f6b", "#45cfae"),
    ("ready-area", "fill", "#0b7f6b", "#45cfae"),
    ("always-on", "stroke", "#57636f", "#9daab8"),
    ("training", "fill", "#8b97a4", "#697684"),
    ("spent", "stroke", "#6b3fb8", "#b692f6"),
    ("spent-area", "fill", "#6b3fb8", "#b692f6"),
    ("reserve", "fill", "#6b3fb8", "#b692f6"),
    ("limit", "stroke", "#c62f2f", "#ff7a72"),
    ("alarm", "fill", "#b92a2a", "#ff8a82"),
    ("good", "fill", "#0b7f6b", "#45cfae"),
    ("hollow", "stroke", "#0b7f6b", "#45cfae"),
    ("hollow", "fill", "#ffffff", "#0d1117"),
];

/// Sizes, widths and patterns, which light and dark share.
const SHAPES: &str = "\
.title{font-size:19px;font-weight:650}
.lane{font-size:13px;font-weight:650}
.small{font-size:11px}
.figure{font-size:30px;font-weight:650}
.end{text-anchor:end}
.middle{text-anchor:middle}
.grid,.base{stroke-width:1}
.phase{stroke-width:1;stroke-dasharray:2 3}
.leader{stroke-width:1}
.queue,.ready,.spent,.limit{fill:none;stroke-width:1.8;stroke-linejoin:round}
.queue-area,.spent-area{opacity:.16}
.ready-area{opacity:.22}
.held{opacity:.85}
.reserve{opacity:.34}
.always-on{fill:none;stroke-width:1.5;stroke-dasharray:5 4}
.above{stroke-dasharray:2 4}
.hollow{stroke-width:1.8}
";

/// The contents of the drawing's `style` element.
pub(super) fn sheet() -> String {
    let mut sheet = String::new();
    writeln!(
        sheet,
        "text{{font-family:{FONTS};font-variant-numeric:tabular-nums}}"
    )
    .ok();
    sheet.push_str(SHAPES);
    for (class, property, light, _) in COLOURS {
        writeln!(sheet, ".{class}{{{property}:{light}}}").ok();
    }
    sheet.push_str("@media (prefers-color-scheme:dark){\n");
    for (class, property, _, dark) in COLOURS {
        writeln!(sheet, ".{class}{{{property}:{dark}}}").ok();
    }
    sheet.push_str("}\n");
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luminance(colour: &str) -> f64 {
        let channel = |from: usize| {
            let value = u8::from_str_radix(&colour[from..from + 2], 16).unwrap();
            let value = f64::from(value) / 255.0;
            if value <= 0.040_45 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(one: &str, other: &str) -> f64 {
        let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
        one.max(other) / one.min(other)
    }

    #[test]
    fn text_and_lines_stand_out_from_their_ground_in_light_and_dark() {
        let colour = |class: &str, property: &str| {
            let (.., light, dark) = COLOURS
                .into_iter()
                .find(|(name, of, ..)| (*name, *of) == (class, property))
                .unwrap();
            [light, dark]
        };
        // WCAG 2.2: 4.5 for text, 3 for graphics
        for (class, property, least) in [
            ("ink", "fill", 7.0),
            ("muted", "fill", 4.5),
            ("alarm", "fill", 4.5),
            ("good", "fill", 4.5),
            ("queue", "stroke", 3.0),
            ("ready", "stroke", 3.0),
            ("always-on", "stroke", 3.0),
            ("spent", "stroke", 3.0),
            ("limit", "stroke", 3.0),
        ] {
            let grounds = colour("ground", "fill");
            for (ground, shown) in grounds.into_iter().zip(colour(class, property)) {
                let contrast = contrast(ground, shown);
                assert!(contrast >= least, "{class} {shown} on {ground}: {contrast}");
            }
        }
    }
}
