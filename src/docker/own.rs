//! Which container this program runs in: texts of `/proc` in, names out; and which networks it is in.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::sys::socket::SockaddrStorage;

/// Names by which an engine may know this container, the surest first. Docker mounts
/// `/etc/hostname` from a folder of the container's id; older ones show it in the cgroup; the host
/// name is the short id unless somebody chose another.
#[must_use]
pub fn own_ids(mountinfo: &str, cgroup: &str, hostname: &str) -> Vec<String> {
    let is_id = |word: &&str| {
        word.len() == 64
            && word
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    // Mounts of other containers' folders (a socket proxy's, say) are none of ours.
    let mounts = mountinfo.lines().filter(|line| {
        line.contains("/containers/")
            && [" /etc/hostname ", " /etc/hosts ", " /etc/resolv.conf "]
                .iter()
                .any(|own| line.contains(own))
    });
    let words = mounts
        .chain(cgroup.lines())
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()));
    let mut ids: Vec<String> = Vec::new();
    for id in words.filter(is_id) {
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    let hostname = hostname.trim();
    if !hostname.is_empty()
        && hostname
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        ids.push(hostname.to_owned());
    }
    ids
}

/// Subnets that an interface of this process is in, without those of the loopback. Asks the system.
pub(super) fn subnets() -> Vec<IpNet> {
    let ip = |storage: Option<SockaddrStorage>| -> Option<IpAddr> {
        let storage = storage?;
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|one| IpNet::with_netmask(ip(one.address)?, ip(one.netmask)?).ok())
        .filter(|subnet| !subnet.addr().is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_own_container_is_found_in_what_docker_mounts() {
        let mountinfo = format!(
            "611 604 0:53 / /proc rw - proc proc rw\n\
             633 604 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(own_ids(&mountinfo, "0::/\n", "proxy\n"), [ID, "proxy"]);
        let cgroup = format!("12:cpu:/docker/{ID}\n");
        assert_eq!(own_ids("", &cgroup, ""), [ID]);
        assert_eq!(own_ids("", "0::/\n", "../secret\n"), [""; 0]);
    }

    #[test]
    fn a_folder_of_another_container_is_not_the_own_one() {
        let other = ID.replace('0', "f");
        let mountinfo = format!(
            "1 2 8:1 /var/lib/docker/containers/{other}/x /logs rw - ext4 /dev/sda1 rw\n\
             3 2 8:1 /var/lib/docker/containers/{ID}/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(own_ids(&mountinfo, "", ""), [ID]);
    }
}
