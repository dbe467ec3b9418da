//! The engines of all services: one process, which answers at every pod's address.

use std::{collections::BTreeMap, net::Ipv4Addr, net::SocketAddr};

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    traffic::{self, Answer},
};

/// Where the engines answer: vLLM's port.
pub const PORT: u16 = 8000;
const CONTROL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

/// The size of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PageSize {
    /// What an autoscaler reads: some 8 KB.
    Small,
    /// All that vLLM has: at least 60 KB.
    Full,
}

impl PageSize {
    /// As the engine's flag has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Full => "full",
        }
    }
}

/// Sets the queue depths of engines, by address, all at once. Returns when that was, in seconds
/// since 1970.
///
/// # Errors
/// When the fleet does not answer.
pub async fn set_depths(depths: &BTreeMap<String, u64>) -> Result<f64> {
    let answer = traffic::put(CONTROL, "/depths", json!(depths).to_string()).await;
    number(&answer, "at")
}

/// Sets the size of all pages.
///
/// # Errors
/// When the fleet does not answer.
pub async fn set_page_size(size: PageSize) -> Result<()> {
    let path = format!("/page-size/{}", size.word());
    let answer = traffic::put(CONTROL, &path, String::new()).await;
    match answer.status {
        Some(204) => Ok(()),
        _ => Err(unexpected(&answer)),
    }
}

/// How many pages have been read since the start.
///
/// # Errors
/// When the fleet does not answer.
pub async fn reads() -> Result<f64> {
    number(&traffic::get(CONTROL, "/reads").await, "reads")
}

fn number(answer: &Answer, name: &str) -> Result<f64> {
    let value: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    value[name].as_f64().ok_or_else(|| unexpected(answer))
}

fn unexpected(answer: &Answer) -> Error {
    Error::Malformed {
        what: "answer of the fleet of engines".into(),
        why: format!("{answer:?}"),
    }
}
