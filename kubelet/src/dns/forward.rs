//! Questions about names that are not the cluster's, passed on to the node's own resolvers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(2);

/// The servers of a `resolv.conf`, without `own`: asking ourselves would never end.
pub fn servers_of(resolv_conf: &str, own: IpAddr) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.filter(|ip| *ip != own).map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// The first answer any server gives, as it came.
pub(super) async fn ask(servers: &[SocketAddr], query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    for server in servers {
        let answer =
            async { if tcp { ask_tcp(*server, query).await } else { ask_udp(*server, query).await } };
        if let Ok(Ok(answer)) = timeout(PATIENCE, answer).await {
            return Some(answer);
        }
    }
    None
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    // A socket, and so a random port, for each question; connected, so only the server can answer.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length > 2 && buffer[..2] == query[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    read_message(&mut stream).await
}

/// DNS over TCP: two bytes of length before each message.
pub(super) async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_from_resolv_conf() {
        let text =
            "search a b\nnameserver 192.0.2.1\n nameserver ::1\nnameserver 10.96.0.10\n#nameserver 1.1.1.1\n";
        let found = servers_of(text, "10.96.0.10".parse().unwrap());
        assert_eq!(found, ["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }
}
