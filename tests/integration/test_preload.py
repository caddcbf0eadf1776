#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The preload library instead of probes: what curl, nginx and Python moved is what the mirror shows, once, byte for
byte; children of all kinds do no harm; an agent that comes later takes over; and with probes beside it nothing is told
twice."""
import os
import re
import shutil
import time

from lib import LIBRARY, PROGS, check, equal, fact, flows, losses, run, sh, sha256, until

# One connection, and between its exchanges children: fork and exit, fork and close everything, vfork and exec.
CLIENT = """
import http.client, os, ssl, subprocess, sys
c = http.client.HTTPSConnection(sys.argv[1], context=ssl._create_unverified_context())
def get(path):
    c.request("GET", path)
    return len(c.getresponse().read())
print(get("/f1"), flush=True)
if os.fork() == 0: os._exit(0)
os.wait()
if os.fork() == 0: os.closerange(3, 100); os._exit(0)
os.wait()
subprocess.run(["true"], close_fds=True, check=True)
subprocess.run("exit 0", shell=True, check=True)
print(get("/f2"), c.sock.getsockname()[1], flush=True)
sys.stdin.readline()
print(get("/f1"), flush=True)
sys.stdin.readline()
"""


def requests_of(f):
    return re.findall(rb"GET (\S+) HTTP/1.1\r\n", bytes(f.data[0]))


def preloaded(t, name, *cmd, **kw):
    return t.spawn(name, *cmd, env=t.preloaded(), **kw)


def of(seen, *paths):
    """The only flow with these requests."""
    mine = [f for f in seen if requests_of(f) == [p.encode() for p in paths]]
    equal(len(mine), 1, f"flows with {paths} of {seen}")
    return mine[0]


def judge(f, want, *paths):
    check(f.is_sound() and f.end == "fin", f"{paths}: {f}")
    body = bytes(f.data[1])
    for path in paths:
        check(want[path] in body, f"{path}: other bytes: {f}")
        body = body[body.index(want[path]) + len(want[path]):]
    check(not body, f"{paths}: {len(body)} bytes too many")


def fetch_all(t, want):
    for path, data in want.items():
        got = t.dir / f"got{path[2:]}"
        p = preloaded(t, "curl", "curl", "-sSk", "--http1.1", "-o", got, f"https://10.71.1.1{path}", ns=t.cli)
        equal(p.wait(20), 0, f"curl: {p.err()}")
        equal(sha256(got.read_bytes()), sha256(data), f"{path}: TLS itself")


def agent_on(t, n, *args):
    return t.alone("--run-dir", t.run_dir(), "-w", t.dir / f"{n}.pcapng", *args, "host 10.71.1.1", iface="any",
                   name=f"agent{n}")


def stop(t, agent):
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    return agent.counters()


def several_libraries(t):
    """Each caller gets the library that it means; what is not wrapped is right all the same."""
    path = re.search(r"libssl\.so\.3 => (\S+)", sh("ldd", shutil.which("openssl"))).group(1)
    copies = [t.dir / name for name in ("libssl.so.3", "libother.so")]
    for c in copies:
        shutil.copy(path, c)
    linked = t.compile("two_ssl.c", ("-DLINKED", "-lssl", "-ldl"))
    said = sh(linked, *copies, env={**os.environ, **t.preloaded()}).splitlines()
    equal(said, [f"linked: -1 {LIBRARY}", *(f"{c}: -1 {c}" for c in copies), f"linked again: -1 {LIBRARY}",
                 "nobody's: (nil)"], "linked with one library")
    said = sh(t.compile("two_ssl.c", ("-ldl",)), *copies, env={**os.environ, **t.preloaded()}).splitlines()
    equal(said, [f"{copies[0]}: -1 {LIBRARY}", f"{copies[1]}: -1 {copies[1]}", "nobody's: (nil)"], "linked with none")


def linkers_lock(t):
    """A thread that loads a library, and waits meanwhile for another one's TLS calls, does not wait for ever."""
    so = t.dir / "locks.so"
    sh("gcc", "-std=c17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-DLIBRARY", "-shared", "-fPIC", "-o", so, PROGS / "locks.c",
       "-lssl", "-lcrypto", "-pthread")
    exe = t.compile("locks.c", ("-lssl", "-lcrypto", "-pthread", "-ldl"))
    said = sh(exe, so, env={**os.environ, **t.preloaded()}, timeout=20)
    equal(said.split(), ["constructor", "done"], "TLS calls while the linker's lock is held")


# Takes all, slowly enough for a write to wait.
SINK = """
import socket, ssl, sys, time
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain(*sys.argv[1:3])
l = socket.create_server(("10.71.1.1", 4433))
print("listening", flush=True)
for _ in range(2):
    s = c.wrap_socket(l.accept()[0], server_side=True)
    while s.recv(1 << 14): time.sleep(0.001)
"""


def long_writes(t):
    """Calls of more bytes than the ring has, interrupted again and again: all of them, once."""
    size = 4 << 20
    want = b"".join(b"%015d\n" % i for i in range(size // 16))
    agent = agent_on(t, "long", "--capture", "preload", "--preload-ring", "1M")
    t.spawn("sink", "python3", "-c", SINK, *t.cert(), ns=t.srv).wait_line("listening", where="out")
    exe = t.compile("longwrite.c", ("-lssl", "-lcrypto"))
    ports = {}
    for how in ("whole", "parts"):
        p = preloaded(t, how, exe, "10.71.1.1", 4433, size, how, ns=t.cli)
        equal(p.wait(30), 0, f"longwrite: {p.err()}")
        ports[how] = int(re.search(r"port (\d+) calls (\d+)", p.out()).group(1))
        check(int(p.out().split()[3]) > 2, f"it was not interrupted: {p.out()}")
    stop(t, agent)
    seen = flows(t.dir / "long.pcapng", sound=False)
    for how, port in ports.items():
        (f,) = (x for x in seen if x.client[1] == port)
        equal(len(f.data[0]), size, f"{how}: bytes")
        check(bytes(f.data[0]) == want and not any(f.holes), f"{how}: other bytes: {f}")
    fact(f"a write of {size >> 20} MB through a ring of 1 MB, interrupted: whole")


def two_hosts(t, want):
    """nginx is told by the library, curl elsewhere by probes: the collector knows that it is one connection."""
    t.link(t.cli, "tun1", ["10.71.3.1/24"], t.col, "col1", ["10.71.3.2/24"])
    col = t.collector("-w", t.dir / "hosts.pcapng")
    t.enroll()
    t.enroll(host="10.71.3.2", ns=t.cli, state="client.state")
    agents = [t.agent("--run-dir", t.run_dir(), name="at-server"),
              t.agent("--capture", "bpf", "--run-dir", t.dir / "probes", ns=t.cli, iface="cli0", host="10.71.3.2",
                      state="client.state", name="at-client")]
    until(lambda: agents[0].counters().get("preload_processes_adopted", 0) >= 2 or agents[0].kick(10), 10,
          "nginx taken over", 0.5)
    for path, data in want.items():
        got = sh("curl", "-sSk", "--http1.1", "-o", t.dir / "got", f"https://10.71.1.1{path}", ns=t.cli)
        equal(sha256((t.dir / "got").read_bytes()), sha256(data), f"{path}: TLS itself {got}")
    time.sleep(1)
    for a in agents:
        t.drain(a)
    equal(col.stop(), 0, "collector's exit status")
    seen = flows(t.dir / "hosts.pcapng", sound=False)
    for path in want:
        judge(of(seen, path), want, path)
    counted = col.counters()
    equal(counted.get("session_tuple_conflicts", 0), 0, "connections that seemed to be two")
    size = sum(map(len, want.values()))
    check(counted.get("session_bytes_standby", 0) >= size, f"{size} bytes came from two ends: {counted}")
    fact(f"{len(want)} connections from two hosts, one of them with the library: each once")


def main(t):
    several_libraries(t)
    linkers_lock(t)
    t.lab(sensor=False)
    long_writes(t)
    first = agent_on(t, 1, "--capture", "preload")

    os.environ.update(t.preloaded())
    try:
        t.nginx(workers=2)  # its environment is this process's
    finally:
        for k in t.preloaded():
            del os.environ[k]
    want = {f"/f{i}": t.www(f"f{i}", size) for i, size in enumerate((1, 1000, 100000, 3000000))}
    fetch_all(t, want)
    c = preloaded(t, "python", "python3", "-c", CLIENT, "10.71.1.1", ns=t.cli, stdin=True)
    c.wait_line(r"1000\n100000 (\d+)", where="out")
    counted = stop(t, first)
    seen = flows(t.dir / "1.pcapng", sound=False)
    for path in want:
        judge(of(seen, path), want, path)
    kept = of(seen, "/f1", "/f2")
    check(kept.is_sound(), f"children between exchanges: {kept}")
    fact(f"curl and nginx: {len(want)} connections equal, one with children in between; losses: {losses(first) or 'none'}")
    equal(counted.get("preload_bytes_lost_gone", 0), 0, "connections that ended before they were asked about")

    # Another agent, with probes too: goes on with what is open, and tells nothing twice.
    second = agent_on(t, 2)
    until(lambda: second.counters().get("preload_processes_adopted", 0) >= 4 or second.kick(10), 10,
          "nginx and Python taken over", 0.5)
    c.say("on", r"1000")
    fetch_all(t, want)
    c.say("end")
    c.wait(10)
    counted = stop(t, second)
    seen = flows(t.dir / "2.pcapng", sound=False)
    for path in list(want)[2:]:
        judge(of(seen, path), want, path)
    late = [f for f in seen if requests_of(f) == [b"/f1"]]
    equal(len(late), 2, f"curl's, and what came after the first agent: {seen}")
    for f in late:
        check(bytes(f.data[1]).endswith(want["/f1"]) and f.is_sound(), f"/f1: {f}")
    mine = [f for f in seen if requests_of(f) and {r.decode() for r in requests_of(f)} <= set(want)]
    equal(len(mine), len(want) + 1, f"each connection once: {mine}")  # others' tests have the same addresses
    unbound = counted.get("flow_bytes_lost_unbound", 0)
    check(unbound < len(want["/f3"]), f"{unbound} bytes taken a second time, for no connection")
    fact(f"with probes beside it: {len(mine)} connections, each once")
    two_hosts(t, want)


run(main, needs=["nginx", "curl", "gcc"])
