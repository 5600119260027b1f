"""What a proxy and the overlay add to a round trip, on this machine: 64 bytes there and back on kept connections.

Three ways in turn, 5,500 times each: to the backend itself; through a POP; through a POP, the tunnel, and a hub that
publishes the backend, which is a second relay. Both ends run with mode "userns": no root, nothing of the host is changed.

    python3 benchmarks/overlay/added_latency.py target/release/edgeproxy
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS, WARM_UP, PAYLOAD = 6000, 500, b"x" * 64
START_WITHIN = 20


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def echo(listener):
    def serve(client):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := client.recv(4096):
                client.sendall(data)
        except ConnectionError:
            pass  # The proxies are stopped before their clients.

    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def connect(port):
    """A connection that has answered once: what is dialled first waits for the tunnel."""
    until = time.monotonic() + START_WITHIN
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port), timeout=5)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            exchange(client)
            return client
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def exchange(client):
    began = time.perf_counter_ns()
    client.sendall(PAYLOAD)
    left = len(PAYLOAD)
    while left:
        came = client.recv(4096)
        if not came:
            raise ConnectionResetError("closed")
        left -= len(came)
    return time.perf_counter_ns() - began


def main(binary, folder):
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    backend = listener.getsockname()[1]
    tcp = [free_port(socket.SOCK_STREAM) for _ in range(4)]
    udp = free_port(socket.SOCK_DGRAM)
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "check": True}
    subprocess.run([binary, "overlay", "init", "--hub", f"127.0.0.1:{udp}", "--regions", "gru", "--dir", "keys"],
                   stderr=subprocess.DEVNULL, **quiet)
    for app, address in [("inside", "10.50.0.1:7007"), ("direct", f"127.0.0.1:{backend}")]:
        subprocess.run([binary, "route", "add", app, "--app", app, "--region", "gru", "--addr", address, "--db", "routing.db"],
                       stderr=subprocess.DEVNULL, **quiet)
    common = '[log]\nconnections = "connections.log"\nlevel = "warn"\n[overlay]\nmode = "userns"\n'
    files = {
        "hub.toml": f'{common}config = "keys/hub.conf"\n[admin]\nlisten = "127.0.0.1:{tcp[0]}"\n'
                    f'[[publish]]\nlisten = "10.50.0.1:7007"\ntarget = "127.0.0.1:{backend}"\n',
        "pop.toml": f'region = "gru"\n{common}config = "keys/gru.conf"\n[admin]\nlisten = "127.0.0.1:{tcp[1]}"\n'
                    f'[routing]\ndb = "routing.db"\n[[listener]]\nbind = "127.0.0.1:{tcp[2]}"\napp = "direct"\n'
                    f'[[listener]]\nbind = "127.0.0.1:{tcp[3]}"\napp = "inside"\n',
    }
    for name, text in files.items():
        pathlib.Path(folder, name).write_text(text)
    running = []
    try:
        for role, file in [("gateway", "hub.toml"), ("proxy", "pop.toml")]:
            log = open(pathlib.Path(folder, f"{role}.log"), "wb")
            running.append(subprocess.Popen([binary, role, "-c", file], cwd=folder, stdout=log, stderr=log))
        ways = {"no proxy": backend, "a POP": tcp[2], "a POP, the tunnel, a hub": tcp[3]}
        clients = {way: connect(port) for way, port in ways.items()}
        times = {way: [] for way in ways}
        for number in range(ROUNDS):
            for way, client in clients.items():
                took = exchange(client)
                if number >= WARM_UP:
                    times[way].append(took / 1000)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()
    print("| through | p50, us | p99, us |\n| --- | ---: | ---: |")
    for way, all_times in times.items():
        all_times.sort()
        print(f"| {way} | {all_times[len(all_times) // 2]:.1f} | {all_times[len(all_times) * 99 // 100]:.1f} |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(os.path.abspath(sys.argv[1]), scratch)
