#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Agents, two collectors that pass on in a row, and one that makes packets. Bytes and addresses at its end; whichever
of the three is killed while a connection talks, and started again, each byte is there once; 200 agents at once, directly
and that way; both ends of a connection by different ways. What cannot work is one line."""
import resource
import signal

from lib import binary, check, equal, fact, find_flow, flows, losses, pattern, run, run_cmd, settle, sha256, until
from lib_conversations import Talk

AGENTS, SIZE = 200, 20_000


class Chain:
    """srv ── one ── two ── col: each knows its neighbours only."""

    def __init__(self, t):
        self.t = t
        t.lab(sensor=False)
        t.link(t.cli, "tun1", ["10.71.3.1/24"], t.col, "col1", ["10.71.3.2/24"])
        self.ns = {"one": t.ns("1"), "two": t.ns("2")}
        t.link(t.srv, "srv1", ["10.71.4.1/24"], self.ns["one"], "one0", ["10.71.4.2/24"])
        t.link(self.ns["one"], "one1", ["10.71.5.1/24"], self.ns["two"], "two0", ["10.71.5.2/24"])
        t.link(self.ns["two"], "two1", ["10.71.6.1/24"], t.col, "col2", ["10.71.6.2/24"])
        self.to = {"one": "10.71.5.2", "two": "10.71.6.2"}
        self.up = {}

    def start(self, name, **kw):
        self.up[name] = self.t.sslcollector(name, "-C", "-t", self.to[name], "--state-dir", self.t.dir / f"{name}.state",
                                            ns=self.ns[name], **kw)

    def enroll(self, name, col_state):
        p = run_cmd(binary(), "enroll", "-C", self.to[name], self.t.token(state=col_state), "--state-dir",
                    self.t.dir / f"{name}.state", ns=self.ns[name])
        check(p.returncode == 0, "enroll -C:", p.stderr)
        equal(sorted(f.name for f in (self.t.dir / f"{name}.state").iterdir()), ["upstream"], f"state directory of {name}")

    def again(self, name, talk):
        """Killed while the connection talks."""
        old = self.up[name]
        old.kick(signal.SIGKILL)
        old.wait(5)
        talk.some(lambda: True, 5)
        self.start(name, ready=0)
        talk.some(lambda: self.links() == {1}, 5)
        talk.some(lambda: True, 5)

    def links(self):
        """How many each passes on now."""
        return {p.counters()["aggregate_links"] for p in self.up.values()}


def refuses_to_start(t, ns):
    args = ("--state-dir", t.dir / "none.state", "-C", "-t", "10.71.5.2")
    p = run_cmd(binary(), *args, ns=ns)
    equal((p.returncode, p.stderr.count("\n")), (1, 1), f"without enrolment: {p.stderr}")
    check("enroll -C" in p.stderr, "without enrolment:", p.stderr)
    p = run_cmd(binary(), *args, "--print", ns=ns)
    equal((p.returncode, p.stderr.count("\n")), (2, 1), f"passing on and an output: {p.stderr}")


def crowd(t, first, host, ns, state):
    return t.helper("agents", "agents.py", t.dir / state, host, 3005, first, AGENTS, SIZE, ns=ns)


def short_of_descriptors(t, chain, talk):
    """Who comes then is told; who is there goes on."""
    one = chain.up["one"]
    before = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (one.n_fds() + 1, before[1]))
    mark = len(one.err())
    p = t.helper("agents", "agents.py", t.dir / "agent.state", "10.71.4.2", 3005, 1, 1, SIZE, ns=t.srv)
    said = p.wait_line(r"^refused 5 (.*)$", 10, "out").group(1)
    check("raise LimitNOFILE" in said, "without descriptors:", said)
    equal(len(one.wait_line(r"^sslcollector: .*raise LimitNOFILE.*$", 5, after=mark).group(0).splitlines()), 1, "lines")
    talk.some(lambda: True, 2)
    equal(chain.links(), {1}, "links beside one that was refused")
    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, before)


def judge_crowd(seen, first):
    """Of each agent its connection: addresses, bytes, close."""
    for i in range(first, first + AGENTS):
        f = seen.get((f"10.80.{i >> 8}.{i & 255}", 20000 + i))
        check(f, f"agent {i}: its connection is missing")
        equal(([sha256(d) for d in f.data], f.end), ([sha256(pattern(f"{i}{d}", SIZE)) for d in "><"], "fin"), f"agent {i}")


def crowds(t, chain, col):
    """Beside one agent that is there already."""
    both = [crowd(t, 1, "10.71.4.2", t.srv, "agent.state"), crowd(t, 1001, "10.71.3.2", t.cli, "client.state")]
    for p in both:
        p.wait_line("half", 40, "out")
    equal(({p.counters()["aggregate_links"] for p in chain.up.values()}, col.counters()["links"] // AGENTS),
          ({AGENTS + 1}, 2), "links at once")
    for p in both:
        p.say("go")
    for p in both:
        p.wait_line("done", 40, "out")
    until(lambda: chain.links() == {1}, 10, "all these links closed")


def main(t):
    chain = Chain(t)
    t.nginx()
    refuses_to_start(t, chain.ns["one"])
    first, second = t.dir / "first.pcapng", t.dir / "second.pcapng"
    col = t.collector("-w", first)
    chain.enroll("two", "col.state")
    chain.start("two")
    chain.enroll("one", "two.state")
    chain.start("one")
    t.enroll(host="10.71.4.2", col_state="one.state")
    agent = t.agent(host="10.71.4.2")
    until(lambda: chain.links() == {1}, 10, "a link through both")

    talk = Talk(t)
    for name in ("one", "two"):
        talk.some(lambda: True, 5)
        chain.again(name, talk)
    short_of_descriptors(t, chain, talk)
    talk.judge(first, "both in between killed")

    talk = Talk(t)
    talk.some(lambda: True, 10)
    col.kick(signal.SIGKILL)
    equal(col.wait(10), -signal.SIGKILL, "collector's exit status")
    talk.some(lambda: True, 5)
    col = t.collector("-w", second, ready=0)
    talk.some(lambda: chain.links() == {1}, 5)
    talk.some(lambda: True, 5)
    talk.c.say("close", "done close")
    settle(second, lambda seen: any(f.client[1] == talk.port and f.end == "fin" for f in seen), 20)
    parts = [bytes(find_flow(flows(p), talk.port, 443).data[0]) for p in (first, second)]
    check(talk.said.startswith(parts[0]) and talk.said.endswith(parts[1]), "not what was said:", [len(p) for p in parts])
    check(sum(map(len, parts)) >= len(talk.said), "bytes are missing between:", [len(p) for p in parts], len(talk.said))
    fact(f"last collector killed, too: {[len(p) for p in parts]} of {len(talk.said)} bytes in the two files")

    t.enroll(host="10.71.3.2", ns=t.cli, state="client.state")
    # Ready before the crowd: of memory BIOs in the midst of handshakes it would have to give up some.
    other = t.agent(ns=t.cli, iface="cli0", host="10.71.3.2", state="client.state", name="at-client")
    crowds(t, chain, col)
    talk = Talk(t)
    talk.some(lambda: True, 5)
    chain.again("one", talk)
    talk.judge(second, "both ends by different ways")

    for p in (agent, other):
        p.kick(signal.SIGTERM)
    equal([p.wait(20) for p in (agent, other)], [0, 0], "agents' exit status")
    for p in (chain.up["one"], chain.up["two"], col):
        equal(p.stop(signal.SIGTERM), 0, f"exit status of {p.name}")
    equal({k for k in losses(agent, other, *chain.up.values()) if not k.endswith("tunnel_lost")}, set(), "losses")
    check(all(not v for k, v in col.counters().items() if k.startswith("link_broken")), "broken links:", col.counters())
    seen = {f.client: f for f in flows(second) if f.server == ("10.90.0.1", 443)}
    judge_crowd(seen, 1)
    judge_crowd(seen, 1001)
    fact(f"{AGENTS} agents directly and {AGENTS} through two: {2 * SIZE} bytes each, exact")


run(main, needs=["nginx"])
