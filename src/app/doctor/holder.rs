//! Who holds a port: `/proc/net/tcp` names its socket, `/proc/PID/fd` who has that open (proc(5)).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// State of a socket that listens, as the kernel writes it.
const LISTENS: &str = "0A";

/// The program that listens where `address` would, with its process id. `None`: nobody, or
/// somebody whose descriptors this user may not see.
pub(super) fn holder(address: SocketAddr) -> Option<String> {
    let sockets: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, address))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    let mut processes = processes.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    let pid = processes.find(|pid| has_one(*pid, &sockets))?;
    let program = fs::read_to_string(format!("/proc/{pid}/comm"));
    let program = program.map_or_else(|_| "a program".to_owned(), |name| name.trim().to_owned());
    Some(format!("{program} (pid {pid})"))
}

/// Inodes of the sockets of a table that listen where `address` would.
fn listening(table: &str, address: SocketAddr) -> Vec<u64> {
    let socket = |line: &str| {
        let mut fields = line.split_whitespace();
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        let (ip, port) = local.split_once(':')?;
        let taken = SocketAddr::new(ip_of(ip)?, u16::from_str_radix(port, 16).ok()?);
        let inode = fields.nth(5)?.parse().ok()?;
        (state == LISTENS && are_one(taken, address)).then_some(inode)
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// Whether two programs could not both listen there.
fn are_one(taken: SocketAddr, wanted: SocketAddr) -> bool {
    let (taken_ip, wanted_ip) = (taken.ip(), wanted.ip());
    taken.port() == wanted.port()
        && (taken_ip == wanted_ip || taken_ip.is_unspecified() || wanted_ip.is_unspecified())
}

/// An address as the kernel writes it: words of four bytes in the order of the machine.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for word in hex.as_bytes().chunks(8) {
        let word = std::str::from_utf8(word).ok()?;
        bytes.extend(u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
    }
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

fn has_one(pid: u32, sockets: &[u64]) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|link| {
            let link = link.to_string_lossy();
            let inode = link
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'));
            let inode = inode.and_then(|inode| inode.parse().ok());
            inode.is_some_and(|inode| sockets.contains(&inode))
        })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_of_this_process_is_held_by_it() {
        let pid = std::process::id();
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let Ok(taken) = TcpListener::bind(address) else {
                continue;
            };
            let address = taken.local_addr().expect("an address");
            let found = holder(address).expect("somebody");
            assert!(found.ends_with(&format!("(pid {pid})")), "{found}");
            drop(taken);
            assert_eq!(holder(address), None);
        }
    }

    #[test]
    fn a_connection_holds_no_port_and_every_address_is_one_with_all() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1 0 100 0 0 10 0\n\
             \x20  1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100 0 0 10 0\n";
        assert_eq!(listening(table, ([127, 0, 0, 1], 8080).into()), [41]);
        assert_eq!(listening(table, ([127, 0, 0, 1], 8081).into()), [0; 0]);
    }
}
