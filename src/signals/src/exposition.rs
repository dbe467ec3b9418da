//! Reads Prometheus' text exposition format, as far as samples of a few names need it.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::BTreeMap;

use memchr::{memchr, memchr_iter};

/// The longest line, in bytes, that a sample may take.
const MAX_LINE_BYTES: usize = 64 << 10;

/// A line that may be a sample of interest is longer than [`MAX_LINE_BYTES`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line is longer than {} KiB", MAX_LINE_BYTES >> 10)]
pub struct LineTooLong;

/// The sums of the samples of `N` names, over their labels, in a page that arrives in pieces.
///
/// Other lines are passed over as bytes: a page has thousands, of which a handful count.
#[derive(Debug)]
pub struct Sums<'n, const N: usize> {
    names: [&'n str; N],
    filter: LineFilter,
    sums: [Option<f64>; N],
    /// The beginning of a line that may be a sample and whose end has not arrived.
    partial: Vec<u8>,
    /// The line whose end has not arrived is of no interest.
    skips_line: bool,
}

impl<'n, const N: usize> Sums<'n, N> {
    /// Begins a page, in which samples of these names count. Names may be equal.
    pub fn new(names: [&'n str; N]) -> Self {
        Self {
            filter: LineFilter::new(&names),
            names,
            sums: [None; N],
            partial: Vec::new(),
            skips_line: false,
        }
    }

    /// Takes the next piece of the page.
    ///
    /// # Errors
    /// A line that may be a sample of one of the names is too long to be kept.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), LineTooLong> {
        let mut rest = piece;
        if self.skips_line || !self.partial.is_empty() {
            let end = memchr(b'\n', rest);
            self.take_part(&rest[..end.unwrap_or(rest.len())])?;
            let Some(end) = end else { return Ok(()) };
            self.end_line();
            rest = &rest[end + 1..];
        }
        let mut start = 0;
        for end in memchr_iter(b'\n', rest) {
            let line = &rest[start..end];
            if self.filter.passes(line) {
                self.take_line(line);
            }
            start = end + 1;
        }
        self.take_part(&rest[start..])
    }

    /// The sum of each name, in the order of the names; `None` if there is no sample of it or one
    /// is not a finite number.
    pub fn finish(mut self) -> [Option<f64>; N] {
        self.end_line();
        self.sums.map(|sum| sum.filter(|sum| sum.is_finite()))
    }

    /// Takes a part of a line, without its end.
    fn take_part(&mut self, part: &[u8]) -> Result<(), LineTooLong> {
        if self.skips_line || part.is_empty() {
            return Ok(());
        }
        if self.partial.len() + part.len() > MAX_LINE_BYTES {
            let line = if self.partial.is_empty() {
                part
            } else {
                &self.partial
            };
            if self.may_be_sample(line) {
                return Err(LineTooLong);
            }
            self.skip_line();
            return Ok(());
        }
        self.partial.extend_from_slice(part);
        if !self.may_be_sample(&self.partial) {
            self.skip_line();
        }
        Ok(())
    }

    fn skip_line(&mut self) {
        self.partial.clear();
        self.skips_line = true;
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.partial);
        if !self.skips_line {
            self.take_line(&line);
        }
        self.skips_line = false;
        // the memory serves the next line
        self.partial = line;
        self.partial.clear();
    }

    /// Whether a line that begins so may be a sample of one of the names.
    fn may_be_sample(&self, beginning: &[u8]) -> bool {
        let beginning = beginning.trim_ascii_start();
        self.names.iter().any(|name| {
            let compared = name.len().min(beginning.len());
            beginning[..compared] == name.as_bytes()[..compared]
        })
    }

    fn take_line(&mut self, line: &[u8]) {
        let line = line.trim_ascii_start();
        for (name, sum) in self.names.iter().zip(&mut self.sums) {
            let ends_name = |byte: &u8| matches!(byte, b'{' | b' ' | b'\t');
            if line.get(name.len()).is_some_and(ends_name)
                && let Some(rest) = line.strip_prefix(name.as_bytes())
            {
                *sum = Some(sum.unwrap_or(0.0) + value(rest));
            }
        }
    }
}

/// Tells nearly all lines of a page from samples by one byte: the one behind the beginning that the
/// names have in common.
#[derive(Debug)]
struct LineFilter {
    /// The length of that beginning, in bytes.
    at: usize,
    /// Which bytes follow it in the names, or end one of them.
    follows: [bool; 256],
}

impl LineFilter {
    fn new(names: &[&str]) -> Self {
        let bytes = |at: usize| names.iter().map(move |name| name.as_bytes().get(at));
        let is_common = |at: &usize| {
            let mut bytes = bytes(*at);
            let first = bytes.next().flatten();
            first.is_some() && bytes.all(|byte| byte == first)
        };
        let at = (0..).take_while(is_common).count();
        let mut follows = [false; 256];
        for byte in bytes(at) {
            let ends = byte.map_or(&b"{ \t"[..], std::slice::from_ref);
            ends.iter()
                .for_each(|byte| follows[usize::from(*byte)] = true);
        }
        Self { at, follows }
    }

    /// Whether a line may be a sample of one of the names.
    fn passes(&self, line: &[u8]) -> bool {
        let is_indented = line.first().is_some_and(u8::is_ascii_whitespace);
        let byte = line.get(self.at);
        is_indented || byte.is_some_and(|byte| self.follows[usize::from(*byte)])
    }
}

/// The value in what follows a sample's name: labels, if any, the value and perhaps a time. Not a
/// number if there is none that can be read.
fn value(rest: &[u8]) -> f64 {
    let read = || {
        let rest = rest.trim_ascii_start();
        let rest = match rest.strip_prefix(b"{") {
            Some(labels) => &labels[end_of_labels(labels)?..],
            None => rest,
        };
        let mut words = rest.split(u8::is_ascii_whitespace);
        let word = words.find(|word| !word.is_empty())?;
        std::str::from_utf8(word).ok()?.parse().ok()
    };
    read().unwrap_or(f64::NAN)
}

/// The samples named `name` that have labels, each with them.
pub fn samples<'a>(
    text: &'a str,
    name: &'a str,
) -> impl Iterator<Item = (BTreeMap<String, String>, f64)> {
    text.lines().filter_map(move |line| {
        let labelled = line.trim().strip_prefix(name)?;
        let inner = labelled.strip_prefix('{')?;
        let labels = labels(&inner[..end_of_labels(inner.as_bytes())? - 1]);
        Some((labels, value(labelled.as_bytes())))
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

/// Where the labels end; a brace may stand in a quoted value.
fn end_of_labels(labels: &[u8]) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    labels
        .iter()
        .position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'}' if !quoted => return true,
                _ => {}
            }
            false
        })
        .map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# HELP vllm:num_requests_waiting Requests waiting.\n# TYPE vllm:num_requests_waiting gauge\n\
        vllm:num_requests_waiting{model_name=\"a}\\\"b\",engine=\"0\"} 3.0\nvllm:num_requests_waiting{model_name=\"c\"} 2 1700000000\n\
        vllm:num_requests_waiting_total 99\nplain 1e3\n  plain\t2 \r\nbroken{x=\"1\"} NaN\ncut{x=\"1\n";

    /// The sums of a page that arrives in pieces of this many bytes.
    fn sums<const N: usize>(page: &[u8], names: [&str; N], bytes: usize) -> [Option<f64>; N] {
        let mut sums = Sums::new(names);
        for piece in page.chunks(bytes) {
            sums.take(piece).unwrap();
        }
        sums.finish()
    }

    #[test]
    fn samples_of_one_name_are_summed_over_their_labels_wherever_the_page_is_cut() {
        for bytes in 1..=TEXT.len() {
            let names = ["vllm:num_requests_waiting", "plain"];
            let sums = sums(TEXT.as_bytes(), names, bytes);
            assert_eq!(sums, [Some(5.0), Some(1002.0)], "pieces of {bytes} bytes");
        }
    }

    #[test]
    fn what_is_missing_or_no_number_is_unknown() {
        let names = [
            "vllm:num_requests",
            "broken",
            "vllm:num_requests_running",
            "cut",
        ];
        for bytes in [1, 7, TEXT.len()] {
            assert_eq!(sums(TEXT.as_bytes(), names, bytes), [None; 4]);
        }
    }

    #[test]
    fn the_last_line_needs_no_end() {
        assert_eq!(sums(b"a 1\nb 2", ["a", "b"], 5), [Some(1.0), Some(2.0)]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let piece = [b'x'; 1 << 10];
        let mut others = Sums::new(["w"]);
        for _ in 0..1 << 10 {
            others.take(&piece).unwrap();
        }
        assert!(others.partial.capacity() <= MAX_LINE_BYTES);
        others.take(b"\nw 3\n").unwrap();
        assert_eq!(others.finish(), [Some(3.0)]);
        let mut ours = Sums::new(["x"]);
        ours.take(b"x{label=\"").unwrap();
        let end = (0..1 << 10).find_map(|_| ours.take(&piece).err());
        assert_eq!(end, Some(LineTooLong));
        assert!(ours.partial.capacity() <= 2 * MAX_LINE_BYTES);
    }

    #[test]
    fn samples_tell_their_labels() {
        let told: Vec<_> = samples(TEXT, "vllm:num_requests_waiting").collect();
        let engine = [("model_name", "a}\"b"), ("engine", "0")];
        let engine = engine.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(told[0], (engine.into(), 3.0));
        assert_eq!((told.len(), told[1].1), (2, 2.0));
    }

    /// The sum line by line over the whole text: what [`Sums`] must give.
    fn sum(text: &str, name: &str) -> Option<f64> {
        let values = text.split('\n').filter_map(|line| {
            let rest = line.trim_ascii_start().strip_prefix(name)?;
            rest.starts_with(['{', ' ', '\t'])
                .then(|| value(rest.as_bytes()))
        });
        let sum = values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value));
        sum.filter(|sum: &f64| sum.is_finite())
    }

    proptest! {
        #[test]
        fn a_page_in_pieces_has_the_sums_of_the_whole_page(
            page in "([ \t\r\n#]|a|ab|abc|b|[{}=\"\\\\]|[0-9]|a [0-9]\n|ab\\{x=\"[ab}]*\"\\} [0-9]\n){0,60}",
            bytes in 1..20_usize,
        ) {
            let names = ["a", "ab", "abc", "ab"];
            let expected = names.map(|name| sum(&page, name));
            prop_assert_eq!(sums(page.as_bytes(), names, bytes), expected, "{:?}", page);
        }
    }
}
