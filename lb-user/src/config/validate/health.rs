//! A group's health check.

use std::{num::NonZeroU16, ops::RangeInclusive, time::Duration};

use super::{
    time,
    tls::{self, Trust},
};
use crate::config::{
    HealthCheck, HttpProbe, Probe,
    diagnostic::Diagnostic,
    reader::{At, Section},
    values,
};

const MAX_THRESHOLD: u32 = 100;

pub(super) fn health_check(group: &Section<'_>, trust: &Trust<'_>) -> HealthCheck {
    let mut check = HealthCheck {
        probe: Probe::Http(HttpProbe {
            path: "/system/check".to_owned(),
            host: None,
            success: 200..=399,
            body: None,
            tls: None,
        }),
        port: None,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(6),
        healthy_threshold: 3,
        unhealthy_threshold: 3,
    };
    let Some(section) = group.section("health_check") else {
        return check;
    };
    check.probe = probe(&section, trust);
    check.port = section
        .number("port", 1..=u32::from(u16::MAX))
        .and_then(|port| NonZeroU16::new(port.value as u16));
    let (interval, timeout) = (time(&section, "interval"), time(&section, "timeout"));
    check.interval = interval.as_ref().map_or(check.interval, |time| time.value);
    // A short interval alone is no mistake: the default timeout gives way.
    let default = check.timeout.min(check.interval.mul_f64(0.6));
    check.timeout = timeout.as_ref().map_or(default, |time| time.value);
    if let Some(at) = timeout.as_ref().filter(|time| time.value >= check.interval) {
        let message = "`timeout` must be less than `interval`, or checks would overlap";
        section.report(Diagnostic::error(at.span.clone(), message));
    }
    for (key, value) in [
        ("healthy_threshold", &mut check.healthy_threshold),
        ("unhealthy_threshold", &mut check.unhealthy_threshold),
    ] {
        if let Some(number) = section.number(key, 1..=MAX_THRESHOLD) {
            *value = number.value;
        }
    }
    section.finish();
    check
}

fn probe(section: &Section<'_>, trust: &Trust<'_>) -> Probe {
    const HTTPS: usize = 1;
    const TCP: usize = 2;
    let protocol = section.word("protocol", &["http", "https", "tcp"]);
    let texts = (
        section.text("path"),
        section.text("host"),
        section.text("success"),
        section.text("body"),
    );
    if protocol == Some(TCP) {
        for text in [texts.0, texts.1, texts.2, texts.3].into_iter().flatten() {
            let message = "a TCP check has no path, host, success or body";
            section.report(Diagnostic::error(text.span, message));
        }
        tls::none(section);
        return Probe::Tcp;
    }
    let (path, host, success, body) = texts;
    let tls = match protocol {
        Some(HTTPS) => Some(tls::tls(
            section,
            host.as_ref().filter(|it| is_host(it.value)),
            trust,
        )),
        _ => {
            tls::none(section);
            None
        }
    };
    Probe::Http(HttpProbe {
        path: path.map_or("/system/check".to_owned(), |text| {
            checked_path(section, text)
        }),
        host: host.map(|text| checked_host(section, text)),
        success: success.map_or(200..=399, |text| success_codes(section, text)),
        body: body
            .map(|text| text.value.to_owned())
            .filter(|body| !body.is_empty()),
        tls,
    })
}

fn checked_path(section: &Section<'_>, path: At<&str>) -> String {
    let fault = if !path.value.starts_with('/') {
        Some("`path` must begin with `/`")
    } else if path.value.contains(|c: char| !c.is_ascii_graphic()) || path.value.contains('#') {
        Some("`path` can't have blanks, control characters, `#` or letters beyond ASCII")
    } else {
        path.value
            .parse::<hyper::Uri>()
            .err()
            .map(|_| "`path` is not a valid path of a URL")
    };
    if let Some(fault) = fault {
        section.report(Diagnostic::error(path.span, fault));
    }
    path.value.to_owned()
}

fn checked_host(section: &Section<'_>, host: At<&str>) -> String {
    if !is_host(host.value) {
        let message = "`host` must be a host name or address, with or without a port";
        section.report(Diagnostic::error(host.span, message));
    }
    host.value.to_owned()
}

fn is_host(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    !text.is_empty() && text.chars().all(fits)
}

fn success_codes(section: &Section<'_>, text: At<&str>) -> RangeInclusive<u16> {
    let error = match values::range(text.value) {
        Ok(codes) if *codes.start() >= 100 && *codes.end() <= 599 => return codes,
        Ok(_) => "status codes are from 100 to 599".to_owned(),
        Err(error) => error,
    };
    let help = "write it as `200-399` or `200`";
    section.report(Diagnostic::error(text.span, error).help(help));
    200..=399
}
