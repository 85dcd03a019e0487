//! HTTP/1.1 for the Unix socket and the admin listener alike: takes requests,
//! and passes to the agent's task what only that can answer.

use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::{TryStreamExt as _, stream::poll_fn};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::{
    Method, Request as HttpRequest, StatusCode,
    body::{Frame, Incoming},
    header::{HOST, HeaderValue, TRAILER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    CaptureError, CaptureReceiver, CaptureRequest, ExplainError, ExplainRequest, Explainer,
    FlowsError, FlowsReader, FlowsRequest, OperateError, Pulse, ReloadError, Reloaded, Status,
    TargetReport, TargetRequest,
    capture::SUMMARY,
    response::{self, Response},
};
use crate::{
    config::Diagnostics,
    metrics::{self, Internals},
};

/// Connections of a listener that are served at a time; others wait.
const CONNECTIONS: usize = 64;
/// After this a connection is served its last answer, and must have read it
/// within the other.
const LONGEST: Duration = Duration::from_secs(300);
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// After a connection that couldn't be accepted: this process is out of file
/// descriptors, most likely, and would ask for nothing else.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of a request's body.
const MAX_REQUEST: usize = 64 * 1024;
/// Chunks of an answer that wait to be sent.
const CHUNKS: usize = 4;

/// A request to the agent's task, with the way to answer it.
#[derive(Debug)]
pub enum Request {
    Status(oneshot::Sender<Status>),
    Reload(oneshot::Sender<Result<Diagnostics, ReloadError>>),
    /// To end, and to take everything back; answered before that is done.
    Unload(oneshot::Sender<()>),
    Explain(
        ExplainRequest,
        oneshot::Sender<Result<Explainer, ExplainError>>,
    ),
    Flows(
        FlowsRequest,
        oneshot::Sender<Result<FlowsReader, FlowsError>>,
    ),
    Capture(
        CaptureRequest,
        oneshot::Sender<Result<CaptureReceiver, CaptureError>>,
    ),
    StopCapture(oneshot::Sender<Result<(), CaptureError>>),
    Operate(
        TargetRequest,
        oneshot::Sender<Result<TargetReport, OperateError>>,
    ),
}

/// The agent, as requests reach it.
#[derive(Clone, Debug)]
pub struct Handle {
    pub requests: mpsc::Sender<Request>,
    pub internals: Internals,
    pub pulse: Arc<Pulse>,
}

/// What a listener's clients may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Full,
    /// Nothing that changes anything.
    Look {
        /// Also under a name in the Host header. A web page of somebody else's
        /// can have its own name lead here, and then read what it gets.
        by_any_name: bool,
    },
}

/// Something to accept connections on.
pub(super) trait Listen {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Serves until the agent is gone.
pub(super) async fn serve(listener: &impl Listen, handle: Handle, access: Access) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (stream, place) = tokio::select! {
            accepted = accepted => accepted,
            () = handle.requests.closed() => return,
        };
        match stream {
            Ok(stream) => {
                let connection = connection(stream, handle.clone(), access);
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "could not accept a connection");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handle: Handle,
    access: Access,
) {
    let service = service_fn(|request| answer(request, &handle, access));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = sleep(LONGEST) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        debug!(%error, "a connection failed");
    }
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Page,
    Live,
    Ready,
    Metrics,
    Status,
    Reload,
    Unload,
    Explain,
    Flows,
    Capture,
    StopCapture,
    Target,
}

static ROUTES: [(&str, Method, Route); 12] = [
    ("/", Method::GET, Route::Page),
    ("/live", Method::GET, Route::Live),
    ("/ready", Method::GET, Route::Ready),
    ("/metrics", Method::GET, Route::Metrics),
    ("/api/status", Method::GET, Route::Status),
    ("/api/reload", Method::POST, Route::Reload),
    ("/api/unload", Method::POST, Route::Unload),
    ("/api/explain", Method::POST, Route::Explain),
    ("/api/flows", Method::POST, Route::Flows),
    ("/api/capture", Method::POST, Route::Capture),
    ("/api/capture/stop", Method::POST, Route::StopCapture),
    ("/api/target", Method::POST, Route::Target),
];

async fn answer(
    request: HttpRequest<Incoming>,
    handle: &Handle,
    access: Access,
) -> Result<Response, Infallible> {
    let route = access.admit(&request).and_then(|()| route(&request));
    Ok(match route {
        Err(refusal) => refusal.response(),
        Ok(Route::Page) => response::page(),
        Ok(Route::Live) => well(handle.pulse.is_live(), "the agent is stuck"),
        Ok(Route::Ready) => well(handle.pulse.is_ready(), "the agent is starting or stopping"),
        Ok(Route::Metrics) => metrics(handle).await,
        Ok(Route::Status) => status(handle).await,
        Ok(Route::Reload) => reload(handle).await,
        Ok(Route::Unload) => unload(handle).await,
        Ok(Route::Explain) => explain(handle, request.into_body()).await,
        Ok(Route::Flows) => flows(handle, request.into_body()).await,
        Ok(Route::Capture) => capture(handle, request.into_body()).await,
        Ok(Route::StopCapture) => stop_capture(handle).await,
        Ok(Route::Target) => operate(handle, request.into_body()).await,
    })
}

fn route<B>(request: &HttpRequest<B>) -> Result<Route, Refusal> {
    let path = request.uri().path();
    let known = ROUTES.iter().find(|(known, ..)| *known == path);
    let (_, method, route) = known.ok_or(Refusal::Path)?;
    match is_look(request) == (*method == Method::GET) {
        true => Ok(*route),
        false => Err(Refusal::Method(method)),
    }
}

fn is_look<B>(request: &HttpRequest<B>) -> bool {
    [Method::GET, Method::HEAD].contains(request.method())
}

impl Access {
    fn admit<B>(self, request: &HttpRequest<B>) -> Result<(), Refusal> {
        let Self::Look { by_any_name } = self else {
            return Ok(());
        };
        if !is_look(request) {
            return Err(Refusal::Change);
        }
        let host = request.headers().get(HOST);
        let host = host.map(|host| host.to_str().unwrap_or_default());
        match by_any_name || host.is_none_or(is_nobodys_name) {
            true => Ok(()),
            false => Err(Refusal::Name),
        }
    }
}

/// Why a request isn't answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// There is no such path.
    Path,
    /// The path wants this method.
    Method(&'static Method),
    /// It would change something, and this listener's clients only look.
    Change,
    /// It calls this listener by a name.
    Name,
}

impl Refusal {
    fn response(self) -> Response {
        let (status, text) = match self {
            Self::Path => {
                let known = ROUTES.each_ref().map(|(path, ..)| *path).join(", ");
                (StatusCode::NOT_FOUND, format!("there are only {known}\n"))
            }
            Self::Method(method) => {
                let text = format!("use {method}\n");
                (StatusCode::METHOD_NOT_ALLOWED, text)
            }
            Self::Change => {
                let text = "nothing can be changed by way of the admin listener: use xlb's \
                            commands\n";
                (StatusCode::FORBIDDEN, text.to_owned())
            }
            Self::Name => {
                let text = "use this host's address, or localhost, or allow names with \
                            `admin_allow_remote = true`\n";
                (StatusCode::MISDIRECTED_REQUEST, text.to_owned())
            }
        };
        response::text(status, &text)
    }
}

/// Whether a Host header has an address, or `localhost`: nobody can have those
/// lead elsewhere.
fn is_nobodys_name(host: &str) -> bool {
    let port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, digits)) if port(digits) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || bare.unwrap_or(name).parse::<IpAddr>().is_ok()
}

/// The agent's answer; `None` if it is stopping.
async fn ask<T>(handle: &Handle, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    handle.requests.send(request(sender)).await.ok()?;
    receiver.await.ok()
}

fn well(is_well: bool, else_what: &str) -> Response {
    match is_well {
        true => response::text(StatusCode::OK, "ok\n"),
        false => response::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{else_what}\n")),
    }
}

async fn metrics(handle: &Handle) -> Response {
    let Some(status) = ask(handle, Request::Status).await else {
        return response::not_serving();
    };
    match metrics::encode(status, &handle.internals) {
        Ok(text) => response::typed(metrics::CONTENT_TYPE, response::full(text)),
        Err(error) => response::failed(&error),
    }
}

async fn status(handle: &Handle) -> Response {
    match ask(handle, Request::Status).await {
        Some(status) => json(&status),
        None => response::not_serving(),
    }
}

async fn reload(handle: &Handle) -> Response {
    match ask(handle, Request::Reload).await {
        Some(Ok(warnings)) => json(&Reloaded::applied(&warnings)),
        Some(Err(error)) => {
            let mut response = match &error {
                ReloadError::Config(error) => json(&Reloaded::refused(error)),
                _ => response::text(StatusCode::OK, &error.to_string()),
            };
            *response.status_mut() = error.status();
            response
        }
        None => response::not_serving(),
    }
}

async fn unload(handle: &Handle) -> Response {
    match ask(handle, Request::Unload).await {
        Some(()) => response::text(StatusCode::ACCEPTED, "unloading\n"),
        None => response::not_serving(),
    }
}

/// Runs a packet through a replica, which is loaded on a thread of its own.
async fn explain(handle: &Handle, body: Incoming) -> Response {
    let request = match read(body).await {
        Ok(request) => request,
        Err(error) => return response::text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let explained = match ask(handle, |answer| Request::Explain(request, answer)).await {
        Some(Ok(explainer)) => tokio::task::spawn_blocking(move || explainer.run()).await,
        Some(Err(error)) => Ok(Err(error)),
        None => return response::not_serving(),
    };
    match explained {
        Ok(Ok(explanation)) => json(&explanation),
        Ok(Err(error)) => response::text(
            error.status(),
            &format!("{:#}\n", anyhow::Error::from(error)),
        ),
        Err(error) => response::failed(&error),
    }
}

/// Sends the flows as they are read, on a thread of its own.
async fn flows(handle: &Handle, body: Incoming) -> Response {
    let request = match read(body).await {
        Ok(request) => request,
        Err(error) => return response::text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let reader = match ask(handle, |answer| Request::Flows(request, answer)).await {
        Some(Ok(reader)) => reader,
        Some(Err(error)) => return response::text(error.status(), &format!("{error}\n")),
        None => return response::not_serving(),
    };
    let (sender, mut lines) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || reader.run(&sender));
    let lines = poll_fn(move |context| lines.poll_recv(context));
    let body = StreamBody::new(lines.map_ok(Frame::data));
    response::typed("application/x-ndjson", body.boxed_unsync())
}

/// Sends packets as they are captured.
async fn capture(handle: &Handle, body: Incoming) -> Response {
    let request = match read(body).await {
        Ok(request) => request,
        Err(error) => return response::text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    match ask(handle, |answer| Request::Capture(request, answer)).await {
        Some(Ok(mut parts)) => {
            let parts = poll_fn(move |context| parts.poll_recv(context));
            let body = StreamBody::new(parts).boxed_unsync();
            let mut response = response::typed("application/x-pcapng", body);
            let trailer = HeaderValue::from(SUMMARY);
            response.headers_mut().insert(TRAILER, trailer);
            response
        }
        Some(Err(error)) => {
            let status = error.status();
            response::text(status, &format!("{:#}\n", anyhow::Error::from(error)))
        }
        None => response::not_serving(),
    }
}

async fn stop_capture(handle: &Handle) -> Response {
    match ask(handle, Request::StopCapture).await {
        Some(Ok(())) => response::text(StatusCode::ACCEPTED, "stopping\n"),
        Some(Err(error)) => response::text(error.status(), &format!("{error}\n")),
        None => response::not_serving(),
    }
}

async fn operate(handle: &Handle, body: Incoming) -> Response {
    let request = match read(body).await {
        Ok(request) => request,
        Err(error) => return response::text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    match ask(handle, |answer| Request::Operate(request, answer)).await {
        Some(Ok(report)) => json(&report),
        Some(Err(error)) => response::text(error.status(), &format!("{error}\n")),
        None => response::not_serving(),
    }
}

/// A request's body, which is JSON.
async fn read<T: DeserializeOwned>(
    body: Incoming,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    let body = Limited::new(body, MAX_REQUEST).collect().await?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => response::typed("application/json", response::full(json)),
        Err(error) => response::failed(&error),
    }
}

#[cfg(test)]
mod tests;
