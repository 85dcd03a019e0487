//! The socket's server: takes requests and passes them to the agent's task.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use tracing::debug;

use super::Status;

/// A request to the agent's task, with the way to answer it.
#[derive(Debug)]
pub enum Request {
    Status(oneshot::Sender<Status>),
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another xlb is running and answers on {path}: stop it, or give this one --socket")]
    Taken { path: PathBuf },
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
    /// Binds `path`, readable and writable by its owner only. A file that a dead
    /// agent has left is replaced.
    ///
    /// # Errors
    /// If another agent answers there, or the path can't be bound.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |action| {
            move |source| SocketError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(SocketError::Taken {
                path: path.to_owned(),
            });
        }
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove the stale socket")(error)),
        }
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
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => status(&agent).await,
        (_, "/status") => text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n"),
        _ => text(StatusCode::NOT_FOUND, "there is only /status\n"),
    })
}

async fn status(agent: &mpsc::Sender<Request>) -> Response<Full<Bytes>> {
    let (sender, receiver) = oneshot::channel();
    if agent.send(Request::Status(sender)).await.is_err() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n");
    }
    match receiver.await.map(|status| serde_json::to_vec(&status)) {
        Ok(Ok(json)) => {
            let mut response = Response::new(Full::from(json));
            let json = hyper::header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n"),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    response
}
