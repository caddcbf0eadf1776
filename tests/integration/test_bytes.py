#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""What the program moved is what the mirror shows, byte for byte, both ways, at either end: sizes from
1 byte to 5 MB a call, 10 000 one-byte writes, partial writes, retries, tiny socket buffers."""
import re
import time

from lib import check, equal, fact, find_flow, flows, losses, run, sha256

MIX = "1,100,16383,16384,16385,40000,1000000,5000000,3"
ONES = "1x10000"
# name, options of the server, of the client, server sends, client sends
RUNS = (
    ("blocking", "", "", MIX, MIX),
    ("blocking, tiny buffers", "tiny", "tiny", MIX, MIX),
    ("non-blocking, tiny buffers", "nonblock tiny", "nonblock tiny", MIX, MIX),
    ("non-blocking, partial writes", "nonblock tiny partial", "nonblock tiny partial", MIX, MIX),
    ("_ex calls", "ex", "ex", MIX, MIX),
    ("_ex, non-blocking, partial", "nonblock tiny partial ex", "nonblock tiny partial ex", MIX, MIX),
    ("one-byte writes", "", "", ONES, ONES),
    ("one-byte writes, non-blocking", "nonblock tiny ex", "nonblock tiny", ONES, ONES),
    ("TLS 1.2, partial", "nonblock tiny partial", "nonblock tiny partial tls12", MIX, MIX),
    ("IPv6", "nonblock tiny", "nonblock tiny", MIX, "1,5000000"),
)


def total(spec):
    return sum(int(w.split("x")[0]) * int((w.split("x") + ["1"])[1]) for w in spec.split(","))


def exchange(t, exe, i, name, srv_opts, cli_opts, srv_spec, cli_spec):
    crt, key = t.cert()
    addr, port = ("fd71:1::1" if name == "IPv6" else "10.71.1.1"), 7000 + i
    s = t.spawn("xfer-server", exe, "server", addr, port, crt, key, srv_spec, total(cli_spec),
                *srv_opts.split(), ns=t.srv)
    s.wait_line("listening", where="out")
    c = t.spawn("xfer-client", exe, "client", addr, port, crt, key, cli_spec, total(srv_spec),
                *cli_opts.split(), ns=t.cli)
    equal((c.wait(40), s.wait(20)), (0, 0), f"{name}: status {c.err()} {s.err()}")
    said = dict(re.findall(r"^(sent|got|port|retries) (.*)$", c.out(), re.M))
    equal(re.findall(r"^got (.*)$", s.out(), re.M)[0], said["sent"], f"{name}: TLS itself")
    return name, (int(said["port"]), port), said["sent"], said["got"], said["retries"]


def main(t):
    t.lab(sensor=False)
    exe = t.compile("xfer.c")
    at_server = t.alone("-w", t.dir / "server.pcapng", name="at-server")
    at_client = t.alone("-w", t.dir / "client.pcapng", "--probes", "records", ns=t.cli, iface="cli0", name="at-client")
    runs = [exchange(t, exe, i, *r) for i, r in enumerate(RUNS)]
    check(any(int(r[4].split()[0]) > 100 for r in runs), "no call had to be repeated: no test")
    time.sleep(1)
    t.drain(at_server)
    t.drain(at_client)
    fact("losses:", losses(at_server, at_client) or "none")
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
                     f"repeated calls {retries}")
    check(not wrong, "\n".join(wrong))


run(main, needs=["gcc"])
