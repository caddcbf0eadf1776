#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""NSS: what a program moved through NSPR is what the mirror shows, byte for byte, at either end; sockets
without TLS are not mirrored; NSS's own client against another library."""
import re
import shutil
import time

from lib import check, equal, fact, find_flow, flows, losses, run, sh, sha256, until

MIX = "1,100,16383,16384,16385,40000,1000000,5000000,3"
# name, options of the server, of the client, server sends, client sends
RUNS = (
    ("PR_Send and PR_Recv", "", "", MIX, MIX),
    ("PR_Read and PR_Write, handshake inside", "rw", "rw", MIX, MIX),
    ("non-blocking, tiny buffers", "nonblock tiny", "nonblock tiny", MIX, MIX),
    ("non-blocking, PR_Read and PR_Write", "nonblock tiny rw", "nonblock tiny rw", MIX, MIX),
    ("peek", "peek", "nonblock tiny peek", MIX, MIX),
    ("one-byte sends", "", "", "1x3000", "1x3000"),
    ("one-byte receives", "ones peek", "ones", "5000", "1,4999"),
    ("PR_Writev", "writev", "writev", MIX, MIX),
    ("PR_TransmitFile", "file", "file", MIX, MIX),
    ("half closed", "half", "half", MIX, "70000"),
    ("imported over a model, TLS 1.2", "twice tls12", "twice tls12", MIX, MIX),
    ("IPv6", "", "", MIX, "1,70000"),
)
# not TLS: nothing of it may be seen
BARE = (
    ("bare NSPR socket", "plain", "plain", "5,40000", "20,10000"),
    ("bare NSPR socket, PR_Read and PR_Write", "plain rw peek", "plain rw", "5,40000", "20,10000"),
    ("TLS switched off", "off peek", "off", "5,40000", "20,10000"),
)


def total(spec):
    return sum(int(w.split("x")[0]) * int((w.split("x") + ["1"])[1]) for w in spec.split(","))


def said(proc):
    return dict(re.findall(r"^(sent|got|port|retries) (.*)$", proc.out(), re.M))


def start(t, cmd, db, i, name, srv_opts, cli_opts, srv_spec, cli_spec):
    addr, port = ("fd71:1::1" if name == "IPv6" else "10.71.1.1"), 7000 + i
    dirs = [t.dir / f"{end}.{i}" for end in ("srv", "cli")]
    for d in dirs:
        d.mkdir(exist_ok=True)
    s = t.spawn("nssx-server", *cmd, "server", addr, port, db, srv_spec, total(cli_spec),
                *srv_opts.split(), ns=t.srv, cwd=dirs[0])
    s.wait_line("listening", where="out")
    c = t.spawn("nssx-client", *cmd, "client", addr, port, db, cli_spec, total(srv_spec),
                *cli_opts.split(), ns=t.cli, cwd=dirs[1], stdin="wait" in cli_opts)
    return s, c


def finish(name, s, c):
    equal((c.wait(60), s.wait(20)), (0, 0), f"{name}: status {c.err()} {s.err()}")
    got = said(c)
    equal(said(s)["got"], got["sent"], f"{name}: TLS itself")
    equal(said(s)["sent"], got["got"], f"{name}: TLS itself")
    return got


def exchange(t, cmd, db, i, *case):
    got = finish(case[0], *start(t, cmd, db, i, *case))
    return case[0], (int(got["port"]), 7000 + i), got["sent"], got["got"], got["retries"]


def database(t):
    crt, key = t.cert()
    db, p12 = t.dir / "db", t.dir / "nss.p12"
    db.mkdir()
    sh("openssl", "pkcs12", "-export", "-in", crt, "-inkey", key, "-name", "mirror.test", "-out", p12,
       "-passout", "pass:x")
    sh("certutil", "-N", "-d", f"sql:{db}", "--empty-password")
    sh("pk12util", "-i", p12, "-d", f"sql:{db}", "-W", "x")
    return f"sql:{db}"


def compare(t, runs):
    wrong = []
    for end in ("server", "client"):
        seen = flows(t.dir / f"{end}.pcapng", sound=False)
        for name, ports, sent, got, retries in runs:
            f = find_flow(seen, *ports)
            mirrored = [f"{len(d)} {sha256(bytes(d))}" for d in f.data]
            if mirrored != [sent, got] or not f.is_sound() or f.end != "fin":
                wrong.append(f"{end}'s end, {name}: {f}, program moved {sent.split()[0]} and {got.split()[0]}")
            else:
                fact(f"{end}'s end, {name}: {sent.split()[0]} + {got.split()[0]} bytes equal, "
                     f"repeated calls {retries.split()[0]}, peeked {retries.split()[-1]}")
    check(not wrong, "\n".join(wrong))


def unseen(t, runs):
    for end in ("server", "client"):
        ports = {f.server[1] for f in flows(t.dir / f"{end}.pcapng", sound=False)}
        for name, (_, port), sent, got, _ in runs:
            check(port not in ports, f"{end}'s end, {name}: mirrored")
            fact(f"{end}'s end, {name}: {sent.split()[0]} + {got.split()[0]} bytes not mirrored")


def late(t, exe, db):
    """Probes come while the connection is in use: from then on every byte, and no other."""
    spec, i = "1000,2000,30000,1,500000", 50
    s, c = start(t, [exe], db, i, "late", "", "wait", MIX, spec)
    c.wait_line("waiting", where="out")
    time.sleep(0.3)
    agents = [t.alone("-w", t.dir / "late-server.pcapng", name="late-server"),
              t.alone("-w", t.dir / "late-client.pcapng", ns=t.cli, iface="cli0", name="late-client")]
    # The server waits inside a receive that began before: what that one returns was not seen.
    c.say("go")
    got = finish("late", s, c)
    time.sleep(1)
    for a in agents:
        equal(a.stop(), 0, "agent's exit status")
    f = find_flow(flows(t.dir / "late-client.pcapng"), int(got["port"]), 7000 + i)
    equal(len(f.data[0]), 530001, "late, client's end: bytes sent after the agent came")
    equal(f"{len(f.data[1])} {sha256(bytes(f.data[1]))}", got["got"], "late, client's end: answer")
    f = find_flow(flows(t.dir / "late-server.pcapng"), int(got["port"]), 7000 + i)
    equal(f"{len(f.data[1])} {sha256(bytes(f.data[1]))}", got["got"], "late, server's end: answer")
    check(530001 - 70000 <= len(f.data[0]) <= 530001, f"late, server's end: {len(f.data[0])} bytes")
    fact(f"attached in mid-connection: {530001} + {len(f.data[1])} bytes at the client's end, "
         f"{len(f.data[0])} + {len(f.data[1])} at the server's")


def tools(t, db):
    """selfserv answers a request of OpenSSL's; tstclnt asks nginx."""
    if not shutil.which("selfserv") or not shutil.which("tstclnt"):
        return fact("selfserv and tstclnt: not here")
    body = t.www("file", 200000)
    server = t.spawn("selfserv", "selfserv", "-d", db, "-n", "mirror.test", "-p", "7100", "-w", "x", ns=t.srv)
    until(lambda: ":7100 " in sh("ss", "-tln", ns=t.srv), 15, "selfserv listening")
    agents = [t.alone("-w", t.dir / "tools-server.pcapng", name="tools-server"),
              t.alone("-w", t.dir / "tools-client.pcapng", ns=t.cli, iface="cli0", name="tools-client")]
    page = t.curl("https://10.71.1.1:7100/some/page", "-i")
    check(page.startswith("HTTP/1.0 200") and "GET /some/page" in page, "selfserv's page:", page[:200])
    request = b"GET /file HTTP/1.1\r\nHost: mirror.test\r\nConnection: close\r\n\r\n"
    (t.dir / "request").write_bytes(request)
    sh("sh", "-c", f"(cat {t.dir}/request; sleep 1) | timeout 20 tstclnt -h 10.71.1.1 -p 443 -d {db} -o > {t.dir}/answer",
       ns=t.cli, ok=None)
    answer = (t.dir / "answer").read_bytes()
    check(answer.endswith(body), "tstclnt did not get the file:", len(answer))
    time.sleep(0.7)
    check(server.alive(), "selfserv ended")
    for a in agents:
        equal(a.stop(), 0, "agent's exit status")
    f = [f for f in flows(t.dir / "tools-server.pcapng") if f.server[1] == 7100]
    equal(len(f), 1, "selfserv's flows")
    equal(bytes(f[0].data[0]).split(b"\r\n")[0], b"GET /some/page HTTP/1.1", "selfserv's request")
    equal(bytes(f[0].data[1]).replace(b"\r", b""), page.encode().replace(b"\r", b""), "selfserv's page")
    f = [f for f in flows(t.dir / "tools-client.pcapng") if f.server[1] == 443]
    equal(len(f), 1, "tstclnt's flows")
    equal([bytes(d) for d in f[0].data], [request, answer], "tstclnt's request and answer")
    fact(f"selfserv and tstclnt: {len(page)} and {len(answer)} bytes exact")


def main(t):
    t.lab(sensor=False)
    t.nginx()
    db = database(t)
    flags = sh("pkg-config", "--cflags", "--libs", "nss", ok=None).split()
    check(flags, "pkg-config knows no nss: libnss3-dev is needed")
    exe = t.compile("nssx.c", flags)
    at_server = t.alone("-w", t.dir / "server.pcapng", name="at-server")
    at_client = t.alone("-w", t.dir / "client.pcapng", ns=t.cli, iface="cli0", name="at-client")
    runs = [exchange(t, [exe], db, i, *r) for i, r in enumerate(RUNS)]
    bare = [exchange(t, [exe], db, 30 + i, *r) for i, r in enumerate(BARE)]
    check(sum(int(r[4].split()[0]) for r in runs) > 100, "no call had to be repeated: no test")
    check(sum(int(r[4].split()[-1]) for r in runs) > 100000, "nothing was peeked: no test")
    time.sleep(1)
    lost = losses(at_server, at_client)
    t.drain(at_server)
    t.drain(at_client)
    compare(t, runs)
    unseen(t, bare)
    fact("losses:", lost or "none")
    late(t, exe, db)
    tools(t, db)


if __name__ == "__main__":
    run(main, needs=["gcc", "pkg-config", "certutil", "pk12util", "nginx", "curl", "ss"])
