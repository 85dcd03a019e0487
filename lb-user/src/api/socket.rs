//! The Unix socket: for root only, and for whatever can be asked.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use super::server::{Access, Handle, Listen, serve};

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
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
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
    pub async fn serve(self, handle: Handle) {
        serve(&self, handle, Access::Full).await;
    }
}

impl Listen for Socket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Socket {
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
        drop(Socket::bind(&path).unwrap());
        assert!(!path.exists(), "the server removes its own socket");

        drop(StdListener::bind(&path).unwrap());
        let server = Socket::bind(&path).expect("nobody listens any more");
        let second = Socket::bind(&path).unwrap_err();
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
            let error = Socket::bind(path).unwrap_err();
            assert!(matches!(error, SocketError::NoSocket { .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
