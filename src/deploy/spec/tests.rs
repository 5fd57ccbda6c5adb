//! On what a real engine (20.10, Compose 1.29) said of real containers.

use super::*;

fn read(text: &str) -> Value {
    let mut read: Value = serde_json::from_str(text).expect("JSON");
    read[0].take()
}

fn web() -> Container {
    Container::from_inspect(read(include_str!("fixtures/web.json"))).expect("a container")
}

fn published() -> Container {
    let text = include_str!("fixtures/published.json");
    Container::from_inspect(read(text)).expect("a container")
}

fn image() -> Value {
    read(include_str!("fixtures/image.json"))
}

fn release<'a>(service: &'a ServiceName, env: &'a [String]) -> Release<'a> {
    Release {
        service,
        color: Color::Green,
        image: "shop:2",
        label: "2",
        deploy: "d7",
        replica: (1, 1),
        env,
    }
}

fn copy(live: &Container) -> ContainerSpec {
    let service = "web".into();
    ContainerSpec::copy(live, &image(), release(&service, &[])).expect("nothing refuses it")
}

#[test]
fn what_was_written_is_kept_and_what_the_image_gave_is_left_to_the_new_image() {
    let body = copy(&web()).body.0;
    assert_eq!(body["Image"], "shop:2");
    // `APP_VERSION` and `PATH` are the image's; `APP_HOME` was written over the image's.
    assert_eq!(
        body["Env"],
        json!([
            "FROM_FILE=yes",
            "DATABASE_URL=postgres://shop@db/shop",
            "APP_HOME=/srv"
        ])
    );
    assert_eq!(body["User"], "1001");
    assert_eq!(body["StopTimeout"], 7);
    assert_eq!(
        body["Cmd"],
        json!(["httpd", "-f", "-v", "-p", "3000", "-h", "/www"])
    );
    for key in ["WorkingDir", "Healthcheck", "StopSignal", "Hostname"] {
        assert!(body.get(key).is_none(), "{key} is the image's or the id's");
    }
    assert_eq!(body["ExposedPorts"], json!({}));
    // `/scratch` is declared by the image, the others are binds.
    assert_eq!(body["Volumes"], json!({}));
}

#[test]
fn everything_of_the_host_configuration_is_carried_over() {
    let live = web();
    let host = copy(&live).body["HostConfig"].clone();
    let written = live.inspect["HostConfig"].as_object().expect("an object");
    for (key, value) in written {
        if !["ContainerIDFile", "ConsoleSize"].contains(&key.as_str()) {
            assert_eq!(&host[key], value, "{key}");
        }
    }
    assert_eq!(host["Memory"], 64 * 1024 * 1024);
    assert_eq!(host["NanoCpus"], 500_000_000);
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["RestartPolicy"]["Name"], "unless-stopped");
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "1m");
    assert_eq!(host["ExtraHosts"], json!(["gateway:10.0.0.1"]));
}

#[test]
fn a_copy_belongs_to_no_compose_project_and_says_what_it_is() {
    let spec = copy(&web());
    assert_eq!(spec.name, "shop-web-green-d7");
    let labels = spec.body["Labels"].as_object().expect("an object");
    assert!(labels.keys().all(|key| !key.starts_with(label::COMPOSE)));
    // The image's own labels come from the new image.
    assert!(!labels.contains_key("org.opencontainers.image.version"));
    for (key, value) in [
        ("cutover.deploy.service", "web"),
        ("cutover.color", "green"),
        ("cutover.release", "2"),
        ("cutover.deploy.id", "d7"),
        ("cutover.deploy.base", "web"),
        ("cutover.deploy.project", "shop"),
        ("cutover.deploy.first-name", "shop_web_1"),
        ("cutover.host", "shop.test"),
        ("com.example.team", "shop"),
    ] {
        assert_eq!(labels[key], value, "{key}");
    }
}

#[test]
fn the_plain_name_is_taken_only_after_the_verdict() {
    let spec = copy(&web());
    let first = &spec.body["NetworkingConfig"]["EndpointsConfig"];
    assert_eq!(
        first,
        &json!({ "shop_data": { "Aliases": ["web-green"] } }),
        "the network of NetworkMode, and no other: engines before API 1.44 take one"
    );
    assert_eq!(
        spec.more,
        [Attachment {
            network: "shop_default".to_owned(),
            endpoint: json!({ "Aliases": ["web-green"] }),
        }]
    );
    let plain = |network: &str, names: &[&str]| Attachment {
        network: network.to_owned(),
        endpoint: json!({ "Aliases": names }),
    };
    assert_eq!(
        spec.plain,
        [
            plain("shop_data", &["web-green", "web"]),
            plain("shop_default", &["web-green", "web", "shop-internal"]),
        ]
    );
}

/// The copy as the engine would describe it before its verdict.
fn described(spec: &ContainerSpec) -> Container {
    let mut inspect = web().inspect.0;
    inspect["Id"] = json!("f".repeat(64));
    inspect["Name"] = json!(format!("/{}", spec.name));
    for (key, value) in spec.body.as_object().expect("an object") {
        inspect["Config"][key] = value.clone();
    }
    inspect["Config"]["Hostname"] = json!("f".repeat(12));
    let networks = json!({
        "shop_data": { "Aliases": ["web-green", "f".repeat(12)], "IPAMConfig": null },
        "shop_default": { "Aliases": ["web-green", "f".repeat(12)], "IPAMConfig": null },
    });
    inspect["NetworkSettings"]["Networks"] = networks;
    Container::from_inspect(inspect).expect("a container")
}

#[test]
fn a_copy_of_a_copy_is_like_the_first() {
    let first = copy(&web());
    let second = described(&first);
    assert_eq!(second.base(), "web");
    let service = "web".into();
    let release = Release {
        color: Color::Blue,
        deploy: "d8",
        ..release(&service, &[])
    };
    let again = ContainerSpec::copy(&second, &image(), release).expect("nothing refuses it");
    assert_eq!(again.name, "shop-web-blue-d8");
    assert_eq!(again.body["Env"], first.body["Env"]);
    assert_eq!(
        again.body["Labels"]["cutover.deploy.first-name"],
        "shop_web_1"
    );
    assert_eq!(
        again.plain[1].endpoint,
        json!({ "Aliases": ["web-blue", "web", "shop-internal"] }),
        "the names of the first container, though its copy had not yet taken them"
    );
}

#[test]
fn a_file_of_variables_is_put_over_what_the_live_one_has() {
    let env = ["APP_HOME=/new".to_owned(), "EXTRA=1".to_owned()];
    let service = "web".into();
    let release = release(&service, &env);
    let spec = ContainerSpec::copy(&web(), &image(), release).expect("nothing refuses it");
    assert_eq!(
        spec.body["Env"],
        json!([
            "FROM_FILE=yes",
            "DATABASE_URL=postgres://shop@db/shop",
            "APP_HOME=/new",
            "EXTRA=1"
        ])
    );
}

#[test]
fn replicas_are_numbered_and_volumes_without_a_name_are_told() {
    let service = "web".into();
    let release = Release {
        replica: (2, 3),
        ..release(&service, &[])
    };
    let spec = ContainerSpec::copy(&web(), &image(), release).expect("nothing refuses it");
    assert_eq!(spec.name, "shop-web-green-d7-2");
    assert_eq!(spec.notes.len(), 1, "{:?}", spec.notes);
    assert!(spec.notes[0].starts_with("the volume at /scratch has no name"));
}

#[test]
fn what_only_one_container_can_have_is_refused_with_the_line_to_change() {
    let service = "web".into();
    let refused = ContainerSpec::copy(&published(), &image(), release(&service, &[]));
    let told: Vec<_> = (refused.expect_err("refused").iter())
        .map(ToString::to_string)
        .collect();
    let place = "service web-blue in /srv/shop/docker-compose.yml: remove";
    assert_eq!(
        told,
        [
            format!(
                "{place} `127.0.0.1:18951:3000` under `ports:`; a port of the host belongs to one \
                 container, and the proxy reaches both colors by their network"
            ),
            format!("{place} `container_name: shop_blue`; a name belongs to one container"),
            format!(
                "{place} the address 172.31.78.10 under `networks: data:` (`ipv4_address` or \
                 `ipv6_address`); an address belongs to one container"
            ),
        ]
    );
}

#[test]
fn a_port_that_the_engine_chooses_is_no_obstacle() {
    let mut live = web();
    let any = json!({ "3000/tcp": [{ "HostIp": "", "HostPort": "" }] });
    live.inspect["HostConfig"]["PortBindings"] = any;
    assert_eq!(
        copy(&live).body["HostConfig"]["PortBindings"]["3000/tcp"][0]["HostPort"],
        ""
    );
}

#[test]
fn a_declared_color_is_made_again_with_all_that_it_has() {
    let service = "web".into();
    let release = Release {
        color: Color::Blue,
        ..release(&service, &[])
    };
    let spec = ContainerSpec::in_place(&published(), &image(), release);
    assert_eq!(spec.name, "shop_blue");
    let labels = &spec.body["Labels"];
    assert_eq!(labels["com.docker.compose.service"], "web-blue");
    assert_eq!(labels["cutover.release"], "2");
    assert_eq!(
        spec.body["HostConfig"]["PortBindings"]["3000/tcp"][0]["HostPort"],
        "18951"
    );
    assert_eq!(
        spec.body["NetworkingConfig"]["EndpointsConfig"]["shop_data"],
        json!({
            "Aliases": ["web-blue"],
            "IPAMConfig": { "IPv4Address": "172.31.78.10" }
        })
    );
}

#[test]
fn outside_compose_the_name_is_what_others_call_it() {
    let mut inspect = web().inspect.0;
    inspect["Config"]["Labels"] = json!({});
    inspect["Name"] = json!("/app");
    let short = inspect["Id"].as_str().expect("text")[..12].to_owned();
    let networks = json!({ "net": { "Aliases": [short] } });
    inspect["NetworkSettings"]["Networks"] = networks;
    inspect["HostConfig"]["NetworkMode"] = json!("net");
    let live = Container::from_inspect(inspect).expect("a container");
    let spec = copy(&live);
    assert_eq!(spec.name, "app-green-d7");
    assert_eq!(
        spec.plain[0].endpoint,
        json!({ "Aliases": ["app-green", "app"] })
    );
}
