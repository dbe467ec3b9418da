//! A backup: a header, then one SpendRecord or SpendCorrection a line, as JSON.

use std::io::{Write, stdout};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const VERSION: u32 = 2;
/// The first version, which had no corrections, is read too.
const OLDEST_VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// Version of the format.
    version: u32,
    /// When the records were read.
    time: Timestamp,
    /// How many follow.
    count: usize,
    /// SHA-256 of all lines that follow, with their line ends, in hexadecimal.
    sha256: String,
}

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{file}: {why}")]
    Io { file: String, why: String },
    #[error("{file}, line {line}: {why}")]
    Line {
        file: String,
        line: usize,
        why: String,
    },
    #[error(
        "{file} is of version {version} of the format, and this program reads versions {OLDEST_VERSION} to {VERSION}"
    )]
    Version { file: String, version: u32 },
    #[error(
        "{file} is not whole: its header says {expected}, and {found} follow; take another backup's file, or copy this one again"
    )]
    Damaged {
        file: String,
        expected: String,
        found: String,
    },
}

/// The parts of a record that mean something in another cluster: not the metadata that a server
/// writes itself.
fn portable_record(record: &Value) -> Value {
    let meta = &record["metadata"];
    let mut metadata = json!({"name": meta["name"], "labels": meta["labels"]});
    if meta["annotations"].is_object() {
        metadata["annotations"] = meta["annotations"].clone();
    }
    json!({
        "apiVersion": record["apiVersion"], "kind": record["kind"], "metadata": metadata,
        "spec": record["spec"], "status": record["status"],
    })
}

/// Encodes a backup of these records.
pub(crate) fn encode(records: &[Value], time: Timestamp) -> Result<Vec<u8>, FileError> {
    let failed = |error: serde_json::Error| FileError::Io {
        file: "the backup".into(),
        why: error.to_string(),
    };
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, &portable_record(record)).map_err(failed)?;
        lines.push(b'\n');
    }
    let header = Header {
        version: VERSION,
        time,
        count: records.len(),
        sha256: digest(&lines),
    };
    let mut bytes = serde_json::to_vec(&header).map_err(failed)?;
    bytes.push(b'\n');
    bytes.append(&mut lines);
    Ok(bytes)
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a backup. A file of that name is replaced only by a whole one.
pub(crate) fn write_file(file: Option<&Path>, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |file: &str, error: std::io::Error| FileError::Io {
        file: file.to_owned(),
        why: error.to_string(),
    };
    let Some(path) = file else {
        return stdout()
            .write_all(bytes)
            .map_err(|error| failed("standard output", error));
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| failed(&path.display().to_string(), error))
}

/// The records of a backup file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<Value>, FileError> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| FileError::Io {
        file: file.clone(),
        why: error.to_string(),
    })?;
    decode(&file, &bytes)
}

/// Decodes what [`encode`] made.
pub(crate) fn decode(file: &str, bytes: &[u8]) -> Result<Vec<Value>, FileError> {
    let wrong = |line: usize, why: String| FileError::Line {
        file: file.to_owned(),
        line,
        why,
    };
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (first, lines) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 1..]));
    let header: Header = serde_json::from_slice(first)
        .map_err(|error| wrong(1, format!("it is not the header of a backup: {error}")))?;
    if !(OLDEST_VERSION..=VERSION).contains(&header.version) {
        return Err(FileError::Version {
            file: file.to_owned(),
            version: header.version,
        });
    }
    let count = lines.split_inclusive(|byte| *byte == b'\n').count();
    let sha256 = digest(lines);
    if (count, &sha256) != (header.count, &header.sha256) {
        let expected =
            |count: usize, sha256: &str| format!("{count} records with SHA-256 {sha256}");
        return Err(FileError::Damaged {
            file: file.to_owned(),
            expected: expected(header.count, &header.sha256),
            found: expected(count, &sha256),
        });
    }
    let lines = lines.split_inclusive(|byte| *byte == b'\n').enumerate();
    lines
        .map(|(at, line)| {
            serde_json::from_slice(line)
                .map_err(|error| wrong(at + 2, format!("it is not a record: {error}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn sample() -> Vec<u8> {
        encode(&samples::records(), "2026-11-24T04:00:00Z".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_backup_gives_back_its_records_without_what_a_server_wrote() {
        let mut records = samples::records();
        records[0]["metadata"]["uid"] = "a".into();
        records[0]["metadata"]["managedFields"] = json!([{"manager": "bursar"}]);
        let bytes = encode(&records, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(decode("b", &bytes).unwrap(), samples::records());
    }

    #[test]
    fn a_backup_has_the_corrections_too() {
        let all = [samples::records(), samples::corrections()].concat();
        let bytes = encode(&all, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(decode("b", &bytes).unwrap(), all);
    }

    #[test]
    fn a_backup_that_is_not_whole_is_refused() {
        let whole = sample();
        let text = String::from_utf8(whole.clone()).unwrap();
        let last = text.trim_end().rfind('\n').unwrap();
        for (cut, named) in [
            (whole.len() - 1, "is not whole"),
            (last + 1, "6 records with SHA-256"),
            (40, "line 1: it is not the header"),
            (0, "line 1: it is not the header"),
        ] {
            let error = decode("b", &whole[..cut]).unwrap_err().to_string();
            assert!(error.contains(named), "{cut}: {error}");
        }
        let changed = text.replace("164.50", "164.51");
        let error = decode("b", changed.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("is not whole"), "{error}");
        let later = text.replacen("\"version\":2", "\"version\":3", 1);
        let error = decode("b", later.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("version 3"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_only_by_a_whole_backup() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        write_file(Some(&path), b"old").unwrap();
        write_file(Some(&path), &sample()).unwrap();
        assert_eq!(read_file(&path).unwrap(), samples::records());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = folder.path().join("none").join("ledger.jsonl");
        assert!(
            write_file(Some(&nowhere), b"")
                .unwrap_err()
                .to_string()
                .contains("none")
        );
    }
}
