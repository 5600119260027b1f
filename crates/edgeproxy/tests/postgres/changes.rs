//! Another primary, or none: what becomes of sessions, and of those who come meanwhile.

use std::time::{Duration, Instant};

use edgeproxy_world::{LONG, Pop, eventually};

use crate::session::{Session, place, until_place};
use crate::stage::{Stage, config, paced, there_is_none};

/// No session may be left on a former primary after this.
const LEFT_WITHIN: Duration = Duration::from_secs(3);

/// Promotes London while Frankfurt, which nobody has told, goes on as it was.
async fn promotion(stage: &Stage) -> Duration {
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(Session::open(stage.primary()).await.unwrap());
    }
    assert_eq!(sessions[0].place().await.unwrap(), "fra primary");
    let mut reader = Session::open(stage.replica()).await.unwrap();
    assert_eq!(reader.place().await.unwrap(), "lhr replica");

    let since = Instant::now();
    stage.lhr.promote().await.unwrap();
    let promoted = since.elapsed();
    for session in &mut sessions {
        session.closed().await.unwrap();
    }
    let gone = since.elapsed();
    println!("20 sessions of the former primary were gone {gone:?} after another was told to take over ({promoted:?})");
    let reached = until_place(stage.primary(), "lhr primary").await;
    println!("a new session reached the new primary {reached:?} after that");
    assert!(!reader.is_closed(), "where it reads is as good as before");
    assert_eq!(reader.place().await.unwrap(), "lhr primary");
    assert_eq!(stage.role("fra").await, "former");
    assert_eq!(stage.pop.count("edge_closed_total", &[("reason", "role_change")]).await.unwrap(), 20);
    assert!(stage.pop.count("edge_role_changes_total", &[("app", "db")]).await.unwrap() >= 2);
    assert_eq!(stage.pop.count("edge_primary_disputed", &[("app", "db")]).await.unwrap(), 0);

    // Sydney follows the former one: what it has may be another history.
    stage.until_role("syd", "severed").await;
    assert_eq!(place(stage.replica()).await, "lhr primary", "nobody else is left");
    assert!(stage.pop.count("edge_replica_on_primary_total", &[]).await.unwrap() >= 1);
    stage.syd.follow(&stage.lhr).await.unwrap();
    until_place(stage.replica(), "syd replica").await;
    reader.closed_by(stage).await;
    gone
}

impl Session {
    /// It ends with the server.
    async fn closed_by(&mut self, stage: &Stage) {
        stage
            .lhr
            .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            .await
            .unwrap();
        self.closed().await.unwrap();
    }
}

#[tokio::test]
async fn sessions_leave_a_former_primary_at_once() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "")).await;
    let gone = promotion(&stage).await;
    // Ten looks a second: more than an order of magnitude of room.
    assert!(gone < LEFT_WITHIN, "{gone:?}");
    stage.stop().await;
}

#[tokio::test]
async fn sessions_leave_a_former_primary_at_the_pace_of_the_defaults() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&paced("", "", "")).await;
    promotion(&stage).await;
    stage.stop().await;
}

#[tokio::test]
async fn clients_are_held_while_there_is_no_primary_and_served_by_the_next() {
    if there_is_none() {
        return;
    }
    let mut stage = Stage::start(&config("hold = \"60s\"\nhold_limit = 20\n", "")).await;
    let mut before = Session::open(stage.primary()).await.unwrap();
    stage.fra.kill().await.unwrap();
    before.closed().await.unwrap();
    let address = stage.primary();
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(async move { place(address).await })).collect();
    stage.pop.until_count("edge_held", &[], 20).await.unwrap();
    let more = place(address).await;
    assert_eq!(more, "57P03 too many clients wait for a server of app \"db\"");
    assert!(waiting.iter().all(|client| !client.is_finished()));

    stage.lhr.promote().await.unwrap();
    let since = Instant::now();
    for client in waiting {
        assert_eq!(client.await.unwrap(), "lhr primary");
    }
    println!("20 clients that had been held were served {:?} after the promotion", since.elapsed());
    assert_eq!(stage.pop.count("edge_held", &[]).await.unwrap(), 0);
    assert_eq!(stage.pop.count("edge_hold_ms_count", &[]).await.unwrap(), 20);

    // The former one comes back as what it was, on a timeline that is over.
    stage.fra.restart().await.unwrap();
    stage.until_role("fra", "former").await;
    assert_eq!(place(stage.primary()).await, "lhr primary");
    stage.stop().await;
}

#[tokio::test]
async fn a_primary_that_restarts_is_waited_for() {
    if there_is_none() {
        return;
    }
    let mut stage = Stage::start(&config("hold = \"60s\"\n", "")).await;
    stage.fra.stop().await.unwrap();
    let address = stage.primary();
    let waiting = tokio::spawn(async move { place(address).await });
    stage.pop.until_count("edge_held", &[], 1).await.unwrap();
    stage.fra.restart().await.unwrap();
    assert_eq!(waiting.await.unwrap(), "fra primary");
    stage.stop().await;
}

#[tokio::test]
async fn a_server_that_moves_is_watched_where_it_is() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "")).await;
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let (fra, syd) = (stage.fra.address().port(), stage.syd.address().port());
    stage.site.sql(&format!("UPDATE backends SET port = {port} WHERE id = 'lhr'")).unwrap();
    stage.until_role("lhr", "unknown").await;
    until_place(stage.replica(), "syd replica").await;
    // And back, while the others change places.
    let lhr = stage.lhr.address().port();
    let swapped = format!("CASE id WHEN 'fra' THEN {syd} WHEN 'syd' THEN {fra} ELSE {lhr} END");
    stage.site.sql(&format!("UPDATE backends SET port = {swapped}")).unwrap();
    for (id, role) in [("syd", "primary"), ("fra", "replica"), ("lhr", "replica")] {
        stage.until_role(id, role).await;
    }
    until_place(stage.replica(), "lhr replica").await;
    until_place(stage.primary(), "fra primary").await;
    stage.stop().await;
}

#[tokio::test]
async fn of_two_primaries_on_one_timeline_none_is_served() {
    if there_is_none() {
        return;
    }
    let mut stage = Stage::start(&config("hold = \"0s\"\n", "")).await;
    stage.fra.kill().await.unwrap();
    // At the same time, so that neither hears of the other's.
    let (lhr, syd) = tokio::join!(stage.lhr.promote(), stage.syd.promote());
    lhr.unwrap();
    syd.unwrap();
    for id in ["lhr", "syd"] {
        stage.until_role(id, "disputed").await;
    }
    let refused = place(stage.primary()).await;
    assert!(refused.starts_with("57P03 several servers of app \"db\" claim to be the primary"), "{refused}");
    assert_eq!(stage.pop.count("edge_primary_disputed", &[("app", "db")]).await.unwrap(), 1);
    alarmed(&stage.pop).await;
    let standings: Vec<String> =
        stage.candidates("primary").await.iter().map(|one| one["standing"].to_string()).collect();
    assert_eq!(standings, ["\"other_role\""; 3]);

    // One that falls silent may still be a primary to others. That it is not, whoever takes it out of the table says.
    stage.syd.stop().await.unwrap();
    stage.until_role("syd", "unknown").await;
    assert_eq!(stage.role("lhr").await, "disputed");
    stage.site.sql("DELETE FROM backends WHERE id = 'syd'").unwrap();
    until_place(stage.primary(), "lhr primary").await;
    assert_eq!(stage.pop.count("edge_primary_disputed", &[("app", "db")]).await.unwrap(), 0);
    stage.stop().await;
}

#[tokio::test]
async fn sessions_leave_a_former_primary_that_was_taken_out_of_the_table() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "")).await;
    let mut session = Session::open(stage.primary()).await.unwrap();
    // Nobody else is known to be the primary: it may be the one.
    stage.site.sql("DELETE FROM backends WHERE id = 'fra'").unwrap();
    stage.until_role("lhr", "behind").await;
    assert_eq!(session.value("SELECT 1").await.unwrap(), "1");
    stage.lhr.promote().await.unwrap();
    session.closed().await.unwrap();
    until_place(stage.primary(), "lhr primary").await;
    stage.stop().await;
}

async fn alarmed(pop: &Pop) {
    let said = eventually("an alarm in the log", LONG, async || {
        let lines = pop.log.all_json();
        let alarms = lines.iter().filter(|line| line["level"] == "ERROR" && line["app"] == "db");
        Ok(Some(alarms.count()).filter(|count| *count > 0))
    });
    assert_eq!(said.await.unwrap(), 1, "said once");
}
