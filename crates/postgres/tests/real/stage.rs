//! What every test here begins with.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_postgres::tokio_postgres::types::{ToSql, Type};
use edgeproxy_postgres::{
    Direct, MonitorSettings, PoolSettings, Primary, Reach, RegionPool, RegionSettings, Server, Standing, Verdict,
};
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::{LONG, within};
use tokio::runtime::Runtime;

/// Runs `test` unless there is no PostgreSQL here that could do it.
pub(crate) fn run(test: impl Future<Output = io::Result<()>>) {
    let runtime = Runtime::new().unwrap();
    let ended = runtime.block_on(within("the test", 3 * LONG, test));
    // None at all, or one that was built without it, as the one from PyPI is.
    let lacking = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.to_string().contains("SSL is not supported by this build")
    };
    match ended {
        Err(missing) if lacking(&missing) && std::env::var_os("CI").is_none() => {
            println!("SKIPPED: {missing}");
        }
        ended => ended.unwrap(),
    }
}

pub(crate) fn reach() -> Arc<dyn Reach> {
    Arc::new(Direct)
}

/// As the application's user.
pub(crate) fn server(of: &ScratchPostgres) -> Server {
    Server::from_url(&of.url()).unwrap().region(of.region())
}

/// As one who may see what `pg_monitor` may.
pub(crate) fn superuser(of: &ScratchPostgres) -> Server {
    Server::from_url(&of.superuser_url()).unwrap().region(of.region())
}

/// Commits wait until a standby has them, so that none that was acknowledged is lost with the primary.
pub(crate) async fn synchronous(servers: &[&ScratchPostgres]) -> io::Result<()> {
    for server in servers {
        server.sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'").await?;
        server.sql("SELECT pg_reload_conf()").await?;
    }
    Ok(())
}

pub(crate) fn settings(servers: Vec<Server>, region: &str) -> RegionSettings {
    RegionSettings {
        region: Some(region.to_owned()),
        pool: PoolSettings { kept_idle: 1, ..PoolSettings::default() },
        monitor: MonitorSettings { interval: Duration::from_millis(200), ..MonitorSettings::default() },
        ..RegionSettings::new(servers)
    }
}

pub(crate) async fn until(pool: &RegionPool, what: &str, holds: impl FnMut(&Verdict) -> bool) -> io::Result<Duration> {
    let began = Instant::now();
    let mut verdict = pool.verdict();
    within(what, LONG, async { verdict.wait_for(holds).await.map(drop).map_err(io::Error::other) }).await?;
    Ok(began.elapsed())
}

pub(crate) fn primary_is(index: usize) -> impl FnMut(&Verdict) -> bool {
    move |verdict| verdict.primary == Primary::One(index)
}

/// A row of the benchmark's table.
pub(crate) const INSERT: &str = "INSERT INTO contacts (name, email, notes) VALUES ($1, $2, $3)";

pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Its parameters; `name` is what it is looked for by.
pub(crate) fn contact<'a>(name: &'a &'a str) -> [Parameter<'a>; 3] {
    [(name, Type::VARCHAR), (&"bench@test.local", Type::VARCHAR), (&"Benchmark", Type::TEXT)]
}

/// Waits until the pool's second server is a fresh replica.
pub(crate) async fn until_fresh(pool: &RegionPool) -> io::Result<Duration> {
    until(pool, "a fresh replica", |verdict| matches!(verdict.standings[1], Standing::Fresh(_))).await
}

/// A primary, its replica in the pool's own region, and the pool, changed so, once the replica is fresh.
pub(crate) async fn pair(
    change: impl FnOnce(&mut RegionSettings),
) -> io::Result<(ScratchPostgres, ScratchPostgres, RegionPool)> {
    let primary = ScratchPostgres::start("lhr").await?;
    let standby = primary.standby("syd").await?;
    let mut settings = settings(vec![server(&primary), server(&standby)], "syd");
    change(&mut settings);
    let pool = RegionPool::new(settings, &reach());
    until_fresh(&pool).await?;
    Ok((primary, standby, pool))
}
