//! Large answers compressed, for clients that take it.

use std::io::Write;

use axum::body::{Body, BodyDataStream, HttpBody};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Response, header};

use crate::{apart, limits};

/// What is compressed before another request has a turn.
const PIECE: usize = 64 << 10;

/// The answer, compressed where it is large and the client accepts that.
pub(super) fn compressed(headers: &HeaderMap, response: Response<Body>) -> Response<Body> {
    let small = response.body().size_hint().exact().is_some_and(|size| size <= limits::GZIP_BYTES);
    if small || !accepts(headers) || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let encoder = Some(GzEncoder::new(vec![], Compression::fast()));
    let zip = Zip { from: body.into_data_stream(), rest: Bytes::new(), encoder };
    let pieces = futures::stream::unfold(zip, |mut zip| async move { Some((zip.next().await?, zip)) });
    Response::from_parts(parts, apart::body(Body::from_stream(pieces)))
}

fn accepts(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    texts.flat_map(|t| t.split(',')).any(|t| t.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

/// A body on the way through the encoder.
struct Zip {
    from: BodyDataStream,
    rest: Bytes,
    /// `None` after the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

// === impl Zip ===

impl Zip {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        loop {
            let encoder = self.encoder.as_mut()?;
            if self.rest.is_empty() {
                match self.from.next().await {
                    Some(Ok(piece)) => self.rest = piece,
                    Some(Err(e)) => return Some(Err(e)),
                    None => {
                        let last = self.encoder.take()?.finish();
                        return Some(last.map(Bytes::from).map_err(axum::Error::new));
                    }
                }
            }
            let piece = self.rest.split_to(self.rest.len().min(PIECE));
            if let Err(e) = encoder.write_all(&piece) {
                return Some(Err(axum::Error::new(e)));
            }
            let out = std::mem::take(encoder.get_mut());
            if !out.is_empty() {
                return Some(Ok(out.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn only_large_answers_are_compressed_and_only_for_who_asks() {
        let text = "abcdefgh".repeat(limits::GZIP_BYTES as usize / 4);
        let answer = |text: &str| Response::new(Body::from(text.to_owned()));
        let mut headers = HeaderMap::new();
        assert!(compressed(&headers, answer(&text)).headers().is_empty());
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("br, gzip;q=1.0"));
        assert!(compressed(&headers, answer("small")).headers().is_empty());
        let zipped = compressed(&headers, answer(&text));
        assert_eq!(zipped.headers()[header::CONTENT_ENCODING], "gzip");
        let bytes = zipped.into_body().collect().await.unwrap().to_bytes();
        assert!(bytes.len() < text.len() / 50, "{}", bytes.len());
        let mut unzipped = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut unzipped).unwrap();
        assert_eq!(unzipped, text);
    }
}
