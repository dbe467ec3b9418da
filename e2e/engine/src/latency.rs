//! How long a step takes, from measurements of Llama-2-70B (see `e2e/data/README.md`).
//!
//! Two curves for each kind of GPU: milliseconds of a prefill by the prompt tokens computed in it, and milliseconds of a decode step
//! by the sequences in it (prompts of 512 tokens; the measured effect of longer contexts on a decode step is below 4 %).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::Step;

/// One row for each measured setting: hardware, GPUs, prompt and batch size, and mean milliseconds.
const MEASURED: &str = include_str!("../../data/llama2-70b-latency.csv");
/// The prompt size at which batches were measured.
const BATCH_PROMPT: u32 = 512;

/// Why there are no latencies for a choice of hardware.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LatencyError {
    /// The table that was built in cannot be read.
    #[error("the table of latencies: {0}")]
    Table(#[from] csv::Error),
    /// Nothing was measured.
    #[error(
        "nothing was measured on {gpus} x {hardware}; --hardware and --gpus take one of: {measured}"
    )]
    Unknown {
        /// As asked for.
        hardware: String,
        /// As asked for.
        gpus: u32,
        /// What there is.
        measured: String,
    },
}

#[derive(Debug, serde::Deserialize)]
struct Row {
    hardware: String,
    tensor_parallel: u32,
    prompt_size: u32,
    batch_size: u32,
    prompt_ms: f64,
    token_ms: f64,
}

/// The latencies of one kind of GPU.
#[derive(Debug, Clone)]
pub(crate) struct Latency {
    prefill: Curve,
    decode: Curve,
}

impl Latency {
    /// What was measured on so many GPUs of a kind.
    ///
    /// # Errors
    /// When nothing was; the message names what there is.
    pub(crate) fn measured(hardware: &str, gpus: u32) -> Result<Self, LatencyError> {
        let all: Vec<Row> = csv::Reader::from_reader(MEASURED.as_bytes())
            .deserialize()
            .collect::<Result<_, _>>()?;
        let rows = || {
            all.iter()
                .filter(move |row| row.hardware == hardware && row.tensor_parallel == gpus)
        };
        let prefill = rows().map(|row| (row.prompt_size * row.batch_size, row.prompt_ms));
        let decode = rows()
            .filter(|row| row.prompt_size == BATCH_PROMPT)
            .map(|row| (row.batch_size, row.token_ms));
        match (Curve::through(prefill), Curve::through(decode)) {
            (Some(prefill), Some(decode)) => Ok(Self { prefill, decode }),
            _ => Err(LatencyError::Unknown {
                hardware: hardware.to_owned(),
                gpus,
                measured: list(&all),
            }),
        }
    }

    /// How long a step takes. In a mixed one the decoding sequences' tokens are computed along with the prompts', so it takes as long
    /// as a prefill of all of them, and never less than the decode step alone.
    pub(crate) fn of(&self, step: Step) -> Duration {
        let decode = match step.decoding {
            0 => 0.0,
            sequences => self.decode.at(sequences),
        };
        let prefill = match step.prefill_tokens {
            0 => 0.0,
            tokens => self.prefill.at(tokens + step.decoding),
        };
        Duration::from_secs_f64(decode.max(prefill) / 1e3)
    }
}

fn list(rows: &[Row]) -> String {
    let mut kinds: Vec<_> = rows
        .iter()
        .map(|row| format!("{} x {}", row.tensor_parallel, row.hardware))
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds.join(", ")
}

/// Straight lines between measured points; level before the first, and as steep as the last line after it.
#[derive(Debug, Clone)]
struct Curve {
    /// Where the lines start, in order; at least one.
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// The mean of what was measured at the same place. None without points.
    fn through(measured: impl Iterator<Item = (u32, f64)>) -> Option<Self> {
        let mut places: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for (place, value) in measured {
            places.entry(place).or_default().push(value);
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let points: Vec<_> = places
            .iter()
            .map(|(place, values)| (f64::from(*place), mean(values)))
            .collect();
        (!points.is_empty()).then_some(Self { points })
    }

    fn at(&self, place: u32) -> f64 {
        let place = f64::from(place);
        let next = self.points.partition_point(|(at, _)| *at < place);
        let line = match (next, self.points.as_slice()) {
            (0, [first, ..]) => return first.1,
            (_, [only]) => return only.1,
            (next, points) => next.min(points.len() - 1),
        };
        let ((x0, y0), (x1, y1)) = (self.points[line - 1], self.points[line]);
        y0 + (y1 - y0) * (place - x0) / (x1 - x0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(latency: &Latency, prefill_tokens: u32, decoding: u32) -> f64 {
        latency
            .of(Step {
                prefill_tokens,
                decoding,
            })
            .as_secs_f64()
            * 1e3
    }

    #[test]
    fn measured_points_are_returned_as_measured() {
        let latency = Latency::measured("h100-80gb", 8).unwrap();
        assert!((ms(&latency, 8192, 0) - (848.382 + 805.3629) / 2.0).abs() < 1e-3);
        assert!((ms(&latency, 0, 1) - 29.6977).abs() < 1e-3);
        assert!((ms(&latency, 0, 64) - 49.9874).abs() < 1e-3);
    }

    #[test]
    fn between_points_latency_rises_with_tokens_and_with_the_batch() {
        let latency = Latency::measured("a100-80gb", 4).unwrap();
        let prefills: Vec<_> = [700, 3000, 7000, 12_000, 40_000]
            .iter()
            .map(|tokens| ms(&latency, *tokens, 0))
            .collect();
        assert!(
            prefills.is_sorted() && prefills[0] < prefills[4],
            "{prefills:?}"
        );
        let between = ms(&latency, 0, 12);
        assert!(ms(&latency, 0, 8) < between && between < ms(&latency, 0, 16));
    }

    #[test]
    fn a_mixed_step_takes_no_less_than_its_decode_step() {
        let latency = Latency::measured("h100-80gb", 8).unwrap();
        assert!(ms(&latency, 1, 64) >= ms(&latency, 0, 64));
        assert!(ms(&latency, 4096, 8) > ms(&latency, 4096, 0));
    }

    #[test]
    fn hardware_without_measurements_is_refused_by_name() {
        let error = Latency::measured("b200", 8).unwrap_err().to_string();
        assert!(
            error.contains("8 x b200") && error.contains("8 x h100-80gb"),
            "{error}"
        );
    }

    #[test]
    fn every_measured_setting_can_be_chosen() {
        for hardware in ["a100-80gb", "h100-80gb"] {
            for gpus in [2, 4, 8] {
                assert!(ms(&Latency::measured(hardware, gpus).unwrap(), 512, 4) > 0.0);
            }
        }
    }
}
