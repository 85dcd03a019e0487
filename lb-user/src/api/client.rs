//! The socket's client, for the commands that ask a running agent.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Status, reload::INVALID};

/// An agent that takes longer is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no xlb is running here: nothing answers on {path} (is it another --socket?)")]
    NotRunning { path: PathBuf },
    #[error("{path} is for root only: use sudo")]
    Denied { path: PathBuf },
    #[error("could not connect to {path}")]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("the agent's answer could not be read")]
    Http(#[from] hyper::Error),
    #[error("the agent refused the request: {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error("the agent's answer is not what this version of xlb understands")]
    Json(#[from] serde_json::Error),
}

/// Asks the agent on the socket `path` for its status.
///
/// # Errors
/// If none answers, in time and in full.
pub async fn status(path: &Path) -> Result<Status, ClientError> {
    let answer = ask(path, Method::GET, "/api/status").await?;
    match answer.status {
        StatusCode::OK => Ok(serde_json::from_slice(&answer.body)?),
        _ => Err(answer.refused()),
    }
}

/// Asks the agent on the socket `path` to read its configuration again. Says
/// what is odd about it, or else, as the inner error, what is wrong with it.
///
/// # Errors
/// If none answers, or it couldn't do it for another reason.
pub async fn reload(path: &Path) -> Result<Result<String, String>, ClientError> {
    let answer = ask(path, Method::POST, "/api/reload").await?;
    match answer.status {
        StatusCode::OK => Ok(Ok(answer.text())),
        INVALID => Ok(Err(answer.text())),
        _ => Err(answer.refused()),
    }
}

struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn refused(&self) -> ClientError {
        ClientError::Refused {
            status: self.status,
            body: self.text().trim().to_owned(),
        }
    }
}

async fn ask(path: &Path, method: Method, target: &str) -> Result<Answer, ClientError> {
    tokio::time::timeout(TIMEOUT, send(path, method, target))
        .await
        .map_err(|_| ClientError::Timeout)?
}

async fn send(path: &Path, method: Method, target: &str) -> Result<Answer, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path }
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied { path },
            _ => ClientError::Connect { path, source },
        }
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    // A constant path and host: neither can fail to parse.
    *request.uri_mut() = hyper::Uri::try_from(target).unwrap_or_default();
    request
        .headers_mut()
        .insert(HOST, hyper::header::HeaderValue::from_static("xlb"));
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body })
    };
    tokio::select! {
        answer = exchange => answer,
        Err(error) = connection => Err(error.into()),
    }
}
