//! Requests against a folder: what comes back as a whole.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::hide::Hide;
use super::{Answer, Asked, Candidate, Folder, Refused, Selection, select, serve};
use crate::config::step::{Browse, Encoding, TryPolicy};

/// 1994-11-06 08:49:37.
const TIME: u64 = 784_111_777;
const ETAG: &str = "\"cyu8ipa\"";

struct World {
    _place: tempfile::TempDir,
    folder: Folder,
}

fn world() -> World {
    let place = tempfile::tempdir().expect("a folder");
    let root = place.path().join("root");
    for folder in ["docs", "empty", ".git", "with index", ".well-known"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    for (name, text) in [
        ("ten.txt", "0123456789"),
        ("page.html", "<p>page"),
        ("page.html.gz", "gz!"),
        ("page.html.br", "br!!"),
        ("noext", "plain"),
        ("with index/index.html", "index"),
        ("docs/b.txt", "bb"),
        ("docs/<i>&'\".txt", "odd"),
        ("docs/A:1.md", "aaaa"),
        ("docs/.hidden", "h"),
        ("docs/secret.txt", "s"),
        (".git/config", "git"),
        (".env", "env"),
        (".well-known/security.txt", "contact"),
    ] {
        let file = root.join(name);
        fs::write(&file, text).expect("a file");
        let file = fs::File::options().write(true).open(&file).expect("a file");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(TIME))
            .expect("a time");
    }
    fs::write(place.path().join("outside.txt"), "outside").expect("a file");
    symlink("../outside.txt", root.join("out.txt")).expect("a link");
    symlink("../../outside.txt", root.join("docs/out.txt")).expect("a link");
    symlink("b.txt", root.join("docs/link.txt")).expect("a link");
    World {
        folder: Folder {
            root,
            hide: Hide::default(),
            dotfiles: false,
            follow: false,
            index: vec!["index.html".to_owned(), "index.txt".to_owned()],
            browse: None,
            precompressed: Vec::new(),
            status: None,
            canonical: true,
        },
        _place: place,
    }
}

#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Got {
    fn field(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }
}

async fn read(answer: Answer) -> Got {
    let Answer {
        status,
        headers,
        mut body,
    } = answer;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await.expect("read") {
        bytes.extend_from_slice(&piece);
    }
    Got {
        status: status.as_u16(),
        headers,
        body: String::from_utf8(bytes).expect("text"),
    }
}

impl World {
    async fn ask(
        &self,
        method: Method,
        target: &str,
        fields: &[(HeaderName, &str)],
    ) -> Result<Got, Refused> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().expect("a value"));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let asked = Asked {
            method: &method,
            path,
            original_path: path,
            query,
            headers: &headers,
            error: None,
        };
        Ok(read(serve(&Arc::new(self.folder.clone()), &asked).await?).await)
    }

    async fn get(&self, target: &str) -> Got {
        let got = self.ask(Method::GET, target, &[]).await;
        got.unwrap_or_else(|refused| panic!("{target}: {refused:?}"))
    }

    async fn with(&self, target: &str, fields: &[(HeaderName, &str)]) -> Got {
        let got = self.ask(Method::GET, target, fields).await;
        got.unwrap_or_else(|refused| panic!("{target}: {refused:?}"))
    }

    async fn refused(&self, target: &str) -> u16 {
        match self.ask(Method::GET, target, &[]).await {
            Err(refused) => refused.status().as_u16(),
            Ok(got) => panic!("{target}: {got:?}"),
        }
    }

    async fn rewritten(&self, path: &str, original_path: &str) -> Result<Got, Refused> {
        let headers = HeaderMap::new();
        let asked = Asked {
            method: &Method::GET,
            path,
            original_path,
            query: None,
            headers: &headers,
            error: None,
        };
        Ok(read(serve(&Arc::new(self.folder.clone()), &asked).await?).await)
    }
}

#[tokio::test]
async fn a_file_comes_with_length_type_and_validators() {
    let world = world();
    let got = world.get("/ten.txt").await;
    assert_eq!((got.status, got.body.as_str()), (200, "0123456789"));
    assert_eq!(got.field(header::CONTENT_LENGTH), Some("10"));
    assert_eq!(
        got.field(header::CONTENT_TYPE),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(got.field(header::ETAG), Some(ETAG));
    assert_eq!(
        got.field(header::LAST_MODIFIED),
        Some("Sun, 06 Nov 1994 08:49:37 GMT")
    );
    assert_eq!(got.field(header::ACCEPT_RANGES), Some("bytes"));
    assert_eq!(got.field(header::VARY), None);
    assert_eq!(world.get("/noext").await.field(header::CONTENT_TYPE), None);
    let head = world
        .ask(Method::HEAD, "/ten.txt", &[])
        .await
        .expect("a head");
    assert_eq!((head.body.as_str(), head.headers), ("", got.headers));
}

#[tokio::test]
async fn conditions_are_kept() {
    let world = world();
    let got = world
        .with("/ten.txt", &[(header::IF_NONE_MATCH, ETAG)])
        .await;
    assert_eq!((got.status, got.body.as_str()), (304, ""));
    assert_eq!(got.field(header::ETAG), Some(ETAG));
    assert_eq!(got.field(header::CONTENT_TYPE), None);
    assert_eq!(got.field(header::CONTENT_LENGTH), None);
    let got = world.with("/ten.txt", &[(header::IF_MATCH, "\"x\"")]).await;
    assert_eq!((got.status, got.body.as_str()), (412, ""));
    assert_eq!(got.field(header::CONTENT_LENGTH), Some("0"));
}

#[tokio::test]
async fn one_range_is_sent_as_it_is() {
    let world = world();
    let got = world
        .with("/ten.txt", &[(header::RANGE, "bytes=2-4")])
        .await;
    assert_eq!((got.status, got.body.as_str()), (206, "234"));
    assert_eq!(got.field(header::CONTENT_RANGE), Some("bytes 2-4/10"));
    assert_eq!(got.field(header::CONTENT_LENGTH), Some("3"));
    let other = [(header::RANGE, "bytes=2-4"), (header::IF_RANGE, "\"x\"")];
    let got = world.with("/ten.txt", &other).await;
    assert_eq!((got.status, got.body.as_str()), (200, "0123456789"));
}

#[tokio::test]
async fn several_ranges_are_sent_as_multipart() {
    let world = world();
    let got = world
        .with("/ten.txt", &[(header::RANGE, "bytes=0-1,-1")])
        .await;
    assert_eq!(got.status, 206);
    let length = got.body.len().to_string();
    assert_eq!(got.field(header::CONTENT_LENGTH), Some(length.as_str()));
    let kind = got.field(header::CONTENT_TYPE).expect("a type");
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .expect("a boundary");
    let expected = format!(
        "--{boundary}\r\nContent-Range: bytes 0-1/10\r\nContent-Type: text/plain; \
         charset=utf-8\r\n\r\n01\r\n--{boundary}\r\nContent-Range: bytes 9-9/10\r\nContent-Type: \
         text/plain; charset=utf-8\r\n\r\n9\r\n--{boundary}--\r\n"
    );
    assert_eq!(got.body, expected);
}

#[tokio::test]
async fn a_range_beyond_the_file_is_416_with_its_length() {
    let world = world();
    let got = world
        .with("/ten.txt", &[(header::RANGE, "bytes=10-")])
        .await;
    assert_eq!(got.status, 416);
    assert_eq!(got.field(header::CONTENT_RANGE), Some("bytes */10"));
    let got = world.with("/ten.txt", &[(header::RANGE, "bytes=x")]).await;
    assert_eq!((got.status, got.field(header::CONTENT_RANGE)), (416, None));
}

#[tokio::test]
async fn a_precompressed_sibling_is_sent_to_who_takes_it() {
    let mut world = world();
    world.folder.precompressed = vec![Encoding::Zstd, Encoding::Brotli, Encoding::Gzip];
    let got = world
        .with("/page.html", &[(header::ACCEPT_ENCODING, "gzip, br, zstd")])
        .await;
    assert_eq!(
        (got.body.as_str(), got.field(header::CONTENT_ENCODING)),
        ("br!!", Some("br"))
    );
    assert_eq!(
        got.field(header::CONTENT_TYPE),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(got.field(header::CONTENT_LENGTH), Some("4"));
    assert_eq!(got.field(header::ETAG), Some("\"cyu8ip4\""));
    let got = world
        .with("/page.html", &[(header::ACCEPT_ENCODING, "gzip, br;q=0.5")])
        .await;
    assert_eq!(
        (got.body.as_str(), got.field(header::CONTENT_ENCODING)),
        ("gz!", Some("gzip"))
    );
    let got = world.get("/page.html").await;
    assert_eq!(
        (got.body.as_str(), got.field(header::CONTENT_ENCODING)),
        ("<p>page", None)
    );
    assert_eq!(got.field(header::VARY), Some("Accept-Encoding"));
    let range = [
        (header::ACCEPT_ENCODING, "br"),
        (header::RANGE, "bytes=1-2"),
    ];
    let got = world.with("/page.html", &range).await;
    assert_eq!((got.status, got.body.as_str()), (206, "r!"));
    assert_eq!(got.field(header::CONTENT_ENCODING), Some("br"));
}

#[tokio::test]
async fn folders_end_in_a_slash_and_files_do_not() {
    let world = world();
    let to = async |target: &'static str| {
        let got = world.get(target).await;
        assert_eq!(got.status, 308, "{target}");
        got.field(header::LOCATION)
            .map(str::to_owned)
            .expect("a location")
    };
    assert_eq!(to("/with%20index?a=1").await, "/with%20index/?a=1");
    assert_eq!(to("/ten.txt/").await, "/ten.txt");
    assert_eq!(to("//ten.txt?x").await, "/ten.txt?x");
    assert_eq!(to("//with%20index").await, "/with%20index/");
    assert_eq!(to("/with%20index//").await, "/with%20index/");
    assert_eq!(world.get("/with%20index/").await.body, "index");
    assert_eq!(world.refused("//nothing").await, 404);
}

#[tokio::test]
async fn a_redirect_never_leads_to_another_host() {
    let mut world = world();
    world.folder.browse = Some(Browse::default());
    let name = format!("{}evil.example", '\\');
    fs::create_dir(world.folder.root.join(name)).expect("a folder");
    let got = world.get("/\\evil.example").await;
    assert_eq!(got.field(header::LOCATION), Some("/%5Cevil.example/"));
    let got = world.get("//docs").await;
    assert_eq!(got.field(header::LOCATION), Some("/docs/"));
}

#[tokio::test]
async fn who_rewrites_says_where_and_is_not_redirected() {
    let mut world = world();
    let got = world
        .rewritten("/with%20index/", "/app")
        .await
        .expect("an index");
    assert_eq!((got.status, got.body.as_str()), (200, "index"));
    let got = world
        .rewritten("/with%20index", "/old/with%20index")
        .await
        .expect("redirected");
    assert_eq!(got.field(header::LOCATION), Some("/old/with%20index/"));
    for path in ["//ten.txt", "/ten.txt/"] {
        let refused = world.rewritten(path, "/app").await.expect_err("no file");
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    }
    world.folder.canonical = false;
    assert_eq!(world.get("/with%20index").await.body, "index");
    assert_eq!(world.refused("/ten.txt/").await, 404);
    assert_eq!(
        world.get("//ten.txt").await.status,
        308,
        "whatever is configured"
    );
}

#[tokio::test]
async fn what_is_not_for_the_client_is_not_found() {
    let mut world = world();
    for target in [
        "/nothing",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/docs/.hidden",
        "/empty/",
        "/docs/",
        "/ten.txt%00",
        "/docs%2Fb.txt",
        "/..%2foutside.txt",
        "/%2e%2e/outside.txt",
        "/ten.txt/x",
    ] {
        assert_eq!(world.refused(target).await, 404, "{target}");
    }
    assert_eq!(world.get("/.well-known/security.txt").await.body, "contact");
    world.folder.dotfiles = true;
    assert_eq!(world.get("/.env").await.body, "env");
}

#[tokio::test]
async fn links_out_of_the_root_are_403_unless_followed() {
    let mut world = world();
    assert_eq!(world.refused("/out.txt").await, 403);
    assert_eq!(world.get("/docs/link.txt").await.body, "bb");
    world.folder.follow = true;
    assert_eq!(world.get("/out.txt").await.body, "outside");
}

#[tokio::test]
async fn hidden_files_are_not_found_nor_listed_nor_taken_as_index() {
    let mut world = world();
    world.folder.hide = Hide::new(["secret*", "index.html"].into_iter());
    world.folder.browse = Some(Browse::default());
    assert_eq!(world.refused("/docs/secret.txt").await, 404);
    assert!(!world.get("/docs/").await.body.contains("secret"));
    let listed = world.get("/with%20index/").await;
    assert!(listed.body.contains("0 files"), "{}", listed.body);
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let world = world();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let refused = world
            .ask(method, "/ten.txt", &[])
            .await
            .expect_err("refused");
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    let missing = world
        .ask(Method::POST, "/nothing", &[])
        .await
        .expect_err("refused");
    assert_eq!(
        missing.status(),
        StatusCode::NOT_FOUND,
        "what is not there first"
    );
}

#[tokio::test]
async fn an_error_page_keeps_the_errors_status_and_is_always_whole() {
    let world = world();
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_NONE_MATCH, ETAG.parse().expect("a value"));
    headers.insert(header::RANGE, "bytes=1-2".parse().expect("a value"));
    let asked = Asked {
        method: &Method::POST,
        path: "/ten.txt",
        original_path: "/submit",
        query: None,
        headers: &headers,
        error: Some(StatusCode::BAD_GATEWAY),
    };
    let answer = serve(&Arc::new(world.folder.clone()), &asked)
        .await
        .expect("a page");
    let got = read(answer).await;
    assert_eq!((got.status, got.body.as_str()), (502, "0123456789"));
    let own = Folder {
        status: Some(StatusCode::IM_A_TEAPOT),
        ..world.folder.clone()
    };
    let answer = serve(&Arc::new(own), &asked).await.expect("a page");
    assert_eq!(answer.status, StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn a_listing_escapes_names_and_leaves_out_what_would_be_refused() {
    let mut world = world();
    world.folder.browse = Some(Browse::default());
    let page = world.get("/docs/").await;
    assert_eq!(
        page.field(header::CONTENT_TYPE),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.field(header::VARY), Some("Accept"));
    assert!(
        page.body.contains("&lt;i&gt;&amp;&#39;&#34;.txt"),
        "{}",
        page.body
    );
    assert!(
        page.body.contains("href=\"./%3Ci%3E&amp;&#39;%22.txt\""),
        "{}",
        page.body
    );
    for absent in ["<i>", ".hidden", "out.txt"] {
        assert!(!page.body.contains(absent), "{absent}: {}", page.body);
    }
    let got = world.get("/docs").await;
    assert_eq!(got.field(header::LOCATION), Some("/docs/"));
}

#[tokio::test]
async fn programs_get_a_listing_as_json_sorted_and_cut_as_they_ask() {
    let mut world = world();
    world.folder.browse = Some(Browse::default());
    let json = [(header::ACCEPT, "application/json")];
    let names = async |target: &'static str| -> Vec<String> {
        let got = world.with(target, &json).await;
        let items: serde_json::Value = serde_json::from_str(&got.body).expect("JSON");
        let items = items.as_array().expect("a list");
        let names = items
            .iter()
            .map(|item| item["name"].as_str().expect("a name").to_owned());
        names.collect()
    };
    let odd = "<i>&'\".txt";
    assert_eq!(
        names("/docs/").await,
        [odd, "A:1.md", "b.txt", "link.txt", "secret.txt"]
    );
    assert_eq!(
        names("/docs/?sort=size&order=desc&limit=2").await,
        ["A:1.md", odd]
    );
    assert_eq!(names("/docs/?offset=3").await, ["link.txt", "secret.txt"]);
    let got = world.with("/docs/?limit=1&sort=name&offset=1", &json).await;
    let items: serde_json::Value = serde_json::from_str(&got.body).expect("JSON");
    assert_eq!(
        items[0],
        serde_json::json!({
            "name": "A:1.md", "size": 4, "url": "./A:1.md", "mod_time": "1994-11-06T08:49:37Z",
            "mode": items[0]["mode"], "is_dir": false, "is_symlink": false,
        })
    );
}

#[tokio::test]
async fn a_listing_may_have_a_page_of_its_own() {
    let mut world = world();
    let template = world.folder.root.join(".listing.html");
    fs::write(&template, "{{ path }}|{{unknown}}|{{items}}|").expect("a template");
    world.folder.browse = Some(Browse {
        template: Some(template),
    });
    let got = world.get("/empty/").await;
    assert_eq!(got.body, "/empty/|{{unknown}}||");
}

fn selection(root: &Path, texts: &[&str], policy: TryPolicy) -> Selection {
    Selection {
        root: root.to_owned(),
        candidates: texts
            .iter()
            .map(|text| Candidate::new((*text).to_owned()))
            .collect(),
        policy,
        split: Vec::new(),
    }
}

async fn chosen(world: &World, texts: &[&str], policy: TryPolicy) -> Option<String> {
    let selection = selection(&world.folder.root, texts, policy);
    let chosen = select(selection).await.expect("no error was asked for");
    chosen.map(|file| file.relative)
}

#[tokio::test]
async fn the_first_file_that_is_there_is_taken() {
    let world = world();
    let first = async |texts: &[&str]| chosen(&world, texts, TryPolicy::FirstExist).await;
    assert_eq!(
        first(&["/nothing", "ten.txt", "/page.html"])
            .await
            .as_deref(),
        Some("/ten.txt")
    );
    assert_eq!(first(&["/docs", "/docs/"]).await.as_deref(), Some("/docs/"));
    assert_eq!(first(&["/ten.txt/", "/"]).await.as_deref(), Some("/"));
    for above in ["/../outside.txt", "/\\.\\./outside.txt", "/\\.\\./outside*"] {
        assert_eq!(first(&[above, "/nothing"]).await, None, "{above}");
    }
    assert_eq!(
        first(&["/docs/*.md", "/ten.txt"]).await.as_deref(),
        Some("/docs/A:1.md")
    );
    assert_eq!(
        first(&["/docs/\\*.md"]).await,
        None,
        "an escaped star is a star"
    );
}

#[tokio::test]
async fn other_policies_weigh_all_of_them() {
    let world = world();
    let texts = ["/ten.txt", "/page.html", "/docs/b.txt", "/nothing"];
    let by = async |policy| chosen(&world, &texts, policy).await;
    assert_eq!(
        by(TryPolicy::SmallestSize).await.as_deref(),
        Some("/docs/b.txt")
    );
    assert_eq!(
        by(TryPolicy::LargestSize).await.as_deref(),
        Some("/ten.txt")
    );
    assert_eq!(
        by(TryPolicy::MostRecent).await.as_deref(),
        Some("/ten.txt"),
        "of equals the first"
    );
    fs::write(world.folder.root.join("page.html"), "new").expect("written");
    assert_eq!(
        by(TryPolicy::MostRecent).await.as_deref(),
        Some("/page.html")
    );
}

#[tokio::test]
async fn a_status_ends_the_search() {
    let world = world();
    let select = async |texts: &[&str]| {
        select(selection(&world.folder.root, texts, TryPolicy::FirstExist)).await
    };
    assert_eq!(
        select(&["/nothing", "=404"]).await,
        Err(StatusCode::NOT_FOUND)
    );
    let found = select(&["/ten.txt", "=404"])
        .await
        .expect("found")
        .expect("found");
    assert_eq!(found.candidate, 0);
    assert_eq!(
        select(&["=99"]).await,
        Ok(None),
        "no status, and no such file"
    );
}

#[tokio::test]
async fn a_path_is_split_after_an_ending() {
    let world = world();
    let split = async |text: &str| {
        let mut selection = selection(&world.folder.root, &[text], TryPolicy::FirstExist);
        selection.split = vec![".txt".to_owned()];
        let found = select(selection).await.expect("no error");
        found.map(|file| (file.relative, file.remainder))
    };
    let ten = |rest: &str| Some(("/ten.txt".to_owned(), rest.to_owned()));
    assert_eq!(split("/ten.txt/a/b.txt").await, ten("/a/b.txt"));
    assert_eq!(split("/ten.txt").await, ten(""));
    assert_eq!(split("/ten.txtx").await, None);
}

#[tokio::test]
async fn a_matched_path_is_escaped_for_a_uri() {
    let world = world();
    let texts = ["/with index/"];
    let found = select(selection(&world.folder.root, &texts, TryPolicy::FirstExist)).await;
    let found = found.expect("no error").expect("found");
    assert_eq!(found.encoded(), "/with%20index/");
    let absolute = format!("{}/with index/", world.folder.root.display());
    assert!(found.is_folder && found.absolute == absolute);
}
