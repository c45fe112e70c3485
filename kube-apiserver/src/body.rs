//! Response bodies: whole, streamed with backpressure, or passed through from another server.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

/// A stream of pieces.
pub type Pieces = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The body of a response.
pub enum Body {
    /// All at once.
    Whole(Option<Bytes>),
    /// Piece by piece, as fast as the client reads.
    Stream(Pieces),
    /// From a proxied server.
    Proxied(Incoming),
    /// Any of these, with something that lives as long as it does.
    Held(Box<Body>, Box<dyn std::any::Any + Send + Sync>),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::Whole(None)
    }

    /// The same body, keeping `guard` until it was sent or dropped.
    pub fn hold(self, guard: impl std::any::Any + Send + Sync) -> Self {
        Self::Held(Box::new(self), Box::new(guard))
    }

    /// The same body in one piece, read to its end; what comes from a proxied server stays as it is.
    pub async fn gathered(self) -> Self {
        use futures::StreamExt as _;
        match self {
            Self::Stream(mut pieces) => {
                let mut all = Vec::new();
                while let Some(piece) = pieces.next().await {
                    all.extend_from_slice(&piece);
                }
                Self::from(all)
            }
            other => other,
        }
    }

    /// A stream of pieces.
    pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::Stream(Box::pin(pieces))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(pieces) => pieces.as_mut().poll_next(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Proxied(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Held(body, _) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(_) => false,
            Self::Proxied(incoming) => incoming.is_end_stream(),
            Self::Held(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
            Self::Proxied(incoming) => incoming.size_hint(),
            Self::Held(body, _) => body.size_hint(),
        }
    }
}
