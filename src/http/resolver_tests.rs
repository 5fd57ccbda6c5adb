use std::io::Write;

use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::{RData, Record};
use tokio::net::UdpSocket;

use super::*;

/// Answers queries with `answer`; `None`: stays silent.
async fn dns(
    answer: impl Fn(&str, RecordType) -> Option<Result<Vec<(u32, IpAddr)>, ResponseCode>>
    + Send
    + 'static,
) -> Resolver {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
            let query = Message::from_vec(&packet[..length]).unwrap();
            let asked = query.queries[0].clone();
            let name = asked.name().to_string();
            let Some(answer) = answer(&name, asked.query_type()) else {
                continue;
            };
            let mut reply = Message::response(query.metadata.id, OpCode::Query);
            reply.add_query(asked.clone());
            match answer {
                Ok(records) => {
                    for (ttl, ip) in records {
                        let data = RData::from(ip);
                        reply.add_answer(Record::from_rdata(asked.name().clone(), ttl, data));
                    }
                }
                Err(code) => reply.metadata.response_code = code,
            }
            let reply = reply.to_vec().unwrap();
            socket.send_to(&reply, peer).await.unwrap();
        }
    });
    Resolver::with_servers(&[addr]).unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn both_families_come_back_sorted_with_the_smallest_ttl() {
    let resolver = dns(|name, kind| {
        assert_eq!(name, "web.");
        Some(Ok(match kind {
            RecordType::A => vec![
                (20, "10.0.0.9".parse().unwrap()),
                (20, "10.0.0.1".parse().unwrap()),
                (20, "10.0.0.9".parse().unwrap()),
            ],
            _ => vec![(7, "fd00::1".parse().unwrap())],
        }))
    })
    .await;
    let found = resolver.lookup("Web.").await.unwrap();
    assert_eq!(found.addrs, ips(&["10.0.0.1", "10.0.0.9", "fd00::1"]));
    assert_eq!(found.ttl, Duration::from_secs(7));
}

#[tokio::test]
async fn a_ttl_is_never_below_one_second_or_above_thirty() {
    for (ttl, clamped) in [(0, 1), (600, 30)] {
        let resolver = dns(move |_, kind| {
            Some(Ok(match kind {
                RecordType::A => vec![(ttl, "10.0.0.1".parse().unwrap())],
                _ => vec![],
            }))
        })
        .await;
        let found = resolver.lookup("web").await.unwrap();
        assert_eq!(found.ttl, Duration::from_secs(clamped));
    }
}

#[tokio::test]
async fn each_lookup_asks_anew() {
    let asked = std::sync::atomic::AtomicU8::new(0);
    let resolver = dns(move |_, kind| {
        if kind != RecordType::A {
            return Some(Ok(vec![]));
        }
        let turn = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Some(Ok(vec![(600, Ipv4Addr::new(10, 0, 0, turn).into())]))
    })
    .await;
    assert_eq!(
        resolver.lookup("web").await.unwrap().addrs,
        ips(&["10.0.0.0"])
    );
    assert_eq!(
        resolver.lookup("web").await.unwrap().addrs,
        ips(&["10.0.0.1"])
    );
}

#[tokio::test]
async fn the_reason_is_what_the_server_said() {
    let cases = [
        (Err(ResponseCode::NXDomain), "no such name"),
        (Ok(vec![]), "the name has no address"),
        (
            Err(ResponseCode::ServFail),
            "the DNS server could not answer",
        ),
    ];
    for (answer, reason) in cases {
        let resolver = dns(move |_, _| Some(answer.clone())).await;
        let error = resolver.lookup("web").await.unwrap_err();
        assert_eq!(error.to_string(), reason);
    }
}

#[tokio::test]
async fn a_silent_server_is_no_answer() {
    let resolver = dns(|_, _| None).await;
    let error = resolver.lookup("web").await.unwrap_err();
    assert_eq!(error.to_string(), "no answer from the DNS server");
}

#[tokio::test]
async fn one_family_without_an_answer_does_not_take_the_other_along() {
    let resolver = dns(|_, kind| match kind {
        RecordType::A => Some(Ok(vec![(9, "10.0.0.1".parse().unwrap())])),
        _ => None,
    })
    .await;
    let found = resolver.lookup("web").await.unwrap();
    assert_eq!(found.addrs, ips(&["10.0.0.1"]));
}

#[tokio::test]
async fn localhost_and_literals_need_no_server() {
    let resolver = Resolver::with_files("/nonexistent".into(), "/nonexistent".into());
    for name in ["localhost", "LOCALHOST.", "app.localhost"] {
        let found = resolver.lookup(name).await.unwrap();
        assert_eq!(found.addrs, ips(&["127.0.0.1", "::1"]), "{name}");
    }
    assert_eq!(
        resolver.lookup("10.1.2.3").await.unwrap().addrs,
        ips(&["10.1.2.3"])
    );
    let error = resolver.lookup("web").await.unwrap_err();
    assert_eq!(error.to_string(), "no DNS server is configured");
}

#[tokio::test]
async fn the_hosts_file_wins_and_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    std::fs::write(
        &path,
        "# comment\n10.0.0.7 db Web.Local # web\nfd00::7\tweb.local\nbad web.local\n",
    )
    .unwrap();
    let resolver = Resolver::with_files(path.clone(), "/nonexistent".into());
    let found = resolver.lookup("web.local").await.unwrap();
    assert_eq!(found.addrs, ips(&["10.0.0.7", "fd00::7"]));
    assert_eq!(
        resolver.lookup("web").await,
        Err(LookupError::NoServer),
        "a word in a comment is no name"
    );
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    writeln!(file, "10.0.0.8 web").unwrap();
    assert_eq!(
        resolver.lookup("web").await.unwrap().addrs,
        ips(&["10.0.0.8"])
    );
}

#[tokio::test]
async fn resolv_conf_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let resolver = Resolver::with_files("/nonexistent".into(), path.clone());
    assert!(resolver.dns().await.is_none());
    std::fs::write(&path, "# nothing yet\n").unwrap();
    assert!(resolver.dns().await.is_none(), "a file without a server");
    std::fs::write(&path, "nameserver 127.0.0.1\noptions ndots:0\n").unwrap();
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    // Another time than before, even where the file system counts in whole seconds.
    let later = file.metadata().unwrap().modified().unwrap() + Duration::from_secs(2);
    file.set_modified(later).unwrap();
    let dns = resolver.dns().await.expect("a server is named now");
    assert_eq!(dns.options().ndots, 0);
}
