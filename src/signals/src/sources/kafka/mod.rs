//! The lag of a consumer group of Kafka on a topic.
//!
//! Any broker names the topic's leaders and the group's coordinator. Each of them is connected to
//! through the dialer, so that none can be an address that is refused.

mod sasl;
mod wire;

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

pub use sasl::Sasl;
use wire::{Api, Connection, Encoder, Malformed};

use super::error::{SourceError, SourceErrorKind, quoted};
use crate::credentials::Credentials;
use crate::dial::{Dialer, Endpoint};

/// Topics with more partitions are not read.
const MAX_PARTITIONS: usize = 1000;
/// The leaders of a topic's partitions that are asked.
const MAX_LEADERS: usize = 32;
/// The leaders that are asked at once.
const LEADERS_AT_ONCE: usize = 8;
/// Kafka's bound for names of topics; those of groups are shorter than the protocol's bound.
const MAX_TOPIC_BYTES: usize = 249;
const MAX_GROUP_BYTES: usize = 1000;

/// Timestamps of `ListOffsets` that stand for the ends of a partition.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// A consumer group, and a topic that it reads. The lag is the sum over the partitions of the last
/// offset less the one that the group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Brokers, of which one that answers is asked for all others. With TLS those that it names are
    /// connected to with TLS too.
    pub brokers: Vec<Endpoint>,
    /// The group's id.
    pub group: String,
    /// The topic's name.
    pub topic: String,
    /// How the brokers are told who asks; `username` and `password` are those of the Secret.
    pub sasl: Option<Sasl>,
    /// What a partition counts of which the group has committed nothing.
    pub without_commits: WithoutCommits,
}

/// What a partition counts of which a group has committed nothing, as in a new group, or one whose
/// commits have expired. It should be as `auto.offset.reset` of the consumers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutCommits {
    /// All messages that the partition has: the group will read them from the earliest on.
    Earliest,
    /// One message if it has any, so that a consumer starts that commits: until one does, the group reads
    /// nothing, and what comes from then on is all that counts.
    Latest,
}

/// Partitions with an offset each.
type Offsets = BTreeMap<i32, i64>;

/// What a broker knows of a topic.
struct Topic {
    /// Where the brokers are.
    brokers: BTreeMap<i32, Endpoint>,
    /// The partitions of each leader.
    leaders: BTreeMap<i32, Vec<i32>>,
}

impl Kafka {
    pub(super) async fn read(
        &self,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        for (what, name, bound) in [
            ("topic", &self.topic, MAX_TOPIC_BYTES),
            ("group", &self.group, MAX_GROUP_BYTES),
        ] {
            if name.is_empty() || name.len() > bound {
                let bytes = name.len();
                let message =
                    format!("the name of the {what} has {bytes} bytes; from 1 to {bound} may be");
                return Err(SourceError::new(SourceErrorKind::NotFound, message));
            }
        }
        let reader = Reader {
            source: self,
            credentials,
            dialer,
        };
        let mut failure = SourceError::new(SourceErrorKind::Unreachable, "kafka has no broker");
        for broker in &self.brokers {
            match reader.connect(broker.clone()).await {
                // another broker may be one that works
                Err(error) if error.kind() == SourceErrorKind::Unreachable => failure = error,
                Err(error) => return Err(error),
                Ok(connection) => return reader.lag(connection).await,
            }
        }
        Err(failure)
    }
}

/// One read.
#[derive(Clone, Copy)]
struct Reader<'a> {
    source: &'a Kafka,
    credentials: &'a Credentials,
    dialer: &'a Dialer,
}

impl Reader<'_> {
    async fn connect(&self, broker: Endpoint) -> Result<Connection, SourceError> {
        let stream = self.dialer.connect(&broker, self.credentials).await?;
        let mut connection = Connection::new(broker, stream);
        if let Some(sasl) = self.source.sasl {
            sasl.authenticate(&mut connection, self.credentials).await?;
        }
        Ok(connection)
    }

    async fn lag(&self, mut connection: Connection) -> Result<u64, SourceError> {
        let named_by = connection.broker.clone();
        let named_by = &named_by;
        let topic = self.topic(&mut connection).await?;
        let coordinator = self.coordinator(&mut connection).await?;
        if coordinator != connection.broker {
            connection = self.connect(coordinator).await?;
        }
        let partitions: Vec<i32> = topic.leaders.values().flatten().copied().collect();
        let committed = self.committed(&mut connection, &partitions).await?;
        let (brokers, committed) = (&topic.brokers, &committed);
        let reads = topic.leaders.into_iter().map(|(leader, partitions)| {
            let broker = brokers.get(&leader).cloned();
            async move {
                let broker = broker.ok_or_else(|| {
                    let why = format!("it names broker {leader} without an address");
                    SourceError::protocol(named_by, &why)
                })?;
                self.lag_at(broker, &partitions, committed).await
            }
        });
        let lags = stream::iter(reads).buffer_unordered(LEADERS_AT_ONCE);
        let lag = lags.try_fold(0_u64, async |sum, lag| Ok(sum.saturating_add(lag)));
        Ok(lag.await?.saturating_mul(1000))
    }

    /// The lag on the partitions that a broker leads.
    async fn lag_at(
        &self,
        broker: Endpoint,
        partitions: &[i32],
        committed: &Offsets,
    ) -> Result<u64, SourceError> {
        let mut connection = self.connect(broker).await?;
        let latest = self.offsets(&mut connection, partitions, LATEST).await?;
        let is_new = |partition: &i32| !committed.contains_key(partition);
        let new: Vec<i32> = partitions.iter().copied().filter(is_new).collect();
        let begins = match new.is_empty() {
            false => self.offsets(&mut connection, &new, EARLIEST).await?,
            true => Offsets::new(),
        };
        let lag_of = |(partition, latest): (&i32, &i64)| {
            let lag = match (committed.get(partition), begins.get(partition)) {
                (Some(committed), _) => latest.saturating_sub(*committed),
                (None, Some(begin)) => {
                    let all = latest.saturating_sub(*begin);
                    match self.source.without_commits {
                        WithoutCommits::Earliest => all,
                        WithoutCommits::Latest => all.min(1),
                    }
                }
                (None, None) => 0,
            };
            // a topic that was made anew has fewer messages than were committed
            u64::try_from(lag).unwrap_or(0)
        };
        Ok(latest.iter().map(lag_of).fold(0, u64::saturating_add))
    }

    async fn topic(&self, connection: &mut Connection) -> Result<Topic, SourceError> {
        struct Partition {
            index: i32,
            leader: i32,
        }
        let name = &self.source.topic;
        let create = 0;
        let request = Encoder::default()
            .array([name].into_iter(), |encoder, name| encoder.string(name))
            .int8(create);
        let (brokers, topics) = connection
            .call(Api::METADATA, request, |fields| {
                let _throttle_ms = fields.int32()?;
                let brokers = fields.array(|fields| {
                    let node = fields.int32()?;
                    let (host, port) = (fields.string()?, fields.int32()?);
                    let _rack = fields.nullable_string()?;
                    let port = u16::try_from(port).map_err(|_| Malformed)?;
                    Ok((node, host, port))
                })?;
                let _cluster = fields.nullable_string()?;
                let _controller = fields.int32()?;
                let topics = fields.array(|fields| {
                    let error = fields.int16()?;
                    let name = fields.string()?;
                    let _is_internal = fields.boolean()?;
                    let partitions = fields.array(|fields| {
                        let _error = fields.int16()?;
                        let (index, leader) = (fields.int32()?, fields.int32()?);
                        let _replicas = fields.array(|fields| fields.int32())?;
                        let _in_sync = fields.array(|fields| fields.int32())?;
                        Ok(Partition { index, leader })
                    })?;
                    Ok((error, name, partitions))
                })?;
                Ok((brokers, topics))
            })
            .await?;
        let broker = &connection.broker;
        let topic = topics.into_iter().find(|(_, topic, _)| topic == name);
        let Some((error, _, partitions)) = topic else {
            return Err(SourceError::protocol(
                broker,
                "it does not tell of the topic",
            ));
        };
        self.check(broker, error)?;
        let shown = quoted(name);
        if partitions.len() > MAX_PARTITIONS {
            let many = partitions.len();
            let message = format!(
                "topic `{shown}` at {broker} has {many} partitions; {MAX_PARTITIONS} may be"
            );
            return Err(SourceError::new(SourceErrorKind::InvalidValue, message));
        }
        let mut leaders: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for Partition { index, leader } in partitions {
            if leader < 0 {
                let message =
                    format!("partition {index} of topic `{shown}` has no leader, says {broker}");
                return Err(SourceError::new(SourceErrorKind::Unreachable, message));
            }
            leaders.entry(leader).or_default().push(index);
        }
        if leaders.is_empty() {
            return Err(SourceError::protocol(broker, "the topic has no partitions"));
        }
        if leaders.len() > MAX_LEADERS {
            let many = leaders.len();
            let message = format!(
                "topic `{shown}` at {broker} is spread over {many} brokers; {MAX_LEADERS} may be"
            );
            return Err(SourceError::new(SourceErrorKind::InvalidValue, message));
        }
        let tls = broker.tls;
        let brokers = brokers.into_iter();
        let brokers = brokers.map(|(node, host, port)| (node, Endpoint { host, port, tls }));
        Ok(Topic {
            brokers: brokers.collect(),
            leaders,
        })
    }

    async fn coordinator(&self, connection: &mut Connection) -> Result<Endpoint, SourceError> {
        let of_groups = 0;
        let request = Encoder::default()
            .string(&self.source.group)
            .int8(of_groups);
        let (error, host, port) = connection
            .call(Api::FIND_COORDINATOR, request, |fields| {
                let _throttle_ms = fields.int32()?;
                let error = fields.int16()?;
                let _message = fields.nullable_string()?;
                let _node = fields.int32()?;
                Ok((error, fields.string()?, fields.int32()?))
            })
            .await?;
        self.check(&connection.broker, error)?;
        let port = u16::try_from(port);
        Ok(Endpoint {
            host,
            port: port.map_err(|_| {
                SourceError::protocol(&connection.broker, "the coordinator has no port")
            })?,
            tls: connection.broker.tls,
        })
    }

    /// The offsets that the group has committed. Partitions without a commit are left out.
    async fn committed(
        &self,
        connection: &mut Connection,
        partitions: &[i32],
    ) -> Result<Offsets, SourceError> {
        let topic = [&self.source.topic];
        let request = Encoder::default().string(&self.source.group).array(
            topic.into_iter(),
            |encoder, topic| {
                let encoder = encoder.string(topic);
                encoder.array(partitions.iter(), |encoder, partition| {
                    encoder.int32(*partition)
                })
            },
        );
        let (topics, error) = connection
            .call(Api::OFFSET_FETCH, request, |fields| {
                let _throttle_ms = fields.int32()?;
                let topics = fields.array(|fields| {
                    let _name = fields.string()?;
                    fields.array(|fields| {
                        let (partition, offset) = (fields.int32()?, fields.int64()?);
                        let _metadata = fields.nullable_string()?;
                        Ok((partition, offset, fields.int16()?))
                    })
                })?;
                Ok((topics, fields.int16()?))
            })
            .await?;
        self.check(&connection.broker, error)?;
        let mut offsets = self.complete(&connection.broker, topics.concat(), partitions)?;
        offsets.retain(|_, offset| *offset >= 0);
        Ok(offsets)
    }

    /// The first or last offsets of partitions that the broker leads.
    async fn offsets(
        &self,
        connection: &mut Connection,
        partitions: &[i32],
        timestamp: i64,
    ) -> Result<Offsets, SourceError> {
        let no_replica = -1;
        let topic = [&self.source.topic];
        let request =
            Encoder::default()
                .int32(no_replica)
                .array(topic.into_iter(), |encoder, topic| {
                    let encoder = encoder.string(topic);
                    encoder.array(partitions.iter(), |encoder, partition| {
                        encoder.int32(*partition).int64(timestamp)
                    })
                });
        let topics = connection
            .call(Api::LIST_OFFSETS, request, |fields| {
                fields.array(|fields| {
                    let _name = fields.string()?;
                    fields.array(|fields| {
                        let (partition, error) = (fields.int32()?, fields.int16()?);
                        let _timestamp = fields.int64()?;
                        Ok((partition, fields.int64()?, error))
                    })
                })
            })
            .await?;
        self.complete(&connection.broker, topics.concat(), partitions)
    }

    /// The offsets of a response, which must have each partition that was asked for.
    fn complete(
        &self,
        broker: &Endpoint,
        answered: Vec<(i32, i64, i16)>,
        partitions: &[i32],
    ) -> Result<Offsets, SourceError> {
        let mut offsets = Offsets::new();
        for (partition, offset, error) in answered {
            self.check(broker, error)?;
            offsets.insert(partition, offset);
        }
        let is_missing = |partition: &&i32| !offsets.contains_key(partition);
        if let Some(partition) = partitions.iter().find(is_missing) {
            let why = format!("it tells no offset of partition {partition}");
            return Err(SourceError::protocol(broker, &why));
        }
        offsets.retain(|partition, _| partitions.contains(partition));
        Ok(offsets)
    }

    /// The error of a response.
    fn check(&self, broker: &Endpoint, code: i16) -> Result<(), SourceError> {
        use SourceErrorKind::{NotFound, Protocol, Unauthorized, Unreachable};
        let (topic, group) = (quoted(&self.source.topic), quoted(&self.source.group));
        let (kind, why) = match code {
            0 => return Ok(()),
            3 => (NotFound, format!("there is no topic `{topic}`")),
            17 => (NotFound, format!("`{topic}` is no name of a topic")),
            5 | 6 => (
                Unreachable,
                format!("a partition of topic `{topic}` changes its leader"),
            ),
            14..=16 => (
                Unreachable,
                format!("group `{group}` has no coordinator at the moment"),
            ),
            24 => (NotFound, format!("`{group}` is no name of a group")),
            29 => (
                Unauthorized,
                format!("the user may not describe topic `{topic}`; grant it Describe"),
            ),
            30 => (
                Unauthorized,
                format!("the user may not describe group `{group}`; grant it Describe"),
            ),
            35 => (Protocol, "it is older than Kafka 1.0".to_owned()),
            _ => (Protocol, format!("error {code} of Kafka's protocol")),
        };
        Err(SourceError::new(kind, format!("{broker} says: {why}")))
    }
}
