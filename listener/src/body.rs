//! An answer's body that knows whether it is being read.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use http_body::{Frame, SizeHint};

use crate::Data;
use crate::connections::Asked;

/// Counts as being answered until its end; as stalled while a piece it gave out is not followed by the wish for more.
pub(crate) struct Counted {
    inner: Body,
    /// `None` once all has been given out.
    asked: Option<Asked>,
}

impl Counted {
    pub(crate) fn new(inner: Body, asked: Asked) -> Self {
        // Nothing will be asked of a body that is empty.
        let asked = (!inner.is_end_stream()).then_some(asked);
        Counted { inner, asked }
    }
}

impl HttpBody for Counted {
    type Data = Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, axum::Error>>> {
        if let Some(asked) = &mut self.asked {
            asked.go_on();
        }
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) if !self.inner.is_end_stream() => {
                if let Some(asked) = &mut self.asked {
                    asked.wait();
                }
            }
            // The last piece may still wait for its reader: the stream's own limit is for that.
            Poll::Ready(_) => self.asked = None,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
