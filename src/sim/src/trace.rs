//! Requests and jobs of traces, scaled and with times that a seed spreads.

use std::fs::File;
use std::io::{self, Read};

use fastrand::Rng;
use flate2::read::GzDecoder;
use jiff::{SignedDuration, Timestamp};

use crate::engine::Request;
use crate::event_queue::later;
use crate::scenario::BurstScenario;

/// Traces that are built in; `data/README.md` says where they are from.
const REQUESTS: [(&str, &[u8]); 5] = [
    (
        "azure-llm-2023-conv",
        include_bytes!("../data/azure-llm-2023-conv.csv.gz"),
    ),
    (
        "aibrix-up-and-down",
        include_bytes!("../data/aibrix-up-and-down.csv.gz"),
    ),
    (
        "mooncake-conversation",
        include_bytes!("../data/mooncake-conversation.csv.gz"),
    ),
    (
        "servegen-m-large-48",
        include_bytes!("../data/servegen-m-large-48.csv.gz"),
    ),
    (
        "azure-functions-d0763a",
        include_bytes!("../data/azure-functions-d0763a.csv.gz"),
    ),
];
const JOBS: [(&str, &[u8]); 1] = [(
    "philly-2017-10-week",
    include_bytes!("../data/philly-2017-10-week.csv.gz"),
)];

/// A trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It is neither built in nor a file that can be read.
    #[error("trace {name} cannot be read ({error}); built in are {known}")]
    Unreadable {
        /// The name.
        name: String,
        /// Why it is not a file.
        error: io::Error,
        /// The names of those that are built in.
        known: String,
    },
    /// A line has not the columns that it should have.
    #[error("trace {name}: {error}; its columns should be {columns}")]
    Line {
        /// The name.
        name: String,
        /// What is wrong, and where.
        error: csv::Error,
        /// The columns.
        columns: &'static str,
    },
    /// There is nothing in it.
    #[error("trace {0} has no line")]
    Empty(String),
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
struct RequestLine {
    t_s: f64,
    input_tokens: u32,
    output_tokens: u32,
}

/// A job of a trace.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
pub(crate) struct JobLine {
    /// Seconds from the first job.
    pub(crate) submitted_s: f64,
    pub(crate) gpus: u32,
    /// How long it ran.
    pub(crate) seconds: i64,
}

fn read<Line: serde::de::DeserializeOwned>(
    name: &str,
    built_in: &[(&str, &'static [u8])],
    columns: &'static str,
) -> Result<Vec<Line>, TraceError> {
    let found = built_in.iter().find(|(known, _)| *known == name);
    let is_packed = found.is_some() || name.ends_with(".gz");
    let source: Box<dyn Read> = match found {
        Some((_, bytes)) => Box::new(*bytes),
        None => Box::new(File::open(name).map_err(|error| {
            let known: Vec<&str> = built_in.iter().map(|(known, _)| *known).collect();
            TraceError::Unreadable {
                name: name.to_owned(),
                error,
                known: known.join(", "),
            }
        })?),
    };
    let source: Box<dyn Read> = match is_packed {
        true => Box::new(GzDecoder::new(source)),
        false => source,
    };
    let lines: Result<Vec<Line>, csv::Error> =
        csv::Reader::from_reader(source).deserialize().collect();
    let lines = lines.map_err(|error| TraceError::Line {
        name: name.to_owned(),
        error,
        columns,
    })?;
    match lines.is_empty() {
        true => Err(TraceError::Empty(name.to_owned())),
        false => Ok(lines),
    }
}

/// The jobs of a trace.
pub(crate) fn jobs(name: &str) -> Result<Vec<JobLine>, TraceError> {
    read(name, &JOBS, "submitted_s,gpus,seconds")
}

/// Requests in order of their arrival.
#[derive(Debug)]
pub(crate) struct RequestStream {
    requests: std::vec::IntoIter<Request>,
}

impl RequestStream {
    /// The requests of a trace from `start` on, `scale` times as many, one run after the other for
    /// `repeat` runs. A copy comes within a second of the original.
    pub(crate) fn from_trace(
        name: &str,
        scale: f64,
        repeat: u32,
        start: Timestamp,
        rng: &mut Rng,
    ) -> Result<Self, TraceError> {
        let columns = "t_s,input_tokens,output_tokens";
        let lines: Vec<RequestLine> = read(name, &REQUESTS, columns)?;
        let length = lines.last().map_or(0.0, |line| line.t_s) + 1.0;
        let mut requests = Vec::new();
        for run in 0..repeat {
            for line in &lines {
                let copies = scale.trunc() as u32 + u32::from(rng.f64() < scale.fract());
                for copy in 0..copies {
                    let spread = if copy == 0 {
                        0.0
                    } else {
                        rng.f64() * 2.0 - 1.0
                    };
                    let seconds = line.t_s + f64::from(run) * length + spread;
                    requests.push(Request {
                        arrived: later(start, micros(seconds.max(0.0))),
                        input: line.input_tokens,
                        output: line.output_tokens,
                    });
                }
            }
        }
        Ok(Self::sorted(requests))
    }

    /// Requests that come at random, for a time: so many a second, and those of bursts beside them.
    pub(crate) fn at_rate(
        rate: f64,
        bursts: Option<BurstScenario>,
        tokens: (u32, u32),
        start: Timestamp,
        length: SignedDuration,
        rng: &mut Rng,
    ) -> Self {
        let mut seconds = Vec::new();
        add_random(&mut seconds, rate, (0.0, length.as_secs_f64()), rng);
        if let Some(bursts) = bursts.filter(|bursts| bursts.every > SignedDuration::ZERO) {
            let mut begins = bursts.every;
            while begins < length {
                let ends = (begins + bursts.lasts).min(length);
                let within = (begins.as_secs_f64(), ends.as_secs_f64());
                add_random(&mut seconds, bursts.rate, within, rng);
                begins += bursts.every;
            }
        }
        let requests = seconds.into_iter().map(|seconds| Request {
            arrived: later(start, micros(seconds)),
            input: tokens.0,
            output: tokens.1,
        });
        Self::sorted(requests.collect())
    }

    fn sorted(mut requests: Vec<Request>) -> Self {
        requests.sort_by_key(|request| request.arrived);
        Self {
            requests: requests.into_iter(),
        }
    }

    /// How many are left.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// When the last one comes.
    pub(crate) fn last_arrival(&self) -> Option<Timestamp> {
        self.requests
            .as_slice()
            .last()
            .map(|request| request.arrived)
    }

    /// When the next one comes.
    pub(crate) fn next_arrival(&self) -> Option<Timestamp> {
        self.requests
            .as_slice()
            .first()
            .map(|request| request.arrived)
    }

    /// The next one.
    pub(crate) fn take_next(&mut self) -> Option<Request> {
        self.requests.next()
    }
}

/// Adds the times of a Poisson process of so many a second between two times.
fn add_random(times: &mut Vec<f64>, rate: f64, within: (f64, f64), rng: &mut Rng) {
    let (mut seconds, end) = within;
    loop {
        seconds -= (1.0 - rng.f64()).ln() / rate;
        if !(rate > 0.0 && seconds < end) {
            return;
        }
        times.push(seconds);
    }
}

fn micros(seconds: f64) -> SignedDuration {
    SignedDuration::from_micros((seconds * 1e6) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Timestamp {
        Timestamp::from_second(1_796_000_000).unwrap()
    }

    #[test]
    fn a_trace_has_as_many_requests_as_its_scale_says_in_order() {
        let stream = |scale, repeat| {
            let mut rng = Rng::with_seed(1);
            RequestStream::from_trace("azure-llm-2023-conv", scale, repeat, start(), &mut rng)
        };
        assert_eq!(stream(1.0, 1).unwrap().len(), 19_366);
        let scaled = stream(2.5, 2).unwrap();
        let expected = 5 * 19_366;
        assert!(scaled.len().abs_diff(expected) < 500, "{}", scaled.len());
        let times: Vec<_> = scaled.requests.map(|request| request.arrived).collect();
        assert!(times.is_sorted());
        assert!(times.last().unwrap().duration_since(start()).as_secs() > 2 * 3500);
    }

    #[test]
    fn a_rate_gives_so_many_requests_a_second() {
        let length = SignedDuration::from_secs(1000);
        let mut rng = Rng::with_seed(1);
        let stream = RequestStream::at_rate(20.0, None, (100, 10), start(), length, &mut rng);
        assert!(stream.len().abs_diff(20_000) < 500, "{}", stream.len());
        assert_eq!(
            RequestStream::at_rate(0.0, None, (1, 1), start(), length, &mut rng).len(),
            0
        );
    }

    #[test]
    fn a_trace_that_is_not_there_is_named_with_those_that_are() {
        let text = jobs("nowhere").unwrap_err().to_string();
        assert!(
            text.contains("nowhere") && text.contains("philly-2017-10-week"),
            "{text}"
        );
        assert_eq!(jobs("philly-2017-10-week").unwrap().len(), 410);
    }
}
