//! The socket's client, for the commands that ask a running agent.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{HOST, HeaderValue, TE},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{
    CaptureRequest, CaptureSummary, ExplainRequest, Explanation, FlowsRequest, INVALID, Reloaded,
    Status, TargetReport, TargetRequest,
};

/// An agent that takes longer is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no answer that is of use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no xlb is running here: nothing answers on {path} (is it another --instance?)")]
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
    #[error("the agent is starting or stopping: ask again")]
    NotServing,
    /// What was asked for can't be done as it stands.
    #[error("{0}")]
    Invalid(String),
    /// Something else is under way that it can't be done beside.
    #[error("{0}")]
    Conflict(String),
    #[error("the agent refused the request: {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error("the agent's answer is not what this version of xlb understands")]
    Json(#[from] serde_json::Error),
}

impl ClientError {
    /// Whether no agent is there that answers.
    #[must_use]
    pub fn is_no_agent(&self) -> bool {
        matches!(
            self,
            Self::NotRunning { .. } | Self::Timeout | Self::NotServing
        )
    }
}

/// Asks the agent on the socket `path` for its status.
///
/// # Errors
/// If none answers, in time and in full.
pub async fn status(path: &Path) -> Result<Status, ClientError> {
    let answer = ask(path, Method::GET, "/api/status", Bytes::new()).await?;
    Ok(serde_json::from_slice(&answer.accepted()?.body)?)
}

/// Asks the agent on the socket `path` to read its configuration again.
///
/// # Errors
/// If none answers, or it couldn't do it for another reason than what is in the
/// file.
pub async fn reload(path: &Path) -> Result<Reloaded, ClientError> {
    let answer = ask(path, Method::POST, "/api/reload", Bytes::new()).await?;
    let body = match answer.status {
        INVALID => answer.body,
        _ => answer.accepted()?.body,
    };
    Ok(serde_json::from_slice(&body)?)
}

/// Asks the agent on the socket `path` to take everything back and to end, which
/// it has begun when this returns.
///
/// # Errors
/// If none answers.
pub async fn unload(path: &Path) -> Result<(), ClientError> {
    let answer = ask(path, Method::POST, "/api/unload", Bytes::new()).await?;
    answer.accepted().map(drop)
}

/// Asks the agent on the socket `path` what would become of a packet.
///
/// # Errors
/// If none answers, the packet makes no sense, or it can't be run.
pub async fn explain(path: &Path, request: &ExplainRequest) -> Result<Explanation, ClientError> {
    let body = serde_json::to_vec(request)?;
    let answer = ask(path, Method::POST, "/api/explain", body.into()).await?;
    Ok(serde_json::from_slice(&answer.accepted()?.body)?)
}

/// Asks the agent on the socket `path` for its flows.
///
/// # Errors
/// If none answers, or the request makes no sense.
pub async fn flows(path: &Path, request: &FlowsRequest) -> Result<Lines, ClientError> {
    let body = serde_json::to_vec(request)?;
    let response = in_time(send(path, Method::POST, "/api/flows", body.into())).await?;
    if response.status() != StatusCode::OK {
        let answer = in_time(whole(response)).await?;
        answer.accepted()?;
        return Err(ClientError::NotServing);
    }
    Ok(Lines {
        body: response.into_body(),
        pending: Vec::new(),
    })
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    /// The beginning of a line.
    pending: Vec<u8>,
}

impl Lines {
    /// Some whole lines; `None` after the last one.
    ///
    /// # Errors
    /// If the answer breaks off.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            let frame = async { Ok(self.body.frame().await.transpose()?) };
            let Some(frame) = in_time(frame).await? else {
                // The last line ends, too.
                return Ok(None);
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.pending.extend_from_slice(&data);
            let Some(end) = self.pending.iter().rposition(|&byte| byte == b'\n') else {
                continue;
            };
            let rest = self.pending.split_off(end + 1);
            let lines = std::mem::replace(&mut self.pending, rest);
            return Ok(Some(String::from_utf8_lossy(&lines).into_owned()));
        }
    }
}

/// Has the agent on the socket `path` capture packets.
///
/// # Errors
/// If none answers, the request makes no sense, or there is another capture.
pub async fn capture(path: &Path, request: &CaptureRequest) -> Result<CaptureStream, ClientError> {
    let body = serde_json::to_vec(request)?;
    let response = in_time(send(path, Method::POST, "/api/capture", body.into())).await?;
    if response.status() != StatusCode::OK {
        let answer = in_time(whole(response)).await?;
        answer.accepted()?;
        return Err(ClientError::NotServing);
    }
    Ok(CaptureStream {
        body: response.into_body(),
        summary: None,
    })
}

/// A capture under way, pcapng.
#[derive(Debug)]
pub struct CaptureStream {
    body: Incoming,
    summary: Option<CaptureSummary>,
}

impl CaptureStream {
    /// The next bytes of it; `None` at its end. May be dropped and called again.
    ///
    /// # Errors
    /// If it breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await.transpose()? {
            match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    self.summary = trailers.as_ref().and_then(CaptureSummary::of);
                }
            }
        }
        Ok(None)
    }

    /// What became of it, once it has ended; `None` if the agent doesn't say.
    #[must_use]
    pub fn summary(&self) -> Option<&CaptureSummary> {
        self.summary.as_ref()
    }
}

/// Asks the agent on the socket `path` to end the capture under way.
///
/// # Errors
/// If none answers, or there is no capture.
pub async fn stop_capture(path: &Path) -> Result<(), ClientError> {
    let answer = ask(path, Method::POST, "/api/capture/stop", Bytes::new()).await?;
    answer.accepted().map(drop)
}

/// Asks the agent on the socket `path` to do something about a target.
///
/// # Errors
/// If none answers, there is no such target, or it couldn't do it.
pub async fn operate(path: &Path, request: &TargetRequest) -> Result<TargetReport, ClientError> {
    let body = serde_json::to_vec(request)?;
    let answer = ask(path, Method::POST, "/api/target", body.into()).await?;
    Ok(serde_json::from_slice(&answer.accepted()?.body)?)
}

struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer if it is what was asked for.
    fn accepted(self) -> Result<Self, ClientError> {
        let body = || self.text().trim().to_owned();
        match self.status {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(self),
            StatusCode::SERVICE_UNAVAILABLE => Err(ClientError::NotServing),
            INVALID => Err(ClientError::Invalid(body())),
            StatusCode::CONFLICT => Err(ClientError::Conflict(body())),
            status => Err(ClientError::Refused {
                status,
                body: body(),
            }),
        }
    }
}

async fn ask(
    path: &Path,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<Answer, ClientError> {
    in_time(async { whole(send(path, method, target, body).await?).await }).await
}

async fn in_time<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let done = tokio::time::timeout(TIMEOUT, work).await;
    done.map_err(|_| ClientError::Timeout)?
}

/// Sends a request, and waits for the beginning of the answer.
async fn send(
    path: &Path,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<Response<Incoming>, ClientError> {
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
    // It ends with the answer, and its errors come with that.
    tokio::spawn(connection);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    // A constant path and host: neither can fail to parse.
    *request.uri_mut() = hyper::Uri::try_from(target).unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("xlb"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    Ok(sender.send_request(request).await?)
}

/// Waits for the rest of the answer.
async fn whole(response: Response<Incoming>) -> Result<Answer, ClientError> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, body })
}
