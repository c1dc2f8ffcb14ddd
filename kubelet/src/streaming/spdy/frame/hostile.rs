//! Hostile frames.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, FlushCompress};
use futures::FutureExt;

use super::{Decoder, Encoder, Frame, MAX_HEADERS, MAX_PIECE, SYN_STREAM, control, dictionary};

/// Frames as they come; and a block of headers, compressed as clients do.
pub(in crate::streaming) fn frames(bytes: &[u8]) {
    read(bytes);
    let mut deflate = Compress::new(Compression::fast(), true);
    if deflate.set_dictionary(&dictionary::bytes()).is_err() {
        return;
    }
    let mut body = vec![0; 10];
    let mut block = Vec::with_capacity(bytes.len() + 1024);
    if deflate.compress_vec(bytes, &mut block, FlushCompress::Sync).is_ok() && block.len() < block.capacity()
    {
        body.extend(block);
        if body.len() <= MAX_HEADERS {
            read(&control(SYN_STREAM, 1, &body));
        }
    }
}

fn read(mut from: &[u8]) {
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::new());
    let mut again = Decoder::new();
    let mut held = BTreeMap::new();
    while let Some(Ok(Some(frame))) = decoder.read(&mut from).now_or_never() {
        match &frame {
            Frame::Data { data, .. } => assert!(data.len() <= MAX_PIECE),
            Frame::SynStream { id, headers, .. } => {
                let size: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                assert!(size <= 4 * MAX_HEADERS);
                held.insert(*id, size);
            }
            _ => {}
        }
        // What we could have sent is read as what it is.
        if !matches!(frame, Frame::Other | Frame::GoAway { .. }) {
            let sent = encoder.encode(&frame);
            let read = again.read(&mut &sent[..]).now_or_never();
            assert_eq!(read.and_then(Result::ok).flatten(), Some(frame));
        }
    }
}
