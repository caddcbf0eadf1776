#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""What stands on a connection before TLS, and TLS inside TLS. Twelve protocols on 26 ports at once, mirrored at
both ends in each mode, expected bytes made from what the server says it got and sent; an agent that comes
late, and a beginning that is too long; memory BIOs; CONNECT through a plain and through a TLS proxy; Postfix,
judged by Suricata; MariaDB, judged by tshark; PostgreSQL."""
import asyncio
import json
import os
import pathlib
import re
import shutil
import time

from lib import PRELOADS, PY, check, equal, fact, find_flow, flows, losses, run, sh, sha256, until

STARTTLS = (b"STARTTLS\r\n", b"")
XMPP_NS = b"xmlns='urn:ietf:params:xml:ns:xmpp-tls'"
# What `stitch` takes out: of the client's words, of the server's.
CUTS = {
    # the greeting comes again inside TLS
    "smtp": ([(b"EHLO mail.example.com\r\n", b""), STARTTLS],
             [(b"250-mirror.test\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250 HELP\r\n", b""), (b"220 2.0.0 Ready\r\n", b"")]),
    "lmtp": ([(b"LHLO mail.example.com\r\n", b""), STARTTLS],
             [(b"250-mirror.test\r\n250-SIZE 1000\r\n250 STARTTLS\r\n", b""), (b"220-Now\r\n220 go\r\n", b"")]),
    "pop3": ([(b"STLS\r\n", b"")], [(b"+OK Begin TLS\r\n", b"")]),
    "imap": ([(b". STARTTLS\r\n", b"")], [(b"IMAP4rev1 STARTTLS LOGIN", b"IMAP4rev1 LOGIN"), (b"ID STARTTLS", b"ID"),
                                          (b". OK Begin TLS\r\n", b"")]),
    "ftp": ([(b"AUTH TLS\r\n", b"")], [(b"234 Proceed\r\n", b"")]),
    "nntp": ([STARTTLS], [STARTTLS, (b"382 Continue\r\n", b"")]),
    "sieve": ([STARTTLS], [(b'"STARTTLS"\r\n', b""), (b'OK "Begin TLS"\r\n', b"")]),
    "xmpp": ([(b"<starttls " + XMPP_NS + b"/>", b"")],
             [(b"<starttls " + XMPP_NS + b"><required/></starttls>", b""), (b"<proceed " + XMPP_NS + b"/>", b"")]),
    "ldap": ([(b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037", b"")],
             [(b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00", b"")]),
    "postgres": ([(b"\0\0\0\x08\x04\xd2\x16\x2f", b"")], [(b"S", b"")]),
    "mysql": ([], [(b"saltsalt\0\xff\xff", b"saltsalt\0\xff\xf7")]),
    "proxied": ([], []),
}
PG = next((f.parent for f in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)
PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n"
PROXIED = f"""import socket, ssl, sys, time
raw = socket.create_connection(("10.71.1.1", int(sys.argv[1])))
raw.sendall({PROXY!r})
ctx = ssl._create_unverified_context()
s = ctx.wrap_socket(raw)
s.sendall(b"hello from inside 0\\n")
s.recv(1000)
s.close()
"""
# EHLO, then a pause until a line comes on stdin
LATE = """import socket, ssl, sys
raw = socket.create_connection(("10.71.1.1", int(sys.argv[1])))
raw.recv(1000)
raw.sendall(b"EHLO late\\r\\n")
raw.recv(1000)
print("waiting", raw.getsockname()[1], flush=True)
sys.stdin.readline()
raw.sendall(b"STARTTLS\\r\\n")
raw.recv(1000)
s = ssl._create_unverified_context().wrap_socket(raw)
s.sendall(b"late\\n")
s.recv(1000)
s.close()
print("done", flush=True)
"""
LOGIN = b"\x09\0\0\x02\x05\xae\x3f\x08root\n"  # MySQL: a handshake response, the 3rd packet of its handshake


LONG = LATE.replace("""print("waiting", raw.getsockname()[1], flush=True)
sys.stdin.readline()
""", 'raw.sendall(b"NOOP 8901234\\r\\n" * 1243)\n')
# a part of it comes from a file, by a call that no library sees
PAST = LATE.replace("""print("waiting", raw.getsockname()[1], flush=True)
sys.stdin.readline()
""", """import os
f = os.memfd_create("noop")
os.write(f, b"NOOP 8901234\\r\\n")
os.sendfile(raw.fileno(), f, 0, 14)
""")
# one end of SMTP with memory BIOs: "server" or "client"
ASYNC = """import asyncio, ssl, sys
side, port, crt, key = sys.argv[1:]
answers = {b"EHLO": b"250-a\\r\\n250 STARTTLS\\r\\n", b"STARTTLS": b"220 go\\r\\n"}

async def serve(r, w):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(crt, key)
    w.write(b"220 a\\r\\n")
    while got := await r.readline():
        word = got.split()[0]
        w.write(answers.get(word, b"you said " + got))
        if word == b"STARTTLS":
            await w.start_tls(ctx)
    w.close()

async def ask(port):
    r, w = await asyncio.open_connection("10.71.1.1", port)
    await r.readline()
    w.write(b"EHLO c\\r\\n")
    await r.readuntil(b"250 STARTTLS\\r\\n")
    w.write(b"STARTTLS\\r\\n")
    await r.readline()
    await w.start_tls(ssl._create_unverified_context())
    for i in range(5):
        w.write(b"inside %d\\n" % i)
        await r.readline()
    print("talked", w.get_extra_info("sockname")[1], flush=True)
    w.close()

async def main():
    if side == "client":
        return await asyncio.gather(*(ask(int(port)) for _ in range(4)))
    async with await asyncio.start_server(serve, "10.71.1.1", int(port)) as s:
        print("listening", flush=True)
        await s.serve_forever()
asyncio.run(main())
"""


def inside(kind, i):
    return LOGIN if kind == "mysql" else b"hello from inside %d\n" % (0 if kind == "proxied" else i)


def replaced(data, cuts, what):
    for old, new in cuts:
        check(old in data, f"{what}: {old!r} was not said: {data!r}")
        data = new.join(data.rsplit(old, 1))
    return data


def expected(mode, c):
    """From the client, from the server."""
    clear, inner = ([bytes.fromhex(x) for x in c[k]] for k in ("clear", "inner"))
    if mode == "inner":
        return inner
    if mode == "keep":
        return [a + b for a, b in zip(clear, inner)]
    kind = c["kind"]
    left = [replaced(d, cuts, kind) for d, cuts in zip(clear, CUTS[kind])]
    if kind == "mysql":
        equal(len(clear[0]), 36, "MySQL's request for TLS")
        left[0] = b""
        # counted on from where the rest ends, and without the capability
        got, sent = inner
        inner = [got[:3] + b"\x01" + got[4:5] + bytes([got[5] & ~8]) + got[6:],
                 sent[:3] + bytes([sent[3] - 1]) + sent[4:]]
    return [a + b for a, b in zip(left, inner)]


def no_loss(agent):
    """What is counted before a connection is known and chosen is the whole host's: other programs run here."""
    equal({k: n for k, n in losses(agent).items() if not re.search(":(capture|flow_bytes_lost)_", k)}, {}, "losses")


def talk(t, port, kind, i):
    if kind == "proxied":
        return t.spawn(kind, PY, "-c", PROXIED, port, ns=t.cli)
    (t.dir / f"in{i}").write_bytes(inside(kind, i))
    return t.spawn(kind, "sh", "-c", f"(cat {t.dir}/in{i}; sleep 2) | openssl s_client -quiet -no_ign_eof "
                   f"-starttls {kind} -connect 10.71.1.1:{port}", ns=t.cli)


def ask(t, *cmd, timeout=60):
    """A client, run to its end."""
    return sh(*cmd, ns=t.cli, timeout=timeout, env={**os.environ, **(t.preloaded(t.cli) if PRELOADS else {})})


def both_ends(t, name, *args):
    return {side: t.alone("-w", t.dir / f"{name}-{side}.pcapng", *args, iface=f"{side}0", ns=ns, name=f"{name}-{side}")
            for side, ns in (("srv", t.srv), ("cli", t.cli))}


def server(t, name, ports):
    crt, key = t.cert()
    p = t.helper(name, "starttls.py", "10.71.1.1", crt, key, *(f"{k}={n}" for n, k in ports.items()), ns=t.srv)
    p.wait_line("listening", where="out")
    return p


def said(proc, n, what):
    until(lambda: proc.out().count("\n{") >= n or not proc.alive(), 40, f"{n} connections of {what}", 0.2)
    return [json.loads(x) for x in proc.out().splitlines() if x.startswith("{")]


def protocols(t, mode):
    kinds = list(CUTS)
    ports = {7000 + i: kinds[i % len(kinds)] for i in range(26)}
    srv = server(t, f"starttls-{mode}", ports)
    agents = both_ends(t, mode, "--starttls", mode)
    clients = [talk(t, port, kind, i) for i, (port, kind) in enumerate(ports.items())]
    for c in clients:
        equal(c.wait(40), 0, f"{c.name}'s status")
    talks = said(srv, len(ports), "starttls.py")
    equal(len(talks), len(ports), "connections as the server saw them")
    time.sleep(1)
    for side, agent in agents.items():
        n = 0
        t.drain(agent)
        no_loss(agent)
        seen = flows(t.dir / f"{mode}-{side}.pcapng")
        for c in talks:
            check(c["inner"][0] and c["inner"][1], f"{c['kind']}: nothing was said inside TLS")
            want = expected(mode, c)
            f = find_flow(seen, c["peer"], c["port"])
            for d, who in enumerate(("client", "server")):
                equal(bytes(f.data[d]), want[d], f"{mode}, {side}: {c['kind']}: the {who}'s words")
            n += sum(map(len, want))
        counted = agent.counters()
        equal(counted.get("flow_preludes", 0), 0 if mode == "inner" else len(ports), "preludes told")
        equal(counted.get("flow_preludes_stitched", 0), sum(k != "proxied" for k in ports.values())
              if mode == "stitch" else 0, "preludes stitched")
        fact(f"{mode} at {side}: {len(talks)} connections at once, {len(kinds)} protocols, {n} bytes, exact")
    srv.kill()


def late(t):
    srv = server(t, "late", {7100: "smtp"})
    client = t.spawn("client", PY, "-u", "-c", LATE, 7100, ns=t.cli, stdin=True)
    port = int(client.wait_line(r"waiting (\d+)", where="out").group(1))
    agents = both_ends(t, "late")
    client.say("go", "done")
    said(srv, 1, "starttls.py")
    time.sleep(1)
    for side, agent in agents.items():
        t.drain(agent)
        f = find_flow(flows(t.dir / f"late-{side}.pcapng"), port, 7100)
        equal([bytes(x) for x in f.data], [b"late\n", b"you said late\n"], f"bytes at {side} of an agent that came late")
    srv.kill()
    fact("agent attached between EHLO and STARTTLS: what was inside TLS, and nothing else")


def too_long(t):
    """More than 16 KiB before STARTTLS: what was inside TLS, and a counter that says so."""
    srv = server(t, "long", {7300: "smtp"})
    agents = both_ends(t, "long")
    client = t.spawn("client", PY, "-u", "-c", LONG, 7300, ns=t.cli)
    equal(client.wait(30), 0, "client's status")
    port = said(srv, 1, "starttls.py")[0]["peer"]
    time.sleep(1)
    for side, agent in agents.items():
        t.drain(agent)
        f = find_flow(flows(t.dir / f"long-{side}.pcapng"), port, 7300)
        equal([bytes(x) for x in f.data], [b"late\n", b"you said late\n"], f"bytes at {side} after a long beginning")
        equal(agent.counters().get("flow_preludes_lost"), 1, "flow_preludes_lost")
    srv.kill()
    fact("17 KB before STARTTLS: what was inside TLS, counted")


def past_the_library(t):
    """A file that is sent before TLS is in no program's memory: then nothing is said of what was seen."""
    srv = server(t, "past", {7301: "smtp"})
    agents = both_ends(t, "past")
    client = t.spawn("client", PY, "-u", "-c", PAST, 7301, ns=t.cli)
    equal(client.wait(30), 0, "client's status")
    port = said(srv, 1, "starttls.py")[0]["peer"]
    time.sleep(1)
    for side, agent in agents.items():
        t.drain(agent)
        f = find_flow(flows(t.dir / f"past-{side}.pcapng"), port, 7301)
        if side == "cli":
            equal([bytes(x) for x in f.data], [b"late\n", b"you said late\n"], "bytes at the client")
            name = "flow_preludes_lost" if PRELOADS else "capture_operations_unreadable"
            equal(agent.counters().get(name), 1, name)
        else:
            check(b"NOOP 8901234\r\n" in f.data[0], f"a file's bytes before STARTTLS: {f.data[0]}")
    srv.kill()
    fact("bytes of a file before STARTTLS: told, or nothing but what was inside TLS, counted")


def memory_bios(t):
    """asyncio at both ends: TLS begins on a transport that was plain, and never has the socket."""
    if not hasattr(asyncio.StreamWriter, "start_tls"):
        fact("asyncio has no start_tls(): memory BIOs are left out")
        return
    crt, key = t.cert()
    srv = t.spawn("aserver", PY, "-u", "-c", ASYNC, "server", 7200, crt, key, ns=t.srv)
    srv.wait_line("listening", where="out")
    agents = both_ends(t, "memory")
    client = t.spawn("aclient", PY, "-u", "-c", ASYNC, "client", 7200, crt, key, ns=t.cli)
    equal(client.wait(30), 0, "client's status")
    time.sleep(1)
    lines = b"".join(b"inside %d\n" % i for i in range(5))
    want = [lines, b"220 a\r\n" + b"".join(b"you said inside %d\n" % i for i in range(5))]
    ports = [int(x) for x in re.findall(r"talked (\d+)", client.out())]
    equal(len(ports), 4, "conversations")
    for side, agent in agents.items():
        t.drain(agent)
        seen = flows(t.dir / f"memory-{side}.pcapng")
        for port in ports:
            equal([bytes(x) for x in find_flow(seen, port, 7200).data], want, f"memory BIOs, {side}")
    srv.kill()
    fact("asyncio with start_tls(): 4 conversations at once, both ends, exact")


def through_proxy(t, tls, outer):
    """curl to nginx through a proxy: the client's end, and the proxy's."""
    crt, key = t.cert()
    n = 3128 + tls
    what = f"{'https' if tls else 'http'} proxy, {'outer' if outer else 'peel'}"
    proxy = t.helper("proxy", "connect_proxy.py", "10.71.1.1", n, *((crt, key) if tls else ()), ns=t.srv)
    proxy.wait_line("listening", where="out")
    body = (t.dir / "www" / "file").read_bytes()
    name = f"proxy-{n}-{outer}"
    agents = both_ends(t, name, *(("--tls-in-tls", "outer") if outer else ()))
    t.curl("--proxy", f"{'https' if tls else 'http'}://10.71.1.1:{n}", "--proxy-insecure", "-o", t.dir / "got",
           "https://10.71.1.1/file")
    equal(sha256((t.dir / "got").read_bytes()), sha256(body), "file as curl got it")
    c = said(proxy, 1, "connect_proxy.py")[0]
    check("error" not in c, c)
    time.sleep(1)
    for a in agents.values():
        t.drain(a)
        no_loss(a)
    asked, answered = bytes.fromhex(c["asked"]), bytes.fromhex(c["answered"])
    up, down = (bytes(x) for x in find_flow(flows(t.dir / f"{name}-cli.pcapng"), c["peer"], n).data)
    check(up.startswith(asked) and down.startswith(answered), f"{what}: no CONNECT in front: {up[:80]} {down[:80]}")
    up, down = up[len(asked):], down[len(answered):]
    if outer and tls:
        equal([[len(x), sha256(x)] for x in (up, down)], [c["up"], c["down"]], f"{what}: the records within")
        check(up[:2] == b"\x16\x03" and down[:2] == b"\x16\x03", "no TLS records")
    else:
        check(re.fullmatch(rb"GET /file HTTP/1\.1\r\nHost: 10\.71\.1\.1\r\n([^\r]+\r\n)+\r\n", up), f"{what}: request: {up}")
        check(down.startswith(b"HTTP/1.1 200 OK\r\n"), f"{what}: answer: {down[:100]}")
        equal(sha256(down[-len(body):]), sha256(body), f"{what}: body")
    if tls:
        at_proxy = find_flow(flows(t.dir / f"{name}-srv.pcapng"), c["peer"], n)
        equal([sha256(bytes(x[len(y):])) for x, y in zip(at_proxy.data, (asked, answered))],
              [c["up"][1], c["down"][1]], f"{what}: what the proxy itself sees")
    fact(f"{what}: CONNECT in front, then {len(up)} and {len(down)} bytes, exact")
    proxy.kill()


# A proxy asked through TLS, and TLS in memory inside of it.
INSIDE = """import socket, ssl
ctx = ssl._create_unverified_context()
outer = ctx.wrap_socket(socket.create_connection(("10.71.1.1", 3129)))
outer.sendall(b"CONNECT 10.71.1.1:443 HTTP/1.1\\r\\n\\r\\n")
outer.recv(1000)
came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
inner = ctx.wrap_bio(came, goes)
def until_done(f, *a):
    while True:
        try:
            got, more = f(*a), False
        except ssl.SSLWantReadError:
            more = True
        if goes.pending:
            outer.sendall(goes.read())
        if not more:
            return got
        came.write(outer.recv(65536))
until_done(inner.do_handshake)
until_done(inner.write, b"GET /file HTTP/1.0\\r\\n\\r\\n")
n = 0
while n < 300000:
    n += len(until_done(inner.read, 65536))
print("port", outer.getsockname()[1])
"""


def inside_by_memory(t):
    """The preloaded library: what one object sends as plaintext is another one's record."""
    proxy = t.helper("proxy", "connect_proxy.py", "10.71.1.1", 3129, *t.cert(), ns=t.srv)
    proxy.wait_line("listening", where="out")
    for how in ("peel", "outer"):
        agents = both_ends(t, f"inside-{how}", "--tls-in-tls", how)
        port = int(ask(t, PY, "-c", INSIDE).split()[1])
        time.sleep(1)
        for a in agents.values():
            t.drain(a)
        up, down = (bytes(x) for x in find_flow(flows(t.dir / f"inside-{how}-cli.pcapng"), port, 3129).data)
        asked = b"CONNECT 10.71.1.1:443 HTTP/1.1\r\n\r\n"
        check(up.startswith(asked), f"{how}: {up[:80]}")
        up, down = up[len(asked):], down.split(b"\r\n\r\n", 1)[1]
        if how == "peel":
            equal(up, b"GET /file HTTP/1.0\r\n\r\n", "what was said inside")
            check(down.startswith(b"HTTP/1.1 200 OK\r\n") and down.endswith((t.dir / "www" / "file").read_bytes()),
                  f"what was answered inside: {down[:80]}")
        else:
            check(up[:2] == b"\x16\x03" and down[:2] == b"\x16\x03", f"records: {up[:10]} {down[:10]}")
    proxy.kill()
    fact("TLS in memory inside TLS: the inner one, or the outer one, exact")


# Postfix -------------------------------------------------------------------------------------------
MASTER = """smtp inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
SEND = """import smtplib, ssl, sys
s = smtplib.SMTP("10.71.1.1", 25, local_hostname="client.test", timeout=30)
port = s.sock.getsockname()[1]
s.starttls(context=ssl._create_unverified_context())
s.sendmail("from@client.test", ["to@mirror.test"], "Subject: secret\\r\\n\\r\\nthe body\\r\\n")
s.quit()
print("sent", port)
"""


def postfix(t):
    crt, key = t.cert()
    home = t.dir / "postfix"
    for d in ("queue", "data", "etc"):
        (home / d).mkdir(parents=True)
    shutil.chown(home / "data", "postfix")
    (home / "etc" / "master.cf").write_text(MASTER)
    keep = "import_environment = MAIL_CONFIG TZ LD_PRELOAD SSLCOLLECTOR_RUN_DIR" if PRELOADS else ""
    (home / "etc" / "main.cf").write_text(f"""compatibility_level = 3.6
{keep}
queue_directory = {home}/queue
data_directory = {home}/data
myhostname = mirror.test
mydestination = mirror.test
inet_interfaces = 10.71.1.1
inet_protocols = ipv4
local_transport = discard:
local_recipient_maps =
alias_maps =
smtpd_tls_cert_file = {crt}
smtpd_tls_key_file = {key}
smtpd_tls_security_level = may
maillog_file = {home}/log
maillog_file_prefixes = {home}
""")
    sh("postfix", "-c", home / "etc", "check", ns=t.srv, timeout=60)
    p = t.spawn("postfix", "/usr/lib/postfix/sbin/master", "-c", home / "etc", "-d", ns=t.srv)
    until(lambda: ":25 " in sh("ss", "-tln", ns=t.srv) or not p.alive(), 20, "postfix listening")
    check(p.alive(), "postfix:", p.err(), (home / "log").read_text() if (home / "log").exists() else "")
    return p


def mail(t, mode):
    """What Suricata makes of one mail: (anomalies, smtp records)."""
    agents = both_ends(t, f"mail-{mode}", "--starttls", mode)
    port = int(ask(t, PY, "-c", SEND).split()[1])
    time.sleep(1)
    both = {}
    for side, agent in agents.items():
        t.drain(agent)
        no_loss(agent)
        both[side] = [bytes(x) for x in find_flow(flows(t.dir / f"mail-{mode}-{side}.pcapng"), port, 25).data]
    equal(both["srv"], both["cli"], f"{mode}: the mail at both ends")
    check(b"\r\nthe body\r\n" in both["srv"][0], f"no body: {both['srv'][0]}")
    records = t.suricata_read(t.dir / f"mail-{mode}-srv.pcapng", "")
    odd = {r["anomaly"]["event"] for r in records if r.get("event_type") == "anomaly"}
    odd = sorted(odd - {"APPLAYER_DETECT_PROTOCOL_ONLY_ONE_DIRECTION"})  # as with every mail in the clear
    return both["srv"], odd, [r["smtp"] for r in records if "mail_from" in r.get("smtp", {})]


def real_mail(t):
    p = postfix(t)
    (client, server), odd, smtp = mail(t, "stitch")
    check(client.startswith(b"ehlo client.test\r\nmail FROM:"), f"client: {client[:200]}")
    check(server.startswith(b"220 mirror.test ESMTP") and b"STARTTLS" not in client.upper() + server.upper(),
          f"server: {server[:200]}")
    equal(odd, [], "anomalies that Suricata sees in the stitched mail")
    equal([(s["mail_from"], s["rcpt_to"]) for s in smtp], [("<from@client.test>", ["<to@mirror.test>"])], "smtp records")
    (client, server), odd, smtp = mail(t, "keep")
    check(client.upper().count(b"STARTTLS\r\n") == 1 and b"250-STARTTLS\r\n" in server, f"keep: {client[:100]} {server}")
    check(odd, "Suricata sees nothing odd in what was kept: this test looks in the wrong place")
    (client, server), inner_odd, _ = mail(t, "inner")
    check(client.startswith(b"ehlo client.test\r\nmail FROM:") and not server.startswith(b"220 mirror"), "inner")
    fact(f"postfix: one mail, stitched without anomalies; keep: {odd}; inner: {inner_odd}")
    p.stop(15, 20)


# data bases -----------------------------------------------------------------------------------------
def mariadb(t):
    """Handshake and queries as tshark reads them: the request for TLS is out, the numbering goes on."""
    crt, key = t.cert()
    key.chmod(0o644)
    home = t.dir / "mariadb"
    own_tmp = ("env", "TMPDIR=/tmp")  # the server's user may write there
    sh(*own_tmp, "mariadb-install-db", "--no-defaults", f"--datadir={home}", "--user=mysql",
       "--auth-root-authentication-method=normal", timeout=120)
    run_sql = ["mariadb", "--no-defaults", "--ssl", "-h", "10.71.1.1", "-u", "other", "-ppassword", "-e"]
    t.spawn("mariadbd", *own_tmp, "mariadbd", "--no-defaults", f"--datadir={home}", "--user=mysql", "--bind-address=10.71.1.1",
            f"--socket={home}/sock", f"--ssl-cert={crt}", f"--ssl-key={key}", ns=t.srv)
    until(lambda: ":3306 " in sh("ss", "-tln", ns=t.srv), 60, "mariadbd listening")
    sh("mariadb", "--no-defaults", "-S", home / "sock", "-u", "root", "-e",
       "create user other@'%' identified by 'password' require ssl")
    agents = both_ends(t, "mariadb")
    equal(ask(t, *run_sql, "select 41 + 1"), "41 + 1\n42\n", "answer")
    time.sleep(1)
    words = []
    for side, agent in agents.items():
        t.drain(agent)
        (f,) = (x for x in flows(t.dir / f"mariadb-{side}.pcapng") if x.server[1] == 3306)
        words.append([bytes(x) for x in f.data])
        if not shutil.which("tshark"):
            continue
        out = sh("tshark", "-r", t.dir / f"mariadb-{side}.pcapng", "-Y", "mysql", "-T", "fields", "-e", "mysql.user",
                 "-e", "mysql.query", "-e", "mysql.message", "-e", "_ws.col.Info", timeout=60)
        check("Login Request user=other" in out and "\tselect 41 + 1\t" in out, f"tshark at {side}: {out}")
        equal(sh("tshark", "-r", t.dir / f"mariadb-{side}.pcapng", "-Y", "tls || _ws.malformed || mysql.error_code",
                 timeout=60), "", "packets that tshark takes for something else")
    equal(words[0], words[1], "MySQL at both ends")
    equal(words[0][0][3], 1, "number of the client's first packet")
    check(b"select 41 + 1" in words[0][0] and b"\x0242" in words[0][1], f"query: {words[0]}")
    fact(f"mariadb: {sum(map(len, words[0]))} bytes, the same at both ends; tshark reads login and query")


def postgres(t):
    crt, _ = t.cert()
    home = t.dir / "postgres"
    home.mkdir()
    shutil.chown(home, "postgres")
    sh("runuser", "-u", "postgres", "--", PG / "initdb", "-D", home / "data", "-A", "trust", timeout=120)
    for src, name in ((crt, "server.crt"), (crt.with_suffix(".key"), "server.key")):
        shutil.copy(src, home / "data" / name)
        (home / "data" / name).chmod(0o600)
        shutil.chown(home / "data" / name, "postgres")
    with open(home / "data" / "pg_hba.conf", "a") as f:
        f.write("hostssl all all 10.71.1.0/24 trust\n")
    t.spawn("postgres", "runuser", "-u", "postgres", "--", PG / "postgres", "-D", home / "data", "-k", home, "-c", "ssl=on",
            "-c", "listen_addresses=10.71.1.1", ns=t.srv)
    until(lambda: ":5432 " in sh("ss", "-tln", ns=t.srv), 60, "postgres listening")
    agents = both_ends(t, "postgres")
    equal(ask(t, "psql", "-At", "host=10.71.1.1 user=postgres dbname=postgres sslmode=require", "-c", "select 41 + 1"),
          "42\n", "answer")
    time.sleep(1)
    words = []
    for side, agent in agents.items():
        t.drain(agent)
        (f,) = (x for x in flows(t.dir / f"postgres-{side}.pcapng") if x.server[1] == 5432)
        words.append([bytes(x) for x in f.data])
    equal(words[0], words[1], "PostgreSQL at both ends")
    client, server = words[0]
    check(client[4:8] == b"\0\3\0\0" and b"user\0postgres\0" in client[:60], f"no startup message first: {client[:60]}")
    check(server.startswith(b"R\0\0\0\x08\0\0\0\0") and b"select 41 + 1\0" in client, f"server: {server[:60]}")
    fact(f"postgres: {sum(map(len, words[0]))} bytes, the same at both ends; begins with the startup message")


def real_servers(t):
    if shutil.which("postfix") and shutil.which("suricata"):
        real_mail(t)
    else:
        fact("postfix or suricata is not installed: mail is left out")
    if all(map(shutil.which, ("mariadbd", "mariadb", "mariadb-install-db"))):
        mariadb(t)
    else:
        fact("mariadb is not installed: left out")
    if PG and shutil.which("psql"):
        postgres(t)
    else:
        fact("postgres is not installed: left out")


def main(t):
    t.lab(sensor=False)
    for mode in ("stitch", "keep", "inner"):
        protocols(t, mode)
    late(t)
    too_long(t)
    past_the_library(t)
    memory_bios(t)
    t.nginx()
    t.www("file", 300000)
    for tls, outer in ((False, False), (True, False), (True, True)):
        through_proxy(t, tls, outer)
    if PRELOADS:
        inside_by_memory(t)
    real_servers(t)


run(main, needs=["nginx", "curl", "ss"])
