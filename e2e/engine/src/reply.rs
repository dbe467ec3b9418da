//! What clients get: OpenAI's answers, whole or as a stream of server-sent events.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};

use crate::engine::{Generation, Stopped, Token};
use crate::metrics::Finish;
use crate::openai::{Ask, Interface, Refusal, StreamOptions};

/// The model is not known for its wit.
const WORDS: [&str; 12] = [
    " the", " queue", " grows", " and", " one", " more", " node", " wakes", ",", " serves", " it",
    ".",
];

/// What every piece of an answer says about it.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    interface: Interface,
    id: String,
    model: String,
    created: u64,
    prompt_tokens: u32,
}

impl Reply {
    /// The answer to a request, which `serial` makes unique in this process.
    pub(crate) fn new(ask: &Ask, model: &str, serial: u64) -> Self {
        let prefix = match ask.interface {
            Interface::Completions => "cmpl",
            Interface::Chat => "chatcmpl",
        };
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            interface: ask.interface,
            id: format!("{prefix}-{:016x}{serial:016x}", since.as_nanos() as u64),
            model: model.to_owned(),
            created: since.as_secs(),
            prompt_tokens: ask.prompt_tokens,
        }
    }

    /// Waits for all tokens.
    pub(crate) async fn whole(self, choices: usize, mut generation: Generation) -> Response {
        let mut texts = vec![String::new(); choices];
        let mut finishes = vec![None; choices];
        let mut tokens = 0;
        while let Some(token) = generation.next().await {
            texts[token.choice].push_str(word(token));
            finishes[token.choice] = token.finish;
            tokens += 1;
        }
        if finishes.contains(&None) {
            return Refusal::stopped().into_response();
        }
        let choices = texts.iter().zip(finishes).enumerate();
        let choices: Vec<_> = choices
            .map(|(index, (text, finish))| self.whole_choice(index, text, finish))
            .collect();
        axum::Json(json!({
            "id": self.id,
            "object": match self.interface {
                Interface::Completions => "text_completion",
                Interface::Chat => "chat.completion",
            },
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": self.usage(tokens),
        }))
        .into_response()
    }

    fn whole_choice(&self, index: usize, text: &str, finish: Option<Finish>) -> Value {
        let finish = finish.map(Finish::word);
        match self.interface {
            Interface::Completions => json!({
                "index": index, "text": text, "logprobs": null, "finish_reason": finish, "stop_reason": null,
            }),
            Interface::Chat => json!({
                "index": index,
                "message": { "role": "assistant", "content": text, "tool_calls": [] },
                "logprobs": null, "finish_reason": finish, "stop_reason": null,
            }),
        }
    }

    /// Sends each token as it comes.
    pub(crate) fn stream(
        self,
        options: StreamOptions,
        choices: usize,
        generation: Generation,
    ) -> Response {
        let state = Stream {
            opening: (self.interface == Interface::Chat).then_some(choices),
            reply: self,
            options,
            generation: Some(generation),
            tokens: 0,
            unfinished: choices,
        };
        let events = stream::unfold(state, |mut state| async {
            let event = state.next().await?;
            Some((event, state))
        });
        let headers = [
            (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (CACHE_CONTROL, "no-cache"),
        ];
        (headers, Body::from_stream(events)).into_response()
    }

    /// `delta` is a piece of text; a chat's first piece has none and names the role.
    fn piece(&self, choice: usize, delta: Option<&str>, finish: Option<Finish>) -> Value {
        let finish = finish.map(Finish::word);
        match self.interface {
            Interface::Completions => json!({
                "index": choice, "text": delta.unwrap_or_default(),
                "logprobs": null, "finish_reason": finish, "stop_reason": null,
            }),
            Interface::Chat => {
                let delta = match delta {
                    Some(text) => json!({ "content": text }),
                    None => json!({ "role": "assistant", "content": "" }),
                };
                json!({ "index": choice, "delta": delta, "logprobs": null, "finish_reason": finish })
            }
        }
    }

    fn chunk(&self, choices: &[Value], usage: Option<Value>) -> Bytes {
        let mut chunk = json!({
            "id": self.id,
            "object": match self.interface {
                Interface::Completions => "text_completion",
                Interface::Chat => "chat.completion.chunk",
            },
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        event(&chunk.to_string())
    }

    fn usage(&self, tokens: u32) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "completion_tokens": tokens,
            "prompt_tokens_details": null,
        })
    }
}

fn word(token: Token) -> &'static str {
    WORDS[(token.place as usize - 1) % WORDS.len()]
}

fn event(data: &str) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

struct Stream {
    /// Choices whose opening piece is still to be sent.
    opening: Option<usize>,
    reply: Reply,
    options: StreamOptions,
    /// None once the last event is sent.
    generation: Option<Generation>,
    tokens: u32,
    unfinished: usize,
}

impl Stream {
    /// The next event. An error breaks the connection, so that a client cannot take what it has for the whole.
    async fn next(&mut self) -> Option<Result<Bytes, Stopped>> {
        if let Some(choices) = self.opening.take() {
            let pieces: Vec<_> = (0..choices)
                .map(|choice| self.reply.piece(choice, None, None))
                .collect();
            return Some(Ok(self.reply.chunk(&pieces, self.usage_so_far())));
        }
        match self.generation.as_mut()?.next().await {
            Some(token) => {
                self.tokens += 1;
                self.unfinished -= usize::from(token.finish.is_some());
                let piece = self
                    .reply
                    .piece(token.choice, Some(word(token)), token.finish);
                Some(Ok(self.reply.chunk(&[piece], self.usage_so_far())))
            }
            None if self.unfinished > 0 => Some(Err(Stopped)),
            None => {
                self.generation = None;
                let end = event("[DONE]");
                if !self.options.include_usage {
                    return Some(Ok(end));
                }
                let usage = self.reply.chunk(&[], Some(self.reply.usage(self.tokens)));
                Some(Ok([usage, end].concat().into()))
            }
        }
    }

    fn usage_so_far(&self) -> Option<Value> {
        self.options
            .continuous_usage_stats
            .then(|| self.reply.usage(self.tokens))
    }
}
