//! A reader of HTTP/1.1 that forgives nothing, by the grammar of RFC 9112 and not by the library that
//! the gateway uses.
//!
//! Two readers of one byte stream that disagree about where a message ends let a client hide a
//! request in another one. What the gateway sends is read with this one: where it is right by the
//! strictest rules, there is nothing to disagree about.

/// A message as it stands in a byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// The request line or status line.
    pub(super) start: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Its length in the stream.
    pub(super) len: usize,
}

impl Message {
    /// All values of a header.
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }

    /// The status of a response.
    pub(super) fn status(&self) -> Option<u16> {
        status(&self.start).parse().ok()
    }
}

/// Why no message can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadError {
    /// The bytes end before the message does.
    Incomplete,
    /// No further byte can make it right.
    Invalid(String),
}

use ReadError::{Incomplete, Invalid};

/// Whether a message is a request or a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    /// The body of a response without a length ends with the connection.
    Response,
}

/// Reads the first message.
pub(super) fn read(bytes: &[u8], side: Side) -> Result<Message, ReadError> {
    let Some(head_end) = find(bytes, b"\r\n\r\n") else {
        return Err(Incomplete);
    };
    // bytes above ASCII are allowed in values (obs-text)
    let head: String = bytes[..head_end].iter().copied().map(char::from).collect();
    let mut lines = head.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    check_start(&start, side)?;
    let headers = lines.map(header).collect::<Result<Vec<_>, _>>()?;
    let rest = &bytes[head_end + 4..];
    let (body, body_len) = body(&start, &headers, rest, side)?;
    Ok(Message {
        start,
        headers,
        body,
        len: head_end + 4 + body_len,
    })
}

fn check_start(line: &str, side: Side) -> Result<(), ReadError> {
    let parts: Vec<&str> = line.splitn(3, ' ').collect();
    let is_right = match (side, &parts[..]) {
        (Side::Request, [method, target, version]) => {
            is_token(method)
                && *version == "HTTP/1.1"
                && (target.starts_with('/') || *target == "*")
                && target.bytes().all(|byte| byte.is_ascii_graphic())
        }
        (Side::Response, [version, status, _]) => {
            ["HTTP/1.0", "HTTP/1.1"].contains(version)
                && status.len() == 3
                && status.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    };
    match is_right && !has_control(line) {
        true => Ok(()),
        false => Err(Invalid(format!("the first line is {line:?}"))),
    }
}

fn header(line: &str) -> Result<(String, String), ReadError> {
    let (name, value) = line.split_once(':').unwrap_or(("", line));
    match is_token(name) && !has_control(value) {
        true => Ok((
            name.to_ascii_lowercase(),
            value.trim_matches([' ', '\t']).to_owned(),
        )),
        false => Err(Invalid(format!("a header line is {line:?}"))),
    }
}

/// The body with its length in the stream, framing included.
fn body(
    start: &str,
    headers: &[(String, String)],
    rest: &[u8],
    side: Side,
) -> Result<(Vec<u8>, usize), ReadError> {
    let lengths = values(headers, "content-length");
    let codings = values(headers, "transfer-encoding");
    match (&lengths[..], &codings[..]) {
        ([], []) if side == Side::Response && has_body(start) => Ok((rest.to_vec(), rest.len())),
        ([], []) => Ok((Vec::new(), 0)),
        ([length], []) => {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length: usize = (length.parse().ok())
                .filter(|_| digits)
                .ok_or_else(|| Invalid(format!("the length is {length:?}")))?;
            match rest.get(..length) {
                Some(body) => Ok((body.to_vec(), length)),
                None => Err(Incomplete),
            }
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => chunks(rest),
        _ => Err(Invalid(format!(
            "lengths are {lengths:?} and codings {codings:?}"
        ))),
    }
}

fn status(status_line: &str) -> &str {
    status_line.split(' ').nth(1).unwrap_or_default()
}

fn has_body(status_line: &str) -> bool {
    let status = status(status_line);
    !status.starts_with('1') && !["204", "304"].contains(&status)
}

fn chunks(bytes: &[u8]) -> Result<(Vec<u8>, usize), ReadError> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line_len = find(&bytes[at..], b"\r\n").ok_or(Incomplete)?;
        let line = String::from_utf8_lossy(&bytes[at..at + line_len]).into_owned();
        // extensions are allowed, and are not used
        let digits = line.split(';').next().unwrap_or_default();
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = (usize::from_str_radix(digits, 16).ok())
            .filter(|_| is_number)
            .ok_or_else(|| Invalid(format!("the line of a chunk is {line:?}")))?;
        at += line_len + 2;
        if size == 0 {
            return trailers(&bytes[at..]).map(|len| (body, at + len));
        }
        let end = at.checked_add(size).ok_or(Incomplete)?;
        body.extend(bytes.get(at..end).ok_or(Incomplete)?);
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => at = end + 2,
            Some(other) => return Err(Invalid(format!("a chunk ends with {other:?}"))),
            None => return Err(Incomplete),
        }
    }
}

/// The length of the trailers and the empty line at their end.
fn trailers(bytes: &[u8]) -> Result<usize, ReadError> {
    let mut at = 0;
    loop {
        let line_len = find(&bytes[at..], b"\r\n").ok_or(Incomplete)?;
        let line = String::from_utf8_lossy(&bytes[at..at + line_len]).into_owned();
        at += line_len + 2;
        if line.is_empty() {
            return Ok(at);
        }
        header(&line)?;
    }
}

fn values<'h>(headers: &'h [(String, String)], name: &str) -> Vec<&'h str> {
    let named = headers.iter().filter(|(other, _)| other == name);
    named.map(|(_, value)| value.as_str()).collect()
}

/// Of the control characters only a tab may be in a text.
fn has_control(text: &str) -> bool {
    text.contains(|is: char| is.is_ascii_control() && is != '\t')
}

fn is_token(text: &str) -> bool {
    let is_special = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && (text.bytes()).all(|byte| byte.is_ascii_alphanumeric() || is_special(byte))
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[test]
fn what_readers_may_disagree_about_is_invalid() {
    let read = |text: &str| read(text.as_bytes(), Side::Request);
    let right = read("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhiGET").unwrap();
    assert_eq!((right.body.as_slice(), right.len), (&b"hi"[..], 50));
    let right = read("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    assert_eq!(right.unwrap().body, b"hi");
    assert_eq!(
        read("GET / HTTP/1.1\r\ncontent-length: 3\r\n\r\nhi"),
        Err(Incomplete)
    );
    for invalid in [
        "GET / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        "GET / HTTP/1.1\r\ncontent-length: +3\r\n\r\nabc",
        "GET / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\n folded: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\nx: b\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        assert!(matches!(read(invalid), Err(Invalid(_))), "{invalid:?}");
    }
}
