#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Probes that change while programs run. A library whose code deceives those who read it: connections that
carried more than was captured cost its probes their tier, and what follows is exact."""
import hashlib
import json
import pathlib
import platform
import re
import time

from lib import PROGS, Skip, binary, check, equal, fact, flows, run, run_cmd, sh, sha256, until

# Of each connection 400000 bytes go past the last instructions of sly's SSL_write, 3000 do not.
LONG, SENT, ASKED = "1000x3,20000x20", 403000, 5000


def exchange(t, exe, n, env):
    """One connection; the server's library is the one in question."""
    port, (crt, key) = 7300 + n, t.cert()
    s = t.spawn(f"sly{n}", exe, "server", "10.71.1.1", port, crt, key, LONG, ASKED, ns=t.srv, env=env)
    s.wait_line("listening", where="out")
    c = t.spawn(f"peer{n}", exe, "client", "10.71.1.1", port, "-", "-", f"{ASKED}x1", SENT, ns=t.cli)
    equal((c.wait(30), s.wait(20)), (0, 0), f"status {c.err()} {s.err()}")
    return port, dict(line.split(" ", 1) for line in s.out().splitlines() if " " in line)


def coverage(t):
    p = run_cmd(binary(), "coverage", "--json", "--run-dir", t.dir / "run", timeout=30)
    return json.loads(p.stdout)


def deceived(t):
    lib = t.dir / "libsly.so"
    sh("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", lib, PROGS / "sly.c", timeout=60)
    check("cheap pair" in sh(binary(), "doctor", lib), "the library deceives nobody any more")
    exe = t.compile("xfer.c")
    out = t.dir / "sly.pcapng"
    agent = t.alone("-w", out, "--run-dir", t.dir / "run", "--probes", "pairs")
    env = {"LD_PRELOAD": str(lib)}
    exchange(t, exe, 0, env)  # the file is met here, and what comes in its first second is not judged
    agent.wait_line(rf"probes on {lib}")
    time.sleep(1.5)
    for n in (1, 2, 3):
        equal(agent.counters().get("capture_libs_lowered", 0), 0, f"before connection {n}: files with lower tiers")
        exchange(t, exe, n, env)
    until(lambda: agent.counters().get("capture_libs_lowered") == 1, 10, "a lower tier")
    after = [exchange(t, exe, n, env) for n in range(4, 9)]
    row = [r for r in coverage(t) if r["kind"] == "library" and r["path"] == str(lib)][0]
    equal((row["tier"], row["lowered_from"], row["functions"]), ("first", "pairs", 2), "what coverage says")
    before = hits(t)  # other programs' of the first second; one connection of xfer has 60 calls and more
    exchange(t, exe, 9, env)
    now = hits(t)
    check(all(now[k] > before[k] + 50 for k in ("entries", "exits")) and now["counted_ms"] > before["counted_ms"],
          "hits of one connection:", before, now)
    text = run_cmd(binary(), "coverage", "--run-dir", t.dir / "run", timeout=30).stdout
    check(re.search(rf"{lib} +yes +first instead of pairs: ", text), "coverage as text:", text[-1500:])
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(out, sound=False)
    short = {len(f.data[1]) for f in seen if f.server[1] in (7301, 7302, 7303)}
    check(short and max(short) < SENT, f"bytes before: {short}")
    for port, said in after:
        f = [f for f in seen if f.server[1] == port][0]
        equal([f"{len(d)} {sha256(bytes(d))}" for d in f.data], [said["got"], said["sent"]], f"{port}: {f}")
        check(f.is_sound() and f.end == "fin", f"{port}: {f}")
    equal(agent.err().count("its probes are now"), 1, "lines about it")
    got = agent.counters()
    equal({k: got.get(k, 0) for k in ("capture_libs_lowered", "flow_connections_unexplained")},
          {"capture_libs_lowered": 1, "flow_connections_unexplained": 4}, "counters")
    fact(f"before: {sorted(short)} of {SENT} bytes; {len(after)} connections after: exact")


# In what is kept of an experiment (agent/sites/trial_store.c): where records are sent, and several at once.
SEND, BATCH, SUM = 104, 136, 32


def mistake(state):
    """The experiment has found where records are sent. Now it says that it is elsewhere."""
    kept = list((state / "sites").iterdir())
    equal(len(kept), 1, f"results kept: {kept}")
    data = bytearray(kept[0].read_bytes())
    check(any(data[BATCH:BATCH + 8]), "no place that single records do not pass: this processor knows no batches")
    data[SEND:SEND + 16], data[BATCH:BATCH + 16] = data[BATCH:BATCH + 16], bytes(16)
    data[-SUM:] = hashlib.sha256(data[:-SUM]).digest()
    kept[0].write_bytes(data)


def mistaken(t):
    """An experiment that was wrong: the records that are sent are not seen."""
    libs, state = t.dir / "own", t.dir / "state"
    libs.mkdir()
    state.mkdir(mode=0o700)
    lib = libs / "libssl.so.3"
    real = re.search(r"libssl\.so\.3 => (\S+)", sh("ldd", t.compile("xfer.c"))).group(1)
    lib.write_bytes(pathlib.Path(real).read_bytes() + b"mine")  # whose content no other file has
    said = sh(binary(), "doctor", "--probes", "records", "--state-dir", state, lib, timeout=60)
    check("(record sent)" in said, "no experiment:", said)
    mistake(state)
    exe, out, env = t.compile("xfer.c"), t.dir / "mistaken.pcapng", {"LD_LIBRARY_PATH": str(libs)}
    agent = t.alone("-w", out, "--run-dir", t.dir / "run", "--state-dir", state, "--probes", "records", name="mistaken")
    exchange(t, exe, 20, env)
    agent.wait_line(rf"probes on {lib}")
    time.sleep(1.5)
    for n in (21, 22, 23):
        exchange(t, exe, n, env)
    until(lambda: agent.counters().get("capture_libs_lowered") == 1, 10, "a lower tier")
    after = [exchange(t, exe, n, env) for n in range(24, 27)]
    row = [r for r in coverage(t) if r["kind"] == "library" and r["path"] == str(lib)][0]
    equal((row["tier"], row["lowered_from"]), ("pairs", "records"), "what coverage says")
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(out, sound=False)
    equal({len(f.data[1]) for f in seen if f.server[1] in (7321, 7322, 7323)}, {0}, "bytes before")
    for port, said in after:
        f = [f for f in seen if f.server[1] == port][0]
        equal([f"{len(d)} {sha256(bytes(d))}" for d in f.data], [said["got"], said["sent"]], f"{port}: {f}")
    fact(f"records where none pass: {len(after)} connections after that exact")


BODY = 20000


def hits(t):
    """What `status` says about the probes of the only agent that answers there."""
    said = json.loads(sh(binary(), "status", "--json", "--run-dir", t.dir / "run", timeout=20))
    equal(len(said), 1, "answers")
    return said[0]["probes"]


def reason_of(t, pid):
    for row in coverage(t):
        if row["kind"] == "process" and row["pid"] == pid:
            return row["reason"], row["words"]
    return None


def is_whole(f):
    """An answer of the quiet server."""
    return f.is_sound() and f.end == "fin" and len(f.data[1]) > BODY and bytes(f.data[0]).startswith(b"GET ")


def governed(t):
    """Two servers with the same library. One is hammered and loses its probes, and gets them again."""
    hammered = t.nginx()
    t.www("small", 100)
    worker = int(sh("pgrep", "-P", hammered.pid).split()[0])
    exe = t.compile("serve.c")
    quiet = t.spawn("quiet", exe, "10.71.1.1", 444, *t.cert(), BODY, ns=t.srv)
    quiet.wait_line("listening", where="out")
    out = t.dir / "governed.pcapng"
    agent = t.alone("-w", out, "--run-dir", t.dir / "run", "--max-overhead", "5%:5s", name="governed")
    agent.wait_line("a probe's exception costs")
    ask = ["-o", "/dev/null"]
    t.curl(*ask, "--local-port", 40001, "https://10.71.1.1/small")
    # One connection is there before, and lasts until after.
    lasting = t.spawn("lasting", "openssl", "s_client", "-quiet", "-connect", "10.71.1.1:443", ns=t.cli, stdin=True)
    lasting.say("GET /small HTTP/1.1\r\nHost: first\r\n\r", r"200 OK")
    hammer = t.spawn("hammer", "wrk", "-t1", "-c8", "-d60", "https://10.71.1.1/small", ns=t.cli)
    agent.wait_line(rf"process {worker}: \d+ % of its CPU time went into probes, limit 5 %: none for 5 s", 20)
    code, words = reason_of(t, worker)
    now = hits(t)
    check(now["counted_ms"] > 3000 and now["entries"] > 3000 and now["exits"] > 3000 and now["program_ns"] > 0,
          "hits:", now)
    check(code == "overhead" and re.match(r"\d+ % of its CPU time went into probes, limit 5 %; tried again in \d s$",
                                          words), "coverage:", code, words)
    fact("coverage:", words)
    hammer.kill()
    asked = 0
    for _ in range(5):  # new processes that use the file, and the other one goes on
        asked += 1
        t.curl(*ask, "https://10.71.1.1:444/")
        time.sleep(0.2)
    t.curl(*ask, "--local-port", 40002, "https://10.71.1.1/small")
    lasting.say("GET /small HTTP/1.1\r\nHost: second\r\n\r", r"200 OK")
    between = t.spawn("between", "openssl", "s_client", "-quiet", "-connect", "10.71.1.1:443", ns=t.cli, stdin=True)
    between.say("GET /small HTTP/1.1\r\nHost: between\r\n\r", r"200 OK")
    agent.wait_line(rf"process {worker}: probed again", 15)
    time.sleep(0.1)
    lasting.say("GET /small HTTP/1.1\r\nHost: third\r\n\r", r"200 OK")
    between.say("GET /small HTTP/1.1\r\nHost: fourth\r\n\r", r"200 OK")
    t.curl(*ask, "--local-port", 40003, "https://10.71.1.1/small")
    asked += 1
    t.curl(*ask, "https://10.71.1.1:444/")
    for p in (lasting, between):
        p.kill()
    time.sleep(0.5)
    code, words = reason_of(t, worker)
    equal(code, "attached-late", f"coverage afterwards: {words}")
    equal(agent.stop(timeout=60), 0, "agent's exit status")
    judge_governed(t, agent, flows(out, sound=False), asked)


def judge_governed(t, agent, seen, asked):
    others = [f for f in seen if f.server[1] == 444]
    equal([is_whole(f) for f in others], [True] * asked, f"the quiet server's connections: {others}")
    got = {f.client[1]: f for f in seen if f.server[1] == 443}
    equal([port in got for port in (40001, 40002, 40003)], [True, False, True], "before, meanwhile, after")
    for port in (40001, 40003):
        check(got[port].is_sound() and got[port].end == "fin", f"{port}: {got[port]}")
    said = b"".join(bytes(f.data[0]) for f in got.values())
    check(b"Host: first" in said, "what was said before")
    for word in (b"second", b"third", b"between", b"fourth"):
        check(b"Host: " + word not in said, word, "was told: its connection's place is not known")
    lasting = [f for f in got.values() if b"Host: first" in f.data[0]][0]
    check(lasting.end != "fin", f"the lasting connection: {lasting}")
    counters = agent.counters()
    check(counters["capture_processes_detached"] >= 1 and counters["capture_processes_reattached"] >= 1 and
          counters["flow_connections_paused"] >= 1,
          "counters:", {k: v for k, v in counters.items() if "detached" in k or "paused" in k})
    fact(f"{asked} connections of the other server whole; paused:",
         {k: v for k, v in counters.items() if "paused" in k or "processes_" in k and k.startswith("capture")})


def main(t):
    if platform.machine() != "x86_64":
        raise Skip("the deceiving library is x86-64's")
    t.lab(sensor=False)
    deceived(t)
    mistaken(t)
    governed(t)


run(main, needs=["gcc", "nginx", "curl", "wrk"])
