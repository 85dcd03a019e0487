//! From the kernel's buffers to whoever asked for the capture.

use std::{
    future::poll_fn,
    io, mem,
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Bytes, Frame};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    api::{CaptureEnd, CaptureRequest, CaptureSender, CaptureSummary},
    capture::Writer,
    dataplane::{Buffer, Captured, Captures, Lost},
};

/// Time that the last parts have to reach whoever asked.
const LAST_PARTS: Duration = Duration::from_secs(1);
/// Bytes that the file's end takes at most.
const END: u64 = 256;

/// A capture under way.
pub(super) struct Recorder {
    buffers: Vec<AsyncFd<Buffer>>,
    lost: Lost,
    page: Page,
    began: Instant,
    deadline: Instant,
}

/// What isn't sent yet, and how much there may be.
struct Page {
    writer: Writer,
    bytes: Vec<u8>,
    packets: u64,
    most_packets: u64,
    /// In all, sent or not.
    written: u64,
    most_bytes: u64,
    end: Option<CaptureEnd>,
}

/// One that is over.
pub(in crate::agent) struct Recorded {
    pub(super) summary: CaptureSummary,
    sender: CaptureSender,
}

impl Recorder {
    /// To be called before the programs run: what they capture waits for this.
    pub(super) fn new(
        request: &CaptureRequest,
        captures: Captures,
        mut writer: Writer,
        interfaces: Vec<u32>,
    ) -> io::Result<Self> {
        let buffers = captures.buffers.into_iter();
        let readable = |buffer| {
            // SAFETY: the descriptor is the buffer's own, which is open, and the
            // same, for as long as that lives.
            let registered = unsafe { AsyncFd::register_with_interest(buffer, Interest::READABLE) };
            registered.map_err(io::Error::from)
        };
        let mut bytes = Vec::new();
        writer.begin(interfaces, &mut bytes);
        let began = Instant::now();
        Ok(Self {
            buffers: buffers.map(readable).collect::<io::Result<_>>()?,
            lost: captures.lost,
            page: Page {
                writer,
                packets: 0,
                most_packets: request.packets,
                written: bytes.len() as u64,
                most_bytes: request.bytes.saturating_sub(END),
                bytes,
                end: None,
            },
            began,
            deadline: began + request.time(),
        })
    }

    /// Sends what is captured until there is enough of it, the time is over,
    /// nobody wants it any more, or `stopped` is used or dropped.
    pub(super) async fn run(
        mut self,
        sender: CaptureSender,
        mut stopped: oneshot::Receiver<()>,
    ) -> Recorded {
        let end = loop {
            let page = &mut self.page;
            let next = async {
                if !page.bytes.is_empty() {
                    // With a place for them, so that none are lost if this ends.
                    match sender.reserve().await {
                        Ok(place) => place.send(part(mem::take(&mut page.bytes))),
                        Err(_) => return Some(CaptureEnd::Gone),
                    }
                }
                if let Some(end) = page.end {
                    return Some(end);
                }
                let ready = poll_fn(|context| ready(&self.buffers, context)).await;
                ready.err().map(|error| {
                    warn!(%error, "a capture can't be read");
                    CaptureEnd::Failed
                })
            };
            let end = tokio::select! {
                biased;
                _ = &mut stopped => Some(CaptureEnd::Stopped),
                () = sender.closed() => Some(CaptureEnd::Gone),
                () = sleep_until(self.deadline) => Some(CaptureEnd::Seconds),
                end = next => end,
            };
            if let Some(end) = end {
                break end;
            }
            self.read();
        };
        self.finish(sender, end).await
    }

    /// Takes what the buffers hold, as far as there is room for it.
    fn read(&mut self) {
        let page = &mut self.page;
        for buffer in &mut self.buffers {
            buffer.get_mut().read(|captured| page.add(captured));
        }
    }

    async fn finish(mut self, sender: CaptureSender, end: CaptureEnd) -> Recorded {
        if matches!(end, CaptureEnd::Seconds | CaptureEnd::Stopped) {
            // What was captured by then.
            self.read();
        }
        let lost = self.lost.count().unwrap_or_else(|error| {
            warn!(%error, "nobody knows how many packets of a capture were lost");
            0
        });
        let Page {
            writer,
            mut bytes,
            packets,
            written,
            ..
        } = self.page;
        let before = bytes.len();
        writer.end(packets, lost, &mut bytes);
        let summary = CaptureSummary {
            packets,
            lost,
            bytes: written + (bytes.len() - before) as u64,
            seconds: self.began.elapsed().as_secs_f64(),
            ended: end,
        };
        // Who doesn't read hasn't more than this.
        let _ = timeout(LAST_PARTS, sender.send(part(bytes))).await;
        Recorded { summary, sender }
    }
}

impl Page {
    fn add(&mut self, captured: &Captured<'_>) {
        if self.end.is_some() {
            return;
        }
        let before = self.bytes.len();
        self.writer.packet(captured, &mut self.bytes);
        let added = (self.bytes.len() - before) as u64;
        if self.written + added > self.most_bytes {
            self.bytes.truncate(before);
            self.end = Some(CaptureEnd::Bytes);
            return;
        }
        self.written += added;
        self.packets += 1;
        if self.packets == self.most_packets {
            self.end = Some(CaptureEnd::Packets);
        }
    }
}

impl Recorded {
    pub(super) fn log(&self) {
        let (packets, lost) = (self.summary.packets, self.summary.lost);
        info!(packets, lost, ended = ?self.summary.ended, "the capture has ended");
    }

    /// Tells whoever asked of the end, and waits for a moment until he knows.
    pub(super) async fn finish(self) {
        let told = async {
            if let Some(trailer) = self.summary.trailer() {
                let _ = self.sender.send(Ok(trailer)).await;
            }
            self.sender.closed().await;
        };
        let _ = timeout(LAST_PARTS, told).await;
    }
}

fn part(bytes: Vec<u8>) -> io::Result<Frame<Bytes>> {
    Ok(Frame::data(bytes.into()))
}

/// Whether a buffer has got something since it was ready before.
fn ready(buffers: &[AsyncFd<Buffer>], context: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut is_ready = false;
    for buffer in buffers {
        if let Poll::Ready(ready) = buffer.poll_read_ready(context) {
            ready?.clear_ready();
            is_ready = true;
        }
    }
    match is_ready {
        true => Poll::Ready(Ok(())),
        false => Poll::Pending,
    }
}
