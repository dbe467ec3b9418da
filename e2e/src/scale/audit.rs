//! Writes to the API server, by its audit log.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    error::{Error, Result, While},
    interrupt,
};

/// Resources whose writes are no writes of a decision: the Lease that says who leads, and questions
/// in the form of objects.
const UNCOUNTED: [&str; 3] = ["leases", "tokenreviews", "subjectaccessreviews"];

/// A write that the API server has answered.
#[derive(Debug, Clone)]
pub struct Write {
    /// When the answer was sent, in seconds since 1970.
    pub at: f64,
    /// The verb, such as `patch`.
    pub verb: String,
    /// The resource, with its subresource if it has one: `deployments`, `pods/status`.
    pub resource: String,
    /// `NAMESPACE/NAME` of the object.
    pub object: String,
    /// The path and the query of the request.
    pub uri: String,
    /// HTTP status of the answer.
    pub code: u64,
    /// The body, where the policy of the log keeps it.
    pub body: Value,
}

/// What has been read of a log.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    /// Only this user's writes are read.
    user: String,
    /// Bytes that have been read.
    position: u64,
}

impl AuditLog {
    /// The writes of this user from now on.
    ///
    /// # Errors
    /// When there is no log.
    pub fn of(path: PathBuf, user: &str) -> Result<Self> {
        let mut log = Self {
            path,
            user: user.to_owned(),
            position: 0,
        };
        log.skip()?;
        Ok(log)
    }

    /// Leaves out what has been written so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn skip(&mut self) -> Result<()> {
        let what = || format!("reading {}", self.path.display());
        self.position = self.path.metadata().while_(what)?.len();
        Ok(())
    }

    /// The writes since the last call.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self) -> Result<Vec<Write>> {
        let what = || format!("reading {}", self.path.display());
        let mut file = File::open(&self.path).while_(what)?;
        file.seek(SeekFrom::Start(self.position)).while_(what)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).while_(what)?;
        // the last line may not be whole yet
        let end = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(end.map_or(0, |end| end + 1));
        self.position += bytes.len() as u64;
        let text = String::from_utf8_lossy(&bytes);
        // most lines are somebody else's, and need no parser
        let lines = text.lines().filter(|line| line.contains(&self.user));
        Ok(lines.filter_map(|line| parse(line, &self.user)).collect())
    }

    /// Waits until the user has written nothing that `counts` for `quiet`, and returns all that was
    /// written until then.
    ///
    /// # Errors
    /// The last writes, when that takes longer than `limit`.
    pub fn wait_until_quiet(
        &mut self,
        counts: impl Fn(&Write) -> bool,
        quiet: Duration,
        limit: Duration,
    ) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        let mut waited = Duration::ZERO;
        let mut silent = Duration::ZERO;
        while silent < quiet {
            if waited > limit {
                return Err(Error::Slow {
                    what: format!("{quiet:?} without a write of {}", self.user),
                    limit,
                    tail: describe(&writes[writes.len().saturating_sub(20)..]),
                });
            }
            interrupt::sleep(super::LOOK)?;
            waited += super::LOOK;
            silent += super::LOOK;
            let new = self.read()?;
            if new.iter().any(&counts) {
                silent = Duration::ZERO;
            }
            writes.extend(new);
        }
        Ok(writes)
    }
}

/// Whether a write is one of a decision or of what is shown of it.
pub fn counts(write: &Write) -> bool {
    !UNCOUNTED.contains(&write.resource.as_str())
}

/// Whether a write is one of a decision. While money is spent, statuses show it now and then.
pub fn decides(write: &Write) -> bool {
    counts(write) && !write.resource.ends_with("/status")
}

/// How many writes there are of each kind: verb and resource.
pub fn by_kind<'a>(writes: impl IntoIterator<Item = &'a Write>) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for write in writes {
        let refused = if write.code < 300 { "" } else { " (refused)" };
        let kind = format!("{} {}{refused}", write.verb, write.resource);
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// Writes for a message, one a line.
pub fn describe(writes: &[Write]) -> String {
    let line = |write: &Write| {
        let (verb, resource, object, code) =
            (&write.verb, &write.resource, &write.object, write.code);
        format!("{verb} {resource} {object}: {code}")
    };
    writes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Writes that set the number of a Deployment's replicas to at least `replicas`, by the Deployment.
pub fn scalings(writes: &[Write], replicas: u64) -> BTreeMap<&str, Vec<&Write>> {
    let mut scalings: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    let is_scaling = |write: &&Write| {
        matches!(write.resource.as_str(), "deployments" | "deployments/scale")
            && write.code < 300
            && write.body["spec"]["replicas"].as_u64() >= Some(replicas)
    };
    for write in writes.iter().filter(is_scaling) {
        scalings.entry(&write.object).or_default().push(write);
    }
    scalings
}

fn parse(line: &str, user: &str) -> Option<Write> {
    let event: Value = serde_json::from_str(line).ok()?;
    if event["user"]["username"] != user || event["stage"] != "ResponseComplete" {
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let target = &event["objectRef"];
    let at: Timestamp = event["stageTimestamp"].as_str()?.parse().ok()?;
    let resource = match target["subresource"].as_str() {
        Some(subresource) => format!("{}/{subresource}", text(&target["resource"])),
        None => text(&target["resource"]),
    };
    Some(Write {
        at: at.as_microsecond() as f64 / 1e6,
        verb: text(&event["verb"]),
        resource,
        object: format!("{}/{}", text(&target["namespace"]), text(&target["name"])),
        uri: text(&event["requestURI"]),
        code: event["responseStatus"]["code"].as_u64().unwrap_or(0),
        body: event["requestObject"].clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(user: &str, resource: &str, name: &str, replicas: u64) -> String {
        serde_json::json!({
            "stage": "ResponseComplete", "verb": "patch", "user": {"username": user}, "requestURI": "/x",
            "objectRef": {"resource": resource, "namespace": "team-0", "name": name},
            "responseStatus": {"code": 200}, "stageTimestamp": "2026-11-26T18:00:00.250000Z",
            "requestObject": {"spec": {"replicas": replicas}},
        })
        .to_string()
    }

    #[test]
    fn writes_are_read_once_when_their_lines_are_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{}", line("operator", "deployments", "old", 2)).unwrap();
        let mut log = AuditLog::of(file.path().to_owned(), "operator").unwrap();
        writeln!(file, "{}", line("operator", "deployments", "a", 2)).unwrap();
        writeln!(file, "{}", line("operator-2", "deployments", "b", 2)).unwrap();
        writeln!(file, "{}", line("operator", "leases", "bursar", 0)).unwrap();
        let last = line("operator", "deployments", "c", 1);
        write!(file, "{}", &last[..20]).unwrap();
        let writes = log.read().unwrap();
        assert_eq!(
            describe(&writes),
            "patch deployments team-0/a: 200\npatch leases team-0/bursar: 200"
        );
        assert_eq!(writes.iter().filter(|write| counts(write)).count(), 1);
        assert!((writes[0].at.fract() - 0.25).abs() < 1e-6);
        writeln!(file, "{}", &last[20..]).unwrap();
        let later = log.read().unwrap();
        assert_eq!(describe(&later), "patch deployments team-0/c: 200");
        let all = [writes, later].concat();
        let scaled: Vec<&str> = scalings(&all, 2).into_keys().collect();
        assert_eq!(scaled, ["team-0/a"], "one replica is not enough");
    }
}
