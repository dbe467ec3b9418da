//! The checkpoint: how far the gang has come, in a place that outlives it: a directory, or a server that keeps what is put there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// A server's answer takes no longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What is kept between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Steps that are done and are never done again.
    pub(crate) steps: u64,
    /// Attempts that were started.
    pub(crate) attempts: u64,
}

/// Why the checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// The file or its directory.
    #[error("checkpoint {}: {why}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The server.
    #[error("checkpoint {uri}: {why}")]
    Server {
        /// Where.
        uri: Uri,
        /// What it says, or why it says nothing.
        why: String,
    },
    /// Not written by a trainer.
    #[error("checkpoint {place}: {why}; move it away to start again from step 0")]
    Contents {
        /// Where.
        place: String,
        /// What is wrong.
        why: serde_json::Error,
    },
}

/// Where the checkpoint lies.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    /// In a file of this directory.
    Directory(PathBuf),
    /// Where GET and PUT of this URI read and write it; GET answers 404 before the first PUT.
    Server(Uri),
}

impl Store {
    /// The store in a directory, which is made when it is missing, or at an `http://` URI.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn open(place: &str) -> Result<Self, CheckpointError> {
        if let Ok(uri) = place.parse::<Uri>()
            && uri.scheme_str() == Some("http")
        {
            return Ok(Self::Server(uri));
        }
        let directory = Path::new(place);
        fs::create_dir_all(directory).map_err(|why| failed(directory, why))?;
        Ok(Self::Directory(directory.to_owned()))
    }

    /// The last checkpoint; the default one when there is none yet.
    ///
    /// # Errors
    /// When it cannot be read, or is not one.
    pub(crate) async fn read(&self) -> Result<Checkpoint, CheckpointError> {
        let (place, bytes) = match self {
            Self::Directory(directory) => {
                let path = file(directory);
                (path.display().to_string(), read_file(&path)?)
            }
            Self::Server(uri) => (uri.to_string(), get(uri).await?),
        };
        let Some(bytes) = bytes else {
            return Ok(Checkpoint::default());
        };
        serde_json::from_slice(&bytes).map_err(|why| CheckpointError::Contents { place, why })
    }

    /// Replaces the checkpoint: a reader, and the next attempt after a crash at any moment, find the old one or the new one, whole.
    ///
    /// # Errors
    /// When it cannot be written; the old one then stands.
    pub(crate) async fn write(&self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        let contents = |why| CheckpointError::Contents {
            place: format!("{self:?}"),
            why,
        };
        let bytes = serde_json::to_vec(&checkpoint).map_err(contents)?;
        match self {
            Self::Directory(directory) => write_file(directory, &bytes),
            Self::Server(uri) => put(uri, bytes).await,
        }
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("checkpoint.json")
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(failed(path, why)),
    }
}

fn write_file(directory: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let (path, draft) = (file(directory), directory.join("checkpoint.json.draft"));
    let written = || {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(directory)?.sync_all()
    };
    written().map_err(|why| failed(&path, why))
}

fn failed(path: &Path, why: io::Error) -> CheckpointError {
    CheckpointError::File {
        path: path.to_owned(),
        why,
    }
}

async fn get(uri: &Uri) -> Result<Option<Vec<u8>>, CheckpointError> {
    match ask(Method::GET, uri, Vec::new()).await? {
        (StatusCode::OK, bytes) => Ok(Some(bytes.into())),
        (StatusCode::NOT_FOUND, _) => Ok(None),
        (status, _) => Err(refused(uri, status)),
    }
}

async fn put(uri: &Uri, bytes: Vec<u8>) -> Result<(), CheckpointError> {
    match ask(Method::PUT, uri, bytes).await? {
        (status, _) if status.is_success() => Ok(()),
        (status, _) => Err(refused(uri, status)),
    }
}

fn refused(uri: &Uri, status: StatusCode) -> CheckpointError {
    CheckpointError::Server {
        uri: uri.clone(),
        why: format!("answered {status}"),
    }
}

async fn ask(
    method: Method,
    uri: &Uri,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), CheckpointError> {
    let exchange = async {
        let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
        let stream = TcpStream::connect((host, port)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(uri.path())
            .header("host", host)
            .body(Full::<Bytes>::from(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    let answer: Result<_, Box<dyn std::error::Error + Send + Sync>> =
        match tokio::time::timeout(ANSWER_LIMIT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", ANSWER_LIMIT.as_secs()).into()),
        };
    answer.map_err(|why| CheckpointError::Server {
        uri: uri.clone(),
        why: why.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn store(directory: &Path) -> Store {
        Store::open(&directory.display().to_string()).unwrap()
    }

    #[tokio::test]
    async fn the_last_checkpoint_is_read_and_none_is_step_zero() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory.path().join("of/job"));
        assert_eq!(store.read().await.unwrap(), Checkpoint::default());
        for steps in [3, 5] {
            let checkpoint = Checkpoint { steps, attempts: 1 };
            store.write(checkpoint).await.unwrap();
            assert_eq!(store.read().await.unwrap(), checkpoint);
        }
    }

    #[tokio::test]
    async fn a_draft_left_by_a_crash_is_not_a_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let whole = Checkpoint {
            steps: 3,
            attempts: 1,
        };
        store.write(whole).await.unwrap();
        fs::write(
            directory.path().join("checkpoint.json.draft"),
            "{\"steps\":",
        )
        .unwrap();
        assert_eq!(store.read().await.unwrap(), whole);
    }

    #[tokio::test]
    async fn a_file_that_is_no_checkpoint_is_not_taken_for_step_zero() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(file(directory.path()), "{}").unwrap();
        let error = store(directory.path()).read().await.unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("checkpoint.json") && error.contains("move it away"),
            "{error}"
        );
    }

    /// Answers one request; returns the address, and what was asked once it was.
    async fn server(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/checkpoint", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 4096];
            let read = stream.read(&mut bytes).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&bytes[..read]).into_owned()
        });
        (uri, asked)
    }

    #[tokio::test]
    async fn a_server_keeps_it_too() {
        let kept = "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{\"steps\":7,\"attempts\":2}";
        let (uri, asked) = server(kept).await;
        let read = Store::open(&uri).unwrap().read().await.unwrap();
        assert_eq!((read.steps, read.attempts), (7, 2));
        assert!(asked.await.unwrap().starts_with("GET /checkpoint "));

        let (uri, _) = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        let none = Store::open(&uri).unwrap().read().await.unwrap();
        assert_eq!(none, Checkpoint::default());

        let (uri, asked) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        Store::open(&uri).unwrap().write(read).await.unwrap();
        let asked = asked.await.unwrap();
        assert!(
            asked.starts_with("PUT /checkpoint ")
                && asked.ends_with("{\"steps\":7,\"attempts\":2}"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn a_server_that_fails_is_not_taken_for_step_zero() {
        let (uri, _) =
            server("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n").await;
        let error = Store::open(&uri).unwrap().read().await.unwrap_err();
        assert!(error.to_string().contains("500"), "{error}");
    }
}
