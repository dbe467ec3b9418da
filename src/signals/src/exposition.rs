//! Reads Prometheus' text exposition format, as far as samples of one name need it.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::BTreeMap;

/// The sum of all samples named `name`, over their labels; `None` if there is none or one is not a number.
pub fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| sample(line.trim(), name));
    values
        .fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
        .filter(|sum| sum.is_finite())
}

/// The samples named `name` that have labels, each with them.
pub fn samples<'a>(
    text: &'a str,
    name: &'a str,
) -> impl Iterator<Item = (BTreeMap<String, String>, f64)> {
    text.lines().filter_map(move |line| {
        let line = line.trim();
        let value = sample(line, name)?;
        let inner = line.strip_prefix(name)?.strip_prefix('{')?;
        Some((labels(&inner[..end_of_labels(inner)? - 1]), value))
    })
}

/// `a="x",b="y"`, where a backslash escapes what follows in a value.
fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((key, quoted)) = rest.split_once("=\"") {
        let (mut value, mut escaped) = (String::new(), false);
        let end = quoted.char_indices().find_map(|(at, letter)| {
            match letter {
                'n' if escaped => value.push('\n'),
                '\\' | '"' if !escaped => {
                    escaped = letter == '\\';
                    return (letter == '"').then_some(at);
                }
                _ => value.push(letter),
            }
            escaped = false;
            None
        });
        let key = key.trim_matches([',', ' ']).to_owned();
        let Some(end) = end else { break };
        labels.insert(key, value);
        rest = &quoted[end + 1..];
    }
    labels
}

/// The value of this line if it is a sample of `name`.
fn sample(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let value = match rest.strip_prefix('{') {
        Some(labels) => &labels[end_of_labels(labels)?..],
        None if rest.starts_with([' ', '\t']) => rest,
        None => return None,
    };
    // a timestamp may follow
    value
        .split_ascii_whitespace()
        .next()
        .map(|value| value.parse().unwrap_or(f64::NAN))
}

/// Where the labels end; a brace may stand in a quoted value.
fn end_of_labels(labels: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    labels.char_indices().find_map(|(at, letter)| {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at + 1),
            _ => {}
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP vllm:num_requests_waiting Requests waiting.\n# TYPE vllm:num_requests_waiting gauge\n\
        vllm:num_requests_waiting{model_name=\"a}\\\"b\",engine=\"0\"} 3.0\nvllm:num_requests_waiting{model_name=\"c\"} 2 1700000000\n\
        vllm:num_requests_waiting_total 99\nplain 1e3\nbroken{x=\"1\"} NaN\n";

    #[test]
    fn samples_of_one_name_are_summed_over_their_labels() {
        assert_eq!(sum(TEXT, "vllm:num_requests_waiting"), Some(5.0));
        assert_eq!(sum(TEXT, "plain"), Some(1000.0));
    }

    #[test]
    fn samples_tell_their_labels() {
        let told: Vec<_> = samples(TEXT, "vllm:num_requests_waiting").collect();
        let engine = [("model_name", "a}\"b"), ("engine", "0")];
        let engine = engine.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(told[0], (engine.into(), 3.0));
        assert_eq!((told.len(), told[1].1), (2, 2.0));
    }

    #[test]
    fn what_is_missing_or_no_number_is_unknown() {
        for name in ["vllm:num_requests", "broken", "vllm:num_requests_running"] {
            assert_eq!(sum(TEXT, name), None, "{name}");
        }
    }
}
