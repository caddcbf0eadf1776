#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""All ways to call GnuTLS: what the program moved is what the mirror shows, byte for byte, at either end:
interrupted sends that are resumed without their bytes, corked sends, files, ranges, packets, 0-RTT data
taken and rejected, keys changed meanwhile. What the kernel sends by itself is a gap. DTLS is not mirrored."""
import platform
import re
import time

from lib import PROGS, PY, check, equal, fact, find_flow, flows, losses, pattern, run, sh, sha256

MIX = "1,100,16383,16384,16385,40000,1000000,5000000,3"
SMALL = "1,100,1000,16384,5"
# name, options of the server, of the client, server sends, client sends
RUNS = (
    ("plain calls", "", "", MIX, MIX),
    ("non-blocking, tiny buffers", "nonblock tiny", "nonblock tiny", MIX, MIX),
    ("client resumes with (NULL, 0)", "nonblock tiny", "nonblock tiny null", MIX, MIX),
    ("server resumes with (NULL, 0), TLS 1.2", "nonblock tiny null tls12", "nonblock tiny tls12", MIX, MIX),
    ("corked", "cork", "cork", MIX, "700x100," + MIX),
    ("corked, uncorking interrupted", "cork nonblock tiny", "cork nonblock tiny", MIX, MIX),
    ("from a file", "file", "file", MIX, MIX),
    ("from a file, non-blocking", "file nonblock tiny", "nonblock tiny", MIX, MIX),
    ("ranges", "range", "range", MIX, MIX),
    ("padded, received as packets", "pad packet", "pad packet", MIX, MIX),
    ("packets, non-blocking, TLS 1.2", "packet nonblock tls12", "packet nonblock tls12", MIX, MIX),
    ("push and pull functions, recv_seq", "push seq", "push nonblock seq", MIX, MIX),
    ("bytes and what is left, keys change", "bytes rekey", "rekey bytes", MIX, MIX),
    ("rehandshake", "again tls12", "again tls12", MIX, MIX),
    ("later authentication", "reauth", "reauth", MIX, MIX),
    ("half closed", "half", "half", MIX, "70000"),
    ("one-byte sends", "", "", "1x3000", "1x3000"),
    ("IPv6", "", "", MIX, "1,70000"),
    ("0-RTT data taken", "early", "early", SMALL, SMALL),
    ("0-RTT data rejected", "early reject", "early reject", SMALL, SMALL),
    ("0-RTT data taken, client does not ask", "early", "early silent", SMALL, SMALL),
    ("0-RTT data rejected, client does not ask", "early reject", "early reject silent", SMALL, SMALL),
)
BARE = (("DTLS", "dtls", "dtls", "1,100,1000", "1,100,1000,7"),)


def total(spec):
    return sum(int(w.split("x")[0]) * int((w.split("x") + ["1"])[1]) for w in spec.split(","))


def said(proc):
    """What it said of each of its connections."""
    return [dict(re.findall(r"^(sent|got|port|retries) (.*)$", part, re.M))
            for part in re.findall(r"sent .*?^retries [^\n]*", proc.out(), re.M | re.S)]


def exchange(t, cmd, i, name, srv_opts, cli_opts, srv_spec, cli_spec):
    crt, key = t.cert()
    addr, port = ("fd71:1::1" if name == "IPv6" else "10.71.1.1"), 7000 + i
    s = t.spawn("gnutlsx-server", *cmd, "server", addr, port, crt, key, srv_spec, total(cli_spec),
                *srv_opts.split(), ns=t.srv)
    s.wait_line("listening", where="out")
    c = t.spawn("gnutlsx-client", *cmd, "client", addr, port, crt, key, cli_spec, total(srv_spec),
                *cli_opts.split(), ns=t.cli)
    equal((c.wait(60), s.wait(20)), (0, 0), f"{name}: status {c.err()} {s.err()}")
    mine, theirs = said(c), said(s)
    equal(len(mine), 2 if "early" in cli_opts else 1, f"{name}: connections")
    equal([(x["got"], x["sent"]) for x in theirs], [(x["sent"], x["got"]) for x in mine], f"{name}: TLS itself")
    if "early" in cli_opts:
        check(("early rejected" if "reject" in cli_opts else "early taken") in c.out(), name, "0-RTT:", c.out())
    return [(name, (int(x["port"]), port), x["sent"], x["got"],
             int(x["retries"].split()[0]) + int(y["retries"].split()[0]),
             int(x["retries"].split()[-1]) + int(y["retries"].split()[-1])) for x, y in zip(mine, theirs)]


def compare(t, runs):
    wrong = []
    for end in ("server", "client"):
        seen = flows(t.dir / f"{end}.pcapng", sound=False)
        for name, ports, sent, got, retries, resumed in runs:
            f = find_flow(seen, *ports)
            mirrored = [f"{len(d)} {sha256(bytes(d))}" for d in f.data]
            if mirrored != [sent, got] or not f.is_sound() or f.end != "fin":
                wrong.append(f"{end}'s end, {name}: {f}, program moved {sent.split()[0]} and {got.split()[0]}")
            else:
                fact(f"{end}'s end, {name}: {sent.split()[0]} + {got.split()[0]} bytes equal, "
                     f"repeated calls {retries}, resumed {resumed}")
    check(not wrong, "\n".join(wrong))


FAKE = """
import ctypes, socket, sys
lib = ctypes.CDLL(sys.argv[1])
f = open(sys.argv[2], 'rb', 0)
data = f.read()
f.seek(0)
s = socket.create_connection(('10.71.1.1', 7099))
send2 = lambda b: lib.gnutls_record_send2(ctypes.c_void_p(s.fileno()), b, ctypes.c_size_t(len(b)), ctypes.c_size_t(0), 0)
print(s.getsockname()[1], send2(data[:100]),
      lib.gnutls_record_send_file(ctypes.c_void_p(s.fileno()), f.fileno(), None, ctypes.c_size_t(len(data))),
      send2(data[-100:]), flush=True)
s.shutdown(socket.SHUT_WR)
s.recv(1)
"""
SINK = "import socket\ns = socket.create_server(('10.71.1.1', 7099))\nprint('listening', flush=True)\n" \
       "c = s.accept()[0]\nwhile c.recv(65536): pass\n"


def past_the_process(t):
    """gnutls_record_send_file with kernel TLS: this kernel has none, so a library plays it."""
    data, lib = pattern("file", 40960), t.dir / "libgnutls-fake.so"
    (t.dir / "data").write_bytes(data)
    sh("gcc", "-std=c17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", lib, PROGS / "fakegnutls.c")
    sink = t.spawn("sink", PY, "-c", SINK, ns=t.srv)
    sink.wait_line("listening", where="out")
    agent = t.alone("-w", t.dir / "file.pcapng", ns=t.cli, iface="cli0", name="file-agent")
    # the first time only makes the agent know the library
    sh(PY, "-c", f"import ctypes, time; ctypes.CDLL('{lib}'); time.sleep(1)", ns=t.cli)
    c = t.spawn("fake", PY, "-c", FAKE, lib, t.dir / "data", ns=t.cli)
    equal((c.wait(20), sink.wait(20)), (0, 0), c.err())
    port, *sent = map(int, c.out().split())
    equal(sent, [100, len(data), 100], "what the library said")
    time.sleep(0.5)
    gap = agent.counters().get("flow_bytes_gap_sendfile")
    equal(gap, len(data) // 2, "flow_bytes_gap_sendfile")
    equal(agent.stop(), 0, "agent's exit status")
    f = find_flow(flows(t.dir / "file.pcapng", sound=False), port, 7099)
    equal(bytes(f.data[0]), data[:100] + data[:len(data) // 2] + data[-100:], "told bytes")
    # what stands in for the gap is acknowledged, so that a receiver goes on behind it
    equal((f.holes, f.repeats, set(f.faults), f.end),
          ([len(data) // 2, 0], [0, 0], {"acknowledges what was not sent"}, "fin"), "the rest")
    fact(f"sent past the process: a gap of {f.holes[0]} bytes, counted")


def main(t):
    t.lab(sensor=False)
    exe = t.compile("gnutlsx.c", ["-lgnutls"])
    at_server = t.alone("-w", t.dir / "server.pcapng", name="at-server")
    at_client = t.alone("-w", t.dir / "client.pcapng", ns=t.cli, iface="cli0", name="at-client")
    runs = [x for i, r in enumerate(RUNS) for x in exchange(t, [exe], i, *r)]
    bare = [x for i, r in enumerate(BARE) for x in exchange(t, [exe], 50 + i, *r)]
    check(sum(r[4] for r in runs if "interrupted" in r[0]) > 10, "no uncorking was interrupted: no test")
    check(all(r[5] > 10 for r in runs if "NULL" in r[0]), "no send was resumed: no test")
    time.sleep(1)
    lost = losses(at_server, at_client)
    datagrams = [a.counters()["capture_bytes_datagrams"] for a in (at_server, at_client)]
    t.drain(at_server)
    t.drain(at_client)
    compare(t, runs)
    for end in ("server", "client"):
        ports = {f.server[1] for f in flows(t.dir / f"{end}.pcapng", sound=False)}
        check(not ports & {r[1][1] for r in bare}, f"{end}'s end: DTLS mirrored")
    if tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (6, 3):
        moved = 2 * sum(int(x.split()[0]) for x in bare[0][2:4])  # each agent sees both ends
        check(min(datagrams) >= moved, f"DTLS: counted {datagrams}, not {moved}")
    fact(f"DTLS: {bare[0][2].split()[0]} + {bare[0][3].split()[0]} bytes not mirrored")
    past_the_process(t)
    fact("losses of the whole host:", lost or "none")


if __name__ == "__main__":
    run(main, needs=["gcc"])
