//! Writes container images as OCI archives: one layer, and the same bytes for the same contents. They are Docker archives as well.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result, While},
    process,
};

/// The user as whom images run unless a pod says otherwise.
pub const NONROOT: u32 = 65_532;

const MEDIA_TYPE: &str = "application/vnd.oci.image";
const PASSWD: &str = "root:x:0:0::/:\nnonroot:x:65532:65532::/:\n";
const LDD_LIMIT: Duration = Duration::from_secs(60);

/// An image that was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Name with a tag that changes with the contents, as in `bursar.local/engine:dev-0123456789ab`: a reinstall rolls its pods.
    pub reference: String,
    /// The same image under a tag that stays, as in `bursar.local/engine:dev`.
    pub stable: String,
    /// The OCI archive: for `ctr images import`, `skopeo copy oci-archive:...` and their like.
    pub archive: PathBuf,
}

/// Writes `archive`: each program as `/NAME`, with the shared libraries that they need at their paths. The first is the image's entry
/// point. `stable` is the image's name and tag.
///
/// # Errors
/// When a file cannot be read or written, or a library of a program is missing.
pub fn write(archive: &Path, stable: &str, programs: &[&Path]) -> Result<Image> {
    let name_of = |program: &Path| {
        let name = program.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut files = BTreeMap::new();
    for program in programs {
        files.insert(name_of(program), program.to_path_buf());
        for library in libraries(program)? {
            let path = library.to_string_lossy();
            files.insert(path.trim_start_matches('/').to_owned(), library.clone());
        }
    }
    let name = programs
        .first()
        .map(|program| name_of(program))
        .unwrap_or_default();
    let directory = archive.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).while_(|| format!("creating {}", directory.display()))?;
    let writing = || format!("writing {}", archive.display());

    let mut layer = tempfile::NamedTempFile::new_in(directory).while_(writing)?;
    let layer_blob = write_layer(&mut layer, &files).while_(writing)?;
    let image = Image {
        reference: format!("{stable}-{}", &layer_blob.digest[..12]),
        stable: stable.to_owned(),
        archive: archive.to_owned(),
    };
    let config = Json::new(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": [format!("/{name}")],
            "Env": ["PATH=/"],
            "User": format!("{NONROOT}:{NONROOT}"),
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": name,
                "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer_blob.digest)] },
    }));
    let manifest = Json::new(&json!({
        "schemaVersion": 2,
        "mediaType": format!("{MEDIA_TYPE}.manifest.v1+json"),
        "config": config.blob.descriptor("config.v1+json"),
        "layers": [layer_blob.descriptor("layer.v1.tar")],
    }));
    let named = |reference: &str| {
        let mut descriptor = manifest.blob.descriptor("manifest.v1+json");
        descriptor["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        descriptor["annotations"] = json!({
            "io.containerd.image.name": full_name(reference),
            "org.opencontainers.image.ref.name": reference.rsplit(':').next(),
        });
        descriptor
    };
    let index = Json::new(
        &json!({ "schemaVersion": 2, "manifests": [named(&image.reference), named(stable)] }),
    );
    // for `docker load`, and so `minikube image load`, of Docker before 25
    let docker = Json::new(&json!([{
        "Config": config.blob.path(),
        "RepoTags": [&image.reference, stable],
        "Layers": [layer_blob.path()],
    }]));

    let mut out = tempfile::NamedTempFile::new_in(directory).while_(writing)?;
    (|| {
        let mut tar = tar::Builder::new(out.as_file_mut());
        append(
            &mut tar,
            "oci-layout",
            0o644,
            &br#"{"imageLayoutVersion":"1.0.0"}"#[..],
            30,
        )?;
        for (name, json) in [("index.json", &index), ("manifest.json", &docker)] {
            append(&mut tar, name, 0o644, &json.bytes[..], json.blob.size)?;
        }
        for json in [&config, &manifest] {
            append(
                &mut tar,
                &json.blob.path(),
                0o644,
                &json.bytes[..],
                json.blob.size,
            )?;
        }
        append(
            &mut tar,
            &layer_blob.path(),
            0o644,
            layer.reopen()?,
            layer_blob.size,
        )?;
        tar.finish()
    })()
    .while_(writing)?;
    out.persist(archive)
        .map_err(|error| error.error)
        .while_(writing)?;
    Ok(image)
}

/// The name under which a container runtime looks for an image: `x:1` is `docker.io/library/x:1` there.
fn full_name(reference: &str) -> String {
    match reference.split_once('/') {
        None => format!("docker.io/library/{reference}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => reference.into(),
        Some(_) => format!("docker.io/{reference}"),
    }
}

/// The layer: a root directory with the files, `/tmp`, and users to run as.
fn write_layer(out: impl Write, files: &BTreeMap<String, PathBuf>) -> io::Result<Blob> {
    let mut out = Hashing {
        inner: out,
        hash: Sha256::new(),
        size: 0,
    };
    let mut tar = tar::Builder::new(&mut out);
    let mut directories = BTreeMap::from([("etc".to_owned(), 0o755), ("tmp".to_owned(), 0o1777)]);
    for path in files.keys() {
        let parents = Path::new(path)
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty());
        directories.extend(parents.map(|parent| (parent.to_string_lossy().into_owned(), 0o755)));
    }
    for (path, mode) in directories {
        let mut header = header(mode, 0);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, path + "/", io::empty())?;
    }
    append(
        &mut tar,
        "etc/passwd",
        0o644,
        PASSWD.as_bytes(),
        PASSWD.len() as u64,
    )?;
    for (path, source) in files {
        let file = fs::File::open(source)?;
        let size = file.metadata()?.len();
        append(&mut tar, path, 0o755, file, size)?;
    }
    tar.finish()?;
    drop(tar);
    out.inner.flush()?;
    Ok(Blob {
        digest: hex(out.hash),
        size: out.size,
    })
}

/// The shared libraries of a program, its loader included; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    command.arg(program).env("LC_ALL", "C");
    let (status, output) = process::run_any(&mut command, LDD_LIMIT, || Ok(()))?;
    let is_static = ["not a dynamic executable", "statically linked"]
        .iter()
        .any(|words| output.stdout.contains(words) || output.stderr.contains(words));
    if is_static {
        return Ok(Vec::new());
    }
    if !status.success() || output.stdout.contains("not found") {
        return Err(Error::Failed {
            what: process::command_line(&command),
            status: status.to_string(),
            tail: output.stdout + &output.stderr,
        });
    }
    // `libm.so.6 => /lib/libm.so.6 (0x...)` or `/lib64/ld-linux-x86-64.so.2 (0x...)`; linux-vdso.so.1 has no file.
    Ok(output
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    data: impl Read,
    size: u64,
) -> io::Result<()> {
    tar.append_data(&mut header(mode, size), path, data)
}

/// The same for the same contents: no times, no owners of this machine.
fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Contents known by their hash.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, kind: &str) -> serde_json::Value {
        json!({ "mediaType": format!("{MEDIA_TYPE}.{kind}"), "digest": format!("sha256:{}", self.digest), "size": self.size })
    }
}

struct Json {
    bytes: Vec<u8>,
    blob: Blob,
}

impl Json {
    fn new(value: &serde_json::Value) -> Self {
        let bytes = value.to_string().into_bytes();
        let blob = Blob {
            digest: hex(Sha256::new_with_prefix(&bytes)),
            size: bytes.len() as u64,
        };
        Self { bytes, blob }
    }
}

/// Hashes and counts what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The machine's architecture in the OCI specification's (Go's) words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let image = |name: &str| {
            write(
                &directory.path().join(name),
                "x.local/sh:dev",
                &[Path::new("/bin/sh")],
            )
            .unwrap()
        };
        let (first, second) = (image("a.tar"), image("b.tar"));
        assert_eq!(first.reference, second.reference);
        assert_eq!(
            fs::read(first.archive).unwrap(),
            fs::read(second.archive).unwrap()
        );
    }

    #[test]
    fn a_short_name_is_written_as_runtimes_look_for_it() {
        assert_eq!(full_name("demo:1"), "docker.io/library/demo:1");
        assert_eq!(full_name("me/demo:1"), "docker.io/me/demo:1");
        for full in [
            "localhost/demo:1",
            "localhost:5000/demo:1",
            "r.example/demo:1",
        ] {
            assert_eq!(full_name(full), full);
        }
    }

    #[test]
    fn an_archive_has_what_docker_load_reads() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("a.tar");
        let image = write(&archive, "x.local/sh:dev", &[Path::new("/bin/sh")]).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(fs::File::open(archive).unwrap())
            .entries()
            .unwrap()
        {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let manifest = &manifest[0];
        assert_eq!(
            manifest["RepoTags"],
            json!([image.reference, "x.local/sh:dev"])
        );
        for path in [&manifest["Config"], &manifest["Layers"][0]] {
            assert!(files.contains_key(path.as_str().unwrap()), "{path}");
        }
    }

    #[test]
    fn a_dynamic_program_brings_its_libraries_and_loader() {
        let libraries = libraries(Path::new("/bin/sh")).unwrap();
        for name in ["libc.so", "ld-linux"] {
            assert!(
                libraries
                    .iter()
                    .any(|path| path.to_string_lossy().contains(name)),
                "{libraries:?}"
            );
        }
    }
}
