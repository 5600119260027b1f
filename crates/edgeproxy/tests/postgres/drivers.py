"""What programs in Python do, by two drivers that share no code with libpq: asyncpg and pg8000.

    drivers.py usual|held USER DATABASE PRIMARY_PORT REPLICA_PORT
"""

import asyncio
import os
import sys

import asyncpg
import pg8000.dbapi

act, user, database, *ports = sys.argv[1:]
primary, replica = map(int, ports)
password = os.environ["PGPASSWORD"]
WHERE = "SELECT current_setting('cluster_name'), pg_is_in_recovery()"
WRITE = "INSERT INTO contacts (name) VALUES ('by a driver') RETURNING id"
READ_ONLY = "25006"


def with_asyncpg(port, host="127.0.0.1", **more):
    return asyncpg.connect(host=host, port=port, user=user, database=database, password=password, **more)


async def usual_with_asyncpg():
    # Its own way to ask for TLS is left as it is: the server here has none, and says so through the proxy.
    writer, reader = await with_asyncpg(primary), await with_asyncpg(replica)
    assert tuple(await writer.fetchrow(WHERE)) == ("fra", False)
    assert tuple(await reader.fetchrow(WHERE)) == ("lhr", True)
    assert await writer.fetchval(WRITE) > 0
    try:
        await reader.fetchval(WRITE)
        raise SystemExit("a replica took a write")
    except asyncpg.ReadOnlySQLTransactionError as error:
        assert error.sqlstate == READ_ONLY
    assert tuple(await reader.fetchrow(WHERE)) == ("lhr", True), "the session goes on"
    await writer.close()
    await reader.close()
    hosts, ports = ["127.0.0.1"] * 2, [replica, primary]
    for wanted, found in [("read-write", "fra"), ("standby", "lhr")]:
        several = await with_asyncpg(ports, host=hosts, target_session_attrs=wanted)
        assert (await several.fetchrow(WHERE))[0] == found, wanted
        await several.close()


def usual_with_pg8000():
    def connect(port):
        return pg8000.dbapi.connect(user, host="127.0.0.1", port=port, database=database, password=password)

    def ask(connection, text):
        cursor = connection.cursor()
        cursor.execute(text)
        return tuple(cursor.fetchone())

    writer, reader = connect(primary), connect(replica)
    assert ask(writer, WHERE) == ("fra", False)
    assert ask(reader, WHERE) == ("lhr", True)
    assert ask(writer, WRITE)[0] > 0
    writer.commit()
    try:
        ask(reader, WRITE)
        raise SystemExit("a replica took a write")
    except pg8000.dbapi.DatabaseError as error:
        assert error.args[0]["C"] == READ_ONLY, error
    reader.rollback()
    assert ask(reader, WHERE) == ("lhr", True), "the session goes on"
    writer.close()
    reader.close()


async def held():
    connection = await with_asyncpg(primary, timeout=30)
    assert tuple(await connection.fetchrow(WHERE)) == ("lhr", False)
    await connection.close()
    print("served by the new primary")


if act == "usual":
    asyncio.run(usual_with_asyncpg())
    usual_with_pg8000()
    print("asyncpg", asyncpg.__version__, "and pg8000", pg8000.__version__, "write, read, and find the primary")
else:
    asyncio.run(held())
