//! Answers, and the headers that keep browsers from making more of them.

use std::{fmt, io};

use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    StatusCode,
    body::Bytes,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
        REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
};

/// An answer's body, whole or as it comes.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Response = hyper::Response<Body>;

const NOT_SERVING: &str = "the agent is starting or stopping: ask again\n";

/// The web page.
const PAGE: &str = include_str!("page.html");
/// Nothing runs and nothing is loaded but what is in the page itself, by its
/// SHA-256, and the status.
const PAGE_POLICY: &str = concat!(
    "default-src 'none'; ",
    "script-src 'sha256-ttIwgbXXmcXPeBgplDYhfVpj839cIrGci+0XG/qi1Ok='; ",
    "style-src 'sha256-J43vMetKHVAWdMcvEJDT9XP4Af0zDgswFwfrJxwnUds='; ",
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; ",
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
);
const NO_PAGE: &str = "default-src 'none'; frame-ancestors 'none'";

pub(super) fn page() -> Response {
    let mut page = typed("text/html; charset=utf-8", full(PAGE));
    let policy = HeaderValue::from_static(PAGE_POLICY);
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    page
}

pub(super) fn text(status: StatusCode, body: &str) -> Response {
    let mut response = typed("text/plain; charset=utf-8", full(body.to_owned()));
    *response.status_mut() = status;
    response
}

/// A whole body.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::from(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body of this type.
pub(super) fn typed(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = [
        (CONTENT_TYPE, content_type),
        // Of this moment, and for whoever asked only.
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, NO_PAGE),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

pub(super) fn not_serving() -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, NOT_SERVING)
}

pub(super) fn failed(error: &impl fmt::Display) -> Response {
    text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n"))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// The policy names the page's script and style, each of which it has once.
    #[test]
    fn the_policy_is_the_pages() {
        for element in ["script", "style"] {
            let (open, close) = (format!("<{element}>"), format!("</{element}>"));
            let parts: Vec<&str> = PAGE.split(&open).collect();
            assert_eq!(parts.len(), 2, "{element}");
            let (inside, _) = parts[1].split_once(&close).unwrap();
            let hash = STANDARD.encode(Sha256::digest(inside));
            let source = format!("{element}-src 'sha256-{hash}'");
            assert!(PAGE_POLICY.contains(&source), "write into it: {source}");
        }
        assert!(!PAGE_POLICY.contains("unsafe"));
    }
}
