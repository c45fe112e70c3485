//! The client's side of SPDY/3.1, as far as exec needs it: opening streams, data both ways, half-close.
//!
//! Headers are written as stored blocks of one zlib stream with SPDY's dictionary announced and never used, so nothing has to be
//! compressed; what the server says in its headers does not matter here and is skipped.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest frame read, bytes: the format's limit.
const MAX_FRAME: usize = (1 << 24) - 1;
/// Data is written in frames of at most this size.
const CHUNK: usize = 16 * 1024;

/// What the server sent.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// Data of a stream, and whether it was the last.
    Data(u32, Vec<u8>, bool),
    /// A stream ended at once.
    Reset(u32),
    /// A ping to answer.
    Ping(u32),
    /// The server goes away.
    GoAway,
    /// Of no interest.
    Other,
}

/// Writes frames.
pub struct Writer<W> {
    inner: W,
    began: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Over an upgraded connection.
    pub fn new(inner: W) -> Self {
        Self { inner, began: false }
    }

    /// Opens a stream with headers; ids are odd and go up.
    pub async fn open(&mut self, id: u32, headers: &[(&str, &str)]) -> io::Result<()> {
        let block = self.header_block(headers)?;
        let mut frame = Vec::with_capacity(block.len() + 18);
        frame.extend_from_slice(&[0x80, 3, 0, 1]);
        frame.extend_from_slice(&length(block.len() + 10, 0)?);
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&block);
        self.inner.write_all(&frame).await?;
        self.inner.flush().await
    }

    /// Sends data, and the end of the stream where `last`.
    pub async fn data(&mut self, id: u32, data: &[u8], last: bool) -> io::Result<()> {
        let mut chunks = data.chunks(CHUNK).peekable();
        if chunks.peek().is_none() {
            return if last { self.frame(id, &[], true).await } else { Ok(()) };
        }
        while let Some(chunk) = chunks.next() {
            self.frame(id, chunk, last && chunks.peek().is_none()).await?;
        }
        Ok(())
    }

    async fn frame(&mut self, id: u32, data: &[u8], last: bool) -> io::Result<()> {
        let mut frame = Vec::with_capacity(data.len() + 8);
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&length(data.len(), u8::from(last))?);
        frame.extend_from_slice(data);
        self.inner.write_all(&frame).await?;
        self.inner.flush().await
    }

    /// Answers a ping.
    pub async fn pong(&mut self, id: u32) -> io::Result<()> {
        let mut frame = vec![0x80, 3, 0, 6, 0, 0, 0, 4];
        frame.extend_from_slice(&id.to_be_bytes());
        self.inner.write_all(&frame).await?;
        self.inner.flush().await
    }

    fn header_block(&mut self, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let number = |n: usize| u32::try_from(n).map(u32::to_be_bytes).map_err(io::Error::other);
        plain.extend_from_slice(&number(headers.len())?);
        for (key, value) in headers {
            for text in [key, value] {
                plain.extend_from_slice(&number(text.len())?);
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 11);
        if !self.began {
            // zlib's header with a preset dictionary, and the Adler-32 of SPDY/3's.
            out.extend_from_slice(&[0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
            self.began = true;
        }
        let size = u16::try_from(plain.len()).map_err(io::Error::other)?;
        // One stored block that is not the last.
        out.push(0);
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&(!size).to_le_bytes());
        out.extend_from_slice(&plain);
        // And an empty one: Go's reader gives data out only at such a flush.
        out.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        Ok(out)
    }
}

/// Flags and length as a frame's second word.
fn length(size: usize, flags: u8) -> io::Result<[u8; 4]> {
    let size =
        u32::try_from(size).ok().filter(|size| *size as usize <= MAX_FRAME).ok_or_else(|| io::Error::other("frame too long"))?;
    Ok((u32::from(flags) << 24 | size).to_be_bytes())
}

/// Reads frames.
pub struct Reader<R> {
    inner: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Over an upgraded connection.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: BytesMut::with_capacity(32 * 1024) }
    }

    /// The next frame; `None` at the end of the connection. May be dropped and called again.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take() {
                return Ok(Some(frame));
            }
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        if self.buffer.len() < 8 {
            return None;
        }
        let word =
            |at: usize| u32::from_be_bytes([self.buffer[at], self.buffer[at + 1], self.buffer[at + 2], self.buffer[at + 3]]);
        let (head, second) = (word(0), word(4));
        let (flags, size) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if self.buffer.len() < 8 + size {
            return None;
        }
        let control = head & 0x8000_0000 != 0;
        let first = |at: usize| if size >= at + 4 { word(8 + at) } else { 0 };
        let frame = match (control, head & 0xffff) {
            (false, _) => Frame::Data(head, self.buffer[8..8 + size].to_vec(), flags & 1 != 0),
            (true, 3) => Frame::Reset(first(0) & 0x7fff_ffff),
            (true, 6) => Frame::Ping(first(0)),
            (true, 7) => Frame::GoAway,
            _ => Frame::Other,
        };
        self.buffer.advance(8 + size);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_written_and_read() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        writer.open(1, &[("streamtype", "error")]).await.unwrap();
        writer.open(3, &[("streamtype", "stdin")]).await.unwrap();
        writer.data(3, b"hi", false).await.unwrap();
        writer.data(3, b"", true).await.unwrap();
        assert_eq!(&out[..4], [0x80, 3, 0, 1]);
        assert_eq!(&out[18..24], [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
        let mut reader = Reader::new(&out[..]);
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Other));
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Other));
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Data(3, b"hi".to_vec(), false)));
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Data(3, Vec::new(), true)));
        assert_eq!(reader.next().await.unwrap(), None);
    }
}
