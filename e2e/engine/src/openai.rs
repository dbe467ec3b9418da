//! What clients ask: OpenAI's requests as vLLM reads them, checked once and turned into sequences to generate; and its errors.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::engine::Wanted;
use crate::metrics::Finish;

/// A header by which a client that knows its prompt's size says it, in tokens; without it the size is estimated.
pub(crate) const PROMPT_TOKENS: &str = "x-prompt-tokens";
/// Characters of a token, on average.
const TOKEN_CHARACTERS: usize = 4;
/// What the chat template adds to each message, in tokens.
const MESSAGE_TOKENS: u32 = 4;
/// Output tokens of a completion that names no limit, as in OpenAI's interface.
const DEFAULT_COMPLETION_TOKENS: u32 = 16;
/// Sequences of one request.
const MAX_CHOICES: usize = 128;
/// Where answers end by themselves, in tokens: the 5th, 15th, .. 95th percentile of outputs in the Azure conversation trace of 2023.
const NATURAL_LENGTHS: [u32; 10] = [41, 67, 85, 96, 113, 151, 217, 395, 411, 451];

/// A request that gets an error instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    param: Option<&'static str>,
    message: String,
}

impl Refusal {
    /// A fault of the request.
    pub(crate) fn bad(param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            param,
            message: message.into(),
        }
    }

    fn no_such_model(name: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            param: Some("model"),
            message: format!("The model `{name}` does not exist."),
        }
    }

    /// The engine is gone.
    pub(crate) fn stopped() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "InternalServerError",
            param: None,
            message: "EngineCore encountered an issue.".to_owned(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = json!({
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.status.as_u16(),
        });
        (self.status, axum::Json(json!({ "error": error }))).into_response()
    }
}

/// Which of the two interfaces a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
}

/// How an answer is sent piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamOptions {
    /// A last piece carries the usage.
    pub(crate) include_usage: bool,
    /// Every piece does.
    pub(crate) continuous_usage_stats: bool,
}

/// A request that will be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Where it came in.
    pub(crate) interface: Interface,
    /// The sequences, one for each choice of the answer.
    pub(crate) sequences: Vec<Wanted>,
    /// Prompt tokens over all prompts; those of one prompt with several choices count once.
    pub(crate) prompt_tokens: u32,
    /// Set when the answer is streamed.
    pub(crate) stream: Option<StreamOptions>,
}

/// What the server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The model's name.
    pub(crate) model: String,
    /// The longest sequence, in tokens.
    pub(crate) context: u32,
}

#[derive(Debug, Deserialize)]
struct Completion {
    prompt: Prompts,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Debug, Deserialize)]
struct Chat {
    messages: Vec<Message>,
    max_completion_tokens: Option<u32>,
    #[serde(flatten)]
    sampling: Sampling,
}

/// The fields that both interfaces share, as far as they matter here; others are taken and have no effect.
#[derive(Debug, Deserialize)]
struct Sampling {
    model: Option<String>,
    max_tokens: Option<u32>,
    min_tokens: Option<u32>,
    n: Option<usize>,
    #[serde(default)]
    ignore_eos: bool,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Tokens(Vec<u64>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u64>>),
}

#[derive(Debug, Deserialize)]
struct Message {
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

/// A prompt: its size, and a number that stands for its contents.
#[derive(Debug, Clone, Copy)]
struct Prompt {
    tokens: u32,
    digest: u64,
}

impl Prompt {
    fn text(text: &str) -> Self {
        let tokens = text.chars().count().div_ceil(TOKEN_CHARACTERS).max(1);
        Self {
            tokens: saturate(tokens),
            digest: digest(text.bytes().map(u64::from)),
        }
    }

    fn ids(ids: &[u64]) -> Self {
        Self {
            tokens: saturate(ids.len()),
            digest: digest(ids.iter().copied()),
        }
    }

    /// Where the model would end its answer. The same prompt always gets the same answer.
    fn natural_length(self) -> u32 {
        NATURAL_LENGTHS[(self.digest % NATURAL_LENGTHS.len() as u64) as usize]
    }
}

fn saturate(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// FNV-1a, of which the high bits are the well mixed ones.
fn digest(items: impl Iterator<Item = u64>) -> u64 {
    items.fold(0xcbf2_9ce4_8422_2325_u64, |hash, item| {
        (hash ^ item).wrapping_mul(0x0100_0000_01b3)
    }) >> 32
}

impl Offer {
    /// Reads and checks a request's body.
    ///
    /// # Errors
    /// What the client is to be told.
    pub(crate) fn ask(
        &self,
        interface: Interface,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Ask, Refusal> {
        let (mut prompts, sampling, default_limit) = match interface {
            Interface::Completions => {
                let request: Completion = parse(body)?;
                let limit = request
                    .sampling
                    .max_tokens
                    .unwrap_or(DEFAULT_COMPLETION_TOKENS);
                (
                    completion_prompts(&request.prompt),
                    request.sampling,
                    Some(limit),
                )
            }
            Interface::Chat => {
                let request: Chat = parse(body)?;
                let limit = request
                    .max_completion_tokens
                    .or(request.sampling.max_tokens);
                (chat_prompt(&request.messages), request.sampling, limit)
            }
        };
        self.check_model(&sampling)?;
        if let Some(tokens) = stated_tokens(headers)? {
            prompts.iter_mut().for_each(|prompt| prompt.tokens = tokens);
        }
        let choices = sampling.n.unwrap_or(1);
        if choices == 0 || prompts.len().saturating_mul(choices) > MAX_CHOICES {
            let message =
                format!("n must be at least 1, and n times the prompts at most {MAX_CHOICES}.");
            return Err(Refusal::bad(Some("n"), message));
        }
        if prompts.is_empty() || prompts.iter().any(|prompt| prompt.tokens == 0) {
            return Err(Refusal::bad(Some("prompt"), "The prompt is empty."));
        }
        let mut sequences = Vec::new();
        for prompt in &prompts {
            let wanted = self.sequence(*prompt, default_limit, &sampling)?;
            sequences.extend(std::iter::repeat_n(wanted, choices));
        }
        Ok(Ask {
            interface,
            sequences,
            prompt_tokens: prompts.iter().map(|prompt| prompt.tokens).sum(),
            stream: streaming(&sampling)?,
        })
    }

    fn check_model(&self, sampling: &Sampling) -> Result<(), Refusal> {
        match &sampling.model {
            Some(model) if *model != self.model => Err(Refusal::no_such_model(model)),
            _ => Ok(()),
        }
    }

    fn sequence(
        &self,
        prompt: Prompt,
        limit: Option<u32>,
        sampling: &Sampling,
    ) -> Result<Wanted, Refusal> {
        let room = self.context.saturating_sub(prompt.tokens);
        let limit = limit.unwrap_or(room.max(1));
        if limit == 0 {
            return Err(Refusal::bad(
                Some("max_tokens"),
                "max_tokens must be at least 1, got 0.",
            ));
        }
        if limit > room {
            let message = format!(
                "This model's maximum context length is {} tokens. However, you requested {limit} output tokens and your prompt \
                 contains {} input tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
                self.context, prompt.tokens
            );
            return Err(Refusal::bad(Some("input_tokens"), message));
        }
        let natural = prompt
            .natural_length()
            .max(sampling.min_tokens.unwrap_or(0));
        let stops = !sampling.ignore_eos && natural < limit;
        Ok(Wanted {
            prompt: prompt.tokens,
            output: if stops { natural } else { limit },
            finish: if stops { Finish::Stop } else { Finish::Length },
        })
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::bad(None, error.to_string()))
}

fn completion_prompts(prompts: &Prompts) -> Vec<Prompt> {
    match prompts {
        Prompts::Text(text) => vec![Prompt::text(text)],
        Prompts::Tokens(ids) => vec![Prompt::ids(ids)],
        Prompts::Texts(texts) => texts.iter().map(|text| Prompt::text(text)).collect(),
        Prompts::TokenLists(lists) => lists.iter().map(|ids| Prompt::ids(ids)).collect(),
    }
}

fn chat_prompt(messages: &[Message]) -> Vec<Prompt> {
    let mut text = String::new();
    for message in messages {
        match &message.content {
            Some(Content::Text(content)) => text.push_str(content),
            Some(Content::Parts(parts)) => parts.iter().for_each(|part| text.push_str(&part.text)),
            None => {}
        }
    }
    let mut prompt = Prompt::text(&text);
    let template = MESSAGE_TOKENS.saturating_mul(saturate(messages.len()));
    prompt.tokens = prompt.tokens.saturating_add(template);
    match messages {
        [] => Vec::new(),
        _ => vec![prompt],
    }
}

fn stated_tokens(headers: &HeaderMap) -> Result<Option<u32>, Refusal> {
    let Some(value) = headers.get(PROMPT_TOKENS) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    match number {
        Some(tokens) => Ok(Some(tokens)),
        None => Err(Refusal::bad(
            None,
            format!("{PROMPT_TOKENS} must be a number of tokens"),
        )),
    }
}

fn streaming(sampling: &Sampling) -> Result<Option<StreamOptions>, Refusal> {
    match (sampling.stream.unwrap_or(false), sampling.stream_options) {
        (true, options) => Ok(Some(options.unwrap_or_default())),
        (false, None) => Ok(None),
        (false, Some(_)) => {
            let message = "Stream options can only be defined when `stream=True`.";
            Err(Refusal::bad(Some("stream_options"), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            model: "m".to_owned(),
            context: 1000,
        }
    }

    fn ask(interface: Interface, body: &str) -> Result<Ask, Refusal> {
        offer().ask(interface, &HeaderMap::new(), body.as_bytes())
    }

    fn completion(body: &str) -> Result<Ask, Refusal> {
        ask(Interface::Completions, body)
    }

    #[test]
    fn a_completion_without_a_limit_gets_sixteen_tokens() {
        let ask = completion(r#"{"model": "m", "prompt": "four score and seven"}"#).unwrap();
        assert_eq!(
            ask.sequences,
            [Wanted {
                prompt: 5,
                output: 16,
                finish: Finish::Length
            }]
        );
        assert_eq!((ask.prompt_tokens, ask.stream), (5, None));
    }

    #[test]
    fn ignore_eos_always_makes_as_many_tokens_as_allowed() {
        let with =
            |eos: bool| format!(r#"{{"prompt": "hello", "max_tokens": 900, "ignore_eos": {eos}}}"#);
        let all = completion(&with(true)).unwrap().sequences[0];
        assert_eq!((all.output, all.finish), (900, Finish::Length));
        let natural = completion(&with(false)).unwrap().sequences[0];
        assert_eq!(natural.finish, Finish::Stop);
        assert!(NATURAL_LENGTHS.contains(&natural.output));
    }

    #[test]
    fn prompts_of_token_ids_and_the_header_state_exact_sizes() {
        let ids = completion(r#"{"prompt": [1, 2, 3], "max_tokens": 1}"#).unwrap();
        assert_eq!(ids.prompt_tokens, 3);
        let headers =
            HeaderMap::from_iter([(PROMPT_TOKENS.parse().unwrap(), "700".parse().unwrap())]);
        let body = br#"{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}"#;
        let stated = offer().ask(Interface::Chat, &headers, body).unwrap();
        assert_eq!(stated.sequences[0].prompt, 700);
    }

    #[test]
    fn several_prompts_and_choices_are_sequences_of_one_answer() {
        let ask = completion(r#"{"prompt": ["abcd", "abcdefgh"], "n": 2}"#).unwrap();
        let sizes: Vec<_> = ask.sequences.iter().map(|wanted| wanted.prompt).collect();
        assert_eq!((sizes, ask.prompt_tokens), (vec![1, 1, 2, 2], 3));
    }

    #[test]
    fn a_chat_reads_texts_and_parts_and_may_fill_the_context() {
        let body = r#"{"messages": [
            {"role": "system", "content": "abcd"},
            {"role": "user", "content": [{"type": "text", "text": "abcd"}]}
        ], "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true}}"#;
        let ask = ask(Interface::Chat, body).unwrap();
        assert_eq!((ask.prompt_tokens, ask.sequences[0].output), (10, 990));
        assert!(ask.stream.unwrap().include_usage);
    }

    #[test]
    fn faults_are_refused_with_their_field() {
        let cases = [
            (r#"{"prompt": "x", "model": "other"}"#, 404, Some("model")),
            (
                r#"{"prompt": "x", "max_tokens": 1000}"#,
                400,
                Some("input_tokens"),
            ),
            (
                r#"{"prompt": "x", "max_tokens": 0}"#,
                400,
                Some("max_tokens"),
            ),
            (r#"{"prompt": []}"#, 400, Some("prompt")),
            (r#"{"prompt": "x", "n": 0}"#, 400, Some("n")),
            (
                r#"{"prompt": "x", "stream_options": {}}"#,
                400,
                Some("stream_options"),
            ),
            (r#"{"prompt": 7}"#, 400, None),
            (r#"{"model": "m"}"#, 400, None),
            ("{", 400, None),
        ];
        for (body, status, param) in cases {
            let refusal = completion(body).unwrap_err();
            assert_eq!(
                (refusal.status.as_u16(), refusal.param),
                (status, param),
                "{body}: {refusal:?}"
            );
        }
        let long = format!(r#"{{"prompt": "{}"}}"#, "word".repeat(1001));
        assert!(
            completion(&long)
                .unwrap_err()
                .message
                .contains("maximum context length is 1000 tokens")
        );
    }
}
