//! Listening on a port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

/// Listens on a port of all addresses, or of the IPv4 addresses if the node has no IPv6.
///
/// # Errors
/// Fails if the port cannot be opened.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    let all = [
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    ];
    TcpListener::bind(&all[..]).await
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_port_that_ipv6_does_not_give_is_served_over_ipv4() {
        let taken = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        taken.set_only_v6(true).unwrap();
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        taken.bind(&any.into()).unwrap();
        taken.listen(1).unwrap();
        let port = taken.local_addr().unwrap().as_socket().unwrap().port();
        let listener = listen(port).await.unwrap();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let (accepted, connected) = tokio::join!(listener.accept(), client);
        assert!(accepted.is_ok() && connected.is_ok());
    }
}
