//! Which series of a page of metrics make a number, in the words of Prometheus.

use std::fmt;

/// The most selectors in a text: each is compared with each line of a page.
const MOST_SELECTORS: usize = 4;

/// A regular expression for what [`parse`] reads.
pub(crate) fn pattern() -> String {
    let label = r#"[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*""#;
    let selector = format!(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\{{({label}(,{label})*)?\}})?");
    let further = MOST_SELECTORS - 1;
    format!("^{selector}( [+] {selector}){{0,{further}}}$")
}

/// What is wrong with a text that [`parse`] does not read.
pub(crate) const SERIES_MESSAGE: &str = r#"must be the name of a metric, with labels if need be, such as queue_length{pool="chat"}; up to 4 are added with " + " between them"#;

/// The series of one name whose labels have these values: `name{label="value"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesSelector {
    /// The name of the metric.
    pub name: String,
    /// Labels and their values.
    pub labels: Vec<(String, String)>,
}

/// Why a text selects no series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SeriesError {
    /// Where reading ended, in bytes from the beginning.
    at: usize,
}

impl fmt::Display for SeriesError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "cannot be read from character {} on: {SERIES_MESSAGE}",
            self.at + 1
        )
    }
}

/// Reads selectors that are joined by ` + `, whose series are added. Labels are compared for being
/// equal alone, and their values have no quotes, backslashes or line ends.
///
/// # Errors
/// Where the text is something else.
pub fn parse(text: &str) -> Result<Vec<SeriesSelector>, SeriesError> {
    let mut rest = text;
    let at = |rest: &str| SeriesError {
        at: text.len() - rest.len(),
    };
    let mut selectors = Vec::new();
    loop {
        let (name, behind) = word(rest, true).ok_or_else(|| at(rest))?;
        let mut labels = Vec::new();
        rest = behind;
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, behind) = label(rest).ok_or_else(|| at(rest))?;
                labels.push(label);
                rest = match behind.strip_prefix(',') {
                    Some(next) if !next.starts_with('}') => next,
                    None if behind.starts_with('}') => behind,
                    _ => return Err(at(behind)),
                };
            }
            rest = &rest[1..];
        }
        selectors.push(SeriesSelector {
            name: name.to_owned(),
            labels,
        });
        match rest.strip_prefix(" + ") {
            Some(next) if selectors.len() < MOST_SELECTORS => rest = next,
            Some(_) => return Err(at(rest)),
            None if rest.is_empty() => return Ok(selectors),
            None => return Err(at(rest)),
        }
    }
}

/// A name at the beginning, and what is behind it. Those of metrics may have colons.
fn word(text: &str, has_colons: bool) -> Option<(&str, &str)> {
    let is_letter =
        |letter: char| letter.is_ascii_alphabetic() || letter == '_' || has_colons && letter == ':';
    let is_inner = |letter: char| is_letter(letter) || letter.is_ascii_digit();
    let end = text.find(|letter| !is_inner(letter)).unwrap_or(text.len());
    text.starts_with(is_letter).then(|| text.split_at(end))
}

/// `label="value"` at the beginning, and what is behind it.
fn label(text: &str) -> Option<((String, String), &str)> {
    let (label, rest) = word(text, false)?;
    let (value, rest) = rest.strip_prefix("=\"")?.split_once('"')?;
    let is_plain = !value.contains(['\\', '\n']);
    is_plain.then(|| ((label.to_owned(), value.to_owned()), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_sums_are_read() {
        let selectors = parse(r#":tf:queue + q{pool="a + b}",rank=""} + plain{}"#).unwrap();
        let names: Vec<_> = selectors.iter().map(|each| each.name.as_str()).collect();
        assert_eq!(names, [":tf:queue", "q", "plain"]);
        let labels = [("pool", "a + b}"), ("rank", "")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(selectors[1].labels, labels);
    }

    #[test]
    fn what_selects_no_series_is_refused_with_the_place() {
        for (text, at) in [
            ("", 1),
            ("9q", 1),
            ("q ", 2),
            ("q+r", 2),
            ("q + ", 5),
            ("q{", 3),
            ("q{a}", 3),
            (r#"q{a="1""#, 8),
            (r#"q{a="1",}"#, 8),
            (r#"q{a="1" ,b="2"}"#, 8),
            (r#"q{a=~"1"}"#, 3),
            (r#"q{a:b="1"}"#, 3),
            (r#"q{a="\"}"#, 3),
            ("rate(q[1m])", 5),
            ("a + b + c + d + e", 14),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.at + 1, at, "{text:?}");
        }
    }
}
