//! Where a container is reached: an address that the proxy has a way to, and a port. Pure; what is
//! not known is told, never guessed.

use std::net::{IpAddr, Ipv4Addr};

use super::inventory::{Container, Place};
use super::problem::Problem;

/// The address of a running container. `wanted`: a network that the label or the configuration
/// names, by its own name or that of its Compose file.
///
/// # Errors
/// There is none that the proxy could reach, with what to do.
pub(super) fn address(
    container: &Container,
    own: &Place,
    wanted: Option<&str>,
) -> Result<IpAddr, Problem> {
    let problem = |what: String, fix: String| Problem::new(&container.name, what, fix);
    if container.on_host {
        return match own {
            Place::Host => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Place::Container { .. } | Place::Unknown => Err(problem(
                "it has the network of the host, which the proxy's container does not".to_owned(),
                "put both on one network".to_owned(),
            )),
        };
    }
    let mut networks: Vec<_> = container.networks.iter().collect();
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let names = || {
        let names: Vec<_> = networks.iter().map(|n| n.name.as_str()).collect();
        match names.is_empty() {
            true => "no network".to_owned(),
            false => names.join(", "),
        }
    };
    if let Some(wanted) = wanted {
        let is_it = |name: &str| {
            name == wanted
                || name
                    .strip_suffix(wanted)
                    .is_some_and(|project| project == format!("{}_", container.project()))
        };
        let found = networks.iter().filter(|network| is_it(&network.name));
        let mut addresses = found.flat_map(|network| &network.addresses);
        return addresses.next().copied().ok_or_else(|| {
            problem(
                format!("it is not on the network {wanted}, but on {}", names()),
                format!("add {wanted} to its networks, or name another in cutover.network"),
            )
        });
    }
    let mut reached = networks.iter().filter(|network| match own {
        Place::Host => true,
        Place::Container { networks, .. } => networks.contains(&network.id),
        Place::Unknown => network.is_near,
    });
    // A network of its own says more than the one that everybody is on.
    let found = reached
        .clone()
        .filter(|network| network.name != "bridge")
        .find_map(|network| network.addresses.first())
        .or_else(|| reached.find_map(|network| network.addresses.first()));
    found.copied().ok_or_else(|| match own {
        Place::Container { name, .. } => problem(
            format!("it is on no network of the proxy, but on {}", names()),
            format!("add one network to both in the Compose file, or run `docker network connect NETWORK {name}`"),
        ),
        Place::Unknown => problem(
            "which networks the proxy's own container has is not known".to_owned(),
            "name the network in [docker] network, or in the label cutover.network".to_owned(),
        ),
        Place::Host => problem(
            format!("it has no address: it is on {}", names()),
            "give it a network of the driver bridge".to_owned(),
        ),
    })
}

/// The port of a container: the one that is named, else the only exposed one.
///
/// # Errors
/// There is none or there are several, with what to do.
pub(super) fn port(container: &Container, named: Option<u16>) -> Result<u16, Problem> {
    let fix = "name it: cutover.port=3000";
    let exposed: Vec<String> = container.exposed.iter().map(u16::to_string).collect();
    match (named, container.exposed.iter().next(), exposed.len()) {
        (Some(port), _, _) => Ok(port),
        (None, Some(port), 1) => Ok(*port),
        (None, None, _) => Err(Problem::new(&container.name, "it exposes no port", fix)),
        (None, Some(_), _) => Err(Problem::new(
            &container.name,
            format!("it exposes the ports {}", exposed.join(", ")),
            fix,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::inventory::{Attached, PROJECT};

    fn on(networks: &[(&str, &str)]) -> Container {
        Container {
            name: "web".to_owned(),
            labels: [(PROJECT.to_owned(), "shop".to_owned())].into(),
            networks: networks
                .iter()
                .map(|(name, address)| Attached {
                    name: (*name).to_owned(),
                    id: format!("id-{name}"),
                    addresses: address.parse().into_iter().collect(),
                    is_near: false,
                })
                .collect(),
            ..Container::default()
        }
    }

    fn proxy_on(networks: &[&str]) -> Place {
        Place::Container {
            id: "p".to_owned(),
            name: "proxy".to_owned(),
            project: String::new(),
            networks: networks.iter().map(|name| format!("id-{name}")).collect(),
        }
    }

    fn found(container: &Container, own: &Place, wanted: Option<&str>) -> String {
        match address(container, own, wanted) {
            Ok(address) => address.to_string(),
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn the_shared_network_is_used() {
        let web = on(&[("back", "10.1.0.2"), ("front", "10.2.0.2")]);
        assert_eq!(found(&web, &proxy_on(&["front"]), None), "10.2.0.2");
        assert_eq!(found(&web, &proxy_on(&["front", "back"]), None), "10.1.0.2");
        assert_eq!(found(&web, &Place::Host, None), "10.1.0.2");
        let both = on(&[("bridge", "172.17.0.2"), ("edge", "10.3.0.2")]);
        assert_eq!(found(&both, &Place::Host, None), "10.3.0.2");
    }

    #[test]
    fn a_named_network_is_used_by_its_name_in_the_compose_file_too() {
        let web = on(&[("edge", "10.1.0.2"), ("shop_edge2", "10.2.0.2")]);
        assert_eq!(found(&web, &Place::Host, Some("edge2")), "10.2.0.2");
        assert_eq!(found(&web, &Place::Unknown, Some("edge")), "10.1.0.2");
        let other = found(&web, &Place::Host, Some("dge"));
        assert!(
            other.contains("not on the network dge, but on edge, shop_edge2"),
            "{other}"
        );
    }

    #[test]
    fn no_shared_network_is_told_with_the_fix() {
        let web = on(&[("back", "10.1.0.2")]);
        let said = found(&web, &proxy_on(&["front"]), None);
        assert!(
            said.contains("no network of the proxy, but on back"),
            "{said}"
        );
        assert!(
            said.contains("docker network connect NETWORK proxy"),
            "{said}"
        );
        let said = found(&web, &Place::Unknown, None);
        assert!(said.contains("[docker] network"), "{said}");
        let mut near = web.clone();
        near.networks[0].is_near = true;
        assert_eq!(found(&near, &Place::Unknown, None), "10.1.0.2");
        let said = found(&on(&[]), &Place::Host, None);
        assert!(said.contains("on no network"), "{said}");
    }

    #[test]
    fn the_network_of_the_host_is_reached_from_the_host_alone() {
        let web = Container {
            on_host: true,
            ..on(&[])
        };
        assert_eq!(found(&web, &Place::Host, None), "127.0.0.1");
        assert!(found(&web, &proxy_on(&["a"]), None).contains("network of the host"));
    }

    #[test]
    fn one_exposed_port_is_enough_and_two_are_not() {
        let exposing = |ports: &[u16]| Container {
            exposed: ports.iter().copied().collect(),
            ..Container::default()
        };
        assert_eq!(port(&exposing(&[3000]), None), Ok(3000));
        assert_eq!(port(&exposing(&[3000, 9090]), Some(9090)), Ok(9090));
        assert_eq!(port(&exposing(&[]), Some(81)), Ok(81));
        let said = port(&exposing(&[9090, 3000]), None)
            .expect_err("two")
            .to_string();
        assert!(
            said.contains("3000, 9090") && said.contains("cutover.port"),
            "{said}"
        );
        let said = port(&exposing(&[]), None).expect_err("none").to_string();
        assert!(said.contains("no port"), "{said}");
    }
}
