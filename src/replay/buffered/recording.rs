//! The recorded frames of one body, and how much memory they hold.
//!
//! A `Bytes` keeps the whole buffer allocated that it is a slice of, and takes more memory itself than a small frame.
//! So small frames are copied, one after the other, into chunks: many frames become few segments, and none keeps
//! another buffer allocated. Large frames are shared by reference count, because their bookkeeping is small compared to
//! their data.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

/// A data frame of this size or more is shared, a smaller one is copied. Also the capacity of a full-size chunk.
pub(crate) const SHARED_FROM: usize = 4096;
/// The capacity of the first chunk. Each further one has twice the capacity, up to [`SHARED_FROM`].
const FIRST_CHUNK: usize = 256;
/// The bookkeeping of a segment. While the deque grows, it holds up to three times its length. The rest covers the
/// segment's reference count and the allocator's own header.
pub(crate) const SEGMENT: usize = 5 * size_of::<Segment>();
/// The bookkeeping of a header: its two handles, and the allocator's own headers for name and value.
pub(crate) const HEADER: usize = size_of::<(HeaderName, HeaderValue)>() + 32;

/// The recorded part of a body.
pub(crate) struct Recording {
    segments: VecDeque<Segment>,
    /// The chunk that small frames are appended to. Earlier segments may be slices of it.
    chunk: BytesMut,
    next_capacity: usize,
    /// How many more bytes of memory the recording may hold.
    remaining: usize,
}

/// One or more frames in a row.
pub(crate) enum Segment {
    Data(Bytes),
    /// It is not a `HeaderMap`, whose size does not follow from its content.
    Trailers(Box<[(HeaderName, HeaderValue)]>),
}

// === impl Recording ===

impl Recording {
    /// The bookkeeping of the first segment is free, so a body of `limit` bytes in one frame fits.
    pub(crate) fn new(limit: usize) -> Self {
        let remaining = limit.saturating_add(SEGMENT);
        Self { segments: VecDeque::new(), chunk: BytesMut::new(), next_capacity: FIRST_CHUNK, remaining }
    }

    /// Records a frame. Returns `None` if the frame exceeds the limit or is of an unknown kind; what has been recorded
    /// is then incomplete.
    pub(crate) fn push(&mut self, frame: &Frame<Bytes>) -> Option<()> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) if data.len() < SHARED_FROM => self.copy(data),
            (Some(data), _) => self.share(data),
            (_, Some(trailers)) => self.copy_trailers(trailers),
            (None, None) => None,
        }
    }

    pub(crate) fn into_segments(mut self) -> VecDeque<Segment> {
        self.end_run();
        self.segments
    }

    fn copy(&mut self, mut data: &[u8]) -> Option<()> {
        while !data.is_empty() {
            if self.chunk.len() == self.chunk.capacity() {
                self.end_run();
                self.chunk = BytesMut::with_capacity(self.next_capacity);
                self.next_capacity = SHARED_FROM.min(2 * self.next_capacity);
            }
            if self.chunk.is_empty() {
                self.take(SEGMENT)?;
            }
            let (fits, rest) = data.split_at(data.len().min(self.chunk.capacity() - self.chunk.len()));
            self.take(fits.len())?;
            self.chunk.extend_from_slice(fits);
            data = rest;
        }
        Some(())
    }

    fn share(&mut self, data: &Bytes) -> Option<()> {
        self.take(SEGMENT + data.len())?;
        self.end_run();
        self.segments.push_back(Segment::Data(data.clone()));
        Some(())
    }

    /// Copies names and values too, because they may be slices of the connection's read buffer.
    fn copy_trailers(&mut self, trailers: &HeaderMap) -> Option<()> {
        let size = |(name, value): (&HeaderName, &HeaderValue)| HEADER + name.as_str().len() + value.len();
        self.take(SEGMENT + trailers.iter().map(size).sum::<usize>())?;
        self.end_run();
        let mut copies = Vec::with_capacity(trailers.len());
        for (name, value) in trailers {
            let mut copy = HeaderValue::from_bytes(value.as_bytes()).ok()?;
            copy.set_sensitive(value.is_sensitive());
            copies.push((HeaderName::from_bytes(name.as_str().as_bytes()).ok()?, copy));
        }
        self.segments.push_back(Segment::Trailers(copies.into_boxed_slice()));
        Some(())
    }

    /// Ends the segment of small frames, so that another segment can follow. The chunk keeps its unused capacity.
    fn end_run(&mut self) {
        if !self.chunk.is_empty() {
            self.segments.push_back(Segment::Data(self.chunk.split().freeze()));
        }
    }

    fn take(&mut self, bytes: usize) -> Option<()> {
        self.remaining = self.remaining.checked_sub(bytes)?;
        Some(())
    }
}

impl Segment {
    /// The number of data bytes.
    pub(crate) fn data_len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }
}

impl From<Segment> for Frame<Bytes> {
    fn from(segment: Segment) -> Self {
        match segment {
            Segment::Data(data) => Frame::data(data),
            Segment::Trailers(copies) => {
                let mut trailers = HeaderMap::new();
                for (name, value) in copies {
                    trailers.append(name, value);
                }
                Frame::trailers(trailers)
            }
        }
    }
}
