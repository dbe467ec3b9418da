//! Measured latencies of an engine: the time of a prefill by its tokens, and the time of an output
//! token by the batch.

/// `data/README.md` says where the table is from.
const TABLE: &str = include_str!("../data/splitwise-latency.csv");

/// The table has no measurement of this engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are no measured latencies of {model} on {tensor_parallel} x {hardware}; there are those of: {known}"
)]
pub struct NotMeasured {
    model: String,
    hardware: String,
    tensor_parallel: u32,
    known: String,
}

/// One row of the table.
#[derive(Clone, Debug, serde::Deserialize)]
struct Row {
    model: String,
    hardware: String,
    tensor_parallel: u32,
    prompt_tokens: u32,
    batch: u32,
    prompt_ms: f64,
    token_ms: f64,
}

/// Points of a function, linear between them and beyond the last two.
#[derive(Clone, Debug, PartialEq)]
struct Curve(Vec<(f64, f64)>);

impl Curve {
    fn new(mut points: Vec<(f64, f64)>) -> Self {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0 == b.0);
        Self(points)
    }

    /// The value at `x`; the first point's below it.
    fn at(&self, x: f64) -> f64 {
        let after = self.0.partition_point(|point| point.0 < x);
        let Some(first) = self.0.first() else {
            return 0.0;
        };
        if after == 0 {
            return first.1;
        }
        let right = after.min(self.0.len() - 1).max(1);
        let (Some(a), Some(b)) = (self.0.get(right - 1), self.0.get(right)) else {
            return first.1;
        };
        a.1 + (x - a.0) * (b.1 - a.1) / (b.0 - a.0)
    }
}

/// Latencies of one engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Latencies {
    prefill_ms: Curve,
    token_ms: Curve,
    max_batch: u32,
}

impl Latencies {
    /// The latencies of a model on so many GPUs of a kind.
    ///
    /// # Errors
    /// It was not measured; the error lists what was.
    pub fn measured(
        model: &str,
        hardware: &str,
        tensor_parallel: u32,
    ) -> Result<Self, NotMeasured> {
        let mut reader = csv::Reader::from_reader(TABLE.as_bytes());
        let all: Vec<Row> = reader.deserialize().filter_map(Result::ok).collect();
        let is_engine = |row: &&Row| {
            row.model == model && row.hardware == hardware && row.tensor_parallel == tensor_parallel
        };
        let rows: Vec<&Row> = all.iter().filter(is_engine).collect();
        if rows.is_empty() {
            let name = |row: &Row| {
                format!(
                    "{} on {} x {}",
                    row.model, row.tensor_parallel, row.hardware
                )
            };
            let known: std::collections::BTreeSet<String> = all.iter().map(name).collect();
            return Err(NotMeasured {
                model: model.to_owned(),
                hardware: hardware.to_owned(),
                tensor_parallel,
                known: known.into_iter().collect::<Vec<_>>().join(", "),
            });
        }
        let single = rows.iter().filter(|row| row.batch == 1);
        let longest = single
            .clone()
            .map(|row| row.prompt_tokens)
            .max()
            .unwrap_or(0);
        // a batch of prompts takes as long as one prompt of as many tokens: 8 x 512 as 4,096
        let beyond = |row: &&&Row| row.prompt_tokens * row.batch > longest;
        let prefill = single.chain(rows.iter().filter(beyond)).map(|row| {
            let tokens = row.prompt_tokens * row.batch;
            (f64::from(tokens), row.prompt_ms)
        });
        // the batches were measured with prompts of one length
        let prompt = rows
            .iter()
            .max_by_key(|row| row.batch)
            .map_or(0, |row| row.prompt_tokens);
        let tokens = rows.iter().filter(|row| row.prompt_tokens == prompt);
        let tokens = tokens.map(|row| (f64::from(row.batch), row.token_ms));
        Ok(Self {
            prefill_ms: Curve::new(prefill.collect()),
            token_ms: Curve::new(tokens.collect()),
            max_batch: rows.iter().map(|row| row.batch).max().unwrap_or(1),
        })
    }

    /// Microseconds that prompts of so many tokens take in all.
    pub(crate) fn prefill_us(&self, tokens: u32) -> i64 {
        (self.prefill_ms.at(f64::from(tokens)) * 1e3) as i64
    }

    /// Microseconds of one output token in a batch of this size.
    pub(crate) fn token_us(&self, batch: u32) -> f64 {
        self.token_ms.at(f64::from(batch)) * 1e3
    }

    /// The largest batch that was measured.
    pub(crate) fn max_batch(&self) -> u32 {
        self.max_batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100() -> Latencies {
        Latencies::measured("llama2-70b", "h100-80gb", 8).unwrap()
    }

    #[test]
    fn measured_points_are_met_and_those_between_lie_between() {
        let latencies = h100();
        assert_eq!(latencies.prefill_us(8192), 848_382);
        assert_eq!(latencies.prefill_us(32768), 2_941_710);
        assert_eq!(latencies.max_batch(), 64);
        assert!((latencies.token_us(64) - 49_987.0).abs() < 1.0);
        let (half, full) = (latencies.token_us(48), latencies.token_us(64));
        assert!(latencies.token_us(32) < half && half < full);
        assert!(
            latencies.prefill_us(50_000) > 2_941_710,
            "longer prompts take longer"
        );
        assert_eq!(latencies.prefill_us(1), latencies.prefill_us(128));
    }

    #[test]
    fn an_engine_that_was_not_measured_is_named_with_those_that_were() {
        let error = Latencies::measured("gpt", "h100-80gb", 8).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("gpt on 8 x h100-80gb"), "{text}");
        assert!(text.contains("llama2-70b on 2 x a100-80gb"), "{text}");
    }
}
