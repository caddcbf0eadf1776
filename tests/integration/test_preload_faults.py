#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Programs with the preloaded library do not notice it: sandboxes, changed root and user, closed and used-up
descriptors, children, handlers, agents that come late, go, stop, are killed or know another version. What they
print is what they print without it; what the mirror shows is true, and what it lacks is counted.
--times N: how often the agent is killed, stopped and started under load (4)."""
import os
import pathlib
import random
import re
import signal
import socket
import struct
import sys
import time

from lib import LIBRARY, PROGS, PY, Untrue, check, equal, fact, flows, run, sha256, until

BEFALLS = ("talk", "strict", "refused", "forbidden", "rooted", "closed", "full", "fork", "forked", "vfork", "alarm",
           "exec")
TALK = re.compile(r"^port (\d+)\nsent (\d+) (\w+)(?:\ngot (\d+) (\w+))?$", re.M)
NOTHING = sha256(b"")
SMALLEST = 256 << 10
CROWD = 500  # connections
VERSION, RING_HEAD, KEPT = 2, 0x90000, 1 << 20  # of proto/shim.h


def times():
    return int(sys.argv[sys.argv.index("--times") + 1]) if "--times" in sys.argv else 4


def env(t):
    return {"LD_PRELOAD": LIBRARY, "SSLCOLLECTOR_RUN_DIR": str(t.dir / "run")}


def agent(t, n, *args, ready=20):
    return t.alone("--capture", "preload", "--run-dir", t.dir / "run", "-w", t.dir / f"{n}.pcapng", *args,
                   ns=t.space, iface="lo", name=f"agent-{n}", ready=ready)


def talk(t, exe, what, preloaded=True, before=None):
    """(what it printed but for port numbers, [(port, bytes and sum of either direction)])"""
    p = t.spawn(what, *(before or ()), exe, *t.cert(), what, ns=t.space, env=env(t) if preloaded else None)
    equal(p.wait(60), 0, f"{what}, preloaded {preloaded}: status {p.err()}")
    said = TALK.findall(p.out())
    check(said, f"{what} said", p.out())
    return re.sub(r"^port \d+$", "port", p.out(), flags=re.M), \
        [(int(port), [(int(n or 0), s or NOTHING) for n, s in ((a, b), (c, d))]) for port, a, b, c, d in said]


def true_bytes(f, what, want):
    """How many of these bytes are in the mirror. What is whole is compared, of a part only the length. What says how far
    a connection came may be among what was lost: then it does not end as if it were whole."""
    if not f:
        return 0
    # One side's hole is acknowledged by the other.
    faults = set(f.faults) - ({"acknowledges what was not sent"} if any(f.holes) else set())
    check(not faults and not any(f.repeats), f"{what}: {f}")
    for d, (n, digest) in enumerate(want):
        if len(f.data[d]) == n and sha256(bytes(f.data[d])) != digest:
            raise Untrue(f"{what}: direction {d} of {f}: other bytes")
        told = len(f.data[d]) + f.holes[d]
        check(told == n or (told < n and f.end != "fin"), f"{what}: {told} bytes and holes of {n}, direction {d}: {f}")
    return sum(map(len, f.data))


def lost(a):
    return sum(v for k, v in a.counters().items() if k.startswith("preload_bytes_lost"))


def judge(t, name, a, told, most=0.0):
    """told: (what, port, want). All of it, or, to that share, counted."""
    time.sleep(0.5)
    equal(a.stop(), 0, "agent's exit status")
    judge_seen(name, flows(t.dir / f"{name}.pcapng", sound=False), a, told, most)


def taken_from(mine, want):
    """Of connections from the same port to different ones, that which has as many bytes, or the last."""
    if not mine:
        return None
    same = [f for f in mine if [len(f.data[d]) + f.holes[d] for d in (0, 1)] == [n for n, _ in want]]
    f = (same or mine)[-1]
    mine.remove(f)
    return f


def judge_seen(name, seen, a, told, most):
    by_port, missing = {}, []
    for f in seen:
        by_port.setdefault(f.client[1], []).append(f)
    for what, port, want in told:
        f = taken_from(by_port.get(port, []), want)
        missing.append((what, sum(n for n, _ in want) - true_bytes(f, what, want)))
    strange = [f for fs in by_port.values() for f in fs]
    if strange:
        raise Untrue(f"{name}: nobody made these: {strange[:3]}")
    total = sum(n for _, _, want in told for n, _ in want)
    gone = sum(n for _, n in missing)
    # Either end of a connection is in the program: counted twice is no contradiction.
    check(gone <= lost(a), f"{name}: {gone} bytes missing, {lost(a)} counted:", [x for x in missing if x[1]])
    check(gone <= total * most, f"{name}: {gone} of {total} bytes missing, though counted:", [x for x in missing if x[1]][:40])
    fact(f"{name}: {len(told)} connections, {total} bytes: {total - gone} mirrored, {gone} counted as lost")


def befalls(t, exe):
    a, told = agent(t, "befalls"), []
    for what in BEFALLS:
        bare, _ = talk(t, exe, what, preloaded=False)
        said, conns = talk(t, exe, what)
        if what != "alarm":  # how often its handler came is its own affair
            equal(said, bare, f"{what}: what it printed")
        told += [(what, *c) for c in conns]
    judge(t, "befalls", a, told)


def storm(t, exe):
    a = agent(t, "storm")
    _, conns = talk(t, exe, "storm")
    equal(len(conns), 200, "storm: connections")
    judge(t, "storm", a, [("storm", *c) for c in conns])


def few_descriptors(t, exe):
    """As few as the program itself needs: at load none is left over."""
    for n in (8,):
        how = ("prlimit", f"--nofile={n}:{n}")
        bare, _ = talk(t, exe, "talk", preloaded=False, before=how)
        equal(talk(t, exe, "talk", before=how)[0], bare, f"{n} descriptors: what it printed")


def file_limits(t, exe):
    for how in (("prlimit", "--fsize=4096:4096"), ("prlimit", f"--as={400 << 20}:{400 << 20}")):
        bare, _ = talk(t, exe, "talk", preloaded=False, before=how)
        equal(talk(t, exe, "talk", before=how)[0], bare, f"{how}: what it printed")


def strict_memory(t, exe):
    """Where the system gives no more memory than it has a ring is small and all there: no page is missing later."""
    mode = t.dir / "mode"
    mode.write_text("2\n")
    how = ("unshare", "-m", "sh", "-c", f'mount --bind {mode} /proc/sys/vm/overcommit_memory && exec "$@"', "sh")
    a = agent(t, "strict-memory")
    bare, _ = talk(t, exe, "talk", preloaded=False)
    said, conns = talk(t, exe, "talk", before=how)
    equal(said, bare, "strict memory: what it printed")
    p = t.spawn("kept", *how, PY, "-c", "print('here', flush=True); input()", ns=t.space, env=env(t), stdin=True)
    p.wait_line("here", where="out")
    rings = [f for f in pathlib.Path(f"/proc/{p.pid}/map_files").iterdir() if "sslcollector-ring" in os.readlink(f)]
    check(rings, "a program with little memory has no ring")
    s = os.stat(rings[0])
    equal((s.st_size, s.st_blocks * 512), (RING_HEAD + KEPT,) * 2, "the ring's size, and what there is of it")
    p.stop()
    judge(t, "strict-memory", a, [("talk", *c) for c in conns])


def plain_talks(t):
    """What is said before TLS is kept: of more conversations than that is done for, 7 MB at most."""
    a, most = agent(t, "plain"), {}
    for preloaded in (False, True):
        p = t.spawn("plain", PY, PROGS / "plain.py", ns=t.space, env=env(t) if preloaded else None)
        equal(p.wait(60), 0, f"plain: status {p.err()}")
        most[preloaded] = max(map(int, p.out().split()))
    more = most[True] - most[False]
    check(2 << 10 < more < 8 << 10, f"plain talks: {more} KiB of memory")
    equal(a.stop(), 0, "agent's exit status")
    fact(f"1200 plain conversations of 30 KB: {more} KiB of memory")


def conns_of(p):
    return [("threads", int(m[0]), [(int(m[1]), m[2])] * 2) for m in
            re.findall(r"^conn \S+:(\d+) \S+ (\d+) (\w+) \d+ \w+$", p.out(), re.M)]


def crowd(t, exe):
    """A thousand threads, one for each end, whose first calls come at once, into the smallest ring."""
    a = agent(t, "crowd", "--preload-ring", "256K")
    p = t.spawn("threads", "prlimit", "--nofile=4096", exe, "127.0.0.1", 7100, *t.cert(), CROWD, 8, 20000, ns=t.space, env=env(t))
    equal(p.wait(60), 0, f"threads: status {p.err()}")
    told = conns_of(p)
    equal(len(told), CROWD, "threads: connections")
    judge(t, "crowd", a, told, most=0.95)  # the ring holds a hundredth of what may come at once


def descriptors(pid):
    return sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))


def under_wrk(t):
    """A preloaded nginx that opens and closes connections as fast as it can."""
    os.environ.update(env(t))
    try:
        t.nginx(ns=t.space, workers=2, listen=("7443 ssl",), extra="keepalive_timeout 0; location /x { return 200 'x'; }")
    finally:
        for k in env(t):
            del os.environ[k]
    return t.spawn("wrk", "wrk", "-t1", "-c16", "-d120s", "https://127.0.0.1:7443/x", ns=t.space)


def come_and_go(t, exe):
    """Kill, stop, restart; the load's answers, errno and error queue stay as they were."""
    bare = t.spawn("load", exe, *t.cert(), "load", ns=t.space)
    load = t.spawn("load", exe, *t.cert(), "load", ns=t.space, env=env(t))  # before there is an agent
    for p in (bare, load):
        p.wait_line("baseline", 30, where="out")
    equal(len(descriptors(load.pid)), len(descriptors(bare.pid)), "descriptors of a preloaded program")
    bare.kill()
    wrk = under_wrk(t)
    rng, seen = random.Random(7), 0
    for i in range(times()):
        a = agent(t, "load", *(("--preload-ring", "256K") if i % 2 else ()))
        time.sleep(rng.uniform(0.5, 1.5))
        check(load.alive(), "load:", load.err())
        if i % 4 == 1:
            a.stop(signal.SIGKILL)
            continue
        if i % 4 == 3:  # longer than the library believes that somebody reads
            a.kick(signal.SIGSTOP)
            time.sleep(10)
            check(load.alive(), "load, agent stopped:", load.err())
            a.kick(signal.SIGCONT)
            time.sleep(1)
        equal(a.stop(), 0, "agent's exit status")
        seen += a.counters().get("flow_bytes", 0)
        check(not flows(t.dir / "load.pcapng", sound=False) or seen, "flows without bytes")
    check(seen > 0, "no agent saw anything: no test")
    equal(wrk.stop(), 0, "wrk's status")
    rate = re.search(r"(\d+) requests in", wrk.out())
    check(rate and int(rate.group(1)) > 100, "wrk made no requests:", wrk.out())
    check("Socket errors" not in wrk.out() and "Non-2xx" not in wrk.out(), wrk.out())
    equal(load.stop(signal.SIGTERM), 0, f"load's status: {load.err()}")
    calls = int(re.search(r"^calls (\d+)$", load.out(), re.M).group(1))
    fact(f"{times()} agents came and went during {calls} calls and {rate.group(1)} requests ({seen} bytes "
         "mirrored): all answers equal")


def killed(t, exe):
    """Programs that are killed at full speed, perhaps in the middle of a record."""
    a, seen = agent(t, "killed"), 0
    for i in range(4):
        p = t.spawn("load", exe, *t.cert(), "load", ns=t.space, env=env(t))
        p.wait_line("baseline", 30, where="out")
        equal(p.stop(signal.SIGKILL), -signal.SIGKILL, "status of the killed one")
        seen = until(lambda s=seen: max(a.counters().get("flow_bytes", 0) - s, 0), 10, "its bytes") + seen
    until(lambda: not a.counters().get("preload_processes", 0), 10, "the agent to see them gone")
    equal(a.stop(), 0, "agent's exit status")
    for f in flows(t.dir / "killed.pcapng", sound=False):
        check(not any(f.repeats) and f.end != "open", f"killed: {f}")
    fact(f"4 programs killed at full speed: {seen} bytes mirrored, every connection ended")


def go_on(p):
    p.p.stdin.write(b"\n")
    p.p.stdin.flush()


def speak(t, *steps, status=0, stop_agent=None, again=False):
    """A preloaded program that does these steps; its port. stop_agent: at the first "wait" the agent is stopped,
    until the program is over, or again: until its second "wait"."""
    p = t.spawn("say", PY, "-u", PROGS / "last.py", "say", 7300, *steps, ns=t.space, env=env(t), stdin=True)
    if stop_agent:
        p.wait_line("waiting", where="out")
        stop_agent.kick(signal.SIGSTOP)
        go_on(p)
    if again:
        until(lambda: p.out().count("waiting") == 2, 20, "the second wait")
        stop_agent.kick(signal.SIGCONT)
        time.sleep(1)  # it says again that it is there
        go_on(p)
    try:
        equal(p.wait(20), status, f"{steps}: status {p.err()}")
    finally:
        if stop_agent:
            stop_agent.kick(signal.SIGCONT)
    return int(re.search(r"^port (\d+)$", p.out(), re.M).group(1))


def ends(t):
    """What is not whole does not end as if it were; the server, which is not preloaded, says what came."""
    a = agent(t, "ends", "--preload-ring", "256K")
    server = t.spawn("serve", PY, "-u", PROGS / "last.py", "serve", 7300, *t.cert(), ns=t.space)
    server.wait_line("listening", where="out")
    whole, holed, cut = {}, {}, {}
    quiet = {"stop_agent": a}
    # Children that are over before the agent hears of them; the parent has closed its own descriptor.
    for _ in range(3):
        whole[speak(t, "send=10", "wait", "child=send=5000", **quiet)] = "a child of milliseconds"
    # The ring is full, and nothing comes after that would show it.
    holed[speak(t, "send=10", "wait", "send=1000000", "close", **quiet)] = "a full ring, then close"
    cut[speak(t, "send=10", "wait", "send=1000000", "die", status=-signal.SIGKILL, **quiet)] = "a full ring, then killed"
    whole[speak(t, "send=10", "nap=50", "die", status=-signal.SIGKILL)] = "killed, with nothing to say"
    for _ in range(6):  # at any place of its sending
        p = t.spawn("flood", PY, "-u", PROGS / "last.py", "say", 7300, "flood", ns=t.space, env=env(t))
        port = int(p.wait_line(r"port (\d+)", where="out").group(1))
        time.sleep(0.05)
        equal(p.stop(signal.SIGKILL), -signal.SIGKILL, "status of the killed one")
        cut[port] = "killed while it sends"
    # The agent was stopped for longer than a program believes that somebody reads: and then the program ends, or not.
    holed[speak(t, "send=10", "wait", "nap=3300", "send=5000", "close", **quiet)] = "an agent stopped too long, then close"
    holed[speak(t, "send=10", "wait", "nap=3300", "send=5000", "wait", "send=7", "close", again=True, **quiet)] = \
        "an agent stopped too long that goes on"
    # No descriptor is free for a child's ring; then there are.
    holed[speak(t, "send=10", "crowd", "child=send=3000+sparse+nap=150+send=7+nap=100+send=20000")] = "no descriptor"
    time.sleep(0.5)
    equal(a.stop(), 0, "agent's exit status")
    seen = {f.client[1]: f for f in flows(t.dir / "ends.pcapng", sound=False)}
    got = {int(port): (int(n), digest) for port, n, digest in re.findall(r"^got (\d+) (\d+) (\w+)$", server.out(), re.M)}
    for port, why in {**whole, **holed, **cut}.items():
        f, (n, digest) = seen.get(port), got[port]
        check(f is not None and not any(f.repeats), f"{why}: {f}")
        told = len(f.data[0]) + f.holes[0]
        is_same = not f.holes[0] and sha256(bytes(f.data[0])) == digest
        if port in whole:
            check(is_same and f.is_sound() and f.end == "fin", f"{why}: server took {n}: {f}")
        elif port in holed:
            check(f.holes[0] and told == n and f.end == "fin", f"{why}: server took {n}: {f}")
        else:
            check(f.end == "rst" or (is_same and why == "killed while it sends"), f"{why}: server took {n}: {f}")
    c = a.counters()
    check(c.get("preload_bytes_lost_no_ring", 0) >= 3000, "bytes without a ring were not counted")
    equal(c.get("preload_bytes_lost_gone", 0), 0, "bytes of connections that were over")
    fact(f"{len(whole)} connections whole, {len(holed)} with exact holes at their end, {len(cut)} cut: none looks whole "
         "that is not")


def deaf_agents(t, exe):
    """What listens there does not accept, says nothing, or is no agent."""
    run_dir = t.dir / "run"
    for kind, backlog in ((socket.SOCK_SEQPACKET, 0), (socket.SOCK_STREAM, 5)):
        for f in run_dir.glob("preload.*"):
            f.unlink()
        (run_dir / "preload.size").write_text("999999999999999999999\n" if backlog else "\0\xff nonsense")
        with socket.socket(socket.AF_UNIX, kind) as s:
            s.bind(str(run_dir / "preload.sock"))
            s.listen(backlog)
            began = time.monotonic()
            for _ in range(4):  # more than its queue holds
                talk(t, exe, "talk")
            check(time.monotonic() - began < 10, "a program waited for an agent")
    for f in run_dir.glob("preload.*"):
        f.unlink()
    fact("no agent, one that does not accept, one that is none: nobody waits")


def hello(version, size, magic=0x676e6972636c7373):
    return struct.pack("=QIIQ", magic, version, 0, size)


def other_versions(t, exe):
    """Who speaks another version is refused and counted, and the agent goes on."""
    a = agent(t, "versions")
    until(lambda: (t.dir / "run/preload.sock").exists(), 5, "the agent's socket")
    fd = os.memfd_create("sslcollector-ring", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, RING_HEAD + SMALLEST)
    before = len(descriptors(a.pid))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:  # descriptors beside not even a byte
        s.connect(str(t.dir / "run/preload.sock"))
        socket.send_fds(s, [b""], [fd] * 3)
        until(lambda: not s.recv(1), 5, "the agent to hang up")
    until(lambda: len(descriptors(a.pid)) == before, 5, "the agent to close them")
    cases = [hello(VERSION + 1, SMALLEST), hello(0, SMALLEST), hello(VERSION, SMALLEST + 1), hello(VERSION, SMALLEST, 7),
             hello(VERSION, SMALLEST), hello(VERSION, SMALLEST)[:10], hello(VERSION, SMALLEST) * 2]
    for said in cases:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(str(t.dir / "run/preload.sock"))
            socket.send_fds(s, [said], [fd] * (1 if said != cases[0] else 3))
            until(lambda: not s.recv(1), 5, "the agent to hang up")
    os.close(fd)
    equal(a.counters().get("preload_processes_refused", 0), len(cases), "refused")
    _, conns = talk(t, exe, "talk")
    judge(t, "versions", a, [("talk", *c) for c in conns])


def main(t):
    t.space = t.ns("f")
    exe = t.compile("unharmed.c", ("-lssl", "-lcrypto", "-lpthread"))
    threads = t.compile("threads.c", ("-lssl", "-lcrypto", "-lpthread"))
    befalls(t, exe)
    few_descriptors(t, exe)
    file_limits(t, exe)
    strict_memory(t, exe)
    plain_talks(t)
    storm(t, exe)
    crowd(t, threads)
    killed(t, exe)
    ends(t)
    other_versions(t, exe)
    deaf_agents(t, exe)
    come_and_go(t, exe)


if __name__ == "__main__":
    run(main, needs=["gcc", "prlimit", "nginx", "wrk"])
