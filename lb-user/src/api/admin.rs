//! The admin listener: HTTP by TCP, for looking only.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use super::server::{Access, Handle, Listen, serve};
use crate::config::Admin;

#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address}, where `admin` is to be")]
pub struct AdminListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// The bound listener.
#[derive(Debug)]
pub struct AdminListener {
    listener: TcpListener,
    access: Access,
}

impl AdminListener {
    /// Binds the address.
    ///
    /// # Errors
    /// If it isn't this host's, or another program has it.
    pub async fn bind(admin: Admin) -> Result<Self, AdminListenError> {
        let address = admin.address();
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| AdminListenError { address, source })?;
        Ok(Self {
            listener,
            access: Access::Look {
                by_any_name: admin.allows_remote(),
            },
        })
    }

    /// Serves until the agent is gone.
    pub async fn serve(self, handle: Handle) {
        let access = self.access;
        serve(&self, handle, access).await;
    }
}

impl Listen for AdminListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}
