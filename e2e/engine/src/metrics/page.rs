//! A page in the text format of Prometheus, as the clients of several languages write it.

use std::fmt::Write;

use super::Histogram;

/// How a client writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Python's, and Ray's agent: numbers with a point, and a histogram's sum at its end.
    Python,
    /// Python's with several processes, of which SGLang and TensorRT-LLM have one: a histogram's sum at its beginning.
    PythonProcesses,
    /// Triton's: whole numbers, and a histogram's count and sum at its beginning.
    Cpp,
    /// TensorFlow Serving's: no help, and `{}` where there are no labels.
    Tensorflow,
    /// TorchServe's: a comma behind each label.
    Java,
    /// That of TGI: whole numbers, no help, an empty line behind each family.
    Rust,
    /// That of llama.cpp: six digits.
    LlamaCpp,
}

/// A page that is being written.
#[derive(Debug)]
pub(super) struct Page {
    style: Style,
    text: String,
}

/// Labels and their values, in the order in which they are written.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

impl Page {
    pub(super) fn new(style: Style) -> Self {
        let text = String::new();
        Self { style, text }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// A gauge with one series.
    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        self.family(name, "gauge", help, &[(labels, value)]);
    }

    /// A counter with one series.
    pub(super) fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        self.family(name, "counter", help, &[(labels, value)]);
    }

    /// A metric with these series, which have the family's name.
    pub(super) fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        series: &[(Labels<'_>, f64)],
    ) {
        self.begin(name, kind, help);
        for (labels, value) in series {
            self.sample(name, labels, *value);
        }
        self.end();
    }

    pub(super) fn histogram<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        histogram: &Histogram<N>,
    ) {
        self.begin(name, "histogram", help);
        let (sum, count) = (histogram.sum, histogram.count as f64);
        let [sum_name, count_name] = ["sum", "count"].map(|end| format!("{name}_{end}"));
        match self.style {
            Style::PythonProcesses => self.sample(&sum_name, labels, sum),
            Style::Cpp => {
                self.sample(&count_name, labels, count);
                self.sample(&sum_name, labels, sum);
            }
            _ => {}
        }
        let bucket = format!("{name}_bucket");
        let bounds = histogram.bounds.iter().map(|bound| format!("{bound:?}"));
        let bounds = bounds.chain(["+Inf".to_owned()]);
        let counts = histogram.counts.iter().chain([&histogram.count]);
        for (bound, count) in bounds.zip(counts) {
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            // Python sorts labels
            if matches!(self.style, Style::Python | Style::PythonProcesses) {
                labels.sort_unstable();
            }
            self.sample(&bucket, &labels, *count as f64);
        }
        match self.style {
            Style::PythonProcesses => self.sample(&count_name, labels, count),
            Style::Python => {
                self.sample(&count_name, labels, count);
                self.sample(&sum_name, labels, sum);
            }
            Style::Cpp => {}
            _ => {
                self.sample(&sum_name, labels, sum);
                self.sample(&count_name, labels, count);
            }
        }
        self.end();
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        if !matches!(self.style, Style::Rust | Style::Tensorflow) {
            self.line(format_args!("# HELP {name} {help}"));
        }
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn end(&mut self) {
        if self.style == Style::Rust {
            self.line(format_args!(""));
        }
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        let mut text = String::new();
        for (index, (key, value)) in labels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let value = value
                .replace('\\', r"\\")
                .replace('"', r#"\""#)
                .replace('\n', r"\n");
            // writing to a string cannot fail
            let _ = write!(text, "{comma}{key}=\"{value}\"");
        }
        let text = match (self.style, text.is_empty()) {
            (Style::Java, false) => format!("{{{text},}}"),
            (Style::Tensorflow, _) | (_, false) => format!("{{{text}}}"),
            (_, true) => text,
        };
        let value = self.number(value);
        self.line(format_args!("{name}{text} {value}"));
    }

    fn number(&self, value: f64) -> String {
        match self.style {
            // debug formatting of a number keeps the `.0` that these have
            Style::Python | Style::PythonProcesses | Style::Java => format!("{value:?}"),
            Style::LlamaCpp | Style::Tensorflow if value.abs() >= 1e6 => {
                let text = format!("{value:.5e}");
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                format!("{digits}e+{exponent:0>2}")
            }
            _ => format!("{value}"),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // writing to a string cannot fail
        let _ = writeln!(self.text, "{line}");
    }
}
