use super::*;

fn ask_as(method: Method, target: &str, host: Option<&str>) -> HttpRequest<()> {
    let mut request = HttpRequest::builder().method(method).uri(target);
    if let Some(host) = host {
        request = request.header(HOST, host);
    }
    request.body(()).unwrap()
}

#[test]
fn the_admin_listener_only_shows() {
    let look = Access::Look { by_any_name: false };
    for (path, method, _) in &ROUTES {
        let request = ask_as(method.clone(), path, Some("127.0.0.1:9800"));
        assert!(Access::Full.admit(&request).is_ok());
        assert_eq!(
            look.admit(&request).is_ok(),
            *method == Method::GET,
            "{path}"
        );
    }
    let head = ask_as(Method::HEAD, "/metrics", None);
    assert!(look.admit(&head).is_ok());
    assert_eq!(route(&head).unwrap(), Route::Metrics);
}

#[test]
fn nobody_elses_name_leads_here() {
    for (host, admitted) in [
        ("127.0.0.1", true),
        ("127.0.0.1:9800", true),
        ("[::1]:9800", true),
        ("[::1]", true),
        ("LocalHost:9800", true),
        ("evil.example:9800", false),
        ("evil.example", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("", false),
    ] {
        let request = ask_as(Method::GET, "/", Some(host));
        let admit = |by_any_name| Access::Look { by_any_name }.admit(&request).is_ok();
        assert_eq!(admit(false), admitted, "{host}");
        assert!(admit(true), "{host}");
    }
}

#[test]
fn a_wrong_method_or_path_is_said() {
    let status = |method, path| route(&ask_as(method, path, None));
    assert_eq!(status(Method::GET, "/api/status"), Ok(Route::Status));
    assert_eq!(status(Method::POST, "/api/reload"), Ok(Route::Reload));
    for (method, path, code) in [
        (Method::GET, "/api/reload", StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/metrics", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/status", StatusCode::NOT_FOUND),
    ] {
        let refusal = status(method, path).unwrap_err();
        assert_eq!(refusal.response().status(), code, "{path}");
    }
}
