//! What monitors see of real servers, and what is made of it.

use std::time::{Duration, Instant};

use edgeproxy_postgres::{
    Limits, Monitor, MonitorSettings, Observation, Observed, Receiver, RegionPool, Role, Server, Standing, Why,
};
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::wan::{Link, Wan};
use edgeproxy_world::{LONG, within};

use crate::stage::{reach, run, server, settings, superuser, until, until_fresh};

fn watch(server: Server) -> Monitor {
    let interval = Duration::from_millis(100);
    Monitor::start(server, reach(), MonitorSettings { interval, ..MonitorSettings::default() })
}

async fn seen(monitor: &Monitor, mut holds: impl FnMut(&Observation) -> bool) -> std::io::Result<Observation> {
    let mut observed = monitor.observed();
    within("an observation", LONG, async {
        let holds = |observed: &Observed| observed.up().is_some_and(&mut holds);
        let seen = observed.wait_for(holds).await.map_err(std::io::Error::other)?;
        Ok(*seen.up().unwrap())
    })
    .await
}

#[test]
fn one_look_tells_all_and_what_may_not_be_seen_is_said_to_be_so() {
    run(async {
        let primary = ScratchPostgres::start("lhr").await?;
        let standby = primary.standby("syd").await?;
        standby.catch_up(&primary).await?;

        for server in [server(&primary), superuser(&primary)] {
            let monitor = watch(server);
            let look = seen(&monitor, |_| true).await?;
            assert_eq!((look.role, look.timeline, look.receiver), (Role::Primary, 1, Receiver::Absent));
            assert_eq!(look.replay, look.flush);
            assert!(look.flush.0 > 0 && look.round_trip > Duration::ZERO);
        }
        let (ordinary, privileged) = (watch(server(&standby)), watch(superuser(&standby)));
        let look = seen(&ordinary, |_| true).await?;
        assert_eq!((look.role, look.timeline, look.receiver), (Role::Replica, 1, Receiver::Present));
        assert!(look.receiver_alive() && look.replay.0 > 0);
        let look = seen(&privileged, |_| true).await?;
        let Receiver::Heard { ago, patience } = look.receiver else { panic!("{look:?}") };
        assert_eq!(patience, Duration::from_secs(6));
        assert!(ago < Duration::from_secs(4) && look.receiver_alive());

        // Who starts a server anew starts another one.
        let first = seen(&ordinary, |_| true).await?.started;
        assert_eq!(seen(&privileged, |_| true).await?.started, first);
        Ok(())
    });
}

#[test]
fn a_change_of_role_is_seen_within_two_seconds_and_a_death_at_once() {
    run(async {
        let mut primary = ScratchPostgres::start("lhr").await?;
        let standby = primary.standby("syd").await?;
        let (old, new) = (watch(server(&primary)), watch(server(&standby)));
        seen(&old, |look| look.role == Role::Primary).await?;
        seen(&new, |look| look.role == Role::Replica).await?;

        let began = Instant::now();
        primary.kill().await?;
        let mut observed = old.observed();
        within("a death", LONG, async {
            observed.wait_for(|observed| observed.up().is_none()).await.map(drop).map_err(std::io::Error::other)
        })
        .await?;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

        let began = Instant::now();
        standby.promote().await?;
        let look = seen(&new, |look| look.role == Role::Primary).await?;
        assert_eq!(look.timeline, 2);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

        primary.restart().await?;
        let look = seen(&old, |_| true).await?;
        assert_eq!((look.role, look.timeline), (Role::Primary, 1));
        Ok(())
    });
}

#[test]
fn a_replica_is_fresh_as_long_as_it_has_what_the_primary_has() {
    run(async {
        let wan = Wan::start(1)?;
        let primary = ScratchPostgres::start("lhr").await?;
        let link = wan.tcp(primary.address(), Link::half_of(Duration::from_millis(4)))?;
        let standby = primary.standby_through("syd", link.address()).await?;
        let mut settings = settings(vec![superuser(&primary), superuser(&standby)], "syd");
        settings.limits = Limits { lag_bytes: 100_000, lag_time: Duration::from_secs(3600) };
        let pool = RegionPool::new(settings, &reach());
        until_fresh(&pool).await?;
        let write = "INSERT INTO contacts (name) SELECT repeat('x', 200) FROM generate_series(1, 2000)";

        // It receives and shows nothing of it.
        standby.pause_replay().await?;
        primary.sql(write).await?;
        let behind = |standing: &Standing| matches!(standing, Standing::Stale(Why::Behind, Some(lag)) if lag.bytes > 100_000 && !lag.time.is_zero());
        until(&pool, "a replica that is behind", |verdict| behind(&verdict.standings[1])).await?;
        standby.resume_replay().await?;
        until_fresh(&pool).await?;

        // Nothing is missing yet, and nothing will come any more.
        link.set(Link { up: false, ..Link::half_of(Duration::from_millis(4)) });
        link.reset();
        let severed = |standing: &Standing| matches!(standing, Standing::Stale(Why::Severed, Some(_)));
        until(&pool, "a replica that is cut off", |verdict| severed(&verdict.standings[1])).await?;
        primary.sql(write).await?;
        link.set(Link::half_of(Duration::from_millis(4)));
        link.reset();
        until_fresh(&pool).await?;
        Ok(())
    });
}
