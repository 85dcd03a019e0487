use std::{future::Future, io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    time::sleep,
};

use super::*;
use crate::config::HttpProbe;

const TIMEOUT: Duration = Duration::from_millis(400);

fn http_check(body: Option<&str>) -> HealthCheck {
    check_by(Probe::Http(HttpProbe {
        path: "/system/check?full=1".into(),
        host: None,
        success: 200..=399,
        body: body.map(str::to_owned),
        tls: None,
    }))
}

fn check_by(probe: Probe) -> HealthCheck {
    HealthCheck {
        probe,
        port: None,
        interval: Duration::from_secs(1),
        timeout: TIMEOUT,
        healthy_threshold: 3,
        unhealthy_threshold: 3,
    }
}

fn failure(reason: Reason) -> Outcome {
    Outcome::Failure(reason)
}

fn status(code: u16) -> Outcome {
    failure(Reason::ResponseCodeMismatch { code })
}

/// A server that answers every connection by `behave`.
pub(super) async fn serve<F, R>(behave: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = io::Result<()>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            let _closed_by_the_probe = behave(stream).await;
        }
    });
    address
}

async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8(request).unwrap())
}

/// A server that sends `answer` to any request, and closes.
async fn answering(answer: Vec<u8>) -> SocketAddr {
    serve(move |mut stream| {
        let answer = answer.clone();
        async move {
            read_request(&mut stream).await?;
            stream.write_all(&answer).await?;
            stream.shutdown().await
        }
    })
    .await
}

async fn run(address: SocketAddr, check: &HealthCheck) -> Outcome {
    let start = Instant::now();
    let outcome = Prober::new(address, check).unwrap().run().await;
    let took = start.elapsed();
    assert!(took < TIMEOUT + Duration::from_millis(300), "took {took:?}");
    outcome
}

fn padded(size: usize, text: &str) -> Vec<u8> {
    let length = size + text.len();
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + size, b'.');
    answer.extend_from_slice(text.as_bytes());
    answer
}

#[tokio::test]
async fn answers_give_outcomes() {
    let big_header = format!(
        "HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n",
        "a".repeat(4 * MAX_HEADER_BYTES)
    );
    let many_fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(200));
    let fits = 64 * 1024 - "is running".len();
    let running = Some("is running");
    let table: [(&str, Vec<u8>, Option<&str>, Outcome); 21] = [
        ("200", b"HTTP/1.1 200 OK\r\n\r\n".into(), None, Outcome::Success),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\n".into(), None, Outcome::Success),
        ("204", b"HTTP/1.1 204 No Content\r\n\r\n".into(), None, Outcome::Success),
        ("103, then 200", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".into(), None, Outcome::Success),
        ("301 counts, unfollowed", b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n".into(), None, Outcome::Success),
        ("404", b"HTTP/1.1 404 Not Found\r\n\r\n".into(), None, status(404)),
        ("503 with the text", b"HTTP/1.1 503 Oh\r\nContent-Length: 10\r\n\r\nis running".into(), running, status(503)),
        ("body matches", padded(0, "system is running"), running, Outcome::Success),
        ("body matches, chunked in two", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nis r\r\n6\r\nunning\r\n0\r\n\r\n".into(), running, Outcome::Success),
        ("body without length", b"HTTP/1.1 200 OK\r\n\r\nis running".into(), running, Outcome::Success),
        ("body differs", padded(0, "is broken"), running, failure(Reason::BodyMismatch)),
        ("body is empty", padded(0, ""), running, failure(Reason::BodyMismatch)),
        ("empty text is in any body", padded(0, ""), Some(""), Outcome::Success),
        ("text ends at 64 KiB", padded(fits, "is running"), running, Outcome::Success),
        ("text ends a byte later", padded(fits + 1, "is running"), running, failure(Reason::BodyMismatch)),
        ("body is cut", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nis".into(), running, failure(Reason::ConnectionClosed)),
        ("closed unanswered", Vec::new(), None, failure(Reason::ConnectionClosed)),
        ("header is cut", b"HTTP/1.1 200 O".into(), None, failure(Reason::ConnectionClosed)),
        ("garbage", b"\x16\x03\x01 nonsense\r\n\r\n".into(), None, failure(Reason::MalformedResponse)),
        ("big header", big_header.into(), None, failure(Reason::HeaderTooLarge)),
        ("many fields", many_fields.into(), None, failure(Reason::HeaderTooLarge)),
    ];
    for (description, answer, body, expected) in table {
        let address = answering(answer).await;
        assert_eq!(
            run(address, &http_check(body)).await,
            expected,
            "{description}"
        );
    }
}

#[tokio::test]
async fn slow_targets_time_out() {
    let silent = serve(|stream| async move {
        sleep(TIMEOUT * 4).await;
        drop(stream);
        Ok(())
    })
    .await;
    let dripping = serve(|mut stream| async move {
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" {
            stream.write_all(&[*byte]).await?;
            sleep(TIMEOUT / 10).await;
        }
        Ok(())
    })
    .await;
    let slow_body = serve(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(&padded(0, "is running")[..45]).await?;
        sleep(TIMEOUT * 4).await;
        Ok(())
    })
    .await;
    let expected = failure(Reason::ResponseTimeout);
    assert_eq!(run(silent, &http_check(None)).await, expected, "silent");
    assert_eq!(run(dripping, &http_check(None)).await, expected, "dripping");
    let check = http_check(Some("is running"));
    assert_eq!(run(slow_body, &check).await, expected, "slow body");
}

#[tokio::test]
async fn a_full_backlog_is_a_connect_timeout() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connect = TcpStream::connect(address);
        waiting.push(tokio::time::timeout(TIMEOUT / 4, connect).await);
    }
    let outcome = run(address, &check_by(Probe::Tcp)).await;
    assert_eq!(outcome, failure(Reason::ConnectTimeout));
}

#[tokio::test]
async fn resets_are_told_from_closes() {
    let before_answer = serve(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.set_zero_linger()
    })
    .await;
    let in_body = serve(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(&padded(0, "is running")[..42]).await?;
        sleep(TIMEOUT / 4).await;
        stream.set_zero_linger()
    })
    .await;
    // Closing with the request unread resets the connection.
    let unread = serve(|stream| async move {
        stream.readable().await?;
        Ok(())
    })
    .await;
    let expected = failure(Reason::ConnectionReset);
    let check = http_check(Some("is running"));
    for (description, address) in [
        ("before the answer", before_answer),
        ("in the body", in_body),
        ("request unread", unread),
    ] {
        assert_eq!(run(address, &check).await, expected, "{description}");
    }
}

/// SSH, SMTP: they speak first, before or after our request leaves.
#[tokio::test]
async fn a_banner_is_malformed() {
    for (description, pause) in [("before", TIMEOUT / 8), ("after", Duration::ZERO)] {
        let address = serve(move |mut stream| async move {
            if pause.is_zero() {
                read_request(&mut stream).await?;
            }
            stream.write_all(b"220 mail.example ESMTP\r\n").await?;
            sleep(TIMEOUT / 2).await;
            Ok(())
        })
        .await;
        let stream = TcpStream::connect(address).await.unwrap();
        sleep(pause).await;
        let prober = HttpProber::new(address, &probe_of(&http_check(None))).unwrap();
        let outcome = prober.exchange(stream).await;
        assert_eq!(
            outcome,
            Err(failure(Reason::MalformedResponse)),
            "{description}"
        );
    }
}

fn probe_of(check: &HealthCheck) -> HttpProbe {
    match &check.probe {
        Probe::Http(probe) => probe.clone(),
        Probe::Tcp => panic!("a TCP check"),
    }
}

/// How much of an endless body was taken before the connection closed.
async fn endless(check: &HealthCheck) -> (Outcome, usize) {
    let (sent, mut total) = mpsc::channel(1);
    let address = serve(move |mut stream| {
        let sent = sent.clone();
        async move {
            read_request(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            let mut bytes = 0;
            while stream.write_all(&[b'.'; 1024]).await.is_ok() {
                bytes += 1024;
            }
            let _receiver_lives = sent.send(bytes).await;
            Ok(())
        }
    })
    .await;
    (run(address, check).await, total.recv().await.unwrap())
}

#[tokio::test]
async fn an_endless_body_is_left_unread() {
    // What the sockets' buffers swallow comes on top.
    const BUFFERED: usize = 8 * 1024 * 1024;
    let (outcome, sent) = endless(&http_check(None)).await;
    assert_eq!(outcome, Outcome::Success);
    assert!(sent < BUFFERED, "sent {sent}");
    let (outcome, sent) = endless(&http_check(Some("is running"))).await;
    assert_eq!(outcome, failure(Reason::BodyMismatch));
    assert!(sent < BUFFERED + MAX_BODY_BYTES, "sent {sent}");
}

#[tokio::test]
async fn the_request_is_as_set() {
    let (seen, mut requests) = mpsc::channel(1);
    let address = serve(move |mut stream| {
        let seen = seen.clone();
        async move {
            let request = read_request(&mut stream).await?;
            let _receiver_lives = seen.send(request).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await
        }
    })
    .await;
    for (host, expected) in [
        (None, address.to_string()),
        (Some("api.example"), "api.example".to_owned()),
    ] {
        let mut probe = probe_of(&http_check(None));
        probe.host = host.map(str::to_owned);
        assert_eq!(
            run(address, &check_by(Probe::Http(probe))).await,
            Outcome::Success
        );
        let lines = format!(
            "GET /system/check?full=1 HTTP/1.1\r\nHost: {expected}\r\n\
             User-Agent: xlb-health-check/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(requests.recv().await.unwrap(), lines);
    }
}

#[tokio::test]
async fn tcp_needs_only_the_connection() {
    let address = serve(|_stream| async { Ok(()) }).await;
    let mut check = check_by(Probe::Tcp);
    assert_eq!(run(address, &check).await, Outcome::Success);

    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let refused = failure(Reason::ConnectionRefused);
    assert_eq!(run(closed, &check).await, refused);
    assert_eq!(run(closed, &http_check(None)).await, refused);

    check.port = std::num::NonZeroU16::new(address.port());
    assert_eq!(run(closed, &check).await, Outcome::Success, "own port");
}

#[test]
fn what_http_cannot_send_is_refused() {
    let address = "[2001:db8::1]:80".parse().unwrap();
    let prepare = |path: &str, host: Option<&str>| {
        let mut probe = probe_of(&http_check(None));
        probe.path = path.to_owned();
        probe.host = host.map(str::to_owned);
        Prober::new(address, &check_by(Probe::Http(probe))).err()
    };
    let path = |path: &str| Some(PrepareError::Path(path.to_owned()));
    let host = |host: &str| Some(PrepareError::Host(host.to_owned()));
    assert_eq!(prepare("/", None), None);
    for refused in ["", "check", "http://x/", "/a b", "/a\r\nX: y"] {
        assert_eq!(prepare(refused, None), path(refused), "{refused:?}");
    }
    assert_eq!(prepare("/", Some("a\r\nX: y")), host("a\r\nX: y"));
}

/// What is left on either side otherwise is a connection in TIME_WAIT, for each
/// check of a minute.
#[tokio::test]
async fn connections_end_with_a_rst() {
    for check in [http_check(None), check_by(Probe::Tcp)] {
        let (ends, mut ended) = mpsc::channel(1);
        let address = serve(move |mut stream| {
            let ends = ends.clone();
            async move {
                let end = async {
                    read_request(&mut stream).await?;
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                    stream.read_to_end(&mut Vec::new()).await
                };
                ends.send(end.await.map_err(|error| error.kind()))
                    .await
                    .unwrap();
                Ok(())
            }
        })
        .await;
        assert_eq!(run(address, &check).await, Outcome::Success);
        let end = ended.recv().await.unwrap();
        assert_eq!(
            end,
            Err(io::ErrorKind::ConnectionReset),
            "{:?}",
            check.probe
        );
    }
}
