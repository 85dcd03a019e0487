//! Servers that nobody here wrote: nginx, python's http.server, socat, iperf3.

use std::{
    fs::{self, File},
    io::Read,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{netns::Namespace, process::Process, topology::Place, wait};

/// What the health check reads.
pub const HEALTH_PATH: &str = "/system/check";
pub const HEALTH_BODY: &str = "system is running...";
/// While there is such a file, nginx fails the check.
const OUT_OF_ORDER: &str = "out-of-order";

const START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(5);

/// A web server that says its name at `/`, the client's address as it sees it
/// at `/client`, that it runs at [`HEALTH_PATH`], and serves files; with
/// `?rate=250k` at most so many bytes a second, nginx only.
#[derive(Debug)]
pub struct WebServer {
    pub name: String,
    pub place: Place,
    kind: Kind,
    directory: PathBuf,
    process: Option<Process>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    /// No `/client`.
    Python,
}

impl WebServer {
    /// Starts one, with the files of `files` (if given), and its own files
    /// below `directory`.
    ///
    /// # Errors
    /// If it doesn't listen soon.
    pub fn start(
        kind: Kind,
        name: &str,
        place: &Place,
        files: Option<&Path>,
        directory: &Path,
    ) -> Result<Self> {
        let directory = directory.join(format!("web-{name}"));
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        match kind {
            Kind::Nginx => {
                let text = nginx_config(
                    name,
                    place.address.port(),
                    files.unwrap_or(&directory),
                    &directory,
                );
                fs::write(directory.join("nginx.conf"), text)?;
            }
            Kind::Python => {
                fs::create_dir_all(directory.join("system"))?;
                fs::write(directory.join("index.html"), format!("{name}\n"))?;
                fs::write(
                    directory.join(&HEALTH_PATH[1..]),
                    format!("{HEALTH_BODY}\n"),
                )?;
            }
        }
        let mut server = Self {
            name: name.to_owned(),
            place: place.clone(),
            kind,
            directory,
            process: None,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts it after a [`kill`](Self::kill) or a [`stop`](Self::stop).
    ///
    /// # Errors
    /// If it doesn't listen soon.
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = self.command();
        let mut process = Process::spawn(&mut command, &self.directory.join("output.log"))?;
        listening(&self.place, &mut process)?;
        self.process = Some(process);
        Ok(())
    }

    /// The running process's id.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Ends it at once: its connections are reset.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it as an operator does.
    ///
    /// # Errors
    /// If it doesn't end soon.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take();
        process
            .as_mut()
            .map_or(Ok(()), |process| process.terminate(STOP))
    }

    /// Lets the health check succeed or fail while all else is served, nginx
    /// only.
    ///
    /// # Errors
    /// If it does so already.
    pub fn set_health(&self, healthy: bool) -> Result<()> {
        let file = self.directory.join(OUT_OF_ORDER);
        match healthy {
            true => fs::remove_file(&file),
            false => File::create_new(&file).map(drop),
        }
        .with_context(|| file.display().to_string())
    }

    fn command(&self) -> Command {
        match self.kind {
            Kind::Nginx => {
                let mut command = self.place.namespace.command("nginx");
                command
                    .arg("-p")
                    .arg(&self.directory)
                    .arg("-c")
                    .arg(self.directory.join("nginx.conf"));
                // What it would otherwise try to write to before it has read
                // its configuration.
                command.arg("-e").arg(self.directory.join("error.log"));
                command
            }
            Kind::Python => {
                let mut command = self.place.namespace.command("python3");
                command
                    .args(["-m", "http.server", "--bind", "0.0.0.0", "--directory"])
                    .arg(&self.directory)
                    .arg(self.place.address.port().to_string());
                command
            }
        }
    }
}

/// One process, so that killing it kills the server.
fn nginx_config(name: &str, port: u16, files: &Path, directory: &Path) -> String {
    let (files, directory) = (files.display(), directory.display());
    format!(
        r#"daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
worker_rlimit_nofile 16384;
events {{ worker_connections 8000; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 10000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {port} backlog=4096;
        listen [::]:{port} backlog=4096;
        add_header X-Target {name};
        location = / {{ return 200 "{name}\n"; }}
        location = /client {{ return 200 "$remote_addr\n"; }}
        location /upload/ {{
            root {directory};
            dav_methods PUT;
            create_full_put_path on;
            client_max_body_size 0;
        }}
        location = {HEALTH_PATH} {{
            if (-f {directory}/{OUT_OF_ORDER}) {{ return 503; }}
            return 200 "{HEALTH_BODY}\n";
        }}
        location / {{ root {files}; limit_rate $arg_rate; }}
    }}
}}
"#
    )
}

/// Echoes each UDP datagram to the place's address, by socat and cat.
///
/// # Errors
/// If it doesn't listen soon.
pub fn udp_echo(place: &Place, directory: &Path) -> Result<Process> {
    let port = place.address.port();
    let (version, bind) = match place.address.ip() {
        IpAddr::V4(address) => ("4", address.to_string()),
        IpAddr::V6(address) => ("6", format!("[{address}]")),
    };
    let mut command = place.namespace.command("socat");
    command.args([
        "-d",
        "-d",
        "-T10",
        &format!("UDP{version}-LISTEN:{port},bind={bind},fork,reuseaddr"),
        "EXEC:cat",
    ]);
    let log = directory.join(format!("udp-{}.log", place.address));
    let mut process = Process::spawn(&mut command, &log)?;
    process.wait_for_line("listening on", START)?;
    Ok(process)
}

/// An iperf3 server.
///
/// # Errors
/// If it doesn't listen soon.
pub fn iperf(place: &Place, directory: &Path) -> Result<Process> {
    let mut command = place.namespace.command("iperf3");
    command.args([
        "--server",
        "--forceflush",
        "--port",
        &place.address.port().to_string(),
    ]);
    let log = directory.join(format!("iperf-{}.log", place.address));
    let mut process = Process::spawn(&mut command, &log)?;
    process.wait_for_line("Server listening", START)?;
    Ok(process)
}

/// A file of random bytes.
///
/// # Errors
/// If it can't be written.
pub fn random_file(path: &Path, length: u64) -> Result<()> {
    let mut random = File::open("/dev/urandom")?.take(length);
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    std::io::copy(&mut random, &mut file).with_context(|| path.display().to_string())?;
    Ok(())
}

/// Waits until a process takes connections at a place.
///
/// # Errors
/// If it doesn't soon, or ends before.
pub fn listening(place: &Place, process: &mut Process) -> Result<()> {
    let address = place.address;
    wait::until(&format!("a server on {address}"), START, || {
        if let Some(status) = process.ended()? {
            anyhow::bail!(
                "the server for {address} ended ({status}): {}",
                process.output().trim()
            );
        }
        let connected = connect(&place.namespace, address)?;
        Ok(connected.then_some(()))
    })
}

fn connect(namespace: &Namespace, address: SocketAddr) -> Result<bool> {
    namespace.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
}
