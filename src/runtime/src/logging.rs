//! Structured logs on standard error.

use tracing_subscriber::EnvFilter;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is not a log format: text or json")),
        }
    }
}

/// The target of kube's warnings about responses that it cannot decode: they print whole responses,
/// with the manifests of all tenants.
const RESPONSES: &str = "kube_client::client";

/// The filter's directives. A filter that names kube's client itself is taken as it is.
fn directives(given: Option<&str>) -> String {
    match given {
        Some(given) if given.contains("kube_client") => given.to_owned(),
        Some(given) if !given.is_empty() => format!("{given},{RESPONSES}=error"),
        _ => format!("info,{RESPONSES}=error"),
    }
}

/// Starts logging. `RUST_LOG` sets the filter, and the default is `info`.
pub fn init(format: Format) {
    let given = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = EnvFilter::try_new(directives(given.as_deref()))
        .unwrap_or_else(|_| EnvFilter::new(directives(None)));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(false).init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is logged with this filter when kube cannot decode a response.
    fn logged(given: Option<&str>) -> String {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(directives(given)))
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "kube_client::client", "manifest");
            tracing::warn!("ours");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn responses_that_cannot_be_decoded_are_not_logged_unless_the_filter_asks_for_them() {
        for given in [None, Some(""), Some("info"), Some("debug,hyper=warn")] {
            let logged = logged(given);
            assert!(
                logged.contains("ours") && !logged.contains("manifest"),
                "{given:?}: {logged}"
            );
        }
        assert!(logged(Some("info,kube_client=debug")).contains("manifest"));
    }
}
