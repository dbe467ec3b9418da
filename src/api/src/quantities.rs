//! Amounts of money and durations of manifests, and Kubernetes quantities.

use std::time::Duration;

use bursar_core::money::Money;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// CEL: an amount that is not negative.
pub const AMOUNT_RULE: &str = r"self.matches('^[0-9]{1,12}([.][0-9]{1,9})?$')";
/// The message of [`AMOUNT_RULE`].
pub const AMOUNT_MESSAGE: &str =
    r#"must be an amount of money that is not negative, as a decimal string such as "12.50""#;
/// CEL: an amount, which may be negative.
pub const SIGNED_AMOUNT_RULE: &str = r"self.matches('^-?[0-9]{1,12}([.][0-9]{1,9})?$')";
/// The message of [`SIGNED_AMOUNT_RULE`].
pub const SIGNED_AMOUNT_MESSAGE: &str = r#"must be an amount of money as a decimal string, with a minus for money that came back, such as "-40.00""#;
/// CEL: a day of the calendar; the 29th of February in leap years only.
pub const DATE_RULE: &str = "self.matches('^([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|\
     02-(0[1-9]|1[0-9]|2[0-8]))|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)$')";
/// The message of [`DATE_RULE`].
pub const DATE_MESSAGE: &str = r#"must be a day of the calendar, such as "2026-11-30""#;
/// CEL: a duration between 0 and a day.
pub const DURATION_RULE: &str = r"self.matches('^([0-9]{1,9}(ms|s|m|h))+$') && duration(self) >= duration('0s') && duration(self) <= duration('24h')";
/// The message of [`DURATION_RULE`].
pub const DURATION_MESSAGE: &str =
    r#"must be a duration of at most 24h, such as "90s", "10m" or "1h30m""#;

/// Why a field of a manifest cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct FieldError {
    /// The field's path.
    pub field: String,
    /// The fault, and a value that would be right.
    pub why: String,
}

impl FieldError {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, why: impl ToString) -> Self {
        Self {
            field: field.into(),
            why: why.to_string(),
        }
    }
}

/// Reads the amount in `field`.
///
/// # Errors
/// When `text` is not an amount.
pub fn amount(field: &str, text: &str) -> Result<Money, FieldError> {
    text.parse().map_err(|error| FieldError::new(field, error))
}

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write it as \"90s\", \"10m\" or \"1h30m\"")]
pub struct DurationError(String);

/// Reads a Go-style duration such as `90s`, `1h30m` or `250ms`, in the form of [`DURATION_RULE`].
///
/// # Errors
/// When `text` does not have that form.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refuse = || DurationError(text.to_owned());
    // Go's form has fractions, signs and smaller units too, which the rule of the resources
    // refuses; and kube's parser panics at numbers that are too large
    let has_form = text.ends_with(['h', 'm', 's'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"hms".contains(&byte))
        && text.split(['h', 'm', 's']).all(|digits| digits.len() <= 9);
    if !has_form {
        return Err(refuse());
    }
    let duration: kube::core::Duration = text.parse().map_err(|_| refuse())?;
    Ok(duration.into())
}

/// Reads the duration in `field`.
///
/// # Errors
/// When `text` is not a duration.
pub fn duration(field: &str, text: &str) -> Result<SignedDuration, FieldError> {
    let refuse = |error: &dyn std::fmt::Display| FieldError::new(field, error.to_string());
    let duration = parse_duration(text).map_err(|error| refuse(&error))?;
    SignedDuration::try_from(duration).map_err(|error| refuse(&error))
}

/// Why a text is not a Kubernetes quantity, or not one that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is not in the grammar of quantities.
    #[error("{0:?} is not a quantity: write it as \"4\", \"500m\", \"1.5\" or \"64Gi\"")]
    Malformed(String),
    /// It is not a whole number from 0, or is too large for one.
    #[error("{0:?} is not a whole number of devices: write it as \"1\"")]
    NotCount(String),
}

/// Nano-units in one unit of a quantity.
const QUANTITY_NANOS: u128 = 1_000_000_000;
/// The largest magnitude of a quantity, in nano-units: the API server takes more for this.
const MAX_QUANTITY: u128 = i64::MAX as u128 * QUANTITY_NANOS;
/// Significant digits of a quantity that are read; those after them only round it up.
const QUANTITY_DIGITS: usize = 20;

/// A quantity in nano-units, as the API server reads it: rounded up (away from zero) to a
/// nano-unit, and of at most 2⁶³-1 units.
///
/// # Errors
/// When it is not in the grammar of Kubernetes' quantities.
pub fn nanos(quantity: &Quantity) -> Result<i128, QuantityError> {
    let text = quantity.0.as_str();
    let malformed = || QuantityError::Malformed(text.to_owned());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = unsigned.split_at(end.unwrap_or(unsigned.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || whole.len() + fraction.len() == 0 {
        return Err(malformed());
    }
    let (power, shift) = suffix_scale(suffix).ok_or_else(malformed)?;
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    let (kept, dropped) = significant.split_at(significant.len().min(QUANTITY_DIGITS));
    let rounds_up = dropped.bytes().any(|digit| digit != b'0');
    // 20 digits fit into 67 bits, and binary suffixes add 60
    let mantissa = kept.parse::<u128>().unwrap_or(0) + u128::from(rounds_up);
    let places = i64::try_from(fraction.len()).map_err(|_| malformed())?;
    let dropped = i64::try_from(dropped.len()).map_err(|_| malformed())?;
    let power = power.saturating_add(9 + dropped - places);
    let magnitude = match u32::try_from(power) {
        Ok(power) => (10u128.checked_pow(power))
            .and_then(|scale| (mantissa << shift).checked_mul(scale))
            .unwrap_or(if mantissa == 0 { 0 } else { MAX_QUANTITY }),
        // no u32 holds such a power
        Err(_) if power >= 0 => {
            if mantissa == 0 {
                0
            } else {
                MAX_QUANTITY
            }
        }
        Err(_) => (u32::try_from(power.unsigned_abs()).ok())
            .and_then(|places| 10u128.checked_pow(places))
            .map_or(u128::from(mantissa > 0), |scale| {
                (mantissa << shift).div_ceil(scale)
            }),
    };
    let magnitude = i128::try_from(magnitude.min(MAX_QUANTITY)).map_err(|_| malformed())?;
    Ok(if text.starts_with('-') {
        -magnitude
    } else {
        magnitude
    })
}

/// The powers of ten and two that a quantity's suffix multiplies by.
fn suffix_scale(suffix: &str) -> Option<(i64, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        exponent => (exponent.strip_prefix(['e', 'E'])?.parse().ok()?, 0),
    })
}

/// A quantity in thousandths of its unit, rounded up. More than an `i64` holds is its largest
/// value, so that it compares as it should.
///
/// # Errors
/// When it is not a quantity.
pub fn milli(quantity: &Quantity) -> Result<i64, QuantityError> {
    let nanos = nanos(quantity)?;
    let (whole, rest) = (nanos.div_euclid(1_000_000), nanos.rem_euclid(1_000_000));
    let milli = whole + i128::from(rest != 0);
    Ok(i64::try_from(milli).unwrap_or(if milli < 0 { i64::MIN } else { i64::MAX }))
}

/// A quantity as a whole number of devices: `2`, `1k`, `2000m`.
///
/// # Errors
/// When it is not a quantity, not whole, negative, or larger than a `u32`.
pub fn count(quantity: &Quantity) -> Result<u32, QuantityError> {
    let nanos = nanos(quantity)?;
    let unit = i128::try_from(QUANTITY_NANOS).unwrap_or(i128::MAX);
    let whole = u32::try_from(nanos / unit)
        .ok()
        .filter(|_| nanos % unit == 0 && nanos >= 0);
    whole.ok_or_else(|| QuantityError::NotCount(quantity.0.clone()))
}

/// A quantity of bytes in gibibytes, rounded up; a negative one is 0, and more than a `u32` holds
/// is its largest value.
///
/// # Errors
/// When it is not a quantity.
pub fn gibibytes(quantity: &Quantity) -> Result<u32, QuantityError> {
    let nanos = nanos(quantity)?.max(0).unsigned_abs();
    Ok(u32::try_from(nanos.div_ceil(QUANTITY_NANOS << 30)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1m0s", 60_000),
            ("30m1h", 5_400_000),
            ("1s1s", 2_000),
            ("0s", 0),
            ("999999999h", 3_599_999_996_400_000),
        ] {
            let read = duration("f", text).unwrap();
            assert_eq!(read, SignedDuration::from_millis(millis), "{text}");
        }
        for text in [
            "",
            "0",
            "5",
            "s",
            "5d",
            "5s0",
            "-5s",
            "+5s",
            "5 s",
            "1.5h",
            "5us",
            "1000000000s",
            "99999999999999999999s",
        ] {
            let error = duration("spec.drain.timeout", text)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("spec.drain.timeout: ") && error.contains("90s"),
                "{error}"
            );
        }
    }

    /// The pattern in a CEL rule.
    fn pattern(rule: &str) -> Regex {
        let (_, rest) = rule.split_once("matches('").unwrap();
        Regex::new(rest.split_once("')").unwrap().0).unwrap()
    }

    fn quantity(text: &str) -> Quantity {
        Quantity(text.to_owned())
    }

    #[test]
    fn quantities_are_read_as_the_api_server_reads_them() {
        let unit = 1_000_000_000;
        for (text, expected) in [
            ("1", unit),
            ("+1", unit),
            ("-1.5", -unit * 3 / 2),
            ("250m", unit / 4),
            (".5", unit / 2),
            ("5.", unit * 5),
            ("100n", 100),
            ("1u", 1000),
            ("0.1n", 1),
            ("-0.1n", -1),
            ("0.0000000000000000000000001", 1),
            ("1e-400", 1),
            ("0e400", 0),
            ("1k", unit * 1000),
            ("1e3", unit * 1000),
            ("1E3", unit * 1000),
            ("1E+3", unit * 1000),
            ("1e-3", unit / 1000),
            ("1E", unit * 10i128.pow(18)),
            ("1Ei", unit << 60),
            ("2Ki", unit * 2048),
            ("9E", unit * 9 * 10i128.pow(18)),
            ("10E", unit * i128::from(i64::MAX)),
            ("-9Ei", -unit * i128::from(i64::MAX)),
            ("1e400", unit * i128::from(i64::MAX)),
        ] {
            assert_eq!(nanos(&quantity(text)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn thousandths_are_rounded_up_and_never_wrap() {
        for (text, expected) in [
            ("1", 1000),
            ("1.5", 1500),
            ("2Ki", 2_048_000),
            ("1P", 1_000_000_000_000_000_000),
            ("100n", 1),
            ("9m", 9),
            ("8E", i64::MAX),
            ("8Ei", i64::MAX),
            ("-8E", i64::MIN),
        ] {
            assert_eq!(milli(&quantity(text)), Ok(expected), "{text}");
        }
        assert!(
            milli(&quantity("x"))
                .unwrap_err()
                .to_string()
                .contains("\"x\"")
        );
    }

    #[test]
    fn devices_are_whole_numbers_in_any_form() {
        for (text, expected) in [
            ("8", 8),
            ("0", 0),
            ("1k", 1000),
            ("1Ki", 1024),
            ("2000m", 2),
        ] {
            assert_eq!(count(&quantity(text)), Ok(expected), "{text}");
        }
        for text in ["1.5", "1500m", "-1", "1E", "5G"] {
            assert_eq!(
                count(&quantity(text)),
                Err(QuantityError::NotCount(text.to_owned()))
            );
        }
        assert!(matches!(
            count(&quantity("two")),
            Err(QuantityError::Malformed(_))
        ));
    }

    #[test]
    fn gibibytes_are_rounded_up() {
        for (text, expected) in [
            ("1Gi", 1),
            ("1G", 1),
            ("1025Mi", 2),
            ("0", 0),
            ("-1Gi", 0),
            ("1Ei", 1 << 30),
            ("3Ei", 3 << 30),
            ("7Ei", u32::MAX),
        ] {
            assert_eq!(gibibytes(&quantity(text)), Ok(expected), "{text}");
        }
    }

    proptest! {
        /// What the API server lets into a field of a resource is what the controller reads.
        #[test]
        fn durations_have_the_form_of_the_rule(text in "[0-9hmsund.+ -]{0,8}|([0-9]{1,10}(ms|s|m|h)){0,4}") {
            let accepted = pattern(DURATION_RULE).is_match(&text);
            prop_assert_eq!(parse_duration(&text).is_ok(), accepted, "{}", text);
        }

        #[test]
        fn durations_are_the_sums_of_their_parts(parts in prop::collection::vec((0u64..1_000_000, 0usize..4), 1..5)) {
            let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
            let text: String = parts.iter().map(|(number, unit)| format!("{number}{}", units[*unit].0)).collect();
            let millis: u64 = parts.iter().map(|(number, unit)| number * units[*unit].1).sum();
            prop_assert_eq!(parse_duration(&text), Ok(Duration::from_millis(millis)));
        }

        /// Kubernetes' grammar: apimachinery, pkg/api/resource/quantity.go.
        #[test]
        fn quantities_have_the_form_of_the_grammar(
            text in r"[0-9eEinumkKMG.+-]{0,6}|[+-]?[0-9]{0,4}\.?[0-9]{0,3}(n|u|m|k|[MGTPE]i?|Ki|[eE][+-]?[0-9]{1,2})?",
        ) {
            let grammar = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(n|u|m|k|M|G|T|P|E|[KMGTPE]i|[eE][+-]?[0-9]+)?$";
            let accepted = Regex::new(grammar).unwrap().is_match(&text);
            prop_assert_eq!(nanos(&quantity(&text)).is_ok(), accepted, "{}", text);
        }

        #[test]
        fn a_quantity_is_its_number_times_its_suffix(
            number in 0i128..1_000_000_000, places in 0usize..9, suffix in 0usize..20, negative: bool,
        ) {
            // nano-units in one unit of each suffix
            let suffixes: [(&str, i128); 20] = [
                ("n", 1), ("u", 1000), ("m", 1_000_000), ("", 1_000_000_000), ("e0", 1_000_000_000), ("e-2", 10_000_000),
                ("E2", 100_000_000_000), ("k", 10i128.pow(12)), ("M", 10i128.pow(15)), ("G", 10i128.pow(18)),
                ("T", 10i128.pow(21)), ("P", 10i128.pow(24)), ("E", 10i128.pow(27)), ("e+6", 10i128.pow(15)),
                ("Ki", 1_000_000_000 << 10), ("Mi", 1_000_000_000 << 20), ("Gi", 1_000_000_000 << 30),
                ("Ti", 1_000_000_000 << 40), ("Pi", 1_000_000_000 << 50), ("Ei", 1_000_000_000 << 60),
            ];
            let (name, unit) = suffixes[suffix];
            let scale = 10i128.pow(u32::try_from(places).unwrap());
            let (whole, fraction) = (number / scale, number % scale);
            let decimals = if places == 0 { String::new() } else { format!(".{fraction:0places$}") };
            let sign = if negative { "-" } else { "" };
            let text = format!("{sign}{whole}{decimals}{name}");
            let product = number * unit;
            let magnitude = (product / scale + i128::from(product % scale != 0)).min(i128::from(i64::MAX) * 1_000_000_000);
            let expected = if negative { -magnitude } else { magnitude };
            prop_assert_eq!(nanos(&quantity(&text)), Ok(expected), "{}", text);
        }
    }
}
