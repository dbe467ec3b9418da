//! The Azure conversation trace.

use std::time::Duration;

use serde::Deserialize;

const TRACE: &str = include_str!("../../data/azure-conversation.csv");

/// A request of the trace.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Arrival {
    #[serde(rename = "t_s")]
    seconds: f64,
    /// Tokens of the prompt.
    #[serde(rename = "input_tokens")]
    pub prompt: u32,
    /// Tokens of the answer.
    #[serde(rename = "output_tokens")]
    pub answer: u32,
}

impl Arrival {
    /// When it comes after the first, in a replay that is `speedup` times as fast.
    pub fn at(self, speedup: u32) -> Duration {
        Duration::from_secs_f64(self.seconds / f64::from(speedup.max(1)))
    }
}

/// The first `count` requests of the trace.
///
/// # Errors
/// A line that is no request.
pub fn trace(count: u32) -> Result<Vec<Arrival>, csv::Error> {
    csv::Reader::from_reader(TRACE.as_bytes())
        .deserialize()
        .take(count as usize)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_has_the_requests_that_are_asked_for_in_the_order_of_their_arrival() {
        let trace = trace(1200).unwrap();
        assert_eq!(trace.len(), 1200);
        assert!(trace.windows(2).all(|pair| pair[0].at(4) <= pair[1].at(4)));
        assert!(
            trace
                .iter()
                .all(|arrival| arrival.prompt > 0 && arrival.answer > 0)
        );
        assert_eq!(trace[1199].at(4) * 4, trace[1199].at(1));
    }
}
