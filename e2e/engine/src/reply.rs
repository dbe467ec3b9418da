//! What clients get: OpenAI's answers, whole or as a stream of server-sent events.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Serialize;

use crate::engine::{Generation, Stopped, Token};
use crate::metrics::Finish;
use crate::openai::{Ask, Interface, Refusal, StreamOptions};

/// The model is not known for its wit.
const WORDS: [&str; 12] = [
    " the", " queue", " grows", " and", " one", " more", " node", " wakes", ",", " serves", " it",
    ".",
];

/// OpenAI's objects, as far as vLLM fills them. `()` stands for a field that is always null.
#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    #[serde(flatten)]
    content: Content<'a>,
    logprobs: (),
    finish_reason: Option<&'static str>,
    stop_reason: (),
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<'a> {
    /// Of a completion, whole or a piece.
    Text(&'a str),
    /// Of a whole chat.
    Message(Said<'a>),
    /// Of a piece of a chat.
    Delta(Said<'a>),
}

#[derive(Serialize)]
struct Said<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    content: &'a str,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
    completion_tokens: u32,
    prompt_tokens_details: (),
}

fn choice<'a>(index: usize, content: Content<'a>, finish: Option<Finish>) -> Choice<'a> {
    Choice {
        index,
        content,
        logprobs: (),
        finish_reason: finish.map(Finish::word),
        stop_reason: (),
    }
}

/// An answer, before its tokens.
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
        let mut texts = vec![(String::new(), None); choices];
        let mut tokens = 0;
        while let Some(token) = generation.next().await {
            let (text, finish) = &mut texts[token.choice];
            text.push_str(word(token));
            *finish = token.finish;
            tokens += 1;
        }
        if texts.iter().any(|(_, finish)| finish.is_none()) {
            return Refusal::stopped().into_response();
        }
        let choices: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(index, (text, finish))| choice(index, self.content(text), *finish))
            .collect();
        let object = match self.interface {
            Interface::Completions => "text_completion",
            Interface::Chat => "chat.completion",
        };
        axum::Json(self.answer(object, &choices, Some(self.usage(tokens)))).into_response()
    }

    fn content<'a>(&self, text: &'a str) -> Content<'a> {
        let role = Some("assistant");
        match self.interface {
            Interface::Completions => Content::Text(text),
            Interface::Chat => Content::Message(Said {
                role,
                content: text,
            }),
        }
    }

    fn answer<'a>(
        &'a self,
        object: &'static str,
        choices: &'a [Choice<'a>],
        usage: Option<Usage>,
    ) -> Answer<'a> {
        Answer {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
        }
    }

    fn usage(&self, tokens: u32) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            total_tokens: self.prompt_tokens + tokens,
            completion_tokens: tokens,
            prompt_tokens_details: (),
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
}

fn word(token: Token) -> &'static str {
    WORDS[(token.place as usize - 1) % WORDS.len()]
}

struct Stream {
    /// Choices whose opening piece, which names the role, is still to be sent.
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
    async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        if let Some(choices) = self.opening.take() {
            let role = Some("assistant");
            let open = |index| choice(index, Content::Delta(Said { role, content: "" }), None);
            let pieces: Vec<_> = (0..choices).map(open).collect();
            return Some(self.event(&pieces, self.usage_so_far()));
        }
        match self.generation.as_mut()?.next().await {
            Some(token) => {
                self.tokens += 1;
                self.unfinished -= usize::from(token.finish.is_some());
                let text = word(token);
                let content = match self.reply.interface {
                    Interface::Completions => Content::Text(text),
                    Interface::Chat => Content::Delta(Said {
                        role: None,
                        content: text,
                    }),
                };
                let piece = choice(token.choice, content, token.finish);
                Some(self.event(&[piece], self.usage_so_far()))
            }
            None if self.unfinished > 0 => Some(Err(Stopped.into())),
            None => {
                self.generation = None;
                Some(self.end())
            }
        }
    }

    fn end(&self) -> Result<Bytes, StreamError> {
        let mut events = Vec::new();
        if self.options.include_usage {
            let usage = self.reply.usage(self.tokens);
            events.extend(self.event(&[], Some(usage))?);
        }
        events.extend(b"data: [DONE]\n\n");
        Ok(events.into())
    }

    fn event(&self, choices: &[Choice<'_>], usage: Option<Usage>) -> Result<Bytes, StreamError> {
        let object = match self.reply.interface {
            Interface::Completions => "text_completion",
            Interface::Chat => "chat.completion.chunk",
        };
        let mut event = b"data: ".to_vec();
        serde_json::to_writer(&mut event, &self.reply.answer(object, choices, usage))?;
        event.extend(b"\n\n");
        Ok(event.into())
    }

    fn usage_so_far(&self) -> Option<Usage> {
        self.options
            .continuous_usage_stats
            .then(|| self.reply.usage(self.tokens))
    }
}

/// Why a stream breaks off.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
