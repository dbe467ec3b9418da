//! Reads Prometheus' text exposition format, as far as sums of samples need it.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

/// The sum of all samples named `name`, over their labels; `None` if there is none or one is not a number.
pub fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| sample(line.trim(), name));
    values
        .fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
        .filter(|sum| sum.is_finite())
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
    fn what_is_missing_or_no_number_is_unknown() {
        for name in ["vllm:num_requests", "broken", "vllm:num_requests_running"] {
            assert_eq!(sum(TEXT, name), None, "{name}");
        }
    }
}
