//! Reading CRI log files: `<time> <stdout|stderr> <F|P> <text>`. Upstream: pkg/kubelet/kuberuntime/logs

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// What of a log is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Go on as the container writes.
    pub follow: bool,
    /// Write the time before each line.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// At most so many bytes.
    pub limit: Option<u64>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<String>,
}

/// Longest line held in memory, bytes; longer ones go out in parts. The runtime splits at 16 KiB.
const MAX_LINE: usize = 1 << 20;
/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(100);

/// One line of a log file.
#[derive(Debug, PartialEq)]
pub struct Line<'a> {
    /// When.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The line goes on in the next one.
    pub partial: bool,
    /// Text with its end of line, unless partial.
    pub text: &'a [u8],
}

/// Reads a line with its newline; `None` for what is not CRI's.
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let mut fields = raw.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = std::str::from_utf8(fields.next()?).ok()?;
    let tags = fields.next()?;
    let text = fields.next().unwrap_or(b"\n");
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Some(Line { time, stream, partial, text })
}

/// Sends the log at `path`, until its end, or with `follow` until `running` says the container ended. A rotated file is read to its
/// end before the new one.
///
/// # Errors
/// The file cannot be read.
pub async fn stream(
    path: &Path,
    options: &Options,
    sender: mpsc::Sender<Bytes>,
    mut running: impl FnMut() -> bool,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(path).await?;
    if let Some(tail) = options.tail {
        let path = path.to_owned();
        let start = tokio::task::spawn_blocking(move || tail_start(&path, tail)).await.map_err(std::io::Error::other)??;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut pending: Vec<u8> = Vec::new();
    let mut buffer = vec![0_u8; 32 * 1024];
    let mut line_start = true;
    let mut last_look = false;
    loop {
        let n = file.read(&mut buffer).await?;
        if n == 0 {
            if !options.follow || sender.is_closed() {
                break;
            }
            let inode = file.metadata().await?.ino();
            match tokio::fs::metadata(path).await {
                // Rotated: the old file is through.
                Ok(meta) if meta.ino() != inode => {
                    file = tokio::fs::File::open(path).await?;
                    continue;
                }
                // Truncated.
                Ok(meta) if meta.len() < file.stream_position().await? => {
                    file.seek(SeekFrom::Start(0)).await?;
                    continue;
                }
                _ => {}
            }
            if last_look {
                break;
            }
            // One more read after the end: what was written last must come.
            last_look = !running();
            if !last_look {
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = sender.closed() => return Ok(()),
                }
            }
            continue;
        }
        last_look = false;
        pending.extend_from_slice(&buffer[..n]);
        let mut out = Vec::new();
        let mut from = 0;
        while let Some(at) = pending[from..].iter().position(|byte| *byte == b'\n') {
            let raw = &pending[from..=from + at];
            from += at + 1;
            if let Some(line) = parse(raw) {
                emit(&line, options, &mut line_start, &mut out);
            }
        }
        pending.drain(..from);
        if pending.len() > MAX_LINE {
            pending.clear();
        }
        if !out.is_empty() {
            out.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= out.len() as u64;
            if sender.send(Bytes::from(out)).await.is_err() || left == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn emit(line: &Line<'_>, options: &Options, line_start: &mut bool, out: &mut Vec<u8>) {
    if options.stream.as_deref().is_some_and(|wanted| wanted != line.stream) {
        return;
    }
    if let Some(since) = options.since
        && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
    {
        return;
    }
    if options.timestamps && *line_start {
        out.extend_from_slice(line.time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(line.text);
    *line_start = !line.partial;
}

/// Where the last `lines` lines begin.
fn tail_start(path: &Path, lines: usize) -> std::io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    if lines == 0 {
        return Ok(length);
    }
    let (mut end, mut seen) = (length, 0);
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            // The last byte ends the last line, it does not begin another.
            if *byte == b'\n' && start + index as u64 + 1 != length {
                seen += 1;
                if seen == lines {
                    return Ok(start + index as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The text of the last lines, at most `bytes` of it.
pub fn tail_text(path: &Path, lines: usize, bytes: usize) -> String {
    let Ok(start) = tail_start(path, lines) else { return String::new() };
    let mut raw = Vec::new();
    let read = std::fs::File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.take(4 * 1024 * 1024).read_to_end(&mut raw)
    });
    if read.is_err() {
        return String::new();
    }
    let mut out: Vec<u8> = Vec::new();
    for line in raw.split_inclusive(|byte| *byte == b'\n').filter_map(parse) {
        out.extend_from_slice(line.text);
    }
    let from = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(&out[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n2026-01-01T00:00:02Z stdout P thr\n2026-01-01T00:00:02Z stdout F ee\n";

    async fn read(options: Options) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(LOG.as_bytes()).unwrap();
        let (sender, mut receiver) = mpsc::channel(16);
        stream(file.path(), &options, sender, || false).await.unwrap();
        let mut out = Vec::new();
        while let Some(part) = receiver.recv().await {
            out.extend_from_slice(&part);
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn options_choose_lines() {
        assert_eq!(read(Options::default()).await, "one\ntwo\nthree\n");
        assert_eq!(read(Options { tail: Some(3), ..Default::default() }).await, "two\nthree\n");
        assert_eq!(read(Options { tail: Some(0), ..Default::default() }).await, "");
        assert_eq!(read(Options { since: "2026-01-01T00:00:01Z".parse().ok(), ..Default::default() }).await, "two\nthree\n");
        assert_eq!(read(Options { stream: Some("stderr".into()), ..Default::default() }).await, "two\n");
        assert_eq!(read(Options { limit: Some(5), ..Default::default() }).await, "one\nt");
        let stamped = read(Options { timestamps: true, ..Default::default() }).await;
        assert_eq!(stamped, "2026-01-01T00:00:00.1Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:02Z three\n");
    }

    #[tokio::test]
    async fn following_crosses_a_rotation_and_ends_with_the_container() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F one\n").unwrap();
        let (sender, mut receiver) = mpsc::channel(16);
        let alive = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (flag, log) = (alive.clone(), path.clone());
        let task = tokio::spawn(async move {
            let options = Options { follow: true, ..Default::default() };
            stream(&log, &options, sender, || flag.load(std::sync::atomic::Ordering::Relaxed)).await.unwrap();
        });
        assert_eq!(receiver.recv().await.unwrap(), "one\n");
        std::fs::rename(&path, temp.path().join("0.log.old")).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:01Z stdout F two\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "two\n");
        alive.store(false, std::sync::atomic::Ordering::Relaxed);
        task.await.unwrap();
        assert!(receiver.recv().await.is_none());
    }
}
