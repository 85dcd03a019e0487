//! What an HTTPS check needs beside an HTTP check.

use std::{cell::OnceCell, path::Path};

use rustls::pki_types::ServerName;

use crate::config::{
    Authorities, TlsProbe,
    diagnostic::Diagnostic,
    reader::{At, Section},
};

const KEYS: [&str; 3] = ["ca_file", "server_name", "verify"];

/// Where certificate authorities are found.
pub(super) struct Trust<'a> {
    /// Where paths begin.
    folder: &'a Path,
    /// Read once for all groups.
    host: OnceCell<Result<Authorities, String>>,
}

impl<'a> Trust<'a> {
    pub(super) fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            host: OnceCell::new(),
        }
    }

    fn of_this_host(&self) -> Result<Authorities, String> {
        self.host.get_or_init(Authorities::of_this_host).clone()
    }
}

/// Reports what only an HTTPS check has.
pub(super) fn none(section: &Section<'_>) {
    for key in KEYS {
        if let Some(place) = section.place(key) {
            let message = format!("`{key}` is of HTTPS checks only");
            section.report(Diagnostic::error(place, message).help("set `protocol = \"https\"`"));
        }
    }
}

/// `host` is the request's, with or without a port.
pub(super) fn tls(section: &Section<'_>, host: Option<&At<&str>>, trust: &Trust<'_>) -> TlsProbe {
    let explicit = section.text("server_name");
    let server_name = match (&explicit, host) {
        (Some(name), _) => server_name(section, "server_name", name, name.value),
        (None, Some(host)) => server_name(section, "host", host, without_port(host.value)),
        (None, None) => None,
    };
    let verify = section.boolean("verify").unwrap_or(true);
    TlsProbe {
        server_name,
        authorities: authorities(section, verify, trust),
    }
}

fn server_name(
    section: &Section<'_>,
    key: &str,
    place: &At<&str>,
    name: &str,
) -> Option<ServerName<'static>> {
    let name = ServerName::try_from(name).map(|name| name.to_owned());
    if name.is_err() {
        let message = format!("`{key}` is no name or address that a certificate can be for");
        let help = "write `server_name = \"api.example\"`, without a port";
        section.report(Diagnostic::error(place.span.clone(), message).help(help));
    }
    name.ok()
}

/// `api.example` of `api.example:8443`, `::1` of `[::1]:8443`.
fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        return address;
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

fn authorities(section: &Section<'_>, verify: bool, trust: &Trust<'_>) -> Option<Authorities> {
    let file = section.text("ca_file");
    if !verify {
        if let Some(file) = file {
            let message = "`ca_file` has no use with `verify = false`";
            section.report(Diagnostic::error(file.span, message).help("remove one of them"));
        }
        return None;
    }
    let found = match &file {
        Some(file) => {
            let found = Authorities::of_file(&trust.folder.join(file.value));
            found.map_err(|error| {
                let message = format!("{}: {error}", file.value);
                Diagnostic::error(file.span.clone(), message)
            })
        }
        None => trust.of_this_host().map_err(|message| {
            let place = section.place("protocol").unwrap_or(section.span.clone());
            let help = "install the package `ca-certificates`, or set `ca_file`";
            Diagnostic::error(place, message).help(help)
        }),
    };
    found.map_err(|diagnostic| section.report(diagnostic)).ok()
}
