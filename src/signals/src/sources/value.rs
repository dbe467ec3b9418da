//! Numbers that servers send, as thousandths.

use std::num::FpCategory;

/// A larger demand is a mistake: it would not be a number of requests of anything.
const MAX: f64 = 1e15;

/// The number in thousandths, rounded up: a demand of 0.0001 is not none. The words of an error
/// follow "the value is".
pub(crate) fn thousandths(value: f64) -> Result<u64, String> {
    match value.classify() {
        FpCategory::Nan => return Err("NaN, which is no number".into()),
        FpCategory::Infinite => return Err("infinite".into()),
        _ if value < 0.0 => return Err(format!("{value}, which is negative")),
        _ if value > MAX => return Err(format!("{value:e}, which is more than {MAX:e}")),
        _ => {}
    }
    let scaled = value * 1000.0;
    // 1.1 * 1000 is 1100.0000000000002, and must not become 1101
    let nearest = scaled.round();
    let is_exact = (scaled - nearest).abs() <= nearest * f64::EPSILON * 2.0;
    let rounded = if is_exact { nearest } else { scaled.ceil() };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 1e18
    Ok(rounded as u64)
}

/// The number that a text is, in thousandths.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(value) => thousandths(value),
        // a server may be one that the author of the signal may not read: its words are not repeated
        Err(_) => Err(format!(
            "a text of {} characters, which is no number",
            text.chars().count()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_thousandths_rounded_up() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("42", 42_000),
            ("1.5", 1500),
            ("1.1", 1100),
            ("0.0001", 1),
            ("2.0001", 2001),
            ("4.2e1", 42_000),
            ("1e-300", 1),
            ("1000000000000000", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn every_thousandth_is_itself() {
        for value in (0..2_000_000_u32).step_by(7) {
            let thousandth = f64::from(value) / 1000.0;
            assert_eq!(thousandths(thousandth), Ok(value.into()), "{thousandth}");
        }
    }

    #[test]
    fn what_is_no_demand_is_an_error_that_says_why() {
        for (text, why) in [
            ("NaN", "no number"),
            ("+Inf", "infinite"),
            ("-inf", "infinite"),
            ("-1", "negative"),
            ("1e16", "more than"),
            ("many", "a text of 4 characters"),
            ("", "no number"),
            (" 1", "no number"),
            ("0x10", "no number"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
