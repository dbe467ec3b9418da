//! The target of a request, and the form of the response that it asks for.

use http::{HeaderMap, Uri, header};

/// The object or collection that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) api_version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    /// Reads `/api/v1/...` and `/apis/GROUP/VERSION/...`.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let api_version = match parts.next()? {
            "api" => parts.next()?.to_owned(),
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            // /namespaces/x and /namespaces/x/status are about the namespace itself
            ["namespaces", namespace, rest @ ..]
                if !rest.is_empty() && !matches!(rest, ["status" | "finalize"]) =>
            {
                (Some((*namespace).to_owned()), rest)
            }
            rest => (None, rest),
        };
        let part = |index: usize| rest.get(index).map(|part| (*part).to_owned());
        Some(Self {
            api_version,
            plural: part(0)?,
            namespace,
            name: part(1),
            subresource: part(2),
        })
    }
}

/// A parameter of a request's query.
pub(crate) fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query()?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decode(value))
    })
}

/// True if a parameter is there and not `false`.
pub(crate) fn flag(uri: &Uri, name: &str) -> bool {
    parameter(uri, name).is_some_and(|value| value != "false" && value != "0")
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| (byte? as char).to_digit(16);
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => b'?',
            },
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// True if only metadata is asked for.
pub(crate) fn wants_metadata(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("as=PartialObjectMetadata"))
}

/// The manager that writes: the `fieldManager`, or the client's name.
pub(crate) fn manager(uri: &Uri, headers: &HeaderMap) -> String {
    let agent = || {
        let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
        agent.split('/').next().map(str::to_owned)
    };
    parameter(uri, "fieldManager")
        .or_else(agent)
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_objects_and_collections() {
        let target = |path: &str| {
            let target = Target::parse(path).unwrap();
            [
                Some(target.api_version),
                target.namespace,
                Some(target.plural),
                target.name,
                target.subresource,
            ]
            .map(Option::unwrap_or_default)
            .join("|")
        };
        assert_eq!(target("/api/v1/pods"), "v1||pods||");
        assert_eq!(target("/api/v1/namespaces/a"), "v1||namespaces|a|");
        assert_eq!(
            target("/api/v1/namespaces/a/status"),
            "v1||namespaces|a|status"
        );
        assert_eq!(
            target("/api/v1/namespaces/a/pods/p/status"),
            "v1|a|pods|p|status"
        );
        assert_eq!(
            target("/apis/apps/v1/namespaces/a/deployments"),
            "apps/v1|a|deployments||"
        );
        assert_eq!(Target::parse("/healthz"), None);
    }

    #[test]
    fn parameters_are_decoded() {
        let uri: Uri = "/x?labelSelector=a%3Db%2Cc&watch=true&limit="
            .parse()
            .unwrap();
        assert_eq!(parameter(&uri, "labelSelector").unwrap(), "a=b,c");
        assert!(flag(&uri, "watch") && !flag(&uri, "other"));
    }
}
