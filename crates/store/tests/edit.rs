//! Changes by our own hand, looked at with the `sqlite3` tool.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use edgeproxy_route::{BackendError, CustomRegion, Point, RawBackend, Regions};
use edgeproxy_store::{Change, DrainTarget, EditError, RoutingDb, RoutingEditor, RoutingWatch, StoreError};
use support::{Site, WITHOUT_COUNTRY, insert};

fn raw(id: &str, region: &str) -> RawBackend {
    RawBackend {
        id: Some(id.into()),
        region: Some(region.into()),
        wg_ip: Some("10.50.3.2".into()),
        port: Some(80),
        ..RawBackend::default()
    }
}

fn created() -> (Site, RoutingEditor) {
    let site = Site::empty();
    let editor = RoutingEditor::create(&site.db()).unwrap();
    (site, editor)
}

#[test]
fn a_new_file_is_in_wal_mode_and_takes_a_backend_with_defaults() {
    let (site, editor) = created();
    let backend = editor.add(raw("b1", "fra")).unwrap();
    assert_eq!(backend.country.unwrap().as_str(), "DE");
    assert_eq!(site.sql("PRAGMA journal_mode"), "wal");
    assert_eq!(site.sql("SELECT * FROM backends"), "b1|default|fra|DE|10.50.3.2|80|1|1|100|150|0|0|");
    assert_eq!(RoutingDb::open(&site.db()).unwrap().load().unwrap().backends, [backend]);
    let names: Vec<_> =
        std::fs::read_dir(site.db().parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["routing.db"], "nothing is left over");
    assert_eq!(std::fs::metadata(site.db()).unwrap().permissions().mode() & 0o777, 0o644);
    // Creating again changes nothing.
    RoutingEditor::create(&site.db()).unwrap();
    assert_eq!(site.sql("SELECT count(*) FROM backends"), "1");
}

#[test]
fn a_file_where_none_can_be_made_is_named() {
    let site = Site::empty();
    let error = RoutingEditor::create(&site.path("no/such/routing.db")).unwrap_err();
    assert!(error.to_string().contains("cannot be written: No such file or directory"), "{error}");
    assert!(matches!(RoutingEditor::open(&site.db()), Err(StoreError::Missing { .. })));
}

#[test]
fn a_country_taken_from_the_region_follows_it() {
    let (site, editor) = created();
    let country =
        |id: &str| site.sql(&format!("SELECT region || ' ' || ifnull(country, '-') FROM backends WHERE id = '{id}'"));
    let to = |region: &str| RawBackend { region: Some(region.into()), ..RawBackend::default() };
    editor.add(raw("b1", "fra")).unwrap();
    assert_eq!(editor.set("b1", to("gru")).unwrap().country.unwrap().as_str(), "BR");
    assert_eq!(country("b1"), "gru BR");
    editor.upsert(raw("b1", "nrt")).unwrap();
    assert_eq!(country("b1"), "nrt JP");
    editor.import(vec![Ok(raw("b1", "cdg"))], false).unwrap();
    assert_eq!(country("b1"), "cdg FR");
    editor.set("b1", to("eu")).unwrap();
    assert_eq!(country("b1"), "eu -", "a coarse region serves no country first");
    // One that somebody chose stays, and so does that of a row whose region stays.
    editor.set("b1", RawBackend { country: Some("CH".into()), ..to("fra") }).unwrap();
    editor.set("b1", to("iad")).unwrap();
    assert_eq!(country("b1"), "iad CH");
    editor.set("b1", RawBackend { port: Some(81), ..to("iad") }).unwrap();
    assert_eq!(country("b1"), "iad CH");
    editor.set("b1", RawBackend { country: Some(String::new()), ..to("fra") }).unwrap();
    assert_eq!(country("b1"), "fra -");
}

#[test]
fn a_link_to_nothing_is_called_so() {
    let site = Site::empty();
    std::os::unix::fs::symlink(site.path("gone.db"), site.db()).unwrap();
    let error = RoutingEditor::create(&site.db()).unwrap_err();
    assert!(error.to_string().contains("it is a symbolic link to nothing"), "{error}");
}

#[test]
fn a_row_with_a_wrong_mark_can_be_removed() {
    let (site, editor) = created();
    editor.add(raw("b1", "fra")).unwrap();
    site.sql("UPDATE backends SET deleted = 2");
    editor.remove(&["b1"]).unwrap();
    assert_eq!(site.sql("SELECT deleted FROM backends"), "1");
}

#[test]
fn what_exists_is_not_added_and_what_does_not_is_not_changed() {
    let (site, editor) = created();
    editor.add(raw("b1", "fra")).unwrap();
    let shown = site.db().display().to_string();
    assert_eq!(
        editor.add(raw("b1", "gru")).unwrap_err().to_string(),
        format!("backend \"b1\" exists in {shown}; change it with `edgeproxy route set`")
    );
    let unknown = EditError::Unknown { id: "b2".into(), path: shown };
    assert_eq!(editor.set("b2", RawBackend::default()).unwrap_err(), unknown);
    assert_eq!(editor.remove(&["b1", "b2"]).unwrap_err(), unknown);
    assert_eq!(editor.set_drained(DrainTarget::Backend("b2"), true).unwrap_err(), unknown);
    assert_eq!(site.sql("SELECT region, deleted FROM backends"), "fra|0", "all or nothing");
}

#[test]
fn set_changes_what_is_given_only() {
    let (site, editor) = created();
    editor.add(RawBackend { weight: Some(5), heartbeat_secs: Some(30), ..raw("b1", "fra") }).unwrap();
    let fields = RawBackend { port: Some(81), healthy: Some(0), ..RawBackend::default() };
    let backend = editor.set("b1", fields).unwrap();
    assert_eq!((backend.addr.0.port(), backend.healthy, backend.limits.weight), (81, false, 5));
    assert_eq!(backend.heartbeat_secs, Some(30));

    let nothing = RawBackend { country: Some(String::new()), heartbeat_secs: Some(0), ..RawBackend::default() };
    let backend = editor.set("b1", nothing).unwrap();
    assert_eq!((backend.country, backend.heartbeat_secs), (None, None));
    assert_eq!(site.sql("SELECT * FROM backends"), "b1|default|fra||10.50.3.2|81|0|5|100|150|0|0|");

    let broken = RawBackend { port: Some(70_000), weight: Some(9), ..RawBackend::default() };
    assert_eq!(editor.set("b1", broken).unwrap_err().to_string(), "backend \"b1\": port 70000 is not in 1 to 65535");
    assert_eq!(site.sql("SELECT weight FROM backends"), "5");
}

#[test]
fn a_broken_row_can_be_mended() {
    let (site, editor) = created();
    editor.add(raw("b1", "fra")).unwrap();
    site.sql("UPDATE backends SET port = 'http', weight = 5000");
    let port = RawBackend { port: Some(80), ..RawBackend::default() };
    assert!(editor.set("b1", port.clone()).unwrap_err().to_string().contains("weight 5000 is not in 0 to 1000"));
    editor.set("b1", RawBackend { weight: Some(1), ..port }).unwrap();
    assert_eq!(site.sql("SELECT port, weight FROM backends"), "80|1");
    site.sql("UPDATE backends SET port = 'http'");
    assert!(matches!(editor.add(raw("b1", "fra")), Err(EditError::Exists { .. })), "broken, but there");
}

#[test]
fn a_removed_backend_is_a_tombstone_until_it_is_added_again() {
    let (site, editor) = created();
    editor.add(RawBackend { weight: Some(7), ..raw("b1", "fra") }).unwrap();
    editor.remove(&["b1"]).unwrap();
    assert_eq!(site.sql("SELECT id, deleted FROM backends"), "b1|1");
    assert!(matches!(editor.set("b1", RawBackend::default()), Err(EditError::Unknown { .. })));
    assert!(matches!(editor.remove(&["b1"]), Err(EditError::Unknown { .. })));
    assert_eq!(editor.add(raw("b1", "gru")).unwrap().limits.weight, 1);
    assert_eq!(site.sql("SELECT id, region, deleted FROM backends"), "b1|gru|0");
}

#[test]
fn a_drain_mark_is_for_a_backend_or_a_region() {
    let site = Site::new("DELETE");
    site.sql(&(insert("b2", "fra", "'DE'") + &insert("b3", "gru", "'BR'")));
    let editor = RoutingEditor::open(&site.db()).unwrap();
    assert_eq!(editor.set_drained(DrainTarget::Region("fra"), false).unwrap(), 2);
    assert!(!site.sql(".schema").contains("drained"), "no column for nothing");
    assert_eq!(editor.set_drained(DrainTarget::Region("fra"), true).unwrap(), 2);
    assert_eq!(site.sql("SELECT id, drained FROM backends"), "b1|1\nb2|1\nb3|0");
    assert_eq!(editor.set_drained(DrainTarget::Backend("b1"), false).unwrap(), 1);
    assert_eq!(editor.set_drained(DrainTarget::Region("nowhere"), true).unwrap(), 0);
    assert_eq!(site.sql("SELECT id, drained FROM backends"), "b1|0\nb2|1\nb3|0");
    assert_eq!(site.sql("PRAGMA journal_mode"), "delete", "the file's own mode stays");
}

#[test]
fn an_older_table_gets_the_columns_that_are_needed() {
    let site = Site::empty();
    site.sql(WITHOUT_COUNTRY);
    let editor = RoutingEditor::open(&site.db()).unwrap();
    assert_eq!(editor.add(raw("b1", "fra")).unwrap().country, None);
    editor.add(raw("b2", "bcn")).unwrap();
    assert!(!site.sql(".schema").contains("country"), "not by a default");

    editor.add(RawBackend { country: Some("at".into()), ..raw("b3", "fra") }).unwrap();
    // Those that were there served the country of their region, and go on to.
    assert_eq!(site.sql("SELECT id, country FROM backends"), "b1|DE\nb2|\nb3|AT");
    editor.set("b1", RawBackend { heartbeat_secs: Some(20), ..RawBackend::default() }).unwrap();
    assert_eq!(site.sql("SELECT id, heartbeat_secs FROM backends"), "b1|20\nb2|\nb3|");
}

#[test]
fn a_declared_region_has_a_country_too() {
    let (_site, editor) = created();
    let declared = CustomRegion {
        code: "bcn".into(),
        point: Point::from_degrees(41.39, 2.17).unwrap(),
        country: "ES".parse().unwrap(),
    };
    let editor = editor.with_regions(Regions::with([declared]));
    assert_eq!(editor.add(raw("b1", "bcn")).unwrap().country.unwrap().as_str(), "ES");
    assert_eq!(editor.add(raw("b2", "eu")).unwrap().country, None, "no country's own");
}

#[test]
fn an_upsert_that_changes_nothing_writes_nothing() {
    let (site, editor) = created();
    assert_eq!(editor.upsert(raw("b1", "fra")).unwrap().1, Change::Added);
    editor.set("b1", RawBackend { drained: Some(1), weight: Some(3), ..RawBackend::default() }).unwrap();
    let before = std::fs::metadata(site.db()).unwrap().modified().unwrap();
    thread::sleep(Duration::from_millis(20));
    let (backend, change) = editor.upsert(raw("b1", "fra")).unwrap();
    assert_eq!((change, backend.drained, backend.limits.weight), (Change::Unchanged, true, 3));
    assert_eq!(std::fs::metadata(site.db()).unwrap().modified().unwrap(), before);
    assert_eq!(editor.upsert(RawBackend { port: Some(81), ..raw("b1", "fra") }).unwrap().1, Change::Changed);
    assert!(matches!(editor.upsert(RawBackend::default()), Err(EditError::Rejected(_))));
}

#[test]
fn an_import_is_whole_or_not_at_all() {
    let (site, editor) = created();
    editor.add(raw("b1", "fra")).unwrap();
    editor.add(raw("b2", "fra")).unwrap();
    let unread = BackendError { id: "row".into(), field: "port", rule: "is not a number".into() };
    let rows = || {
        vec![
            Ok(raw("b1", "gru")),
            Ok(raw("b2", "fra")),
            Ok(RawBackend { port: Some(0), ..raw("b3", "fra") }),
            Ok(raw("b4", "fra")),
            Ok(raw("b4", "iad")),
            Err(unread.clone()),
        ]
    };
    let refused = editor.import(rows(), false).unwrap();
    let bad: Vec<_> = refused.bad.iter().map(|(index, error)| format!("{index}: {error}")).collect();
    assert_eq!(
        bad,
        [
            "2: backend \"b3\": port 0 is not in 1 to 65535",
            "4: backend \"b4\": id is that of an earlier row of the import",
            "5: backend \"row\": port is not a number",
        ]
    );
    assert!(!refused.committed);
    assert_eq!(site.sql("SELECT id, region FROM backends"), "b1|fra\nb2|fra");

    let taken = editor.import(rows(), true).unwrap();
    assert_eq!((taken.added, taken.changed, taken.unchanged, taken.bad.len(), taken.committed), (1, 1, 1, 3, true));
    assert_eq!(site.sql("SELECT id, region FROM backends ORDER BY id"), "b1|gru\nb2|fra\nb4|fra");
}

#[test]
fn two_editors_at_once_lose_nothing() {
    for mode in ["WAL", "DELETE"] {
        let site = Site::new(mode);
        thread::scope(|scope| {
            for editor in 0..2 {
                let db = site.db();
                scope.spawn(move || {
                    let this = RoutingEditor::open(&db).unwrap();
                    for n in 0..50 {
                        this.add(raw(&format!("e{editor}-{n}"), "fra")).unwrap();
                        this.set("b1", RawBackend { weight: Some(n), ..RawBackend::default() }).unwrap();
                    }
                });
            }
        });
        assert_eq!(site.sql("SELECT count(*) FROM backends"), "101", "{mode}");
        assert_eq!(site.sql("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn two_who_create_at_once_use_one_file() {
    let site = Site::empty();
    thread::scope(|scope| {
        for n in 0..4 {
            let db = site.db();
            scope.spawn(move || RoutingEditor::create(&db).unwrap().add(raw(&format!("b{n}"), "fra")).unwrap());
        }
    });
    assert_eq!(site.sql("SELECT count(*) FROM backends"), "4");
}

/// The watch reads the `-shm` file behind SQLite's back: that must not drop the locks an editor of this process holds.
#[tokio::test]
async fn an_editor_and_a_watch_share_a_process() {
    let (site, editor) = created();
    let mut watch = RoutingWatch::new(&site.db(), Duration::from_secs(600));
    watch.next().await.unwrap();
    let writer = tokio::task::spawn_blocking(move || {
        for n in 0..100 {
            editor.add(raw(&format!("b{n}"), "fra")).unwrap();
        }
    });
    // A writer outside of this process would meet the dropped locks.
    let other = {
        let db = site.db();
        tokio::task::spawn_blocking(move || {
            for n in 0..30 {
                support::sqlite3(&db, &insert(&format!("o{n}"), "fra", "'DE'"));
            }
        })
    };
    while watch.next().await.unwrap().backends.len() < 130 {}
    writer.await.unwrap();
    other.await.unwrap();
    assert_eq!(site.sql("PRAGMA integrity_check"), "ok");
}
