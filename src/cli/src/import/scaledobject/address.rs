//! Addresses of servers, in which a name and password may stand.

/// What is asked for where an address had a name and password.
pub(super) const SIGNED_IN: &str = "the address had a name and password in it: make a Secret of them with the keys username and password, and \
    the label bursar.dev/signal-credentials: \"true\"";

/// An address without the name and password in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Its scheme, host and port.
    pub(super) server: String,
    /// From the slash on; may be empty.
    path: String,
    /// What follows `?`.
    pub(super) query: Option<String>,
}

impl Address {
    /// Reads an address of one of these schemes. `None` if it is none, or if it cannot be told where
    /// its password ends and its host begins: a `/` in a password has to be written as `%2F`.
    pub(super) fn parse(text: &str, schemes: &[&str]) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let rest = match rest.rsplit_once('@') {
            Some((user, _)) if user.contains(['/', '?', '#']) => return None,
            Some((_, server)) => server,
            None => rest,
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query.to_owned())),
            None => (rest, None),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_address = schemes.contains(&scheme.as_str())
            && !host.is_empty()
            && !text.trim().contains(char::is_whitespace);
        is_address.then(|| Self {
            server: format!("{scheme}://{host}"),
            path: path.to_owned(),
            query,
        })
    }

    /// All of it.
    pub(super) fn whole(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}"));
        format!("{}{}{}", self.server, self.path, query.unwrap_or_default())
    }

    /// Its path without the first slash, as it reads; `None` if there is none.
    pub(super) fn decoded_path(&self) -> Option<String> {
        let path = self
            .path
            .strip_prefix('/')
            .filter(|path| !path.is_empty())?;
        Some(decoded(path).unwrap_or_else(|| path.to_owned()))
    }
}

/// A text with its `%20` and the like as characters; `None` if they are no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_without_its_password() {
        let read = |text: &str| Address::parse(text, &["http", "amqp"]);
        for (text, whole, path) in [
            ("http://h:9090", "http://h:9090", None),
            ("http://me:s@c@h/x?y=1#z", "http://h/x?y=1", Some("x")),
            (
                "amqp://me:s%2Fc@h/prod%20a?heartbeat=1",
                "amqp://h/prod%20a?heartbeat=1",
                Some("prod a"),
            ),
            ("amqp://h/%2F", "amqp://h/%2F", Some("/")),
            ("amqp://h/%zz%ff", "amqp://h/%zz%ff", Some("%zz%ff")),
        ] {
            let address = read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(address.whole(), whole, "{text}");
            assert_eq!(address.decoded_path().as_deref(), path, "{text}");
        }
        for text in [
            "",
            "h:1",
            "ftp://h",
            "http://",
            "http://a b",
            "amqp://me:s/c@h/v",
            "http://h/x@y",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
