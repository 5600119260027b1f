//! An overlay that is not to be had, and a region's own file.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use edgeproxy_world::{Backend, Behaviour, LONG, Site, eventually};
use serde_json::json;

use crate::stage;
use crate::tunnel::{OUR_PORT, THEIR_ADDRESS, THEIR_PORT, launch, our_file, overlay, overlay_of, shown, site, until};
use crate::wireguard::{Daemon, Keys, Program, run, write_private};

/// What is wrong, how it is made so, and words that have to be told.
type Spoiled = (&'static str, fn(&Site) -> PathBuf, &'static [&'static str]);

pub(crate) async fn direct_backends_outlive_it() -> io::Result<()> {
    let backend = Backend::start("direct", Behaviour::Greet)?;
    let spoiled: [Spoiled; 4] = [
        ("a file that is not there", |site| site.file("none.conf"), &["none.conf"]),
        ("a file that cannot be read", unreadable, &["shadow", "denied"]),
        ("a file with mistakes", mistaken, &["overlay.conf:2", "overlay.conf:5"]),
        ("a folder without this region's file", folder, &["region fra has no tunnel", "those of gru"]),
    ];
    for (what, spoil, reasons) in spoiled {
        let site = site();
        site.add_backend("fra", &backend)?;
        let pop = launch(&site, site.plan(&overlay(&spoil(&site), ""))).await?;
        let errors = pop.log.all_json().into_iter().filter(|line| line["level"] == "ERROR");
        let told: Vec<String> = errors.filter_map(|line| line["message"].as_str().map(str::to_owned)).collect();
        println!("{what}: {}", told.join("; "));
        assert!(told.iter().all(|message| message.starts_with("no overlay: ")), "{told:?}");
        for reason in reasons {
            assert!(told.iter().any(|message| message.contains(reason)), "{reason}: {told:?}");
        }
        let mut client = pop.connect().await?;
        assert_eq!(client.line().await?, "direct");
        client.exchange(b"as ever").await?;
        assert_eq!(pop.get("/api/v1/overlay").await?.0, 404);
        assert_eq!(pop.get("/readyz").await?.0, 200);
        drop(client);
        pop.stop(Duration::from_secs(5)).await?;
    }
    Ok(())
}

/// Of its own files it can read all: in its user namespace, modes do not hold it back.
fn unreadable(_: &Site) -> PathBuf {
    let file = PathBuf::from("/etc/shadow");
    assert_eq!(fs::File::open(&file).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    file
}

fn mistaken(site: &Site) -> PathBuf {
    let file = site.file("overlay.conf");
    let (ours, theirs) = (Keys::ours(), Keys::theirs());
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.50.0.2\n[Peer]\nAllowedIPs = 10.50.300.0/24\nPublicKey = {}\n",
        &ours.private[..40],
        theirs.public
    );
    write_private(&file, &text);
    file
}

fn folder(site: &Site) -> PathBuf {
    init(site, "gru")
}

/// A folder for these regions, and a hub on loopback.
fn init(site: &Site, regions: &str) -> PathBuf {
    let folder = site.file("overlay");
    let hub = format!("127.0.0.1:{OUR_PORT}");
    let arguments = ["overlay", "init", "--hub", &hub, "--regions", regions, "--dir", folder.to_str().unwrap()];
    run(stage::binary().to_str().unwrap(), &arguments);
    folder
}

/// Where the other modes are refused; and they are.
pub(crate) async fn auto_is_netstack() -> io::Result<()> {
    let ours = Keys::ours();
    let theirs = Daemon::start(Program::WireGuardGo, "wgb", THEIR_ADDRESS, THEIR_PORT).await;
    theirs.set_peer(&ours.public, &["allowed-ips", "10.50.0.2/32"]);
    let backend = Backend::start_at("b1", THEIR_ADDRESS, Behaviour::Greet)?;
    let site = site();
    site.add_backend("fra", &backend)?;
    let file = site.file("overlay.conf");
    write_private(&file, &our_file(&ours, &theirs, "Endpoint = 127.0.0.1:51821"));
    for (mode, refusal) in [("tun", "CAP_NET_ADMIN"), ("userns", "user.max_user_namespaces")] {
        let pop = launch(&site, site.plan(&overlay_of(&file, mode, ""))).await?;
        assert_eq!(pop.get("/api/v1/overlay").await?.0, 404);
        assert!(pop.log.holds("no overlay: ") && pop.log.holds(refusal), "{mode}: {}", pop.log.tail());
        pop.stop(Duration::from_secs(5)).await?;
    }
    let pop = launch(&site, site.plan(&overlay_of(&file, "auto", ""))).await?;
    let shown = shown(&pop).await?;
    let reason = shown["reason"].as_str().unwrap();
    println!("{}: {reason}", shown["mode"]);
    assert_eq!(shown["mode"], "netstack");
    assert!(reason.contains("no interface of the host") && reason.contains("CAP_NET_ADMIN"), "{reason}");
    assert!(reason.contains("none in a namespace") && reason.contains("user.max_user_namespaces"), "{reason}");
    let mut client = pop.connect().await?;
    assert_eq!(client.line().await?, "b1");
    client.exchange(b"through a stack of its own").await?;
    drop(client);
    pop.stop(Duration::from_secs(5)).await?;
    theirs.stop();
    Ok(())
}

pub(crate) async fn a_region_finds_its_file() -> io::Result<()> {
    let site = site();
    let folder = init(&site, "fra,gru");
    // `wg` reads what is its own part of the hub's file: all but the address.
    let hub = fs::read_to_string(folder.join("hub.conf"))?;
    let stripped: Vec<&str> = hub.lines().filter(|line| !line.starts_with("Address")).collect();
    let file = site.file("hub.stripped");
    write_private(&file, &stripped.join("\n"));
    let theirs = Daemon::start(Program::WireGuardGo, "wgb", Ipv4Addr::new(10, 50, 0, 1), OUR_PORT).await;
    run("wg", &["setconf", "wgb", file.to_str().unwrap()]);

    // The machine is in gru, whatever region the POP was given.
    let pop = launch(&site, site.plan(&overlay(&folder, "")).variable("FLY_REGION", "gru")).await?;
    assert_eq!(shown(&pop).await?["addresses"], json!(["10.50.1.1/32"]));
    until(&pop, "a handshake with the hub", LONG, |shown| shown["peers"][0]["last_handshake_s"].as_f64()).await?;
    // The hub's part is complete with the first message in the session.
    eventually("a handshake as the hub sees it", LONG, async || {
        let handshakes = run("wg", &["show", "wgb", "latest-handshakes"]);
        assert_eq!(handshakes.lines().count(), 2, "{handshakes}");
        Ok((handshakes.lines().filter(|line| !line.ends_with("\t0")).count() == 1).then_some(()))
    })
    .await?;
    pop.stop(Duration::from_secs(5)).await?;
    theirs.stop();
    Ok(())
}
