use super::*;
use crate::config::load_str;
use crate::docker::inventory::{Attached, NUMBER, PROJECT, Place, SERVICE, State};

/// Containers, made one after the other.
#[derive(Default)]
struct World {
    inventory: Inventory,
    discoverer: Discoverer,
    file: String,
    live: BTreeMap<String, Color>,
    made: u32,
    now_ms: u64,
}

impl World {
    fn with_file(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            ..Self::default()
        }
    }

    /// A running container of a Compose service that exposes port 3000. `id` is its address too.
    fn add(
        &mut self,
        id: u8,
        project: &str,
        service: &str,
        labels: &[(&str, &str)],
    ) -> &mut Container {
        self.made += 1;
        let number = self.made.to_string();
        let compose = [(PROJECT, project), (SERVICE, service), (NUMBER, &number)];
        let compose = compose.into_iter().filter(|_| !project.is_empty());
        let labels = compose.chain(labels.iter().copied());
        let name = match project {
            "" => service.to_owned(),
            project => format!("{project}-{service}-{number}"),
        };
        let container = Container {
            id: format!("c{id}"),
            name,
            image: "app:v1".to_owned(),
            image_id: "v1".to_owned(),
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            networks: vec![Attached {
                name: format!("{project}_default"),
                id: "net".to_owned(),
                addresses: vec![format!("10.0.0.{id}").parse().expect("an address")],
                is_near: false,
            }],
            exposed: [3000].into(),
            state: State::Running,
            created: format!("{:04}", self.made),
            started: "1".to_owned(),
            ..Container::default()
        };
        let slot = self.inventory.containers.entry(container.id.clone());
        Arc::make_mut(slot.or_insert(Arc::new(container)))
    }

    fn remove(&mut self, id: u8) {
        self.inventory.containers.remove(&format!("c{id}"));
    }

    fn discover(&mut self) -> Discovered {
        let file = load_str("file", &self.file).expect("a valid file");
        let live = self.live.clone();
        self.discoverer.discover(
            &self.inventory,
            &Context {
                file: &file,
                network: None,
                live: &|name| live.get(name.as_str()).copied(),
                keep: &|_, _| false,
                now_ms: self.now_ms,
            },
        )
    }

    /// `web blue=10.0.0.1:3000 green=-` a line; a slot that is not there is not shown.
    fn services(&mut self) -> Vec<String> {
        let found = self.discover();
        let services = found.services.iter();
        services
            .map(|service| {
                let mut line = service.name.to_string();
                for (color, slot) in Color::ALL.into_iter().zip(&service.slots) {
                    if let Some(slot) = slot {
                        let list: Vec<_> = slot.upstreams.iter().map(ToString::to_string).collect();
                        let list = if list.is_empty() {
                            "-".to_owned()
                        } else {
                            list.join(",")
                        };
                        line.push_str(&format!(" {color}={list}"));
                    }
                }
                line
            })
            .collect()
    }

    /// `example.com/api/* web` a line.
    fn routes(&mut self) -> Vec<String> {
        let file = load_str("file", &self.file).expect("a valid file");
        let merged = self.discover().merged(&file);
        let mut lines = Vec::new();
        for site in &merged.sites {
            let hosts: Vec<_> = site.hosts.iter().map(ToString::to_string).collect();
            let hosts = hosts.join(",");
            let name = |at: crate::config::ServiceIndex| merged.services[at.0].name.to_string();
            for route in &site.routes {
                let path = route.path.as_ref().map(ToString::to_string);
                let service = route.service.map(name).unwrap_or_default();
                lines.push(format!("{hosts}{} {service}", path.unwrap_or_default()));
            }
            if let Some(service) = site.service {
                lines.push(format!("{hosts} {}", name(service)));
            }
        }
        lines
    }

    fn problems(&mut self) -> Vec<String> {
        let found = self.discover();
        found.problems.iter().map(ToString::to_string).collect()
    }

    /// The only problem there is.
    fn problem(&mut self) -> String {
        let problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.concat()
    }
}

const HOST: (&str, &str) = ("cutover.host", "example.com");
const FILE: &str = "[[site]]\nhosts = [\"example.com\"]\nservice = \"shop\"\n[service.shop]\ndocker = { service = \"web\" }\n";

#[test]
fn replicas_are_upstreams_of_one_slot() {
    let mut world = World::default();
    for id in 1..=3 {
        world.add(id, "shop", "web", &[HOST]);
    }
    let all = "web blue=10.0.0.1:3000,10.0.0.2:3000,10.0.0.3:3000";
    assert_eq!(world.services(), [all]);
    assert_eq!(world.routes(), ["example.com web"]);
    assert_eq!(world.problems(), [""; 0]);
    Arc::make_mut(world.inventory.containers.get_mut("c2").expect("there")).is_stopping = true;
    assert_eq!(world.services(), ["web blue=10.0.0.1:3000,10.0.0.3:3000"]);
}

#[test]
fn a_compose_service_of_the_file_is_found_by_its_name_with_and_without_a_color() {
    for (blue, green) in [
        ("web-blue", "web-green"),
        ("web_blue", "web_green"),
        ("web", "web-green"),
    ] {
        let mut world = World::with_file(FILE);
        world.add(1, "shop", blue, &[]);
        world.add(2, "shop", green, &[]);
        world.add(3, "shop", "db", &[]);
        let both = "shop blue=10.0.0.1:3000 green=10.0.0.2:3000";
        assert_eq!(world.services(), [both], "{blue}");
        assert_eq!(world.routes(), ["example.com shop"]);
    }
}

#[test]
fn the_projects_of_two_colors_are_one() {
    for (blue, green) in [
        ("blue", "green"),
        ("app-blue", "app-green"),
        ("app_blue", "app_green"),
    ] {
        let mut world = World::default();
        world.add(1, blue, "web", &[HOST]);
        world.add(2, green, "web", &[HOST]);
        let both = "web blue=10.0.0.1:3000 green=10.0.0.2:3000";
        assert_eq!(world.services(), [both], "{blue}");
        assert_eq!(world.problems(), [""; 0]);
    }
}

#[test]
fn containers_without_compose_are_named_by_themselves() {
    let mut world = World::default();
    world.add(1, "", "web-blue", &[HOST]);
    world.add(2, "", "web-green", &[HOST]);
    assert_eq!(
        world.services(),
        ["web blue=10.0.0.1:3000 green=10.0.0.2:3000"]
    );
}

#[test]
fn a_service_of_the_file_without_containers_is_there_and_empty() {
    let mut world = World::with_file(FILE);
    assert_eq!(world.services(), ["shop blue=-"]);
    world.live.insert("shop".to_owned(), Color::Green);
    assert_eq!(world.services(), ["shop green=-"]);
    let found = world.discover();
    assert!(
        found.deserted.is_empty(),
        "nothing to give way to, so nothing to tell"
    );
}

#[test]
fn a_color_that_was_chosen_stays_with_its_container() {
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST]);
    world.add(2, "shop", "web", &[HOST]).image_id = "v2".to_owned();
    assert_eq!(
        world.services(),
        ["web blue=10.0.0.1:3000 green=10.0.0.2:3000"]
    );
    // After the switch, and after a restart that remembers.
    world.live.insert("web".to_owned(), Color::Green);
    world.discoverer = Discoverer::new(world.discoverer.memory.clone());
    assert_eq!(
        world.services(),
        ["web blue=10.0.0.1:3000 green=10.0.0.2:3000"]
    );
    world.remove(1);
    assert_eq!(world.services(), ["web green=10.0.0.2:3000"]);
    world.add(3, "shop", "web", &[HOST]).image_id = "v3".to_owned();
    assert_eq!(
        world.services(),
        ["web blue=10.0.0.3:3000 green=10.0.0.2:3000"]
    );
}

#[test]
fn a_service_that_was_never_served_begins_with_its_only_slot() {
    let mut world = World::default();
    world.add(1, "shop", "web-green", &[HOST]);
    assert_eq!(world.services(), ["web green=10.0.0.1:3000"]);
    world.live.insert("web".to_owned(), Color::Green);
    world.add(2, "shop", "web-blue", &[HOST]);
    assert_eq!(
        world.services(),
        ["web blue=10.0.0.2:3000 green=10.0.0.1:3000"]
    );
}

#[test]
fn a_live_slot_without_containers_is_told() {
    let mut world = World::default();
    world.add(1, "shop", "web-blue", &[HOST]);
    world.add(2, "shop", "web-green", &[HOST]);
    world.live.insert("web".to_owned(), Color::Blue);
    assert!(world.discover().deserted.is_empty());
    Arc::make_mut(world.inventory.containers.get_mut("c1").expect("there")).state =
        State::Restarting;
    assert!(world.discover().deserted.is_empty(), "it will be back");
    Arc::make_mut(world.inventory.containers.get_mut("c1").expect("there")).state = State::Ended;
    assert_eq!(world.discover().deserted, ["web".into()].into());
    world.remove(1);
    assert_eq!(world.discover().deserted, ["web".into()].into());
    assert_eq!(world.services(), ["web blue=- green=10.0.0.2:3000"]);
}

#[test]
fn one_containers_bad_label_is_its_own() {
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST]);
    world.add(
        2,
        "blog",
        "app",
        &[
            ("cutover.host", "blog.example"),
            ("cutover.switch.drain", "soon"),
        ],
    );
    world.add(3, "bad", "x", &[("cutover.host", "bad_host!")]);
    world.add(
        4,
        "evil",
        "y",
        &[("cutover.host", "evil.example"), ("cutover.color", "bleu")],
    );
    assert_eq!(world.routes(), ["blog.example app", "example.com web"]);
    let problems = world.problems();
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn a_host_of_the_file_is_not_taken() {
    let mut world = World::with_file(
        "[[site]]\nhosts = [\"example.com\", \"*.shop.example\"]\nrespond = \"mine\"\n",
    );
    world.add(1, "shop", "web", &[HOST, ("cutover.path", "/x/*")]);
    world.add(2, "blog", "app", &[("cutover.host", "a.shop.example")]);
    world.add(3, "ok", "app", &[("cutover.host", "other.example")]);
    let problems = world.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems
            .iter()
            .all(|p| p.contains("belongs to the configuration file")
                && p.contains("remove the label"))
    );
    assert_eq!(
        world.routes().last().map(String::as_str),
        Some("other.example ok-app")
    );
}

#[test]
fn a_label_that_says_what_the_file_says_is_no_problem() {
    let mut world = World::with_file(FILE);
    world.add(1, "shop", "web", &[HOST]);
    assert_eq!(world.problems(), [""; 0]);
    assert_eq!(world.routes(), ["example.com shop"]);
}

const HOUR: u64 = 3_600_000;

/// `shop` holds `example.com` and `blog` wants it; then `shop` is down.
fn held_by_a_project_that_is_down() -> World {
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST]);
    world.add(2, "blog", "app", &[HOST]);
    assert_eq!(world.routes(), ["example.com web"]);
    world.remove(1);
    assert_eq!(world.routes(), [""; 0]);
    world
}

#[test]
fn a_project_that_is_down_keeps_its_host_for_an_hour() {
    let mut world = held_by_a_project_that_is_down();
    world.now_ms += HOUR - 1;
    let said = world.problem();
    assert!(
        said.contains(
            "the Compose project shop, which is down and keeps it until 1970-01-01T01:00"
        ) && said.contains("wait until then"),
        "{said}"
    );
    assert_eq!(
        world.discoverer.memory.hosts["example.com"].free_ms(),
        Some(HOUR)
    );
    // It comes back, and goes again: the hour begins anew.
    world.add(3, "shop", "web", &[HOST]);
    assert_eq!(world.routes(), ["example.com web"]);
    assert_eq!(world.discoverer.memory.hosts["example.com"].free_ms(), None);
    world.remove(3);
    assert_eq!(world.routes(), [""; 0]);
    world.now_ms += HOUR - 1;
    assert_eq!(world.routes(), [""; 0]);
    world.now_ms += 1;
    assert_eq!(world.routes(), ["example.com app"]);
    // Whoever has it now is the holder.
    world.add(4, "shop", "web", &[HOST]);
    assert_eq!(world.routes(), ["example.com app"]);
}

#[test]
fn a_restart_does_not_give_away_the_host_of_a_project_that_is_down() {
    let mut world = held_by_a_project_that_is_down();
    world.now_ms += HOUR / 2;
    let kept = serde_json::to_vec(&world.discoverer.memory).expect("JSON");
    world.discoverer = Discoverer::new(serde_json::from_slice(&kept).expect("a memory"));
    assert_eq!(world.routes(), [""; 0]);
    world.now_ms += HOUR / 2;
    assert_eq!(world.routes(), ["example.com app"], "from when it went");
}

#[test]
fn a_project_that_is_there_and_wants_another_host_keeps_none() {
    let mut world = held_by_a_project_that_is_down();
    world.add(3, "shop", "web", &[("cutover.host", "other.example")]);
    assert_eq!(world.routes(), ["example.com app", "other.example web"]);
    // Another service of the project says nothing of what the one that is away wants.
    world.remove(2);
    world.remove(3);
    world.add(4, "blog", "api", &[("cutover.host", "api.example")]);
    world.add(5, "late", "app", &[HOST]);
    assert_eq!(world.routes(), ["api.example api"]);
}

#[test]
fn containers_without_a_project_keep_no_host() {
    let mut world = World::default();
    world.add(1, "", "single", &[HOST]);
    world.add(2, "blog", "app", &[HOST]);
    assert_eq!(world.routes(), ["example.com single"]);
    world.remove(1);
    assert_eq!(world.routes(), ["example.com app"]);
}

#[test]
fn a_host_of_another_project_is_not_taken() {
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST, ("cutover.host", "example.com")]);
    world.add(2, "blog", "app", &[HOST]);
    assert_eq!(world.routes(), ["example.com web"]);
    let said = world.problem();
    assert!(
        said.starts_with("blog-app-2: ") && said.contains("the Compose project shop"),
        "{said}"
    );
    // The first one is made anew: it still holds its host.
    world.remove(1);
    world.add(3, "shop", "web", &[HOST]);
    world.discoverer = Discoverer::new(world.discoverer.memory.clone());
    assert_eq!(world.routes(), ["example.com web"]);
    // Until it is gone for good.
    world.remove(3);
    assert_eq!(world.routes(), [""; 0]);
    world.now_ms += HOUR;
    assert_eq!(world.routes(), ["example.com app"]);
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn a_name_below_another_projects_wildcard_is_not_taken() {
    let mut world = World::default();
    world.add(
        1,
        "shop",
        "web",
        &[("cutover.host", "*.example.com"), ("cutover.tls", "off")],
    );
    world.add(2, "blog", "app", &[("cutover.host", "pay.example.com")]);
    assert!(world.problem().contains("*.example.com"));
    assert_eq!(world.routes(), ["*.example.com web"]);
}

#[test]
fn services_of_one_project_share_a_host_by_path() {
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST]);
    world.add(2, "shop", "api", &[HOST, ("cutover.path", "/api/*")]);
    world.add(3, "shop", "other", &[HOST, ("cutover.path", "/api/*")]);
    assert_eq!(world.routes(), ["example.com/api/* api", "example.com web"]);
    let said = world.problem();
    assert!(
        said.contains("example.com/api/* leads to the service api already"),
        "{said}"
    );
}

#[test]
fn the_same_compose_service_in_two_projects_is_two_services() {
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST]);
    world.add(2, "blog", "web", &[("cutover.host", "blog.example")]);
    let both = ["blog-web blue=10.0.0.2:3000", "web blue=10.0.0.1:3000"];
    assert_eq!(world.services(), both);
    // Who was first is remembered, however they are made anew.
    world.remove(1);
    world.add(3, "shop", "web", &[HOST]);
    assert_eq!(
        world.services(),
        ["blog-web blue=10.0.0.2:3000", "web blue=10.0.0.3:3000"]
    );
}

#[test]
fn nobody_joins_another_projects_service() {
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST, ("cutover.service", "web")]);
    world.add(2, "evil", "x", &[("cutover.service", "web")]);
    assert_eq!(world.services(), ["web blue=10.0.0.1:3000"]);
    assert!(world.problem().contains("the Compose project shop"));
    let mut world = World::with_file(FILE);
    world.add(1, "shop", "web", &[]);
    world.add(2, "evil", "web", &[]);
    assert_eq!(world.services(), ["shop blue=10.0.0.1:3000"]);
    assert!(
        world
            .problem()
            .contains("not those of the Compose project evil")
    );
    let mut world = World::with_file(FILE);
    world.add(1, "evil", "x", &[("cutover.service", "shop")]);
    assert_eq!(world.services(), ["shop blue=-"]);
    assert!(world.problem().contains("docker = { service = \"x\" }"));
}

#[test]
fn the_proxys_own_project_comes_first_and_the_proxy_is_no_upstream() {
    let mut world = World::with_file(FILE);
    world.add(1, "other", "web", &[]);
    world.add(2, "mine", "web", &[]);
    world.add(3, "mine", "proxy", &[HOST]);
    world.inventory.own = Place::Container {
        id: "c3".to_owned(),
        name: "mine-proxy-1".to_owned(),
        project: "mine".to_owned(),
        networks: ["net".to_owned()].into(),
    };
    assert_eq!(world.services(), ["shop blue=10.0.0.2:3000"]);
}

#[test]
fn what_somebody_runs_for_once_serves_nobody() {
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST]);
    world.add(
        2,
        "shop",
        "web",
        &[HOST, ("com.docker.compose.oneoff", "True")],
    );
    world.add(3, "shop", "web", &[HOST, ("cutover.enable", "false")]);
    assert_eq!(world.services(), ["web blue=10.0.0.1:3000"]);
}

#[test]
fn another_network_and_two_ports_are_told_with_the_fix() {
    let mut world = World::default();
    world.inventory.own = Place::Container {
        id: "p".to_owned(),
        name: "proxy".to_owned(),
        project: String::new(),
        networks: ["net".to_owned()].into(),
    };
    world.add(1, "shop", "web", &[HOST]).networks[0].id = "elsewhere".to_owned();
    let said = world.problem();
    assert!(
        said.contains("no network of the proxy") && said.contains("docker network connect"),
        "{said}"
    );
    assert_eq!(world.services(), ["web blue=-"]);
    let mut world = World::default();
    world.add(1, "shop", "web", &[HOST]).exposed = [3000, 9090].into();
    let said = world.problem();
    assert!(
        said.contains("3000, 9090") && said.contains("cutover.port"),
        "{said}"
    );
    world.add(2, "shop", "web", &[HOST, ("cutover.port", "9090")]);
    assert_eq!(world.services(), ["web blue=10.0.0.2:9090"]);
}

#[test]
fn keys_of_labels_are_those_of_the_live_slot() {
    let mut world = World::with_file("[rollback]\nrescue = false\n[docker]\n");
    world.add(
        1,
        "shop",
        "web-blue",
        &[HOST, ("cutover.switch.drain", "1s")],
    );
    world.add(
        2,
        "shop",
        "web-green",
        &[
            HOST,
            ("cutover.switch.drain", "2s"),
            ("cutover.rollback.alpha", "0.01"),
        ],
    );
    let drain = |world: &mut World| world.discover().services[0].switch.drain.as_secs();
    assert_eq!(drain(&mut world), 1);
    assert!(
        !world.discover().services[0].rollback.rescue,
        "the file's defaults hold"
    );
    world.live.insert("web".to_owned(), Color::Green);
    assert_eq!(drain(&mut world), 2);
    assert!(
        !world.discover().services[0].rollback.rescue,
        "beside the label's own key"
    );
}

#[test]
fn keys_of_a_service_of_the_file_stay_the_files() {
    let mut world = World::with_file(FILE);
    world.add(1, "shop", "web", &[("cutover.switch.drain", "1s")]);
    assert!(world.problem().contains("set it there"));
    assert_eq!(world.discover().services[0].switch.drain.as_secs(), 30);
}

#[test]
fn caddy_labels_lead_to_slots_by_color() {
    let labels = [
        ("caddy.address", "api.example.com"),
        ("caddy.handle_path", "/*"),
        ("caddy.handle_path.0_reverse_proxy", "{{upstreams 8080}}"),
    ];
    let mut world = World::default();
    world.add(1, "shop", "app-blue", &labels);
    world.add(2, "shop", "app-green", &labels);
    world.add(3, "shop", "app-green", &labels);
    assert_eq!(
        world.services(),
        ["app blue=10.0.0.1:8080 green=10.0.0.2:8080,10.0.0.3:8080"]
    );
    assert_eq!(world.problems(), [""; 0]);
    let site = &world.discover().sites[0].site;
    assert_eq!(site.hosts[0].to_string(), "api.example.com");
    // Another address changes no name.
    world.remove(1);
    world.add(9, "shop", "app-blue", &labels);
    assert!(world.services()[0].starts_with("app blue=10.0.0.9:8080"));
}

#[test]
fn caddy_labels_of_two_services_share_a_site() {
    let mut world = World::default();
    world.add(
        1,
        "shop",
        "web",
        &[
            ("caddy", "a.example"),
            ("caddy.reverse_proxy", "{{upstreams 80}}"),
        ],
    );
    world.add(
        2,
        "shop",
        "api",
        &[
            ("caddy", "a.example"),
            ("caddy.handle_path", "/api/*"),
            ("caddy.handle_path.0_reverse_proxy", "{{upstreams 81}}"),
        ],
    );
    world.add(
        3,
        "evil",
        "x",
        &[("caddy", "a.example"), ("caddy.respond", "mine")],
    );
    assert_eq!(
        world.services(),
        ["api blue=10.0.0.2:81", "web blue=10.0.0.1:80"]
    );
    assert_eq!(world.discover().sites.len(), 1);
    assert!(
        world
            .problem()
            .contains("belongs to the Compose project shop")
    );
}

#[test]
fn what_runs_is_named_by_its_image() {
    for (image, release) in [
        ("app:v2", "app:v2"),
        ("registry:5000/app", "registry:5000/app@0123456789ab"),
        ("app:latest", "app@0123456789ab"),
        ("app@sha256:77", "app@sha256:77"),
    ] {
        let mut world = World::default();
        let container = world.add(1, "shop", "web", &[HOST]);
        container.image = image.to_owned();
        container.image_id = "sha256:0123456789abcdef".to_owned();
        let found = world.discover();
        let slot = found.services[0].slots[0].as_ref().expect("blue");
        assert_eq!(slot.release.as_ref().map(Release::as_str), Some(release));
    }
}

#[test]
fn two_hundred_containers_are_no_matter() {
    let mut world = World::default();
    for id in 1..=200 {
        let host = format!("h{id}.example");
        world.add(
            id,
            &format!("p{id}"),
            "web",
            &[("cutover.host", &host), ("cutover.switch.drain", "1s")],
        );
    }
    assert_eq!(world.routes().len(), 200);
    let start = crate::clock::now();
    world.discover();
    let time = crate::clock::now() - start;
    assert!(time.as_millis() < 500, "again in {time:?}");
}

/// A proxy in a container of a Compose project, on the network `net`.
fn in_project(project: &str) -> World {
    let mut world = World::with_file("[service.web]\ndocker = { service = \"web\" }\n");
    world.inventory.own = Place::Container {
        id: "proxy".to_owned(),
        name: format!("{project}-proxy-1"),
        project: project.to_owned(),
        networks: ["net".to_owned()].into(),
    };
    world
}

#[test]
fn a_service_of_the_file_is_that_of_the_proxys_own_project_whoever_came_first() {
    let mut world = in_project("shop");
    world.add(1, "other", "web", &[]);
    // There is no other yet.
    assert_eq!(world.services(), ["web blue=10.0.0.1:3000"]);
    world.add(2, "shop", "web", &[]);
    assert_eq!(world.services(), ["web blue=10.0.0.2:3000"]);
    let problems = world.discover().problems;
    assert!(
        problems[0].what.contains("of the Compose project shop"),
        "{problems:?}"
    );
    assert!(problems[0].fix.contains("project = "), "{problems:?}");
    // It is made anew: nobody else's requests go to the other one meanwhile.
    world.remove(2);
    assert_eq!(world.services(), ["web blue=-"]);
    world.add(3, "shop", "web", &[]);
    assert_eq!(world.services(), ["web blue=10.0.0.3:3000"]);
}

#[test]
fn a_container_out_of_reach_takes_no_service_from_one_that_can_be_reached() {
    let mut world = in_project("edge");
    world.add(1, "far", "web", &[]).networks[0].id = "elsewhere".to_owned();
    assert_eq!(world.services(), ["web blue=-"]);
    world.add(2, "near", "web", &[]);
    assert_eq!(world.services(), ["web blue=10.0.0.2:3000"]);
}

#[test]
fn the_file_says_whose_service_it_means() {
    let mut world = in_project("edge");
    world.file = "[service.web]\ndocker = { service = \"web\", project = \"shop\" }\n".to_owned();
    world.add(1, "edge", "web", &[]);
    world.add(2, "shop-green", "web", &[]);
    assert_eq!(world.services(), ["web green=10.0.0.2:3000"]);
}

#[test]
fn a_service_that_moved_to_another_project_is_there_when_the_file_says_so() {
    let mut world = in_project("edge");
    world.add(1, "edge", "web", &[]);
    assert_eq!(world.services(), ["web blue=10.0.0.1:3000"]);
    world.remove(1);
    world.add(2, "shop", "web", &[]);
    assert_eq!(world.services(), ["web blue=-"]);
    world.file = "[service.web]\ndocker = { service = \"web\", project = \"shop\" }\n".to_owned();
    assert_eq!(world.services(), ["web blue=10.0.0.2:3000"]);
}

#[test]
fn a_release_that_is_kept_stopped_in_the_live_color_says_nothing_of_it() {
    let mut world = World::with_file("[service.web]\ndocker = { service = \"web\" }\n");
    world.live.insert("web".to_owned(), Color::Blue);
    let color = ("cutover.color", "blue");
    world.add(1, "shop", "web", &[color]);
    let younger = world.add(2, "shop", "web", &[color]);
    younger.image = "app:v2".to_owned();
    younger.state = State::Ended;
    let release = |found: &Discovered| {
        let slot = found.services[0].slots[Color::Blue.index()].clone();
        slot.and_then(|slot| slot.release).map(|it| it.to_string())
    };
    assert_eq!(release(&world.discover()).as_deref(), Some("app:v1"));
    world.add(2, "shop", "web", &[]).state = State::Running;
    assert_eq!(release(&world.discover()).as_deref(), Some("app:v2"));
    for id in [1, 2] {
        world.add(id, "shop", "web", &[]).state = State::Ended;
    }
    // Nothing runs: the youngest is what was released last.
    let found = world.discover();
    assert_eq!(release(&found).as_deref(), Some("app:v2"));
    assert!(found.deserted.contains("web"));
}
