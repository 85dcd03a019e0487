//! The TCP check: the connection was accepted, and that is all.

use tokio::net::TcpStream;

use crate::health::Outcome;

/// Closes the connection.
pub(super) fn check(accepted: TcpStream) -> Result<(), Outcome> {
    drop(accepted);
    Ok(())
}
