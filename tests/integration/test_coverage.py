#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""sslcollector coverage: captured programs with exact byte counts and their confidence, and for each kind
of program that is not captured its reason; bytes that go past the library; two agents; no agent; the control socket's modes, leftovers and
garbage on it."""
import json
import pathlib
import random
import re
import socket
import struct
import time

from lib import PROGS, PY, Skip, binary, check, equal, fact, flows, run, run_cmd, sh

ARCHIVE_LIBS = ("-Wl,-Bstatic", "-lssl", "-lcrypto", "-Wl,-Bdynamic", "-ldl", "-lpthread")
# A ClientHello, as far as anybody looks: record header, handshake header, version, noise.
HELLO = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + b"n" * 194
UNKNOWN = f"""
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.sendall({HELLO!r})
for i in range(20):
    s.sendall(b"\\x17\\x03\\x03\\x00\\x40" + b"x" * 64)
    time.sleep(0.01)
print("sent", flush=True)
sys.stdin.readline()
"""
# TLS first, then bytes past the library on the same socket. Waits: its process stays listed as living.
PAST = """
import os, socket, ssl, sys
mode, addr, port, crt, key = sys.argv[1:]
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if mode == "server" else ssl.PROTOCOL_TLS_CLIENT)
if mode == "server":
    ctx.load_cert_chain(crt, key)
    lst = socket.create_server((addr, int(port)))
    print("listening", flush=True)
    s = ctx.wrap_socket(lst.accept()[0], server_side=True)
    s.recv(100)
    s.sendall(b"go on")
    n = 0
    while got := os.read(s.fileno(), 65536):
        n += len(got)
    print("got", n, flush=True)
    s.close()
else:
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    s = ctx.wrap_socket(socket.create_connection((addr, int(port))))
    s.sendall(b"hello")
    s.recv(100)
    left = 300000
    while left:
        left -= os.write(s.fileno(), bytes(left))
    s.close()
sys.stdin.readline()
"""
SINK = """
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
c, _ = s.accept()
while c.recv(4096):
    pass
"""
# Begins before the agents do: TLS that no library's call has part in, though one is loaded, and TLS of that library.
LATE = f"""
import socket, ssl, sys
addr = sys.argv[1]
record = b"\\x17\\x03\\x03\\x00\\x40" + b"x" * 64
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
past = socket.create_connection((addr, 4447))
past.sendall({HELLO!r} + record)
tls = ctx.wrap_socket(socket.create_connection((addr, 8447)))
def talk():
    tls.sendall(b"hello")
    assert tls.recv(100) == b"hello"
talk()
print("begun", flush=True)
sys.stdin.readline()
past.sendall(record)
talk()
print("went on", flush=True)
sys.stdin.readline()
"""
ECHO = """
import socket, ssl, sys
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
ctx.load_cert_chain(*sys.argv[3:5])
lst = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
s = ctx.wrap_socket(lst.accept()[0], server_side=True)
while got := s.recv(100):
    s.sendall(got)
"""


LOOSE = """
import asyncio, ssl, sys
async def on_client(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nfrom memory")
    await writer.drain()
    writer.close()
async def main():
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(*sys.argv[3:5])
    server = await asyncio.start_server(on_client, sys.argv[1], int(sys.argv[2]), ssl=ctx)
    print("listening", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def coverage(run_dir, *args, status=0, **kw):
    p = run_cmd(binary(), "coverage", "--run-dir", run_dir, *args, timeout=60, **kw)
    equal(p.returncode, status, f"coverage's exit status: {p.stderr.strip()[-300:]}")
    return p


def rows(run_dir, **kw):
    return json.loads(coverage(run_dir, "--json", **kw).stdout)


def row_of(all_rows, pid):
    got = [r for r in all_rows if r["kind"] == "process" and r["pid"] == pid]
    equal(len(got), 1, f"rows of process {pid}: {got}")
    return got[0]


def assert_row(all_rows, pid, what, **want):
    """Each wanted value, in the row or in its flows: name=value; flows as flows_exact."""
    row = row_of(all_rows, pid)
    for key, value in want.items():
        group, _, name = key.partition("_")
        got = row[group][name] if group in ("flows", "bytes") else row[key]
        equal(got, value, f"{what}: {key} in {row}")
    return row


def finish(t, name, *cmd, ns):
    """A client that ends by itself: its process id."""
    p = t.spawn(name, *cmd, ns=ns)
    equal(p.wait(30), 0, f"{name}: status: {p.err()[-300:]}")
    return p.pid


def static_server(t):
    if not list(pathlib.Path("/usr/lib").glob("*/libssl.a")):
        raise Skip("OpenSSL's archives (libssl.a) are not installed")
    exe = t.compile("serve.c", ARCHIVE_LIBS)
    sh("strip", exe)
    p = t.spawn("serve", exe, "10.71.1.1", 4443, *t.cert(), 5000, ns=t.srv)
    p.wait_line("listening", where="out")
    return p


def nginx_bytes(log):
    """Requests and answers as nginx counted them, but those of the last client: it used port 8443."""
    lines = [x.split() for x in log.read_text().splitlines()]
    equal(len(lines), 4, "requests that nginx saw")
    return sum(int(x[2]) + int(x[3]) for x in lines[:3])


def begin_early(t):
    """A program whose connections are older than the agents."""
    sink = t.spawn("early-sink", PY, "-c", SINK, "10.71.1.1", 4447, ns=t.srv)
    echo = t.spawn("echo", PY, "-c", ECHO, "10.71.1.1", 8447, *t.cert(), ns=t.srv)
    for p in (sink, echo):
        p.wait_line("listening", where="out")
    late = t.spawn("late", PY, "-c", LATE, "10.71.1.1", ns=t.cli, stdin=True)
    late.wait_line("begun", where="out")
    return {"late": late, "echo": echo, "early-sink": sink}


def start_programs(t):
    """Everything but the short clients. Names → processes."""
    p = {"serve": static_server(t)}
    p["java"] = t.spawn("java", "java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", PROGS / "Get.java",
                        "https://10.71.1.1:4443/", ns=t.cli, stdin=True)
    p["loose"] = t.spawn("loose", PY, "-c", LOOSE, "10.71.1.1", 4445, *t.cert(), ns=t.srv)
    p["loose"].wait_line("listening", where="out")
    t.curl("--http1.0", "https://10.71.1.1:4445/")
    for end, ns in (("server", t.srv), ("client", t.cli)):
        p[f"past-{end}"] = t.spawn(f"past-{end}", PY, "-c", PAST, end, "10.71.1.1", 4446, *t.cert(), ns=ns,
                                   stdin=True)
        if end == "server":
            p["past-server"].wait_line("listening", where="out")
    p["past-server"].wait_line("got 300000", where="out")
    p["sink"] = t.spawn("sink", PY, "-c", SINK, "10.71.1.1", 4444, ns=t.srv)
    p["sink"].wait_line("listening", where="out")
    p["unknown"] = t.spawn("unknown", PY, "-c", UNKNOWN, "10.71.1.1", 4444, ns=t.cli, stdin=True)
    p["idle"] = t.spawn("idle", PY, "-c", "import ssl, sys; print('up', flush=True); sys.stdin.read()",
                        ns=t.cli, stdin=True)
    p["idle"].wait_line("up", where="out")
    p["unknown"].wait_line("sent", where="out")
    p["java"].wait_line("got 5000", 60, where="out")
    return p


def check_programs(t, all_rows, p, pids, agents, log):
    cli, srv = agents
    for name in ("curl", "python", "wget"):
        row = assert_row(all_rows, pids[name], name, captured_by="bpf", reason="captured", alive=False,
                         flows_exact=1, flows_missed=0, agent=cli.pid)
        check(row["bytes"]["exact"] > 20000, f"{name}: bytes: {row}")
    check("GnuTLS" in row_of(all_rows, pids["wget"])["tls"], "wget uses GnuTLS")
    check("OpenSSL" in row_of(all_rows, pids["python"])["tls"], "python uses OpenSSL")
    check(row_of(all_rows, pids["curl"])["exe"].endswith("/curl"), "curl's program")
    assert_row(all_rows, pids["filtered"], "a connection outside of the filter", captured_by=None,
               reason="filtered", flows_exact=0, flows_filtered=1, bytes_exact=0)
    worker = [r for r in all_rows if r["kind"] == "process" and r["command"] == "nginx"
              and r["agent"] == srv.pid and r["captured_by"]]
    equal(len(worker), 1, "nginx processes that are captured")
    equal((worker[0]["flows"]["exact"], worker[0]["flows"]["filtered"]), (3, 1), "nginx: flows")
    equal(worker[0]["bytes"]["exact"], nginx_bytes(log), "nginx: bytes, by its own log")
    assert_row(all_rows, p["nginx"].pid, "nginx's master, which speaks to nobody", reason="idle",
               agent=None)
    assert_row(all_rows, p["java"].pid, "java", captured_by=None, reason="java", flows_missed=1,
               flows_exact=0, tls=["Java"], alive=True, agent=cli.pid)
    assert_row(all_rows, p["serve"].pid, "a stripped static program", captured_by=None,
               reason="static-stripped", flows_missed=1, tls=["OpenSSL (static)"], agent=srv.pid)
    for name in ("unknown", "sink"):
        assert_row(all_rows, p[name].pid, "TLS of no known library", captured_by=None,
                   reason="rustls-or-unknown", flows_missed=1, tls=[])
    assert_row(all_rows, p["idle"].pid, "a program that loaded OpenSSL", reason="idle", flows_exact=0)
    row = assert_row(all_rows, p["loose"].pid, "TLS in memory, apart from its socket", reason="captured",
                     flows_exact=0, flows_matched=1, flows_missed=0, bytes_unbound=0, agent=srv.pid)
    check(row["bytes"]["matched"] > 60, "TLS in memory: bytes:", row)
    for end in ("server", "client"):
        assert_row(all_rows, p[f"past-{end}"].pid, f"{end} that goes past its library", reason="unexplained",
                   flows_exact=1, flows_unexplained=1)
    assert_row(all_rows, p["late"].pid, "connections older than the agent", reason="attached-late", flows_exact=0,
               flows_missed=1, flows_late=1, flows_filtered=1)
    check_late(p, pids, agents)
    for a in agents:
        equal(a.counters()["flow_connections_unexplained"], 1, "connections unexplained")
        assert_row(all_rows, a.pid, "the agent", reason="excluded")
    fact("reasons:", sorted({r["reason"] for r in all_rows if r["kind"] == "process"}))


def check_late(p, pids, agents):
    """Those connections that are older than the agents, and none of the others."""
    told = [int(pid) for a in agents for pid in re.findall(r"process (\d+): TLS had begun before", a.err())]
    young = {*pids.values(), *(x.pid for name, x in p.items() if name not in ("late", "echo", "early-sink"))}
    equal([told.count(p[name].pid) for name in ("late", "echo", "early-sink")], [4, 2, 2],
          "late connections, as two agents tell them")
    check(not young & set(told), "told as late:", young & set(told))
    for a in agents:
        check(a.counters()["flow_connections_late"] >= 2, "flow_connections_late")


def check_libraries(all_rows):
    libs = [r for r in all_rows if r["kind"] == "library"]
    ssl = [r for r in libs if "/libssl.so.3" in r["path"]]
    check(ssl and all(r["functions"] > 0 and r["why_not"] is None for r in ssl), "libssl:", ssl)
    jvm = [r for r in libs if r["path"].endswith("/libjvm.so")]
    check(jvm and all(not r["functions"] and r["why_not"] for r in jvm), "libjvm:", jvm)


def check_table(run_dir, p, pids, agents):
    p_out = coverage(run_dir)
    lines = {x.split()[0]: x for x in p_out.stdout.splitlines() if x.strip()}
    head = p_out.stdout.splitlines()[0]
    check("AGENT" in head and head.startswith("PID "), "heading:", head)
    curl, java = lines[str(pids["curl"])], lines[str(p["java"].pid)]
    for word in ("curl (gone)", " bpf ", " exact ", f" {agents[0].pid} "):
        check(word in curl, repr(word), "in", curl)
    for word in ("Java", " none ", "0 of 1", "java: Java does TLS in Java"):
        check(word in java, repr(word), "in", java)
    where = head.index("REASON")
    for x in p_out.stdout.split("\n\n")[0].splitlines()[1:]:
        check(x[where - 2:where] == "  " and x[where] != " ", "a row that is not aligned:", x)


def check_modes(t, run_dir, agents):
    equal(oct(run_dir.stat().st_mode & 0o7777), "0o711", "mode of the directory")
    for a in agents:
        s = run_dir / f"agent-{a.pid}.sock"
        check(s.is_socket(), s, "is no socket")
        equal(oct(s.stat().st_mode & 0o7777), "0o600", "mode of the socket")
    exe = t.dir / "sslcollector"
    sh("cp", binary(), exe)
    exe.chmod(0o755)
    p = run_cmd("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", exe, "coverage",
                "--run-dir", run_dir, timeout=30)
    equal(p.returncode, 1, "coverage of another user: status")
    check("run as root" in p.stderr, "another user is told:", p.stderr)


def connect(path):
    """Waits while the agent has not taken the connections before it."""
    s = socket.socket(socket.AF_UNIX)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
    s.connect(str(path))
    s.settimeout(10)
    return s


def garbage(run_dir, agent):
    """What anybody with the right to connect could send."""
    path, rnd = run_dir / f"agent-{agent.pid}.sock", random.Random(1)
    before = agent.counters().get("control_refused", 0)
    sent = 0
    for size in (1, 63, 64, 65, 4096, 1 << 20):
        s = connect(path)
        try:
            s.sendall(rnd.randbytes(size).replace(b"\n", b"n") + b"\n")
            answer = s.recv(4096)
            check(b"error" in answer, "answer to garbage:", answer)
        except (BrokenPipeError, ConnectionResetError):
            pass
        s.close()
        sent += 1
    idle = [connect(path) for _ in range(30)]  # more than there are places
    time.sleep(0.5)
    for s in idle:
        s.close()
    s = connect(path)  # asks, and does not wait for the answer
    s.sendall(b"coverage\n")
    s.close()
    time.sleep(0.5)
    check(agent.alive(), "the agent died of garbage")
    refused = agent.counters()["control_refused"] - before
    check(refused >= sent, f"refused: {refused}, garbage sent: {sent}")
    row_of(rows(run_dir), agent.pid)
    fact(f"garbage: {sent} times, {refused} refused, still answers")


def slow_client(run_dir, agent):
    """Half a question: dropped in bounded time, and nobody waits for it."""
    s = connect(run_dir / f"agent-{agent.pid}.sock")
    s.sendall(b"cover")
    began = time.monotonic()
    coverage(run_dir)
    check(time.monotonic() - began < 4, "coverage waited for a slow client")
    equal(s.recv(1), b"", "what a slow client gets")
    s.close()


def check_ends(t, run_dir, agents):
    """Sockets go with their agents; what a killed one leaves is swept by the next."""
    cli, srv = agents
    counters = cli.counters()
    check(counters["coverage_processes_java"] >= 1 and counters["coverage_processes_captured"] >= 3,
          "counters:", {k: v for k, v in counters.items() if "coverage" in k})
    equal(cli.stop(), 0, "agent's exit status")
    check(not (run_dir / f"agent-{cli.pid}.sock").exists(), "the socket of a stopped agent is still there")
    left = run_dir / f"agent-{srv.pid}.sock"
    srv.kill()
    check(left.exists(), "the socket of a killed agent is gone already: the next check checks nothing")
    p = coverage(run_dir, "--json", status=1)
    check("no agent is running" in p.stderr and len(p.stderr.splitlines()) == 1, "without agents:", p.stderr)
    a = t.alone("-w", t.dir / "next.pcapng", "--run-dir", run_dir, name="next", ns=t.cli, iface="cli0")
    check(not left.exists(), "the socket of a killed agent was left")
    equal(coverage(run_dir).stderr, "", "with an agent again")
    equal(a.stop(), 0, "agent's exit status")
    equal(list(run_dir.iterdir()), [], "left in the directory")


def check_unusable_directory(t):
    """The mirror does not depend on it."""
    bad = t.dir / "open"
    bad.mkdir()
    bad.chmod(0o777)
    a = t.alone("-w", t.dir / "bad.pcapng", "--run-dir", bad, name="bad", ns=t.cli, iface="cli0")
    check("others may write" in a.err(), "said about the directory:", a.err())
    equal(list(bad.iterdir()), [], "made in the directory")
    equal(a.stop(), 0, "agent's exit status")


def main(t):
    t.lab(sensor=False)
    run_dir, log = t.dir / "run", t.dir / "access.log"
    (t.dir / "www").mkdir()
    t.www("blob", 20000)
    nginx = t.nginx(listen=("443 ssl", "8443 ssl"), log=f"{log} bytes")
    p = coverage(run_dir, "--json", status=1)
    check("no agent is running" in p.stderr, "without an agent:", p.stderr)
    assert_row(json.loads(p.stdout), nginx.pid, "nginx, without an agent", reason="no-agent",
               tls=["OpenSSL"], agent=None)

    early = begin_early(t)
    words = ("-v", "--run-dir", run_dir, "port 443 or port 4443 or portrange 4444-4447")
    cli = t.alone("-w", t.dir / "cli.pcapng", *words, name="cli", ns=t.cli, iface="cli0")
    srv = t.alone("-w", t.dir / "srv.pcapng", *words, name="srv")
    url = "https://10.71.1.1/blob"
    pids = {
        "curl": finish(t, "curl", "curl", "-sk", "--http1.1", "-o", "/dev/null", url, ns=t.cli),
        "wget": finish(t, "wget", "wget", "-q", "--no-check-certificate", "-O", "/dev/null", url, ns=t.cli),
        "python": finish(t, "python", PY, "-c", "import ssl, sys, urllib.request as r; r.urlopen(sys.argv[1], "
                         "context=ssl._create_unverified_context()).read()", url, ns=t.cli),
        "filtered": finish(t, "curl", "curl", "-sk", "-o", "/dev/null", "https://10.71.1.1:8443/blob",
                           ns=t.cli),
    }
    early["late"].say("", "went on")
    p = start_programs(t)
    p = {"nginx": nginx, **early, **p}
    time.sleep(1)
    all_rows = rows(run_dir)
    check_programs(t, all_rows, p, pids, (cli, srv), log)
    check_libraries(all_rows)
    check_table(run_dir, p, pids, (cli, srv))
    check_modes(t, run_dir, (cli, srv))
    garbage(run_dir, cli)
    slow_client(run_dir, cli)
    check_ends(t, run_dir, (cli, srv))
    for name in ("cli", "srv"):
        ports = sorted({f.server[1] for f in flows(t.dir / f"{name}.pcapng", sound=name == "cli")})
        equal(ports, [443, 4445, 4446], f"{name}: ports of what was mirrored")
    check_unusable_directory(t)


run(main, needs=["nginx", "curl", "wget", "java", "gcc", "strip", "setpriv"])
