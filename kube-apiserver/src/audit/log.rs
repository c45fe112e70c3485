//! The log backend: one line per event, in files that are turned over by size.
//!
//! Upstream: apiserver/plugin/pkg/audit/{log,truncate,buffered}, lumberjack

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use component::tasks::Tasks;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The `--audit-log-*` flags.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// `-` for standard output.
    pub path: Option<PathBuf>,
    /// `json` or `legacy`.
    pub format: String,
    /// `audit.k8s.io/v1`.
    pub version: String,
    /// `blocking`, `blocking-strict`, `batch`.
    pub mode: String,
    /// 0: for ever.
    pub max_age_days: u64,
    /// 0: all.
    pub max_backups: usize,
    /// Of one file.
    pub max_megabytes: u64,
    /// Old files.
    pub compress: bool,
    /// Events that wait in batch mode.
    pub buffer: usize,
    /// Above it an event is cut.
    pub most_bytes: Option<usize>,
}

impl LogOptions {
    /// Whether the values are possible.
    ///
    /// # Errors
    /// Upstream's words for what is not.
    pub fn check(&self) -> Result<(), String> {
        if !matches!(self.format.as_str(), "json" | "legacy") {
            return Err(format!("invalid audit log format {}, allowed formats are \"legacy,json\"", self.format));
        }
        if self.version != "audit.k8s.io/v1" {
            return Err(format!("invalid audit log version {}, allowed versions are \"audit.k8s.io/v1\"", self.version));
        }
        if !matches!(self.mode.as_str(), "batch" | "blocking" | "blocking-strict") {
            return Err(format!("invalid audit log mode {}, allowed modes are \"batch,blocking,blocking-strict\"", self.mode));
        }
        Ok(())
    }
}

/// Writes events.
pub struct Log {
    options: LogOptions,
    target: Arc<Mutex<Target>>,
    /// In batch mode events wait here; what does not fit is dropped and said so.
    waiting: Option<mpsc::Sender<String>>,
}

enum Target {
    Stdout,
    File(Rotating),
}

impl Log {
    /// Opens the file, and starts the writer of batch mode.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(options: &LogOptions, tasks: &Tasks) -> anyhow::Result<Arc<Self>> {
        let target = match &options.path {
            Some(path) if path.as_os_str() != "-" => Target::File(Rotating::open(path, options)?),
            _ => Target::Stdout,
        };
        let target = Arc::new(Mutex::new(target));
        let waiting = (options.mode == "batch").then(|| {
            let (sender, mut receiver) = mpsc::channel::<String>(options.buffer.max(1));
            let (target, stop) = (target.clone(), tasks.token());
            tasks.spawn("audit-log", async move {
                loop {
                    let first = tokio::select! {
                        biased;
                        first = receiver.recv() => first,
                        () = stop.cancelled() => return,
                    };
                    let Some(mut lines) = first else { return };
                    while let Ok(next) = receiver.try_recv() {
                        lines.push_str(&next);
                    }
                    let target = target.clone();
                    let _ = tokio::task::spawn_blocking(move || put(&target, lines.as_bytes())).await;
                }
            });
            sender
        });
        Ok(Arc::new(Self { options: options.clone(), target, waiting }))
    }

    /// Writes one event.
    pub fn write(&self, mut event: Value) {
        let mut line = self.line(&event);
        if let Some(most) = self.options.most_bytes.filter(|most| line.len() > *most) {
            for key in ["requestObject", "responseObject"] {
                if let Some(map) = event.as_object_mut() {
                    map.remove(key);
                }
            }
            match event.get_mut("annotations").and_then(Value::as_object_mut) {
                Some(annotations) => drop(annotations.insert("audit.k8s.io/truncated".into(), "true".into())),
                None => event["annotations"] = json!({"audit.k8s.io/truncated": "true"}),
            }
            line = self.line(&event);
            if line.len() > most {
                tracing::error!(auditID = event["auditID"].as_str(), "Event is too large even without its objects; dropped");
                return;
            }
        }
        match &self.waiting {
            Some(waiting) => {
                if waiting.try_send(line).is_err() {
                    tracing::error!(auditID = event["auditID"].as_str(), "Audit event dropped: the buffer is full");
                }
            }
            None => put(&self.target, line.as_bytes()),
        }
    }

    fn line(&self, event: &Value) -> String {
        if self.options.format == "json" {
            return format!("{event}\n");
        }
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let quoted = |pointer: &str, none: &str| {
            let list = event.pointer(pointer).and_then(Value::as_array);
            let joined = list
                .map(|list| list.iter().filter_map(Value::as_str).map(|text| format!("{text:?}")).collect::<Vec<_>>().join(","));
            format!("{:?}", joined.filter(|joined| !joined.is_empty()).unwrap_or_else(|| none.to_owned()))
        };
        let or = |value: &str, other: &str| if value.is_empty() { other.to_owned() } else { value.to_owned() };
        let code = event.pointer("/responseStatus/code").map_or_else(|| "<deferred>".to_owned(), Value::to_string);
        format!(
            "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={} as={:?} user-agent={:?} namespace={:?} uri={:?} response={code:?}\n",
            text("/requestReceivedTimestamp"),
            text("/auditID"),
            text("/stage"),
            event.pointer("/sourceIPs/0").and_then(Value::as_str).unwrap_or("<unknown>"),
            text("/verb"),
            or(text("/user/username"), "<none>"),
            quoted("/user/groups", "<none>"),
            or(text("/impersonatedUser/username"), "<self>"),
            text("/userAgent"),
            or(text("/objectRef/namespace"), "<none>"),
            text("/requestURI"),
        )
    }
}

fn put(target: &Mutex<Target>, line: &[u8]) {
    let result = match &mut *target.lock() {
        Target::Stdout => std::io::stdout().lock().write_all(line),
        Target::File(file) => file.write(line),
    };
    if let Err(error) = result {
        tracing::error!(err = %error, "Failed to write an audit event");
    }
}

/// A file that becomes an old one when it is full. Old ones are `<name>-<time>.<extension>`.
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    most: u64,
    backups: usize,
    age: Duration,
    compress: bool,
}

impl Rotating {
    fn open(path: &Path, options: &LogOptions) -> std::io::Result<Self> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        let (file, size) = append(path)?;
        let age = Duration::from_secs(options.max_age_days.saturating_mul(86_400));
        let most = options.max_megabytes.max(1).saturating_mul(1024 * 1024);
        Ok(Self { path: path.to_owned(), file, size, most, backups: options.max_backups, age, compress: options.compress })
    }

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.most {
            self.turn()?;
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    fn parts(&self) -> (String, String) {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = self.path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
        (format!("{stem}-"), extension)
    }

    fn turn(&mut self) -> std::io::Result<()> {
        let (start, extension) = self.parts();
        let now = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        let old = self.path.with_file_name(format!("{start}{now}{extension}"));
        std::fs::rename(&self.path, &old)?;
        (self.file, self.size) = append(&self.path)?;
        if self.compress {
            compress(&old)?;
        }
        self.prune()
    }

    /// Removes old files: too many, or too old.
    fn prune(&self) -> std::io::Result<()> {
        let (start, extension) = self.parts();
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut old: Vec<PathBuf> = std::fs::read_dir(parent)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let name = name.strip_suffix(".gz").unwrap_or(&name);
                *path != self.path && name.starts_with(&start) && name.ends_with(&extension)
            })
            .collect();
        // The time is in the name: newest first.
        old.sort_unstable_by(|a, b| b.cmp(a));
        for (index, path) in old.iter().enumerate() {
            let too_many = self.backups > 0 && index >= self.backups;
            let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
            let too_old = !self.age.is_zero()
                && modified.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age > self.age);
            if too_many || too_old {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn append(path: &Path) -> std::io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn compress(path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let mut out = flate2::write::GzEncoder::new(File::create(PathBuf::from(name))?, flate2::Compression::default());
    std::io::copy(&mut File::open(path)?, &mut out)?;
    out.finish()?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(path: &Path) -> LogOptions {
        LogOptions {
            path: Some(path.to_owned()),
            format: "json".into(),
            version: "audit.k8s.io/v1".into(),
            mode: "blocking".into(),
            max_age_days: 1,
            max_backups: 2,
            max_megabytes: 1,
            compress: true,
            buffer: 10,
            most_bytes: Some(1000),
        }
    }

    #[test]
    fn full_files_are_turned_over_and_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/audit.log");
        let mut file = Rotating::open(&path, &options(&path)).unwrap();
        let line = vec![b'x'; 700_000];
        for _ in 0..5 {
            file.write(&line).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        let names: Vec<String> = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names.iter().filter(|name| name.ends_with(".log.gz")).count(), 2, "{names:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 700_000);
    }

    #[tokio::test]
    async fn large_events_lose_their_objects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = Log::open(&options(&path), &Tasks::new()).unwrap();
        log.write(json!({"auditID": "a", "requestObject": "x".repeat(2000)}));
        log.write(json!({"auditID": "b", "requestURI": "x".repeat(2000)}));
        let lines = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, [json!({"auditID": "a", "annotations": {"audit.k8s.io/truncated": "true"}})]);
    }
}
