//! Amounts and durations as they stand in manifests.

use bursar_core::money::Money;
use jiff::SignedDuration;

/// CEL: an amount that is not negative.
pub const AMOUNT_RULE: &str = r"self.matches('^[0-9]{1,12}([.][0-9]{1,9})?$')";
/// What breaks [`AMOUNT_RULE`].
pub const AMOUNT_MESSAGE: &str =
    r#"must be an amount of money that is not negative, as a decimal string such as "12.50""#;
/// CEL: an amount, which may be negative.
pub const SIGNED_AMOUNT_RULE: &str = r"self.matches('^-?[0-9]{1,12}([.][0-9]{1,9})?$')";
/// What breaks [`SIGNED_AMOUNT_RULE`].
pub const SIGNED_AMOUNT_MESSAGE: &str = r#"must be an amount of money as a decimal string, with a minus for money that came back, such as "-40.00""#;
/// CEL: a day that there is, the 29th of February in leap years only.
pub const DATE_RULE: &str = "self.matches('^([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|\
     02-(0[1-9]|1[0-9]|2[0-8]))|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)$')";
/// What breaks [`DATE_RULE`].
pub const DATE_MESSAGE: &str = r#"must be a day of the calendar, such as "2026-11-30""#;
/// CEL: a duration between 0 and a day.
pub const DURATION_RULE: &str = r"self.matches('^([0-9]{1,9}(ms|s|m|h))+$') && duration(self) >= duration('0s') && duration(self) <= duration('24h')";
/// What breaks [`DURATION_RULE`].
pub const DURATION_MESSAGE: &str =
    r#"must be a duration of at most 24h, such as "90s", "10m" or "1h30m""#;

/// Why a field of a manifest cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct FieldError {
    /// The field's path.
    pub field: String,
    /// What is wrong, and what would be right.
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

/// Reads a Go-style duration: `90s`, `1h30m`, `250ms`.
///
/// # Errors
/// When `text` is not one.
pub fn duration(field: &str, text: &str) -> Result<SignedDuration, FieldError> {
    let refuse = || {
        FieldError::new(
            field,
            format!("{text:?} is not a duration: write it as \"90s\", \"10m\" or \"1h30m\""),
        )
    };
    let mut rest = text;
    let mut sum = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        let part = match &rest[..letters] {
            "ms" => SignedDuration::from_millis(number),
            "s" => SignedDuration::from_secs(number),
            "m" => SignedDuration::from_secs(number.checked_mul(60).ok_or_else(refuse)?),
            "h" => SignedDuration::from_secs(number.checked_mul(3600).ok_or_else(refuse)?),
            _ => return Err(refuse()),
        };
        sum = sum.checked_add(part).ok_or_else(refuse)?;
        rest = &rest[letters..];
    }
    if text.is_empty() {
        Err(refuse())
    } else {
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1m0s", 60_000),
            ("0s", 0),
        ] {
            assert_eq!(
                duration("f", text).unwrap(),
                SignedDuration::from_millis(millis),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "5d",
            "-5s",
            "5 s",
            "1.5h",
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
}
