"""What a Postgres session costs a proxy: edgeproxy beside pgbouncer in session pooling, and without either.

    python3 benchmarks/postgres/sessions.py target/release/edgeproxy [--rounds 6] [--quick] [--out FOLDER]

One PostgreSQL server, and for each measurement a fresh process of the proxy between it and pgbench, all on loopback. In
a round every way is measured once; each round begins with another, and the first does not count. Figures are medians of
the rounds, ratios medians of the ratios within each round. CPU of a proxy is the scheduler's run time of its threads.
Writes a folder in benchmarks/runs/. Needs PostgreSQL with pgbench and sqlite3; pgbouncer is Debian's package, unpacked
and not installed where it is missing. As root the servers run as another user: both refuse to be root's.
"""

import argparse
import contextlib
import csv
import datetime
import fcntl
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

PASSWORD, USER, DATABASE = "bench", "bench", "bench"
START_WITHIN = 20
DIRECT, OURS, THEIRS = "no proxy", "edgeproxy", "pgbouncer, session pooling"
# Arguments of pgbench, clients, transactions of each; with --quick a twentieth of those.
CASES = {
    "select": (["-S"], 16, 3000, "16 kept sessions, `pgbench -S`: one SELECT by primary key, and the next once it is answered"),
    "connect": (["-S", "-C"], 16, 40, "the same with a new session for each, login by SCRAM included"),
}
CLOCK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def programs():
    """The newest PostgreSQL's folder."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb") or sys.exit("PostgreSQL is not installed here: apt-get install postgresql")
    return pathlib.Path(initdb).resolve().parent


def pgbouncer(cache):
    """The program, and what it needs to be found."""
    installed = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if installed:
        return installed, {}
    folder = cache / "pgbouncer"
    program = folder / "usr/sbin/pgbouncer"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        packages = ["pgbouncer", "libevent-2.1-7", "libc-ares2"]
        quiet = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["apt-get", "download", "-qq", *packages], **quiet)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], **quiet)
    libraries = next(folder.glob("usr/lib/*-linux-gnu"), folder)
    return str(program), {"LD_LIBRARY_PATH": str(libraries)}


class Account:
    """Who runs the servers."""

    def __init__(self):
        names = [entry.pw_name for entry in pwd.getpwall()]
        name = next(name for name in ("postgres", "nobody") if name in names)
        self.entry = pwd.getpwnam(name) if os.geteuid() == 0 else None

    def options(self):
        if self.entry is None:
            return {}
        return {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": []}

    def give(self, path):
        if self.entry is not None:
            os.chown(path, self.entry.pw_uid, self.entry.pw_gid)


class Site:
    def __init__(self, folder, binary, cache):
        self.folder, self.binary, self.bin = pathlib.Path(folder), binary, programs()
        self.account = Account()
        self.bouncer, self.libraries = pgbouncer(cache)
        self.server_port = free_port()
        self.account.give(folder)

    def run(self, *command, **more):
        done = subprocess.run([str(word) for word in command], cwd=self.folder, capture_output=True, text=True,
                              env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PGPASSWORD": PASSWORD}, **more)
        if done.returncode:
            sys.exit(f"{command}: {done.stderr}")
        return done.stdout

    def spawn(self, name, command, env=None, **more):
        log = open(self.folder / f"{name}.log", "wb")
        return subprocess.Popen([str(word) for word in command], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log, env={"PATH": os.environ["PATH"], "LC_ALL": "C", **(env or {})}, **more)

    def psql(self, port, sql, database=DATABASE):
        return self.run(self.bin / "psql", "-XqAt", "-h", "127.0.0.1", "-p", port, "-U", USER, "-d", database, "-c", sql)

    def answers(self, port, process, database=DATABASE):
        until = time.monotonic() + START_WITHIN
        command = [self.bin / "psql", "-XqAt", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-d", database, "-c", "SELECT 1"]
        while subprocess.run(command, env={"PGPASSWORD": PASSWORD}, capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"port {port} does not answer; see the logs in {self.folder}")
            time.sleep(0.05)

    def start_server(self):
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self.account.give(secret)
        self.run(self.bin / "initdb", "-D", "data", "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8",
                 "--locale=C", "--no-sync", **self.account.options())
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=100",
                    "shared_buffers=256MB", "fsync=off"]
        command = [self.bin / "postgres", "-D", "data", "-p", self.server_port]
        command += [word for setting in settings for word in ("-c", setting)]
        server = self.spawn("postgres", command, **self.account.options())
        self.answers(self.server_port, server, "postgres")
        self.psql(self.server_port, f"CREATE DATABASE {DATABASE}", "postgres")
        self.run(self.bin / "pgbench", "-i", "-q", "-s", "10", "-h", "127.0.0.1", "-p", self.server_port, "-U", USER, DATABASE)
        return server

    def start_ours(self, port):
        (self.folder / "check.password").write_text(PASSWORD)
        (self.folder / "check.password").chmod(0o600)
        (self.folder / "edgeproxy.toml").write_text(
            f'region = "fra"\n[admin]\nlisten = "127.0.0.1:{free_port()}"\n[log]\nconnections = "off"\nlevel = "warn"\n'
            f'[[listener]]\nbind = "127.0.0.1:{port}"\napp = "db"\nrole = "primary"\n'
            f'[[check]]\napp = "db"\nkind = "postgres"\nuser = "{USER}"\npassword_file = "check.password"\n')
        if not (self.folder / "routing.db").exists():
            self.run(self.binary, "route", "add", "db", "--app", "db", "--region", "fra", "--addr",
                     f"127.0.0.1:{self.server_port}", "--db", "routing.db")
        return self.spawn("edgeproxy", [self.binary, "proxy", "-c", "edgeproxy.toml", "--db", "routing.db"])

    def start_theirs(self, port):
        (self.folder / "users.txt").write_text(f'"{USER}" "{PASSWORD}"\n')
        (self.folder / "pgbouncer.ini").write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={self.server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = users.txt\n"
            "pool_mode = session\nmax_client_conn = 1000\ndefault_pool_size = 50\nlog_connections = 0\n"
            "log_disconnections = 0\n")
        for name in ("users.txt", "pgbouncer.ini"):
            self.account.give(self.folder / name)
        return self.spawn("pgbouncer", [self.bouncer, "pgbouncer.ini"], env=self.libraries, **self.account.options())

    @contextlib.contextmanager
    def way(self, name):
        """A fresh process of this proxy: its port, and its process."""
        if name == DIRECT:
            yield self.server_port, None
            return
        port = free_port()
        process = self.start_ours(port) if name == OURS else self.start_theirs(port)
        try:
            self.answers(port, process)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM if name == OURS else signal.SIGINT)
            try:
                process.wait(START_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def tree(root):
    """A process and its descendants."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = int(stat.parts[2]), stat.read_text().rsplit(")", 1)[1].split()
            children.setdefault(int(rest[1]), []).append(pid)
    found, following = [], [root]
    while following:
        found.append(following.pop())
        following += children.get(found[-1], [])
    return found


def run_time(root):
    """Nanoseconds of CPU that the threads of a process and of its descendants have had."""
    total = 0
    for pid in tree(root):
        for schedstat in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(schedstat.read_text().split()[0])
    return total


def machine_time():
    """Busy and stolen nanoseconds of all cores."""
    words = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = words[:8]
    return [ticks * 1_000_000_000 // CLOCK for ticks in (user + nice + system + irq + softirq, steal)]


def pgbench(site, port, words, clients, transactions):
    told = site.run(site.bin / "pgbench", "-n", *words, "-c", clients, "-j", 1, "-t", transactions, "-h", "127.0.0.1", "-p",
                    port, "-U", USER, DATABASE)
    done, failed = re.search(r"processed: (\d+)/\d+", told), re.search(r"failed transactions: (\d+)", told)
    latency = re.search(r"latency average = ([\d.]+) ms", told)
    return int(done[1]), int(failed[1]) if failed else 0, float(latency[1]) * 1000


def measure(site, server, way, case, quick):
    words, clients, transactions, _ = CASES[case]
    transactions = max(transactions // 20, 10) if quick else transactions
    with site.way(way) as (port, pid):
        pgbench(site, port, words, clients, max(transactions // 10, 10))
        ours_before = os.times()
        proxy, servers, (busy, stolen) = run_time(pid) if pid else 0, run_time(server.pid), machine_time()
        began = time.perf_counter()
        done, failed, latency = pgbench(site, port, words, clients, transactions)
        elapsed = time.perf_counter() - began
        proxy, servers = (run_time(pid) if pid else 0) - proxy, run_time(server.pid) - servers
        busy, stolen = (after - before for after, before in zip(machine_time(), (busy, stolen)))
        ours = os.times()
    load = (ours.children_user + ours.children_system - ours_before.children_user - ours_before.children_system) * 1e9
    room = elapsed * 1e9 * os.cpu_count()
    # Of servers that ended in between, whose time is not seen here, nothing is taken for other work with kept sessions.
    other = max(0.0, busy - proxy - max(servers, 0) - load) / room * 100
    return {
        "operations": done, "errors": failed, "elapsed_s": elapsed, "proxy_us": proxy / done / 1000 if pid else None,
        "machine_us": busy / done / 1000, "per_second": done / elapsed, "latency_us": latency,
        "other_percent": other, "stolen_percent": stolen / room * 100,
    }


def median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def figure(value, digits=1):
    return "-" if value is None else f"{value:,.{digits}f}"


def table(samples, case):
    lines = [
        "| per transaction | proxy CPU µs | spread % | ÷ pgbouncer | machine CPU µs | ÷ pgbouncer | transactions/s | mean latency µs | ÷ no proxy | errors |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = [sample for sample in samples if sample["case"] == case]

    def of(way, name):
        return {sample["round"]: sample[name] for sample in rows if sample["way"] == way}

    def ratio(way, to, name):
        one, other = of(way, name), of(to, name)
        return median([one[number] / other[number] if one[number] and other[number] else None for number in one])

    for way in (DIRECT, OURS, THEIRS):
        cpu = [value for value in of(way, "proxy_us").values() if value is not None]
        spread = (max(cpu) - min(cpu)) / statistics.median(cpu) * 100 if cpu else None
        cells = [
            way, figure(median(cpu)), figure(spread, 0), figure(ratio(way, THEIRS, "proxy_us"), 2),
            figure(median(of(way, "machine_us").values())), figure(ratio(way, THEIRS, "machine_us"), 2),
            figure(median(of(way, "per_second").values()), 0), figure(median(of(way, "latency_us").values()), 0),
            figure(ratio(way, DIRECT, "latency_us"), 2), str(sum(of(way, "errors").values())),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def model():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return (found[1] if found else "unknown CPU").strip(), " hypervisor" in text


def write(folder, samples, site, rounds, load, quick):
    date, (cpu, virtual) = datetime.date.today().isoformat(), model()
    tag = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\([^)]*\)|processor|cpu|@.*", "", cpu.lower())).strip("-")
    folder = folder or pathlib.Path(__file__).resolve().parents[1] / "runs" / f"{date}-{tag}-{os.cpu_count()}-cores-postgres"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "raw.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(samples[0]))
        writer.writeheader()
        for sample in samples:
            writer.writerow({key: round(value, 3) if isinstance(value, float) else value for key, value in sample.items()})
    version = {
        "edgeproxy": site.run(site.binary, "--version").split()[-1],
        "pgbouncer": subprocess.run([site.bouncer, "--version"], env=site.libraries, capture_output=True, text=True).stdout.split()[1],
        "PostgreSQL": site.run(site.bin / "postgres", "--version").split()[2],
    }
    disturbed = median([sample["other_percent"] for sample in samples])
    summary = [
        f"# Postgres sessions, {date}\n\n{cpu}, {os.cpu_count()} cores. Medians of {rounds} rounds; ratios are medians of the "
        "ratios of each round. Lower is better, except for rates. "
        + ", ".join(f"{name} {number}" for name, number in version.items())
        + ("; a smoke test, whose figures mean nothing" if quick else "") + ".\n"
    ]
    for case, (_, _, _, text) in CASES.items():
        summary.append(f"## {case}\n\n{text[0].upper()}{text[1:]}.\n\n{table(samples, case)}\n")
    summary.append(
        "pgbench, the proxy and the server share the cores: rates and latencies are those of all of them together. Machine "
        f"CPU holds other work as well, which was {figure(disturbed)} % of the machine in the median measurement (for "
        "`connect` with the servers' processes, which end with their session).\n")
    (folder / "summary.md").write_text("\n".join(summary))
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]
    (folder / "machine.md").write_text(
        f"# Machine\n\n- CPU: {cpu}, {os.cpu_count()} cores{', virtual machine' if virtual else ''}\n"
        f"- kernel: Linux {os.uname().release}\n- memory: {int(memory) / 1024 / 1024:.0f} GiB\n"
        f"- load average before the run: {load}\n\n## Programs\n\n"
        + "".join(f"- {name} {number}\n" for name, number in version.items())
        + "\nConfiguration is in `benchmarks/postgres/sessions.py`. CPU of a proxy is the scheduler's run time of its "
        "threads (`/proc/PID/task/*/schedstat`), machine CPU is user, system, irq and softirq of `/proc/stat`.\n")
    return folder


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("edgeproxy")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    temporary = pathlib.Path(tempfile.gettempdir())
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "edgeproxy-benchmarks"
    # Both are the proxies' own parent directories, through which their accounts have to get.
    with open(temporary / "edgeproxy-benchmarks.lock", "w") as turn, tempfile.TemporaryDirectory() as scratch:
        fcntl.flock(turn, fcntl.LOCK_EX)
        os.chmod(scratch, 0o755)
        load = " ".join(pathlib.Path("/proc/loadavg").read_text().split()[:3])
        site = Site(scratch, os.path.abspath(arguments.edgeproxy), cache)
        if site.libraries:
            # From where it can be read, whoever runs it.
            shutil.copytree(cache / "pgbouncer", site.folder / "pgbouncer")
            site.bouncer, site.libraries = (
                site.bouncer.replace(str(cache), scratch), {key: value.replace(str(cache), scratch) for key, value in site.libraries.items()})
        server, samples = site.start_server(), []
        try:
            ways = [DIRECT, OURS, THEIRS]
            for number in range(rounds + 1):
                for case in CASES:
                    for way in ways[number % 3:] + ways[:number % 3]:
                        sample = measure(site, server, way, case, arguments.quick)
                        told = f"round {number} {case} {way}: {figure(sample['proxy_us'])} µs of the proxy"
                        print(told, file=sys.stderr)
                        if number:
                            samples.append({"case": case, "round": number, "way": way, **sample})
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
        out = arguments.out or (temporary / "edgeproxy-benchmarks-quick" if arguments.quick else None)
        folder = write(out, samples, site, rounds, load, arguments.quick)
    print((folder / "summary.md").read_text())
    print(f"written to {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
