//! Plans of real containers.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use serde_json::json;

use super::*;
use crate::config::{Config, Env, Order, load_str_with};
use crate::deploy::action::{Action, Replica, forward};
use crate::deploy::container::label;
use crate::deploy::record::{Pulled, Quarantined, Releases};

const SHOP: &str = r#"
[[site]]
hosts = ["shop.test"]
service = "web"

[service.web]
docker = { service = "web", port = 3000 }
stop_grace = "7s"

[service.worker]
type = "worker"
order = "stop-first"
docker = { service = "worker" }

[[deploy.smoke]]
service = "web"
path = "/login"

[[job]]
name = "migrate"
service = "web"
when = "before"
command = ["migrate"]

[[job]]
name = "sorry"
service = "web"
when = "on_failure"
command = ["sorry"]
"#;

fn config(text: &str) -> Config {
    load_str_with("f", text, &Env::process()).expect("valid")
}

fn described(text: &str) -> Value {
    let mut read: Value = serde_json::from_str(text).expect("JSON");
    read[0].take()
}

/// One like the first container of a Compose service.
fn container(name: &str, service: &str, change: impl FnOnce(&mut Value)) -> Container {
    let mut inspect = described(include_str!("../spec/fixtures/web.json"));
    inspect["Name"] = json!(format!("/{name}"));
    inspect["Id"] = json!(format!(
        "{:0>64}",
        name.len() * 7 + usize::from(name.as_bytes()[0])
    ));
    inspect["Config"]["Labels"][label::COMPOSE_SERVICE] = json!(service);
    change(&mut inspect);
    Container::from_inspect(inspect).expect("a container")
}

fn stopped(inspect: &mut Value) {
    inspect["State"]["Status"] = json!("exited");
}

/// Made by an earlier deploy.
fn ours(color: &'static str, deploy: &'static str) -> impl FnOnce(&mut Value) {
    move |inspect| {
        let labels = json!({
            label::SERVICE: "web",
            label::COLOR: color,
            label::DEPLOY: deploy,
            label::BASE: "web",
            label::PROJECT: "shop",
            label::RELEASE: deploy,
            label::FIRST_NAME: "shop_web_1",
        });
        inspect["Config"]["Labels"] = labels;
    }
}

struct World {
    config: Config,
    live: BTreeMap<ServiceName, Color>,
    hosts: BTreeMap<ServiceName, String>,
    book: Book,
    own: Option<&'static str>,
    containers: Vec<Container>,
    images: BTreeMap<String, Value>,
}

impl World {
    fn of(text: &str, containers: Vec<Container>) -> Self {
        let image = described(include_str!("../spec/fixtures/image.json"));
        let ids = containers.iter().map(|one| one.image_id.clone());
        Self {
            config: config(text),
            live: [("web".into(), Color::Blue)].into(),
            hosts: [("web".into(), "shop.test".to_owned())].into(),
            book: Book::default(),
            own: None,
            images: ids.map(|id| (id, image.clone())).collect(),
            containers,
        }
    }

    fn shop() -> Self {
        let web = container("shop_web_1", "web", |_| {});
        let worker = container("shop_worker_1", "worker", |_| {});
        Self::of(SHOP, vec![web, worker])
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            services: &self.config.services,
            jobs: &self.config.jobs,
            deploy: &self.config.deploy,
            live: &self.live,
            hosts: &self.hosts,
            book: &self.book,
            own: self.own,
            containers: &self.containers,
            images: &self.images,
        }
    }

    fn plan(&self, image: &str, services: &[&str]) -> Result<Plan, PlanError> {
        let ask = Ask {
            image: image.to_owned(),
            services: services.iter().map(|name| (*name).into()).collect(),
            ..Ask::default()
        };
        plan_deploy(self.scene(), &ask, "d7", UNIX_EPOCH)
    }
}

fn names(member: &Member) -> Vec<&str> {
    member.new.iter().map(|new| new.name.as_str()).collect()
}

#[test]
fn a_tag_is_put_on_the_image_of_every_service_of_the_stack() {
    let world = World::shop();
    let plan = world.plan("2", &[]).expect("a plan");
    assert_eq!(
        (plan.release.as_str(), plan.stack.as_str()),
        ("2", "default")
    );
    assert_eq!(
        plan.images,
        [Image {
            reference: "shop:2".to_owned()
        }]
    );
    let [web, worker] = &plan.members[..] else {
        panic!("{:?}", plan.members);
    };
    assert_eq!((web.from, web.to), (Color::Blue, Color::Green));
    assert_eq!(names(web), ["shop-web-green-d7"]);
    assert_eq!(web.old[0].name, "shop_web_1");
    assert_eq!(web.old[0].policy["Name"], "unless-stopped");
    assert_eq!((web.old_release.as_str(), web.grace_s), ("1", Some(7)));
    assert_eq!(worker.role, Role::Worker(Order::StopFirst));
    assert_eq!(names(worker), ["shop-worker-green-d7"]);
    assert_eq!(plan.smoke[0].host.as_deref(), Some("shop.test"));
    assert_eq!(plan.jobs[0].job.container, "shop-migrate-d7");
    assert_eq!(plan.jobs[0].job.image.reference(), "shop:2");
    // What is to be done about a failure is done by what worked before.
    assert!(plan.jobs[1].job.image.reference().starts_with("sha256:"));
    assert_eq!(plan.limits.stop_ms, 7_000);
}

#[test]
fn the_steps_are_in_the_order_that_people_are_told() {
    let plan = World::shop().plan("2", &[]).expect("a plan");
    use Action as A;
    assert_eq!(
        forward(&plan),
        [
            A::Pull(0),
            A::Resources,
            A::Job(0),
            A::Create(0),
            A::Create(1),
            A::Start(0),
            A::Healthy(0),
            A::Gate,
            A::Smoke(0),
            // Not before everything else is good: it is down meanwhile.
            A::Halt(1),
            A::Start(1),
            A::Healthy(1),
            A::CutOver,
            A::Verdict,
            A::Adopt,
            A::Plain(0),
            A::Plain(1),
            A::Drained,
            A::Park(0),
            A::Prune,
        ]
    );
}

#[test]
fn every_replica_has_its_successor() {
    let mut world = World::shop();
    let second = container("shop_web_2", "web", |_| {});
    world.containers.push(second);
    let plan = world.plan("2", &["web"]).expect("a plan");
    assert_eq!(
        names(&plan.members[0]),
        ["shop-web-green-d7-1", "shop-web-green-d7-2"]
    );
    assert_eq!(plan.members.len(), 1);
}

#[test]
fn a_whole_image_is_for_the_services_that_run_it() {
    let mut world = World::shop();
    world.containers[1].image = "other:1".to_owned();
    let plan = world.plan("shop:3", &[]).expect("a plan");
    assert_eq!(plan.services(), ["web".into()]);
    let error = world.plan("nobody/has:1", &[]).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "none of web (shop:1), worker (other:1) runs nobody/has:1: name the service with \
         --service, or give only the tag"
    );
    // Named, it may be another one.
    let plan = world
        .plan("moved.example.com/shop:3", &["web"])
        .expect("a plan");
    assert_eq!(plan.images[0].reference, "moved.example.com/shop:3");
}

#[test]
fn after_a_deploy_the_other_color_is_next_and_what_was_kept_goes() {
    let live = container("shop-web-green-d6", "web", ours("green", "d6"));
    let first = container("shop_web_1", "web", stopped);
    let mut world = World::of(SHOP, vec![live, first]);
    world.live = [("web".into(), Color::Green)].into();
    let installed = |color, name: &str| Installed {
        color,
        release: "r".to_owned(),
        image: "shop:1".to_owned(),
        image_id: String::new(),
        digest: None,
        deploy: String::new(),
        containers: vec![name.to_owned()],
        since_ms: 0,
        policies: BTreeMap::new(),
    };
    let releases = Releases {
        live: Some(installed(Color::Green, "shop-web-green-d6")),
        kept: Some(installed(Color::Blue, "shop_web_1")),
    };
    world.book.releases.insert("web".into(), releases);
    let plan = world.plan("2", &["web"]).expect("a plan");
    let web = &plan.members[0];
    assert_eq!((web.from, web.to), (Color::Green, Color::Blue));
    assert_eq!(names(web), ["shop-web-blue-d7"]);
    assert_eq!(web.old[0].name, "shop-web-green-d6");
    assert_eq!(web.old_release, "d6");
    assert_eq!(web.surplus, ["shop_web_1"]);
    assert!(web.displaced.is_empty(), "it does not run");
}

#[test]
fn what_compose_started_again_beside_the_live_color_is_stopped_first() {
    let live = container("shop-web-green-d6", "web", ours("green", "d6"));
    let again = container("shop_web_1", "web", |_| {});
    let mut world = World::of(SHOP, vec![live, again]);
    world.live = [("web".into(), Color::Green)].into();
    let known = Some(Installed {
        color: Color::Green,
        release: "d6".to_owned(),
        image: "shop:1".to_owned(),
        image_id: String::new(),
        digest: None,
        deploy: "d6".to_owned(),
        containers: vec!["shop-web-green-d6".to_owned()],
        since_ms: 0,
        policies: BTreeMap::new(),
    });
    let book = Releases {
        live: known,
        ..Releases::default()
    };
    world.book.releases.insert("web".into(), book);
    let web = &world.plan("2", &["web"]).expect("a plan").members[0];
    assert_eq!(web.old.len(), 1, "only the live color");
    let displaced = &web.displaced[0];
    assert_eq!(
        (displaced.name.as_str(), displaced.aside.as_str()),
        ("shop_web_1", "shop_web_1")
    );
    assert!(displaced.ran);
    assert_eq!(web.surplus, ["shop_web_1"]);
}

const DECLARED: &str = r#"
[[site]]
hosts = ["shop.test"]
service = "web"
[service.web]
blue = ["app-blue:3000"]
green = ["app-green:3000"]
"#;

#[test]
fn a_color_that_compose_declares_is_made_again_where_it_stands() {
    let blue = container("shop_app-blue_1", "app-blue", |_| {});
    let green = container("shop_app-green_1", "app-green", |inspect| {
        let port = json!({ "3000/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "3002" }] });
        inspect["HostConfig"]["PortBindings"] = port;
    });
    let world = World::of(DECLARED, vec![blue, green]);
    let plan = world
        .plan("2", &[])
        .expect("published ports are no obstacle here");
    let web = &plan.members[0];
    assert_eq!((web.from, web.to), (Color::Blue, Color::Green));
    assert_eq!(names(web), ["shop_app-green_1"]);
    assert_eq!(web.displaced[0].aside, "shop_app-green_1-before-d7");
    assert_eq!(web.surplus, ["shop_app-green_1-before-d7"]);
    let spec = web.new[0].spec.as_ref().expect("made");
    assert_eq!(spec.body["Labels"][label::COMPOSE_SERVICE], "app-green");
}

#[test]
fn an_upstream_names_its_containers_by_alias_as_well() {
    let file = DECLARED
        .replace("app-blue", "web")
        .replace("app-green", "web-green");
    let web = container("shop_web_1", "web", |_| {});
    let world = World::of(&file, vec![web]);
    let plan = world.plan("2", &[]).expect("a plan");
    assert_eq!(names(&plan.members[0]), ["shop-web-green-d7"]);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let world = World::shop();
    let error = |image: &str, services: &[&str]| {
        let refused = world.plan(image, services).expect_err("refused");
        refused.to_string()
    };
    assert_eq!(error("2", &["wep"]), "no service `wep`");
    let mut empty = World::shop();
    empty.containers.clear();
    assert_eq!(empty.plan("2", &[]), Err(PlanError::NothingToDeploy));
    let error = empty.plan("2", &["web"]).expect_err("refused").to_string();
    assert_eq!(error, "web: no container runs in its live color blue");

    let mut nameless = World::shop();
    nameless.containers[0].image = format!("sha256:{:0>64}", 1);
    let error = nameless
        .plan("2", &["web"])
        .expect_err("refused")
        .to_string();
    assert!(error.contains("give the whole image"), "{error}");

    let mut published = World::shop();
    let port = json!({ "3000/tcp": [{ "HostIp": "", "HostPort": "80" }] });
    published.containers[0].inspect["HostConfig"]["PortBindings"] = port;
    let error = published.plan("2", &[]).expect_err("refused").to_string();
    assert!(error.contains("remove `80:3000` under `ports:`"), "{error}");
}

#[test]
fn colors_that_do_not_agree_are_not_deployed_as_one() {
    let file = format!("{SHOP}[service.api]\ndocker = {{ service = \"api\", port = 1 }}\n");
    let mut world = World::of(&file, World::shop().containers);
    world
        .containers
        .push(container("shop_api_1", "api", |inspect| {
            inspect["Config"]["Labels"][label::COLOR] = json!("green");
        }));
    world.live.insert("api".into(), Color::Green);
    let error = world.plan("2", &[]).expect_err("refused").to_string();
    assert!(
        error.starts_with("api (green), web (blue) are not live in the same color"),
        "{error}"
    );
    assert!(world.plan("2", &["web"]).is_ok());
}

#[test]
fn a_rollback_starts_what_was_kept() {
    let live = container("shop-web-green-d6", "web", ours("green", "d6"));
    let first = container("shop_web_1", "web", stopped);
    let mut world = World::of(SHOP, vec![live, first]);
    world.live = [("web".into(), Color::Green)].into();
    let rolled = |world: &World| plan_rollback(world.scene(), &[], "d7", UNIX_EPOCH);
    assert_eq!(rolled(&world), Err(PlanError::NothingKept));
    let policy = json!({ "Name": "always" });
    let kept = Installed {
        color: Color::Blue,
        release: "1".to_owned(),
        image: "shop:1".to_owned(),
        image_id: "sha256:1".to_owned(),
        digest: None,
        deploy: String::new(),
        containers: vec!["shop_web_1".to_owned()],
        since_ms: 0,
        policies: [("shop_web_1".to_owned(), policy.clone())].into(),
    };
    let releases = Releases {
        live: None,
        kept: Some(kept),
    };
    world.book.releases.insert("web".into(), releases);
    let plan = rolled(&world).expect("a plan");
    let web = &plan.members[0];
    assert_eq!((web.from, web.to), (Color::Green, Color::Blue));
    assert_eq!(
        (names(web), &web.new[0].policy),
        (vec!["shop_web_1"], &policy)
    );
    assert!(plan.is_rollback && plan.jobs.is_empty());
    let steps = forward(&plan);
    assert!(!steps.contains(&Action::Create(0)) && steps.contains(&Action::Park(0)));

    world.containers.pop();
    let gone = rolled(&world).expect_err("refused").to_string();
    assert_eq!(
        gone,
        "the containers of the kept release are gone: shop_web_1"
    );
}

#[test]
fn nobody_is_asked_to_deploy_another_compose_project() {
    let web = container("shop_web_1", "web", |_| {});
    let other = container("blog_worker_1", "worker", |inspect| {
        inspect["Config"]["Labels"][label::COMPOSE_PROJECT] = json!("blog");
    });
    let project = web.project().expect("a project").to_owned();
    let mut world = World::of(SHOP, vec![web, other]);
    let refused = world.plan("v2", &[]).expect_err("two projects").to_string();
    for word in ["blog: worker", &format!("{project}: web"), "--service"] {
        assert!(refused.contains(word), "{refused}");
    }
    let both = world.plan("v2", &["web", "worker"]).expect("both by name");
    assert_eq!(both.members.len(), 2);
    world.own = Some("blog");
    let plan = world.plan("v2", &[]).expect("its own");
    assert_eq!(plan.services(), ["worker".into()]);
}

#[test]
fn a_service_has_the_containers_of_the_project_that_is_served_and_no_others() {
    let config = config(SHOP);
    let of = |name: &'static str, project: &'static str| {
        container(name, "web", move |inspect| {
            inspect["Config"]["Labels"][label::COMPOSE_PROJECT] = json!(project);
        })
    };
    let mine = of("a", "shop");
    let worker = |name: &'static str, project: &'static str| {
        container(name, "worker", move |inspect| {
            inspect["Config"]["Labels"][label::COMPOSE_PROJECT] = json!(project);
        })
    };
    let all = || {
        let web = [of("a", "shop"), of("b", "shop-green"), of("c", "other")];
        let workers = [
            worker("shop-worker", "shop"),
            worker("other-worker", "other"),
        ];
        web.into_iter().chain(workers).collect::<Vec<_>>()
    };
    let seen = |own: Option<&str>, served: &BTreeMap<String, BTreeSet<ServiceName>>| {
        let left = super::super::ours(&config.services, own, served, all());
        left.into_iter().map(|one| one.name).collect::<Vec<_>>()
    };
    let served = [(mine.id, BTreeSet::from(["web".into()]))].into();
    let workers = ["shop-worker", "other-worker"];
    assert_eq!(
        seen(None, &served)[..2],
        ["a", "b"],
        "the colors of a project are one"
    );
    assert_eq!(
        seen(None, &served)[2..],
        workers[..1],
        "its worker is of the same project"
    );
    // Nobody has seen yet whose it is.
    let of_other = ["c", workers[1]];
    assert_eq!(
        seen(Some("other"), &BTreeMap::new()),
        of_other,
        "that of the proxy"
    );
    assert_eq!(seen(None, &BTreeMap::new()).len(), 5);
}

#[test]
fn only_what_was_rolled_back_of_these_services_is_held_against_the_image() {
    let mut world = World::shop();
    let held = |service: &str| Quarantined {
        service: service.into(),
        image_id: Pulled::default().id,
        release: "2".to_owned(),
        why: "errors".to_owned(),
        at_ms: 0,
    };
    world.book.quarantine = vec![held("web"), held("other")];
    let plan = world.plan("2", &[]).expect("a plan");
    assert_eq!(plan.quarantine, [held("web")]);
}

#[test]
fn images_are_taken_apart_as_registries_write_them() {
    for (image, bare, label) in [
        ("shop", "shop", "latest"),
        ("shop:2", "shop", "2"),
        (
            "reg.example.com:5000/a/shop",
            "reg.example.com:5000/a/shop",
            "latest",
        ),
        (
            "reg.example.com:5000/a/shop:v2",
            "reg.example.com:5000/a/shop",
            "v2",
        ),
        ("a/shop:v2@sha256:0123456789abcdef", "a/shop", "v2"),
        ("a/shop@sha256:0123456789abcdef", "a/shop", "0123456789ab"),
    ] {
        assert_eq!(repository(image), bare, "{image}");
        let told = release_label(image);
        // A bare name is what a person would take for a tag.
        let label = if image == "shop" { "shop" } else { label };
        assert_eq!(told, label, "{image}");
    }
    assert_eq!(repository("sha256:00"), "");
    assert!(
        is_tag("v2") && is_tag("2026.1_rc-1") && !is_tag("a/b") && !is_tag("a:b") && !is_tag("")
    );
}

impl World {
    fn rolling(&self, image: &str) -> Result<Plan, PlanError> {
        let ask = Ask {
            image: image.to_owned(),
            strategy: Strategy::Rolling,
            ..Ask::default()
        };
        plan_deploy(self.scene(), &ask, "d7", UNIX_EPOCH)
    }
}

#[test]
fn a_rolling_deploy_stays_in_the_live_color_and_goes_one_by_one() {
    let mut world = World::shop();
    world
        .containers
        .push(container("shop_web_2", "web", |_| {}));
    let plan = world.rolling("2").expect("a plan");
    let web = &plan.members[0];
    assert_eq!((web.from, web.to), (Color::Blue, Color::Blue));
    assert_eq!(names(web), ["shop-web-blue-d7-1", "shop-web-blue-d7-2"]);
    let spec = web.new[0].spec.as_ref().expect("made");
    assert_eq!(spec.body["Labels"][label::COLOR], "blue");
    use Action as A;
    let [first, second] = [0, 1].map(|at| Replica { member: 0, at });
    assert_eq!(
        forward(&plan),
        [
            A::Pull(0),
            A::Resources,
            A::Job(0),
            A::Create(0),
            A::Create(1),
            A::StartOne(first),
            A::HealthyOne(first),
            A::GateOne(first),
            // Once, before the first old one leaves.
            A::Smoke(0),
            A::PlainOne(first),
            A::JoinOne(first),
            A::LeaveOne(first),
            A::ParkOne(first),
            A::StartOne(second),
            A::HealthyOne(second),
            A::GateOne(second),
            A::PlainOne(second),
            A::JoinOne(second),
            A::LeaveOne(second),
            A::ParkOne(second),
            A::Halt(1),
            A::Start(1),
            A::Healthy(1),
            A::Gate,
            A::Adopt,
            A::Plain(1),
            A::Prune,
        ]
    );
}

#[test]
fn a_plan_of_an_earlier_version_is_one_of_blue_and_green() {
    let plan = World::shop().plan("2", &[]).expect("a plan");
    let mut written = serde_json::to_value(&plan).expect("JSON");
    let removed = written.as_object_mut().and_then(|it| it.remove("strategy"));
    assert_eq!(removed, Some(json!("blue-green")));
    let read: Plan = serde_json::from_value(written).expect("a plan");
    assert_eq!(read, plan);
}

#[test]
fn what_cannot_be_replaced_one_by_one_is_refused_with_the_way_out() {
    let blue = container("shop_app-blue_1", "app-blue", |_| {});
    let green = container("shop_app-green_1", "app-green", |_| {});
    let world = World::of(DECLARED, vec![blue, green]);
    let error = world.rolling("2").expect_err("refused").to_string();
    assert!(error.contains("(shop_app-blue_1)"), "{error}");
    assert!(error.contains("--strategy blue-green"), "{error}");

    let file = DECLARED
        .replace("app-blue", "web")
        .replace("app-green", "web-green");
    let world = World::of(&file, vec![container("shop_web_1", "web", |_| {})]);
    let error = world.rolling("2").expect_err("refused").to_string();
    assert!(error.contains("docker = { service = "), "{error}");
    assert!(world.plan("2", &[]).is_ok());
}

/// After a rolling deploy: the new one runs, the old one is kept, both in blue.
fn rolled() -> World {
    let live = container("shop-web-blue-d6", "web", ours("blue", "d6"));
    let first = container("shop_web_1", "web", stopped);
    let mut world = World::of(SHOP, vec![live, first]);
    let installed = |name: &str| Installed {
        color: Color::Blue,
        release: "r".to_owned(),
        image: "shop:1".to_owned(),
        image_id: String::new(),
        digest: None,
        deploy: String::new(),
        containers: vec![name.to_owned()],
        since_ms: 0,
        policies: BTreeMap::new(),
    };
    let releases = Releases {
        live: Some(installed("shop-web-blue-d6")),
        kept: Some(installed("shop_web_1")),
    };
    world.book.releases.insert("web".into(), releases);
    world
}

#[test]
fn what_a_rolling_deploy_has_kept_is_gone_back_to_one_by_one() {
    let mut world = rolled();
    let plan = plan_rollback(world.scene(), &[], "d7", UNIX_EPOCH).expect("a plan");
    assert!(plan.is_rollback);
    assert_eq!(plan.strategy, Strategy::Rolling);
    let web = &plan.members[0];
    assert_eq!((web.from, web.to), (Color::Blue, Color::Blue));
    assert_eq!(names(web), ["shop_web_1"]);
    assert_eq!(web.old[0].name, "shop-web-blue-d6");
    let steps = forward(&plan);
    let one = Replica { member: 0, at: 0 };
    assert!(steps.contains(&Action::StartOne(one)) && steps.contains(&Action::ParkOne(one)));
    assert!(!steps.contains(&Action::CutOver) && !steps.contains(&Action::PlainOne(one)));
    assert!(web.surplus.is_empty());

    // There are more of the live ones than were kept: the others leave once all of those serve.
    let second = container("shop-web-blue-d6-22", "web", ours("blue", "d6"));
    world.containers.push(second);
    let plan = plan_rollback(world.scene(), &[], "d7", UNIX_EPOCH).expect("a plan");
    let steps = forward(&plan);
    let at = |action: Action| steps.iter().position(|known| *known == action);
    let other = Replica { member: 0, at: 1 };
    assert!(at(Action::JoinOne(one)) < at(Action::LeaveOne(other)));
    assert!(at(Action::LeaveOne(other)) < at(Action::ParkOne(other)));
    assert_eq!(at(Action::JoinOne(other)), None);
    world.containers.pop();

    // Half of it in the live color and half of it in the other is nothing to begin with.
    let file = format!("{SHOP}[service.api]\ndocker = {{ service = \"api\", port = 1 }}\n");
    world.config = config(&file);
    world
        .containers
        .push(container("shop_api_1", "api", |_| {}));
    world.live.insert("api".into(), Color::Blue);
    let mut of_api = world.book.releases["web"].clone();
    if let (Some(live), Some(kept)) = (&mut of_api.live, &mut of_api.kept) {
        live.containers = vec!["shop_api_1".to_owned()];
        kept.color = Color::Green;
    }
    world.book.releases.insert("api".into(), of_api);
    let mixed = plan_rollback(world.scene(), &[], "d7", UNIX_EPOCH);
    assert!(matches!(mixed, Err(PlanError::Mixed(_))), "{mixed:?}");
}

#[test]
fn the_next_deploy_of_either_kind_discards_what_a_rolling_one_has_kept() {
    let mut world = rolled();
    for plan in [world.plan("3", &["web"]), world.rolling("3")] {
        let web = &plan.expect("a plan").members[0];
        assert_eq!(web.old.len(), 1);
        assert_eq!(web.surplus, ["shop_web_1"]);
        assert!(web.displaced.is_empty());
    }
    // One that somebody has scaled down is theirs.
    let theirs = container("shop_web_9", "web", stopped);
    world.containers.push(theirs);
    let web = &world.rolling("3").expect("a plan").members[0];
    // Compose has made it beside what was deployed: it counts as the other color, as ever.
    assert_eq!(web.surplus, ["shop_web_9", "shop_web_1"]);
}
