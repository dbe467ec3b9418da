//! Reads Prometheus' text exposition format, as far as samples of a few names need it.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::BTreeMap;

use bursar_core::scaling::{Bucket, MOST_BUCKETS, UNBOUNDED};
use memchr::{memchr, memchr_iter};

/// The longest line, in bytes, that a sample may take.
const MAX_LINE_BYTES: usize = 64 << 10;

/// A line that declares a metric begins so.
const TYPE: &[u8] = b"# TYPE ";

/// A line that may be a sample of interest is longer than [`MAX_LINE_BYTES`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line is longer than {} KiB", MAX_LINE_BYTES >> 10)]
pub struct LineTooLong;

/// The series of one name, or those of them whose labels have these values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The name of the metric.
    pub name: String,
    /// Labels and their values; a series without such a label has an empty value of it.
    pub labels: Vec<(String, String)>,
}

impl Selector {
    /// All series of a name.
    pub fn all(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: Vec::new(),
        }
    }

    /// Whether a sample of this name with these labels is selected.
    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key).map_or("", String::as_str) == value)
    }
}

/// The series of a page that are summed.
#[derive(Debug, Clone)]
pub struct Selectors {
    all: Vec<Selector>,
    /// So many of them are sums, and the others histograms.
    sums: usize,
    filter: LineFilter,
}

impl Selectors {
    /// The series to sum, each by itself. Selectors may overlap.
    pub fn new(all: Vec<Selector>) -> Self {
        Self::with_histograms(all, Vec::new())
    }

    /// The same, and series of buckets, `NAME_bucket`, to sum by their bounds: the label `le`.
    pub fn with_histograms(sums: Vec<Selector>, histograms: Vec<Selector>) -> Self {
        let count = sums.len();
        let all: Vec<Selector> = sums.into_iter().chain(histograms).collect();
        let names: Vec<_> = all.iter().map(|selector| &*selector.name).collect();
        Self {
            filter: LineFilter::new(&names),
            sums: count,
            all,
        }
    }
}

/// The sums of selected series in a page that arrives in pieces.
///
/// Other lines are passed over as bytes: a page has thousands, of which a handful count.
#[derive(Debug)]
pub struct Sums<'s> {
    selectors: &'s Selectors,
    sums: Vec<Sum>,
    /// The buckets of each histogram, by their bounds in microseconds.
    histograms: Vec<BTreeMap<u64, f64>>,
    /// The beginning of a line that may be a sample and whose end has not arrived.
    partial: Vec<u8>,
    /// The line whose end has not arrived is of no interest.
    skips_line: bool,
}

/// The sum of a selector.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    value: Option<f64>,
    /// How many samples are in it.
    samples: u32,
    /// There is a sample of its name, selected or not.
    has_samples: bool,
    /// A `TYPE` line names its metric.
    is_declared: bool,
}

impl<'s> Sums<'s> {
    /// Begins a page.
    pub fn new(selectors: &'s Selectors) -> Self {
        Self {
            selectors,
            sums: vec![Sum::default(); selectors.all.len()],
            histograms: vec![BTreeMap::new(); selectors.all.len() - selectors.sums],
            partial: Vec::new(),
            skips_line: false,
        }
    }

    /// Takes the next piece of the page.
    ///
    /// # Errors
    /// A line that may be a selected sample is too long to be kept.
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
            if self.selectors.filter.passes(line) {
                self.take_line(line);
            }
            start = end + 1;
        }
        self.take_part(&rest[start..])
    }

    /// What the page says of each selector, in their order.
    pub fn finish(mut self) -> PageSums {
        self.end_line();
        let mut sums = self.sums.into_iter().map(Sum::total);
        PageSums {
            sums: sums.by_ref().take(self.selectors.sums).collect(),
            histograms: sums
                .zip(self.histograms)
                .map(|(sum, buckets)| sum.value.map(|_| to_buckets(buckets)))
                .collect(),
        }
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

    /// Whether a line that begins so may be a selected sample.
    fn may_be_sample(&self, beginning: &[u8]) -> bool {
        let beginning = beginning.trim_ascii_start();
        let compared = TYPE.len().min(beginning.len());
        if beginning[..compared] == TYPE[..compared] {
            return true;
        }
        self.selectors.all.iter().any(|Selector { name, .. }| {
            let compared = name.len().min(beginning.len());
            beginning[..compared] == name.as_bytes()[..compared]
        })
    }

    fn take_line(&mut self, line: &[u8]) {
        let line = line.trim_ascii_start();
        if let Some(declared) = line.strip_prefix(TYPE) {
            return self.declare(declared);
        }
        // read once at most, however many selectors ask for them
        let mut labels = None;
        let selected = self.selectors.all.iter().zip(&mut self.sums);
        for (index, (selector, sum)) in selected.enumerate() {
            let name = selector.name.as_bytes();
            let ends_name = |byte: &u8| matches!(byte, b'{' | b' ' | b'\t');
            if line.get(name.len()).is_some_and(ends_name)
                && let Some(rest) = line.strip_prefix(name)
            {
                sum.has_samples = true;
                let is_selected = selector.labels.is_empty()
                    || selector.selects(labels.get_or_insert_with(|| labels_of(rest)));
                if !is_selected {
                    continue;
                }
                let value = value(rest);
                sum.value = Some(sum.value.unwrap_or(0.0) + value);
                sum.samples += 1;
                let histogram = index.checked_sub(self.selectors.sums);
                if let Some(buckets) = histogram.and_then(|index| self.histograms.get_mut(index)) {
                    let labels = labels.get_or_insert_with(|| labels_of(rest));
                    add_bucket(buckets, labels, value);
                }
            }
        }
    }

    /// Takes the name and the kind in a `TYPE` line. Samples of histograms, and of counters by some
    /// clients, have another end.
    fn declare(&mut self, declared: &[u8]) {
        let mut words = declared.split(u8::is_ascii_whitespace);
        let (name, kind) = (words.next(), words.next());
        let ends: &[&[u8]] = match kind {
            Some(b"counter") => &[b"", b"_total"],
            Some(b"histogram" | b"summary") => &[b"_sum", b"_count", b"_bucket"],
            _ => &[b""],
        };
        for (selector, sum) in self.selectors.all.iter().zip(&mut self.sums) {
            let rest = name.and_then(|name| selector.name.as_bytes().strip_prefix(name));
            sum.is_declared |= rest.is_some_and(|rest| ends.contains(&rest));
        }
    }
}

impl Sum {
    /// The sum, if there is one.
    fn total(self) -> Total {
        let value = match self.is_declared && !self.has_samples {
            true => Some(0.0),
            false => self.value.filter(|value| value.is_finite()),
        };
        Total {
            value,
            samples: self.samples,
        }
    }
}

/// What a page says of the series of some selectors.
#[derive(Debug, Clone, PartialEq)]
pub struct PageSums {
    /// The sum of each selector.
    pub sums: Vec<Total>,
    /// The buckets of each histogram; `None` if it is not on the page.
    pub histograms: Vec<Option<Vec<Bucket>>>,
}

/// The sum of a selector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Total {
    /// `None` if it selects no sample or one that is not a finite number. A metric that the page declares
    /// and has no sample of is zero: clients of Prometheus show a series with labels from its first value
    /// on.
    pub value: Option<f64>,
    /// How many samples it is the sum of.
    pub samples: u32,
}

/// Adds a sample to the bucket of its bound, which is in seconds. More buckets than any engine has are
/// left out, but for one, which shows that there are more.
fn add_bucket(buckets: &mut BTreeMap<u64, f64>, labels: &BTreeMap<String, String>, value: f64) {
    let bound = labels.get("le").and_then(|bound| match bound.as_str() {
        "+Inf" => Some(UNBOUNDED),
        // what is longer than any latency is no bound
        number => (number.parse::<f64>().ok())
            .filter(|seconds| (0.0..1e9).contains(seconds))
            .map(|seconds| (seconds * 1e6).round() as u64),
    });
    let has_room = buckets.len() <= MOST_BUCKETS;
    if let Some(bound) = bound
        && (has_room || buckets.contains_key(&bound))
    {
        *buckets.entry(bound).or_default() += value;
    }
}

fn to_buckets(buckets: BTreeMap<u64, f64>) -> Vec<Bucket> {
    let buckets = buckets.into_iter();
    let buckets = buckets.map(|(bound, count)| Bucket {
        bound,
        // not a number is none
        count: count.clamp(0.0, 9_007_199_254_740_992.0) as u64,
    });
    buckets.collect()
}

/// Whether a page has series whose names begin with none of some texts.
#[derive(Debug)]
pub struct OtherSeries<'p> {
    /// `None` if nobody asks.
    prefixes: Option<&'p [String]>,
    found: bool,
    /// The beginning of a line whose end has not arrived, as long as no prefix is longer.
    beginning: Vec<u8>,
}

impl<'p> OtherSeries<'p> {
    /// Begins a page, on which series of these names do not count; without any, nothing is looked for.
    pub fn new(prefixes: Option<&'p [String]>) -> Self {
        Self {
            prefixes,
            found: false,
            beginning: Vec::new(),
        }
    }

    /// Takes the next piece of the page.
    pub fn take(&mut self, piece: &[u8]) {
        let Some(prefixes) = self.prefixes else {
            return;
        };
        let longest = prefixes.iter().map(String::len).max().unwrap_or(0).max(1);
        let mut lines = piece.split_inclusive(|byte| *byte == b'\n');
        while !self.found
            && let Some(line) = lines.next()
        {
            let line_ends = line.ends_with(b"\n");
            let line = match self.beginning.is_empty() {
                true => line.trim_ascii_start(),
                false => line,
            };
            let room = longest.saturating_sub(self.beginning.len());
            self.beginning.extend(line.iter().take(room));
            if line_ends {
                self.end_line();
            }
        }
    }

    /// Whether the page has ended without such a series. Not known, and `false`, if nobody asked.
    pub fn has_none(&self) -> bool {
        self.prefixes.is_some() && !self.found && !self.is_other()
    }

    fn end_line(&mut self) {
        self.found |= self.is_other();
        self.beginning.clear();
    }

    fn is_other(&self) -> bool {
        let line = self.beginning.trim_ascii();
        let is_known = |prefix: &String| line.starts_with(prefix.as_bytes());
        let mut prefixes = self.prefixes.into_iter().flatten();
        !line.is_empty() && line[0] != b'#' && !prefixes.any(is_known)
    }
}

/// Tells nearly all lines of a page from samples by one byte: the one behind the beginning that the
/// names have in common.
#[derive(Debug, Clone)]
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

    /// Whether a line may be a sample of one of the names, or declares a metric.
    fn passes(&self, line: &[u8]) -> bool {
        let is_indented = line.first().is_some_and(u8::is_ascii_whitespace);
        let byte = line.get(self.at);
        is_indented
            || line.starts_with(TYPE)
            || byte.is_some_and(|byte| self.follows[usize::from(*byte)])
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

/// The labels in what follows a sample's name.
fn labels_of(rest: &[u8]) -> BTreeMap<String, String> {
    let inner = rest.trim_ascii_start().strip_prefix(b"{");
    let inner = inner.and_then(|inner| inner.get(..end_of_labels(inner)? - 1));
    labels(&inner.map(String::from_utf8_lossy).unwrap_or_default())
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

    fn selectors<const N: usize>(names: [&str; N]) -> Selectors {
        Selectors::new(names.map(Selector::all).into())
    }

    /// The sums of a page that arrives in pieces of this many bytes.
    fn sums_of(page: &[u8], selectors: &Selectors, bytes: usize) -> Vec<Option<f64>> {
        let mut sums = Sums::new(selectors);
        for piece in page.chunks(bytes) {
            sums.take(piece).unwrap();
        }
        let sums = sums.finish().sums;
        sums.into_iter().map(|total| total.value).collect()
    }

    fn sums<const N: usize>(page: &[u8], names: [&str; N], bytes: usize) -> Vec<Option<f64>> {
        sums_of(page, &selectors(names), bytes)
    }

    #[test]
    fn labels_select_among_the_series_of_a_name() {
        let page =
            b"q{rank=\"0\",kind=\"a,b\"} 3\nq{rank=\"1\",kind=\"a,b\"} 4\nq 5\nq{rank=\"0\"} NaN\n";
        let select = |labels: &[(&str, &str)]| Selector {
            name: "q".to_owned(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let selectors = Selectors::new(vec![
            select(&[("rank", "0"), ("kind", "a,b")]),
            select(&[("kind", "a,b")]),
            select(&[("rank", "2")]),
            select(&[("rank", "")]),
            select(&[("rank", "0")]),
        ]);
        for bytes in [1, 7, page.len()] {
            let sums = sums_of(page, &selectors, bytes);
            assert_eq!(sums, [Some(3.0), Some(7.0), None, Some(5.0), None]);
        }
    }

    /// The buckets of a histogram `h`, as bounds in microseconds and counts.
    fn buckets_of(page: &str) -> Option<Vec<(u64, u64)>> {
        let histogram = vec![Selector::all("h_bucket")];
        let selectors = Selectors::with_histograms(vec![Selector::all("h_count")], histogram);
        let mut all = Vec::new();
        for bytes in [1, 7, page.len().max(1)] {
            let mut sums = Sums::new(&selectors);
            for piece in page.as_bytes().chunks(bytes) {
                sums.take(piece).unwrap();
            }
            let buckets = sums.finish().histograms.remove(0);
            let pairs = |buckets: Vec<Bucket>| {
                let pairs = buckets.iter().map(|bucket| (bucket.bound, bucket.count));
                pairs.collect::<Vec<_>>()
            };
            all.push(buckets.map(pairs));
        }
        all.dedup();
        assert_eq!(all.len(), 1, "wherever the page is cut");
        all.remove(0)
    }

    #[test]
    fn buckets_are_summed_by_their_bounds_over_all_other_labels() {
        let page = "# TYPE h histogram\nh_bucket{engine=\"0\",le=\"0.005\"} 1.0\nh_bucket{le=\"+Inf\",engine=\"0\"} 4.0\n\
            h_count{engine=\"0\"} 4.0\nh_bucket{engine=\"1\",le=\"0.005\"} 2.0\nh_bucket{engine=\"1\",le=\"+Inf\"} 3.0\n";
        let buckets = buckets_of(page).unwrap();
        assert_eq!(buckets, [(5_000, 3), (UNBOUNDED, 7)]);
        assert_eq!(buckets_of("h_sum 3\n"), None, "it is not on the page");
        assert_eq!(buckets_of("# TYPE h histogram\n"), Some(vec![]));
        let broken = "h_bucket{le=\"1\"} NaN\nh_bucket{le=\"+Inf\"} 3\n";
        assert_eq!(buckets_of(broken), None);
    }

    #[test]
    fn buckets_that_no_engine_has_are_bounded() {
        let lines = (0..10_000).map(|bound| format!("h_bucket{{le=\"{bound}\"}} 1e300\n"));
        let buckets = buckets_of(&lines.collect::<String>()).unwrap();
        assert_eq!(buckets.len(), MOST_BUCKETS + 1);
        assert_eq!(buckets[0].1, 9_007_199_254_740_992);
        let odd =
            "h_bucket{le=\"-1\"} 1\nh_bucket{le=\"1e30\"} 1\nh_bucket{le=\"x\"} 1\nh_bucket 1\n";
        assert_eq!(buckets_of(odd), Some(vec![]));
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
    fn a_metric_that_is_declared_and_has_no_sample_is_zero() {
        let page = b"# TYPE q gauge\n# TYPE old gauge\n# TYPE time histogram\n# TYPE done counter\n# TYPE bad gauge\nbad NaN\n\
            # TYPE kind gauge\nkind{a=\"1\"} 2\n# HELP other x\n# TYPE queue gauge";
        let names = [
            "q",
            "time_sum",
            "done_total",
            "bad",
            "other",
            "que",
            "old_total",
        ];
        let mut all: Vec<_> = names.map(Selector::all).into();
        all.push(Selector {
            name: "kind".to_owned(),
            labels: vec![("a".to_owned(), "2".to_owned())],
        });
        let zero = Some(0.0);
        for bytes in [1, 7, page.len()] {
            let sums = sums_of(page, &Selectors::new(all.clone()), bytes);
            assert_eq!(
                sums,
                [zero, zero, zero, None, None, None, None, None],
                "{bytes}"
            );
        }
    }

    #[test]
    fn the_last_line_needs_no_end() {
        assert_eq!(sums(b"a 1\nb 2", ["a", "b"], 5), [Some(1.0), Some(2.0)]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let piece = [b'x'; 1 << 10];
        let w = selectors(["w"]);
        let mut others = Sums::new(&w);
        for _ in 0..1 << 10 {
            others.take(&piece).unwrap();
        }
        assert!(others.partial.capacity() <= MAX_LINE_BYTES);
        others.take(b"\nw 3\n").unwrap();
        assert_eq!(others.finish().sums[0].value, Some(3.0));
        let x = selectors(["x"]);
        let mut ours = Sums::new(&x);
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
