//! Connections to servers that tenants name. A name is looked up once, every address that it has
//! is checked, and the connection is made to a checked address: a name cannot change its address
//! between check and connection. Servers that other servers name come this way too.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address_policy::{AddressPolicy, refusal};
use crate::credentials::Credentials;

/// The bytes that are read from one connection at most.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;
/// One of several addresses of a name that does not answer leaves time for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// A server without TLS may wait for a line that never comes.
const TLS_TIMEOUT: Duration = Duration::from_secs(3);
/// Of a name with more addresses the first are tried. All are checked.
const MAX_TRIED: usize = 3;
/// The lookups that run at once. The system's resolver blocks a thread for each, for as long as
/// the servers of a name's zone like.
const MAX_LOOKUPS: usize = 128;
/// Those of one tenant.
const MAX_LOOKUPS_OF_TENANT: usize = 8;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A DNS name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the connection begins with TLS.
    pub tls: bool,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("{host} cannot be looked up: {why}; the full name of a Service is NAME.NAMESPACE.svc")]
    Lookup {
        /// The name.
        host: String,
        /// The resolver's answer.
        why: String,
    },
    /// An address of the host is one that the policy refuses.
    #[error("no connection to {endpoint}: {address} is {why}, which signals may not be read from")]
    Refused {
        /// The server.
        endpoint: String,
        /// The address that is refused.
        address: IpAddr,
        /// What kind of address it is.
        why: &'static str,
    },
    /// Nothing answers there.
    #[error("no connection to {endpoint}: {why}")]
    Connect {
        /// The server.
        endpoint: String,
        /// The system's answer.
        why: String,
    },
    /// The server's certificate is not trusted, or it does not trust ours, or has no TLS.
    #[error("TLS with {endpoint} failed: {why}")]
    Tls {
        /// The server.
        endpoint: String,
        /// What was wrong.
        why: String,
    },
    /// The Secret has something that is no certificate, or no key.
    #[error("`{key}` of the Secret: {why}")]
    Certificate {
        /// The key of the Secret.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Makes connections, to addresses that its policy does not refuse.
#[derive(Debug, Clone)]
pub struct Dialer {
    policy: Arc<dyn AddressPolicy>,
    public_roots: Arc<RootCertStore>,
    lookups: Arc<Semaphore>,
    /// The lookups of whom it dials for.
    lookups_of_tenant: Arc<Semaphore>,
    tenants: Arc<Mutex<HashMap<Arc<str>, Weak<Semaphore>>>>,
}

impl Dialer {
    /// A dialer with this policy. TLS trusts the public authorities (of Mozilla's list), unless
    /// credentials have others.
    #[must_use]
    pub fn new(policy: Arc<dyn AddressPolicy>) -> Self {
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
        Self {
            policy,
            public_roots: Arc::new(roots.collect()),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            lookups_of_tenant: Arc::new(Semaphore::new(MAX_LOOKUPS_OF_TENANT)),
            tenants: Arc::default(),
        }
    }

    /// The same for one tenant: slow lookups of its names delay only its own.
    #[must_use]
    pub fn of_tenant(&self, tenant: &Arc<str>) -> Self {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tenants.get(tenant).and_then(Weak::upgrade);
        let lookups_of_tenant = known.unwrap_or_else(|| {
            tenants.retain(|_, lookups| lookups.strong_count() > 0);
            let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS_OF_TENANT));
            tenants.insert(Arc::clone(tenant), Arc::downgrade(&lookups));
            lookups
        });
        Self {
            lookups_of_tenant,
            ..self.clone()
        }
    }

    /// Connects to a server, over TLS if the endpoint says so. The caller limits the time.
    ///
    /// # Errors
    /// When the name has no address, or one that the policy refuses, whatever its others; when
    /// nothing answers; when the certificates of one side do not satisfy the other.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<Stream, DialError> {
        let stream = self.connect_plain(endpoint).await?;
        match endpoint.tls {
            true => self.start_tls(stream, endpoint, credentials).await,
            false => Ok(stream),
        }
    }

    /// Connects to a server that says something before TLS begins.
    pub(crate) async fn connect_plain(&self, endpoint: &Endpoint) -> Result<Stream, DialError> {
        let addresses = self.addresses(endpoint).await?;
        for address in &addresses {
            if let Some(why) = refusal(self.policy.as_ref(), address.ip()) {
                return Err(DialError::Refused {
                    endpoint: endpoint.to_string(),
                    address: address.ip(),
                    why,
                });
            }
        }
        Ok(Stream {
            io: Io::Plain(connect_first(endpoint, &addresses).await?),
            remaining: MAX_ANSWER_BYTES,
        })
    }

    /// Begins TLS on a connection that [`connect_plain`](Self::connect_plain) made.
    pub(crate) async fn start_tls(
        &self,
        stream: Stream,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<Stream, DialError> {
        let failed = |why: String| DialError::Tls {
            endpoint: endpoint.to_string(),
            why,
        };
        let Io::Plain(plain) = stream.io else {
            return Err(failed("it has begun already".into()));
        };
        let config = self.tls_config(credentials)?;
        let name = ServerName::try_from(endpoint.host.clone());
        let name = name.map_err(|error| failed(error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        let handshake = tokio::time::timeout(TLS_TIMEOUT, connector.connect(name, plain)).await;
        let connected = handshake.map_err(|_| {
            let seconds = TLS_TIMEOUT.as_secs();
            failed(format!(
                "no answer within {seconds} s; does it speak TLS on this port?"
            ))
        })?;
        let connected = connected.map_err(|error| failed(tls_failure(&error)))?;
        Ok(Stream {
            io: Io::Tls(Box::new(connected)),
            remaining: stream.remaining,
        })
    }

    async fn addresses(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(address) = endpoint.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, endpoint.port)]);
        }
        let failed = |why: &dyn fmt::Display| DialError::Lookup {
            host: endpoint.host.clone(),
            why: why.to_string(),
        };
        // a tenant's own first: what waits for one of those holds none of all
        let own = self.lookups_of_tenant.clone().acquire_owned().await;
        let permit = (self.lookups.clone().acquire_owned().await, own);
        let name = (endpoint.host.clone(), endpoint.port);
        let lookup = tokio::task::spawn_blocking(move || {
            // held by the thread, which goes on when nobody waits for the answer any more
            let _permit = permit;
            name.to_socket_addrs().map(Vec::from_iter)
        });
        let addresses = lookup.await.map_err(|error| failed(&error))?;
        let addresses = addresses.map_err(|error| failed(&error))?;
        match addresses.is_empty() {
            true => Err(failed(&"it has no address")),
            false => Ok(addresses),
        }
    }

    fn tls_config(&self, credentials: &Credentials) -> Result<ClientConfig, DialError> {
        let roots = match &credentials.ca {
            None => self.public_roots.clone(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates("ca.crt", pem)?);
                if roots.is_empty() {
                    let why = "its certificates are not of X.509".to_owned();
                    return Err(DialError::Certificate { key: "ca.crt", why });
                }
                Arc::new(roots)
            }
        };
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("ca.crt", &error))?
            .with_root_certificates(roots);
        match (&credentials.certificate, &credentials.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates("tls.crt", certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key);
                let key = key.map_err(|_| invalid("tls.key", &"it has no private key in PEM"))?;
                let config = config.with_client_auth_cert(chain, key);
                config.map_err(|error| invalid("tls.key", &error))
            }
            (Some(_), None) => Err(invalid("tls.key", &"missing; tls.crt needs it")),
            (None, Some(_)) => Err(invalid("tls.crt", &"missing; tls.key needs it")),
            (None, None) => Ok(config.with_no_client_auth()),
        }
    }
}

fn invalid(key: &'static str, why: &dyn fmt::Display) -> DialError {
    let why = why.to_string();
    DialError::Certificate { key, why }
}

fn certificates(key: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, DialError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(invalid(key, &"it has no certificate in PEM")),
    }
}

async fn connect_first(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
) -> Result<TcpStream, DialError> {
    let mut why = String::new();
    for address in addresses.iter().take(MAX_TRIED) {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // without it small requests may wait; it is not worth an error
                stream.set_nodelay(true).ok();
                return Ok(stream);
            }
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {} ms", CONNECT_TIMEOUT.as_millis()),
        }
    }
    Err(DialError::Connect {
        endpoint: endpoint.to_string(),
        why,
    })
}

/// Says what to do about the failures that are common.
fn tls_failure(error: &io::Error) -> String {
    use rustls::{CertificateError, Error};
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    match cause {
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => {
            "its certificate is signed by an unknown authority; put that one's into ca.crt of the \
             Secret"
                .into()
        }
        Some(Error::InvalidMessage(_)) => "it does not speak TLS on this port".into(),
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

/// A connection to a server, which gives at most [`MAX_ANSWER_BYTES`].
#[derive(Debug)]
pub struct Stream {
    io: Io,
    remaining: usize,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A server has sent more than any answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is longer than {} MiB", MAX_ANSWER_BYTES >> 20)]
pub struct TooLong;

impl Stream {
    fn pinned(self: Pin<&mut Self>) -> Pin<&mut (dyn ReadWrite + '_)> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream),
            Io::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

trait ReadWrite: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> ReadWrite for T {}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.as_mut().pinned().poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        match self.remaining.checked_sub(read) {
            Some(remaining) => self.remaining = remaining,
            None => return Poll::Ready(Err(io::Error::other(TooLong))),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pinned().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_shutdown(context)
    }
}
