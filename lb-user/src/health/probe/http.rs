//! The HTTP check: one GET over one connection, closed after it.
//!
//! hyper's connection future is polled beside the request, in the same task.
//! What a target can make us hold is bounded: [`MAX_HEADER_BYTES`] of header
//! and [`MAX_BODY_BYTES`] of body; the rest is never read.

use std::{
    error::Error,
    future::Future,
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::FusedFuture};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT},
    http::uri::{PathAndQuery, Uri},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    pin,
};

use super::{MAX_BODY_BYTES, MAX_HEADER_BYTES, PrepareError};
use crate::{
    config::HttpProbe,
    health::{Outcome, Reason},
};

const AGENT: &str = concat!("xlb-health-check/", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Debug, PartialEq)]
pub(super) struct HttpProber {
    uri: Uri,
    headers: HeaderMap,
    success: RangeInclusive<u16>,
    /// Not empty.
    body: Option<Box<[u8]>>,
}

impl HttpProber {
    pub(super) fn new(address: SocketAddr, probe: &HttpProbe) -> Result<Self, PrepareError> {
        let body = probe.body.as_deref().filter(|text| !text.is_empty());
        Ok(Self {
            uri: origin_form(&probe.path)?,
            headers: headers(address, probe.host.as_deref())?,
            success: probe.success.clone(),
            body: body.map(|text| text.as_bytes().into()),
        })
    }

    /// Sends the request, and reads no more of the answer than it takes.
    pub(super) async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<(), Outcome> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADER_BYTES)
            .title_case_headers(true) // for servers that compare names byte by byte
            .handshake(TokioIo::new(Unfinished(stream)))
            .await
            .map_err(|error| from_hyper(&error))?;
        let connection = connection.fuse();
        pin!(connection);

        let answer = alongside(&mut connection, sender.send_request(self.request()));
        let response = answer.await?;
        let code = response.status().as_u16();
        if !self.success.contains(&code) {
            return Err(Outcome::Failure(Reason::ResponseCodeMismatch { code }));
        }
        let Some(text) = &self.body else {
            return Ok(());
        };
        match alongside(&mut connection, contains(response.into_body(), text)).await? {
            true => Ok(()),
            false => Err(Outcome::Failure(Reason::BodyMismatch)),
        }
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        request.uri_mut().clone_from(&self.uri);
        request.headers_mut().clone_from(&self.headers);
        request
    }
}

/// A stream that nobody says goodbye on: hyper would shut it down, which takes
/// a FIN and its acknowledgement, only for it to be reset.
struct Unfinished<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Unfinished<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unfinished<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn origin_form(path: &str) -> Result<Uri, PrepareError> {
    let invalid = || PrepareError::Path(path.to_owned());
    if !path.starts_with('/') {
        return Err(invalid());
    }
    let path: PathAndQuery = path.parse().map_err(|_invalid| invalid())?;
    Ok(Uri::from(path))
}

/// `Host` is first, as RFC 9110 section 7.2 asks.
fn headers(address: SocketAddr, host: Option<&str>) -> Result<HeaderMap, PrepareError> {
    let host = host.map_or_else(|| authority(address), str::to_owned);
    let value = HeaderValue::try_from(&host).map_err(|_invalid| PrepareError::Host(host))?;
    Ok(HeaderMap::from_iter([
        (HOST, value),
        (USER_AGENT, HeaderValue::from_static(AGENT)),
        (ACCEPT, HeaderValue::from_static("*/*")),
        (CONNECTION, HeaderValue::from_static("close")),
    ]))
}

/// Without the scope of a link-local address, which has a meaning only here
/// (RFC 6874, section 4).
fn authority(address: SocketAddr) -> String {
    SocketAddr::new(address.ip(), address.port()).to_string()
}

/// Runs `work`, and the connection that it needs to advance.
async fn alongside<T>(
    mut connection: impl FusedFuture<Output = hyper::Result<()>> + Unpin,
    work: impl Future<Output = hyper::Result<T>>,
) -> Result<T, Outcome> {
    pin!(work);
    let result = if connection.is_terminated() {
        work.await
    } else {
        tokio::select! {
            biased;
            result = &mut work => result,
            // What the connection left for it: the answer, or an error.
            _end = &mut connection => work.await,
        }
    };
    result.map_err(|error| from_hyper(&error))
}

/// Is `text` in the first [`MAX_BODY_BYTES`] of `body`?
async fn contains(mut body: Incoming, text: &[u8]) -> hyper::Result<bool> {
    let mut seen: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue; // trailers
        };
        let room = MAX_BODY_BYTES - seen.len();
        let searched = (seen.len() + 1).saturating_sub(text.len());
        seen.extend_from_slice(&data[..data.len().min(room)]);
        if seen[searched..]
            .windows(text.len())
            .any(|window| window == text)
        {
            return Ok(true);
        }
        if seen.len() == MAX_BODY_BYTES {
            return Ok(false);
        }
    }
    Ok(false)
}

fn from_hyper(error: &hyper::Error) -> Outcome {
    if let Some(error) = io_cause(error) {
        return Outcome::from_io(error);
    }
    // The connection ended before it took the request; here is why.
    if let Some(cause) = error.source().and_then(|cause| cause.downcast_ref()) {
        return from_hyper(cause);
    }
    Outcome::Failure(if error.is_parse_too_large() {
        Reason::HeaderTooLarge
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        Reason::ConnectionClosed
    } else {
        Reason::MalformedResponse // of parsing, or bytes that came unasked
    })
}

fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}
