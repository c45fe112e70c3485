//! gzip of large answers, for clients that ask for it.
//!
//! Go's clients always ask, so that compression must be cheap: the fastest level, and piece by piece as the client reads.
//!
//! Upstream: apiserver/pkg/endpoints/handlers/responsewriters/writers.go

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY};
use http::{HeaderMap, StatusCode};

use crate::body::{Body, Pieces};
use crate::call::Response;

/// Smaller answers go out as they are. Upstream: defaultGzipThresholdBytes, 128 KiB.
const THRESHOLD: usize = 128 * 1024;
/// Upstream: defaultGzipContentEncodingLevel, 1.
const LEVEL: u32 = 1;
/// Bytes compressed at a time: half a millisecond of work between two looks at other requests.
const PIECE: usize = 64 * 1024;

/// Whether the client takes gzip.
pub fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.split(';').next().unwrap_or("").trim() == "gzip")
}

/// Compresses an answer that is large enough, and of a kind that shrinks.
pub async fn compress(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let shrinks =
        ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/com.github.proto-openapi"];
    if parts.status != StatusCode::OK
        || parts.headers.contains_key(CONTENT_ENCODING)
        || !shrinks.iter().any(|start| kind.starts_with(start))
    {
        return http::Response::from_parts(parts, body);
    }
    let body = match body {
        Body::Whole(Some(bytes)) if bytes.len() >= THRESHOLD => {
            let rest = (0..bytes.len()).step_by(PIECE).map(move |at| bytes.slice(at..bytes.len().min(at + PIECE)));
            gzip(Box::pin(stream::iter(rest)))
        }
        Body::Stream(pieces) => match peek(pieces).await {
            (held, None) => Body::Whole(Some(held.concat().into())),
            (held, Some(rest)) => gzip(Box::pin(futures::StreamExt::chain(stream::iter(held), rest))),
        },
        other => return http::Response::from_parts(parts, other),
    };
    if matches!(body, Body::Stream(_)) {
        parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        parts.headers.remove(CONTENT_LENGTH);
    }
    http::Response::from_parts(parts, body)
}

/// The first pieces, up to the threshold, and what follows where there is more.
async fn peek(mut pieces: Pieces) -> (Vec<Bytes>, Option<Pieces>) {
    use futures::StreamExt as _;
    let (mut held, mut size) = (Vec::new(), 0);
    while let Some(piece) = pieces.next().await {
        size += piece.len();
        held.push(piece);
        if size >= THRESHOLD {
            return (held, Some(pieces));
        }
    }
    (held, None)
}

fn gzip(pieces: Pieces) -> Body {
    let state = Some((pieces, GzEncoder::new(Vec::new(), Compression::new(LEVEL))));
    Body::stream(stream::unfold(state, |state| async move {
        use futures::StreamExt as _;
        let (mut pieces, mut encoder) = state?;
        loop {
            match pieces.next().await {
                Some(piece) => {
                    // Writing to memory does not fail.
                    let _ = encoder.write_all(&piece);
                    if encoder.get_ref().len() >= PIECE / 4 {
                        let out = std::mem::take(encoder.get_mut());
                        return Some((Bytes::from(out), Some((pieces, encoder))));
                    }
                }
                None => return Some((Bytes::from(encoder.finish().unwrap_or_default()), None)),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::io::Read as _;

    async fn through(body: Body) -> (bool, Vec<u8>) {
        let response = compress(crate::reply::raw(200, "application/json", Bytes::new()).map(|_| body)).await;
        let zipped = response.headers().contains_key(CONTENT_ENCODING);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        if !zipped {
            return (false, bytes.to_vec());
        }
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_ref()).read_to_end(&mut out).unwrap();
        (true, out)
    }

    #[tokio::test]
    async fn only_large_answers_are_compressed() {
        let small = vec![b'a'; THRESHOLD - 1];
        let large: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(through(small.clone().into()).await, (false, small.clone()));
        assert_eq!(through(large.clone().into()).await, (true, large.clone()));
        let pieces = |bytes: &[u8]| {
            let pieces: Vec<Bytes> = bytes.chunks(50_000).map(Bytes::copy_from_slice).collect();
            Body::stream(stream::iter(pieces))
        };
        assert_eq!(through(pieces(&small)).await, (false, small));
        assert_eq!(through(pieces(&large)).await, (true, large));
    }

    #[test]
    fn clients_ask_for_it() {
        let of = |text: &str| accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, text.parse().unwrap())]));
        assert!(of("gzip") && of("deflate, gzip;q=0.5"));
        assert!(!of("identity") && !of("") && !accepted(&HeaderMap::new()));
    }
}
