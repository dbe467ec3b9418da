//! The length of a list or stream in Redis (or Valkey), or what a consumer group has not done of a
//! stream: on one server, on the master that sentinels name, or on the node of a cluster.

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};

use futures::future::{Either, select};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisConnectionInfo, RedisError,
    ServerErrorKind, Value, cmd,
};

use super::error::{SourceError, SourceErrorKind, quoted};
use crate::credentials::Credentials;
use crate::dial::{Dialer, Endpoint};

/// The servers that are asked for one value because another named them. A cluster that moves a
/// slot names two.
const MAX_HOPS: usize = 5;

/// A key of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// The server; or sentinels or nodes of a cluster, of which one that answers is asked. With
    /// TLS the servers that those name are connected to with TLS too.
    pub addresses: Vec<Endpoint>,
    /// How the server with the key is found.
    pub mode: RedisMode,
    /// The number of the database; clusters have only 0.
    pub database: u32,
    /// What is read.
    pub measure: RedisMeasure,
}

/// How the server with a key is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisMode {
    /// The addresses are those of servers with the key.
    Standalone,
    /// The addresses are those of sentinels, which name the master.
    Sentinel {
        /// The name by which the sentinels know the master.
        master_name: String,
    },
    /// The addresses are those of nodes of a cluster, which name the node of a key's slot.
    Cluster,
}

/// What is read of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisMeasure {
    /// The elements of a list (`LLEN`). Redis has no empty lists: a missing one is 0.
    List {
        /// The list's key.
        key: String,
    },
    /// The entries of a stream (`XLEN`), or of a group those that it has not acknowledged: not yet
    /// delivered (`lag`, since Redis 7) or delivered (`pending`).
    Stream {
        /// The stream's key.
        key: String,
        /// The consumer group.
        group: Option<String>,
    },
}

impl RedisMeasure {
    fn key(&self) -> &str {
        match self {
            Self::List { key } | Self::Stream { key, .. } => key,
        }
    }

    fn command(&self) -> Cmd {
        let mut command = match self {
            Self::List { .. } => cmd("LLEN"),
            Self::Stream { group: None, .. } => cmd("XLEN"),
            Self::Stream { group: Some(_), .. } => {
                let mut command = cmd("XINFO");
                command.arg("GROUPS");
                command
            }
        };
        command.arg(self.key());
        command
    }
}

impl Redis {
    pub(super) async fn read(
        &self,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        let mut failure = SourceError::new(SourceErrorKind::Unreachable, "redis has no address");
        for address in &self.addresses {
            let read = self.read_from(address, credentials, dialer).await;
            match read {
                // another address may be one of a server that works
                Err(error) if error.kind() == SourceErrorKind::Unreachable => failure = error,
                read => return read,
            }
        }
        Err(failure)
    }

    async fn read_from(
        &self,
        address: &Endpoint,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        let mut server = match &self.mode {
            RedisMode::Sentinel { master_name } => {
                master(address, master_name, credentials, dialer).await?
            }
            RedisMode::Standalone | RedisMode::Cluster => address.clone(),
        };
        let mut is_asking = false;
        for _ in 0..=MAX_HOPS {
            let mut connection = Connection::open(server.clone(), credentials, dialer).await?;
            connection.authenticate(credentials).await?;
            if self.database != 0 {
                let mut select = cmd("SELECT");
                select.arg(self.database);
                let selected = connection.query::<Value>(&select).await;
                selected.map_err(|error| connection.failure(&error))?;
            }
            if is_asking {
                let asked = connection.query::<Value>(&cmd("ASKING")).await;
                asked.map_err(|error| connection.failure(&error))?;
            }
            let answer = connection.query::<Value>(&self.measure.command()).await;
            match answer {
                Ok(answer) => return self.value(&server, answer),
                Err(error) => {
                    let redirect = self.redirect(&server, &error);
                    is_asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
                    server = redirect.ok_or_else(|| self.failure(&connection, &error))?;
                }
            }
        }
        let message = format!(
            "the nodes of the cluster at {address} send a reader of `{}` on and on; {MAX_HOPS} \
             times are followed",
            quoted(self.measure.key())
        );
        Err(SourceError::new(SourceErrorKind::Protocol, message))
    }

    /// The node to which a node of a cluster sends the client.
    fn redirect(&self, from: &Endpoint, error: &RedisError) -> Option<Endpoint> {
        let is_redirect = matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask)
        );
        if self.mode != RedisMode::Cluster || !is_redirect {
            return None;
        }
        // `SLOT HOST:PORT`
        let (_, address) = error.detail()?.split_once(' ')?;
        let (host, port) = address.rsplit_once(':')?;
        Some(Endpoint {
            // a node that does not know its address leaves the host out
            host: if host.is_empty() { &from.host } else { host }.to_owned(),
            port: port.parse().ok()?,
            tls: from.tls,
        })
    }

    fn value(&self, server: &Endpoint, answer: Value) -> Result<u64, SourceError> {
        let count = match &self.measure {
            RedisMeasure::Stream {
                key,
                group: Some(group),
            } => unacknowledged(server, key, group, answer)?,
            RedisMeasure::List { .. } | RedisMeasure::Stream { .. } => match answer {
                Value::Int(length) => length,
                _ => return Err(SourceError::protocol(server, "a length is no integer")),
            },
        };
        match u64::try_from(count) {
            Ok(count) => Ok(count.saturating_mul(1000)),
            Err(_) => Err(SourceError::protocol(server, "a length is negative")),
        }
    }

    /// What went wrong with the command for the key.
    fn failure(&self, connection: &Connection, error: &RedisError) -> SourceError {
        let server = &connection.server;
        let key = quoted(self.measure.key());
        if error.code() == Some("WRONGTYPE") {
            let wanted = match self.measure {
                RedisMeasure::List { .. } => "list",
                RedisMeasure::Stream { .. } => "stream",
            };
            let message = format!("the key `{key}` at {server} is no {wanted}");
            return SourceError::new(SourceErrorKind::InvalidValue, message);
        }
        let detail = error.detail().unwrap_or_default();
        if detail.starts_with("no such key") {
            let message = format!("there is no stream `{key}` at {server}");
            return SourceError::new(SourceErrorKind::NotFound, message);
        }
        if error.kind() == ErrorKind::Server(ServerErrorKind::Moved) {
            let message = format!(
                "{server} is a node of a cluster, and `{key}` is on another; set the mode to \
                 Cluster"
            );
            return SourceError::new(SourceErrorKind::Protocol, message);
        }
        connection.failure(error)
    }
}

/// The master that a sentinel names.
async fn master(
    sentinel: &Endpoint,
    name: &str,
    credentials: &Credentials,
    dialer: &Dialer,
) -> Result<Endpoint, SourceError> {
    let mut connection = Connection::open(sentinel.clone(), credentials, dialer).await?;
    let mut command = cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let mut answer = connection.query::<Option<(String, u16)>>(&command).await;
    // sentinels often have no password where their master has one
    if answer
        .as_ref()
        .is_err_and(|error| error.code() == Some("NOAUTH"))
    {
        connection.authenticate(credentials).await?;
        answer = connection.query(&command).await;
    }
    let shown = quoted(name);
    match answer {
        Ok(Some((host, port))) => Ok(Endpoint {
            host,
            port,
            tls: sentinel.tls,
        }),
        Ok(None) => {
            let message = format!("the sentinel at {sentinel} knows no master `{shown}`");
            Err(SourceError::new(SourceErrorKind::NotFound, message))
        }
        Err(error)
            if error
                .detail()
                .is_some_and(|text| text.starts_with("unknown command")) =>
        {
            let message = format!("{sentinel} is no sentinel; their port is 26379 by default");
            Err(SourceError::new(SourceErrorKind::Protocol, message))
        }
        Err(error) => Err(connection.failure(&error)),
    }
}

/// The entries that a group has not acknowledged, from the answer to `XINFO GROUPS`.
fn unacknowledged(
    server: &Endpoint,
    key: &str,
    group: &str,
    answer: Value,
) -> Result<i64, SourceError> {
    let groups = Vec::<HashMap<String, Value>>::from_redis_value(answer);
    let groups = groups.map_err(|_| SourceError::protocol(server, "no list of groups"))?;
    let is_named = |fields: &&HashMap<String, Value>| match fields.get("name") {
        Some(Value::BulkString(name)) => name == group.as_bytes(),
        Some(Value::SimpleString(name)) => name == group,
        _ => false,
    };
    let (key, shown) = (quoted(key), quoted(group));
    let Some(fields) = groups.iter().find(is_named) else {
        let message = format!("the stream `{key}` at {server} has no group `{shown}`");
        return Err(SourceError::new(SourceErrorKind::NotFound, message));
    };
    match (fields.get("lag"), fields.get("pending")) {
        (Some(Value::Int(lag)), Some(Value::Int(pending))) => Ok(lag.saturating_add(*pending)),
        (None, Some(_)) => {
            let message = format!(
                "{server} does not tell the lag of group `{shown}`, which Redis does since \
                 version 7; leave the group out to count all entries"
            );
            Err(SourceError::new(SourceErrorKind::InvalidValue, message))
        }
        _ => {
            let message = format!(
                "{server} does not know the lag of group `{shown}`, as after XDEL of entries that \
                 were not read; it will once the group has read on"
            );
            Err(SourceError::new(SourceErrorKind::InvalidValue, message))
        }
    }
}

/// A connection to a server.
struct Connection {
    server: Endpoint,
    commands: MultiplexedConnection,
    /// Moves bytes for as long as it is polled.
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    async fn open(
        server: Endpoint,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<Self, SourceError> {
        let stream = dialer.connect(&server, credentials).await?;
        // the caller limits the time
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        let opened = MultiplexedConnection::new_with_config(&settings, stream, config).await;
        let (commands, driver) = opened.map_err(|error| failure(&server, &error))?;
        Ok(Self {
            server,
            commands,
            driver: Box::pin(driver),
        })
    }

    async fn authenticate(&mut self, credentials: &Credentials) -> Result<(), SourceError> {
        let Some(password) = &credentials.password else {
            return Ok(());
        };
        let mut command = cmd("AUTH");
        command.arg(&credentials.username).arg(password);
        let answer = self.query::<Value>(&command).await;
        answer.map(drop).map_err(|error| match error.detail() {
            Some(detail) if detail.contains("without any password") => {
                let message = format!("{} has no password; take it out of the Secret", self.server);
                SourceError::new(SourceErrorKind::Unauthorized, message)
            }
            // servers before version 6 say ERR
            Some(_) if error.code() == Some("ERR") => self.unauthorized("invalid password"),
            _ => self.failure(&error),
        })
    }

    async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        let query = pin!(command.query_async(&mut self.commands));
        match select(query, self.driver.as_mut()).await {
            Either::Left((answer, _)) => answer,
            // the connection ended, and the query ends with the reason
            Either::Right(((), query)) => query.await,
        }
    }

    fn unauthorized(&self, why: &str) -> SourceError {
        unauthorized(&self.server, why)
    }

    fn failure(&self, error: &RedisError) -> SourceError {
        failure(&self.server, error)
    }
}

fn unauthorized(server: &Endpoint, why: &str) -> SourceError {
    let message = format!(
        "{server} refuses the credentials: {}; check username and password in the Secret",
        quoted(why)
    );
    SourceError::new(SourceErrorKind::Unauthorized, message)
}

/// What a server said in an error, without its code.
fn said(error: &RedisError) -> String {
    let text = error
        .detail()
        .map_or_else(|| error.to_string(), str::to_owned);
    quoted(text.trim_end_matches('.'))
}

fn failure(server: &Endpoint, error: &RedisError) -> SourceError {
    let says = |kind| SourceError::new(kind, format!("{server} says: {}", said(error)));
    match (error.kind(), error.code()) {
        (ErrorKind::Io, _) => SourceError::broken(server, error),
        (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => unauthorized(server, &said(error)),
        (ErrorKind::Server(ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown), _) => {
            says(SourceErrorKind::Unreachable)
        }
        (_, Some(_)) => says(SourceErrorKind::Protocol),
        _ => {
            let why = format!("it does not speak as Redis does ({})", said(error));
            SourceError::protocol(server, &why)
        }
    }
}
