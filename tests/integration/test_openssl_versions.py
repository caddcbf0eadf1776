#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""OpenSSL as other Debian releases build it, by all ways to call it, byte-exact at both ends. The client's agent
finds the functions that all calls go through in each of them, the server's takes the place where records pass."""
import platform
import time

from lib_conversations import WAYS, converse, judge
from lib import PROGS, Skip, check, equal, fact, flows, run, sh
from lib_debs import Suite
from lib_experiment import experiment, keep

LIB = "usr/lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"
# suite, packages, whether programs need its own C library, ways that it has beside the common ones
RELEASES = (("bullseye", ("libssl1.1", "libssl-dev"), False, ()),
            ("trixie", ("libssl3t64", "libc6", "zlib1g", "libzstd1"), True, ("ex2",)),
            ("forky", ("libssl3t64", "libc6", "zlib1g", "libzstd1"), True, ("ex2",)))


def program(t, suite, top, own_libc):
    """(command that runs calls.c with this release's library, that library)"""
    libs = top / LIB
    ssl = next(libs.glob("libssl.so.?*"))
    if own_libc:
        exe = t.compile("calls.c", ("-lssl", "-lcrypto", "-lpthread"))
        return [libs / LOADER, "--library-path", libs, exe], ssl
    exe = t.dir / f"calls-{suite}"
    sh("gcc", "-std=c17", "-D_GNU_SOURCE", "-O2", "-isystem", top / "usr/include", "-isystem",
       top / "usr/include/x86_64-linux-gnu", "-o", exe, PROGS / "calls.c", f"-L{libs}", "-lssl", "-lcrypto",
       "-lpthread", timeout=60)
    return ["env", f"LD_LIBRARY_PATH={libs}", exe], ssl


def known(agents, cmd, ssl, t, port):
    """A library outside of the system's directories gets its probes when somebody has mapped it."""
    crt, key = t.cert()
    holder = t.spawn("holder", *cmd, "server", "10.71.1.1", port, crt, key, "plain", ns=t.srv)
    holder.wait_line("listening", where="out")
    for a in agents:
        a.wait_line(rf"probes on .*{ssl.parent.relative_to(t.dir)}/{ssl.name}")
    return holder


def main(t):
    if platform.machine() != "x86_64":
        raise Skip("knows the libraries of x86-64 only")
    libs = [(suite, *program(t, suite, Suite(suite).unpack(t.dir / suite, *packages), own), more) for suite, packages, own, more in RELEASES]
    state = t.dir / "state"
    t.dir.chmod(0o711)  # the experiment has no privileges, and loads libcrypto from there
    for _, _, ssl, _ in libs:  # as an agent of that release would make it
        own = ssl.parent / LOADER
        if own.exists():
            keep(state, ssl, experiment(ssl, (own, "--library-path", f"{ssl.parent}:/{LIB}")))
        else:
            keep(state, ssl, experiment(ssl, LD_LIBRARY_PATH=str(ssl.parent)))
    t.lab(sensor=False)
    agents = [t.alone("-v", "-w", t.dir / "server.pcapng", "--state-dir", state, "--probes", "records", name="server"),
              t.alone("-v", "-w", t.dir / "client.pcapng", "--probes", "pairs", ns=t.cli, iface="cli0",
                      name="client")]
    talks = {}
    for k, (suite, cmd, ssl, more) in enumerate(libs):
        holder = known(agents, cmd, ssl, t, 7599 + 100 * k)
        talks[suite] = [c for i, way in enumerate(WAYS + more) for c in converse(t, cmd, 7600 + 100 * k + i, way)]
        holder.kill()
    time.sleep(1)
    for a in agents:
        internal = a.err().count("OpenSSL: probes on the internal")
        check(internal >= len(libs), f"{a.name}: only {internal} libraries are probed at their internal functions")
        t.drain(a)
    records = agents[0].err().count("OpenSSL: probes on records")
    check(records >= len(libs), f"only {records} libraries are probed where records pass")
    wrong = []
    for end in ("server", "client"):
        seen = flows(t.dir / f"{end}.pcapng", sound=False)
        for suite in talks:
            wrong += [f"{suite}: {w}" for w in judge(seen, talks[suite], f"{suite}, {end}")]
    check(not wrong, "\n".join(wrong))
    equal(len(talks), len(RELEASES), "releases")
    fact("all exact:", ", ".join(talks))


run(main, needs=["gcc", "apt-get", "dpkg-deb"])
