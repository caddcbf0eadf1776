#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""OpenSSL linked into the program: exact at both ends while the program has symbols; without them
nothing of it is mirrored, and nobody claims that it is."""
import glob
import re
import time

from lib import PROGS, Skip, check, equal, fact, find_flow, flows, run, sh, sha256

SSL = ["-Wl,-Bstatic", "-lssl", "-lcrypto", "-Wl,-Bdynamic"]
# name, options of the linker, has symbols
BUILDS = (("static", ["-static", "-lssl", "-lcrypto"], True),
          ("static, position-independent", ["-static-pie", "-fPIE", "-lssl", "-lcrypto"], True),
          ("dynamic with OpenSSL inside", SSL, True),
          ("static, stripped", ["-static", "-s", "-lssl", "-lcrypto"], False))
SPEC_CLIENT, SPEC_SERVER = "1,16384,100000,3", "70000,200x3"
TOTAL_CLIENT, TOTAL_SERVER = 1 + 16384 + 100000 + 3, 70000 + 600


def compile_as(t, i, flags):
    exe = t.dir / f"own{i}"
    sh("gcc", "-std=c17", "-D_GNU_SOURCE", "-O2", "-o", exe, PROGS / "xfer.c", *flags, timeout=60)
    return exe


def exchange(t, exe, port):
    crt, key = t.cert()
    s = t.spawn("server", exe, "server", "10.71.1.1", port, crt, key, SPEC_SERVER, TOTAL_CLIENT, ns=t.srv)
    s.wait_line("listening", where="out")
    c = t.spawn("client", exe, "client", "10.71.1.1", port, crt, key, SPEC_CLIENT, TOTAL_SERVER, ns=t.cli)
    equal((c.wait(30), s.wait(20)), (0, 0), f"status {c.err()} {s.err()}")
    return dict(re.findall(r"^(sent|got|port) (.*)$", c.out(), re.M))


def main(t):
    if not glob.glob("/usr/lib/*/libssl.a") + glob.glob("/usr/lib64/libssl.a"):
        raise Skip("libssl.a is not installed")
    t.lab(sensor=False)
    programs = [compile_as(t, i, flags) for i, (_, flags, _) in enumerate(BUILDS)]
    at_server = t.alone("-w", t.dir / "server.pcapng", name="at-server")
    at_client = t.alone("-w", t.dir / "client.pcapng", ns=t.cli, iface="cli0", name="at-client")
    said = [exchange(t, exe, 7100 + i) for i, exe in enumerate(programs)]
    time.sleep(1)
    t.drain(at_server)
    t.drain(at_client)
    for agent, end in ((at_server, "server"), (at_client, "client")):
        seen = flows(t.dir / f"{end}.pcapng")
        for i, (name, _, has_symbols) in enumerate(BUILDS):
            equal(f"probes on {programs[i]}" in agent.err(), has_symbols, f"{end}'s agent: probes on {name}")
            if not has_symbols:
                check(all(f.server[1] != 7100 + i for f in seen), f"{end}'s end, {name}: mirrored after all")
                continue
            f = find_flow(seen, int(said[i]["port"]), 7100 + i)
            equal([f"{len(d)} {sha256(bytes(d))}" for d in f.data], [said[i]["sent"], said[i]["got"]],
                  f"{end}'s end, {name}")
            fact(f"{end}'s end, {name}: {len(f.data[0])} + {len(f.data[1])} bytes equal")


run(main, needs=["gcc"])
