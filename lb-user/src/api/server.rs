//! The socket's server: takes requests and passes them to the agent's task.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{TryStreamExt as _, stream::poll_fn};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use tracing::debug;

use super::{
    ExplainError, ExplainRequest, Explainer, FlowsError, FlowsReader, FlowsRequest, OperateError,
    ReloadError, Status, TargetReport, TargetRequest,
};
use crate::config::Diagnostics;

/// Bytes of a request's body.
const MAX_REQUEST: usize = 64 * 1024;
/// Chunks of an answer that wait to be sent.
const CHUNKS: usize = 4;
const NOT_SERVING: &str = "the agent is starting or stopping: ask again\n";

/// An answer's body, whole or as it comes.
type Body = UnsyncBoxBody<Bytes, io::Error>;

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
    Operate(
        TargetRequest,
        oneshot::Sender<Result<TargetReport, OperateError>>,
    ),
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another xlb is running and answers on {path}: stop it, or give this one --socket")]
    Taken { path: PathBuf },
    #[error("{path} is there and is no socket: give --socket a path where no file is")]
    NoSocket { path: PathBuf },
    #[error("could not {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The bound socket. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds `path`, readable and writable by its owner only. A socket that a
    /// dead agent has left is replaced.
    ///
    /// # Errors
    /// If another agent answers there, something else than a socket is there,
    /// or the path can't be bound.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |action| failed(path, action);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed("bind"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(failed("set the permissions of"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves until the agent is gone.
    pub async fn serve(self, agent: mpsc::Sender<Request>) {
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = agent.closed() => return,
            };
            match stream {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, agent.clone()));
                }
                Err(error) => {
                    debug!(%error, "could not accept on the socket");
                    // Out of file descriptors, most likely: don't spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell.
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Removes a socket that nobody listens on, and nothing else.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    // Not through a symbolic link: it would be the link that is removed.
    let file = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(failed(path, "look at"))?,
    };
    let path = path.to_owned();
    if !file.file_type().is_socket() {
        return Err(SocketError::NoSocket { path });
    }
    match std::os::unix::net::UnixStream::connect(&path) {
        Ok(_) => Err(SocketError::Taken { path }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(&path).map_err(failed(&path, "remove the stale socket"))
        }
        // A full queue, or rights that are missing: somebody may listen.
        Err(error) => Err(failed(&path, "find out whether anyone listens on")(error)),
    }
}

async fn connection(stream: UnixStream, agent: mpsc::Sender<Request>) {
    let service = service_fn(|request| answer(request, agent.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a request on the socket failed");
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    agent: mpsc::Sender<Request>,
) -> Result<Response<Body>, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => status(&agent).await,
        (&Method::POST, "/reload") => reload(&agent).await,
        (&Method::POST, "/unload") => unload(&agent).await,
        (&Method::POST, "/explain") => explain(&agent, request.into_body()).await,
        (&Method::POST, "/flows") => flows(&agent, request.into_body()).await,
        (&Method::POST, "/target") => operate(&agent, request.into_body()).await,
        (_, "/status") => text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n"),
        (_, "/explain" | "/flows" | "/reload" | "/target" | "/unload") => {
            text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n")
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "there are only /status, /explain, /flows, /reload, /target and /unload\n",
        ),
    })
}

/// The agent's answer; `None` if it is stopping.
async fn ask<T>(
    agent: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    agent.send(request(sender)).await.ok()?;
    receiver.await.ok()
}

async fn reload(agent: &mpsc::Sender<Request>) -> Response<Body> {
    match ask(agent, Request::Reload).await {
        Some(Ok(warnings)) => text(StatusCode::OK, &warnings.to_string()),
        Some(Err(error)) => text(error.status(), &error.to_string()),
        None => not_serving(),
    }
}

async fn unload(agent: &mpsc::Sender<Request>) -> Response<Body> {
    match ask(agent, Request::Unload).await {
        Some(()) => text(StatusCode::ACCEPTED, "unloading\n"),
        None => not_serving(),
    }
}

async fn status(agent: &mpsc::Sender<Request>) -> Response<Body> {
    match ask(agent, Request::Status).await {
        Some(status) => json(&status),
        None => not_serving(),
    }
}

/// Runs a packet through a replica, which is loaded on a thread of its own.
async fn explain(agent: &mpsc::Sender<Request>, body: Incoming) -> Response<Body> {
    let request = match read(body).await {
        Ok(request) => request,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let explained = match ask(agent, |answer| Request::Explain(request, answer)).await {
        Some(Ok(explainer)) => tokio::task::spawn_blocking(move || explainer.run()).await,
        Some(Err(error)) => Ok(Err(error)),
        None => return not_serving(),
    };
    match explained {
        Ok(Ok(explanation)) => json(&explanation),
        Ok(Err(error)) => text(
            error.status(),
            &format!("{:#}\n", anyhow::Error::from(error)),
        ),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// Sends the flows as they are read, on a thread of its own.
async fn flows(agent: &mpsc::Sender<Request>, body: Incoming) -> Response<Body> {
    let request = match read(body).await {
        Ok(request) => request,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let reader = match ask(agent, |answer| Request::Flows(request, answer)).await {
        Some(Ok(reader)) => reader,
        Some(Err(error)) => return text(error.status(), &format!("{error}\n")),
        None => return not_serving(),
    };
    let (sender, mut lines) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || reader.run(&sender));
    let lines = poll_fn(move |context| lines.poll_recv(context));
    let body = StreamBody::new(lines.map_ok(Frame::data));
    typed(body.boxed_unsync(), "application/x-ndjson")
}

async fn operate(agent: &mpsc::Sender<Request>, body: Incoming) -> Response<Body> {
    let request = match read(body).await {
        Ok(request) => request,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    match ask(agent, |answer| Request::Operate(request, answer)).await {
        Some(Ok(report)) => json(&report),
        Some(Err(error)) => text(error.status(), &format!("{error}\n")),
        None => not_serving(),
    }
}

/// A request's body, which is JSON.
async fn read<T: DeserializeOwned>(
    body: Incoming,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    let body = Limited::new(body, MAX_REQUEST).collect().await?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(json) => typed(full(json), "application/json"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn typed(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::from(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn not_serving() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, NOT_SERVING)
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(full(body.to_owned()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("xlb-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn only_a_stale_socket_is_replaced() {
        let folder = Folder::new("stale");
        let path = folder.0.join("new/xlb.sock");
        drop(Server::bind(&path).unwrap());
        assert!(!path.exists(), "the server removes its own socket");

        drop(StdListener::bind(&path).unwrap());
        let server = Server::bind(&path).expect("nobody listens any more");
        let second = Server::bind(&path).unwrap_err();
        assert!(matches!(second, SocketError::Taken { .. }), "{second}");
        assert!(path.exists(), "the first one's socket stays");
        drop(server);
    }

    #[tokio::test]
    async fn nothing_else_is_removed() {
        let folder = Folder::new("file");
        let (file, link) = (folder.0.join("passwd"), folder.0.join("link"));
        fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link, &folder.0] {
            let error = Server::bind(path).unwrap_err();
            assert!(matches!(error, SocketError::NoSocket { .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
