//! Counts of requests by outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The outcome of one request: HTTP status and body, or why there is no whole answer.
pub type Answer = Result<(u16, String), String>;

/// Counts of all requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Sent so far.
    pub sent: usize,
    /// Answers by HTTP status.
    pub by_status: BTreeMap<u16, usize>,
    /// Without a whole answer.
    pub lost: usize,
    /// The first answer that was not 200, or the first loss.
    pub example: Option<String>,
    /// A replay is under way.
    pub replaying: bool,
}

impl Tally {
    /// Served with 200.
    pub fn served(&self) -> usize {
        self.by_status.get(&200).copied().unwrap_or_default()
    }

    /// Answered with 5xx.
    pub fn server_errors(&self) -> usize {
        self.by_status.range(500..).map(|(_, count)| count).sum()
    }

    /// Every request was served.
    pub fn is_perfect(&self) -> bool {
        self.lost == 0 && self.served() == self.sent
    }

    pub(crate) fn add(&mut self, answer: &Answer) {
        match answer {
            Ok((200, _)) => *self.by_status.entry(200).or_default() += 1,
            Ok((status, text)) => {
                *self.by_status.entry(*status).or_default() += 1;
                self.example.get_or_insert_with(|| {
                    format!("{status}: {}", text.chars().take(300).collect::<String>())
                });
            }
            Err(why) => {
                self.lost += 1;
                self.example.get_or_insert_with(|| format!("lost: {why}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_perfect_only_if_every_request_was_served() {
        let mut tally = Tally {
            sent: 2,
            ..Tally::default()
        };
        tally.add(&Ok((200, String::new())));
        assert!(!tally.is_perfect(), "one has no answer yet");
        tally.add(&Ok((503, "no".into())));
        assert!(!tally.is_perfect());
        assert_eq!((tally.served(), tally.server_errors()), (1, 1));
        assert_eq!(tally.example.as_deref(), Some("503: no"));
    }
}
