# SPDX-License-Identifier: Apache-2.0
"""What the tests of real programs share: two agents, the wire, and a judge that knows neither.

Every file of this directory but this one is a test of one program. Its play(r) runs the program's
server in the namespace r.srv (10.71.1.1) and its client in r.cli (10.71.1.2), joined by one veth
pair, and says with r.row() which connections show which role. An agent in either namespace mirrors
its own end; tcpdump takes what really went over the wire; one end of each connection writes its TLS
secrets (r.env, or r.preload() for programs that have no way to), and decrypt.py opens the wire's
records with them. Then, for either end:

  * each TLS connection of the wire is in the mirror, under the wire's addresses and ports, client
    and server not swapped, with exactly the decrypted bytes in either direction, without holes;
  * nothing else is in the mirror.

Where secrets cannot be had, r.own() gives what the programs themselves said they sent and got. A role
is judged at both its ends even if only one of them is a row.

A row is printed as
  ROW role | library | flows | bytes | binding | PASS or FAIL
binding is how the agent found the connection: exact or matched.
"""
import pathlib
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import lib  # noqa: E402
from decrypt import ALERT, APPLICATION_DATA, Undecryptable, decrypt, read_secrets, records  # noqa: E402
from lib import (Failed, Flow, GO_CACHE, PROGS, PY, Skip, binary, check, equal, fact, flows, in_ns,  # noqa: E402,F401
                 losses, pattern, run_cmd, sh, sha256, until)

SRV, CLI = "10.71.1.1", "10.71.1.2"
SRV6, CLI6 = "fd71:1::1", "fd71:1::2"
ADDRESSES = {"server": (SRV, SRV6), "client": (CLI, CLI6)}
ENDS = tuple(ADDRESSES)
# Only what is inside the connection's TLS is judged here.
WANTED_OPTIONS = ("--starttls=inner", "--tls-in-tls=outer")
HELLO = (re.compile(rb"\x16\x03[\x00-\x03]..\x01", re.S), re.compile(rb"\x16\x03[\x00-\x03]..\x02", re.S))
ALERT_13 = 2 + 1 + 16  # length of an encrypted alert in TLS 1.3 (RFC 8446, 5.2)


class Conn:
    """A connection of the wire: true addresses, and per direction the bytes that TLS carried."""

    def __init__(self, flow):
        self.client, self.server, self.wire = flow.client, flow.server, flow
        self.isn = [next((p.seq for d, p in flow.packets if d == me and p.flags & lib.SYN), None)
                    for me in (0, 1)]
        self.data = [self.in_order(me) for me in (0, 1)]
        self.start = [m.start() if m else None
                      for m in (h.search(d) for h, d in zip(HELLO, self.data))]
        self.plain = [b"", b""]
        self.by_end = {}     # end -> (from client, from server), as its program said
        self.before = {}     # end -> bytes of each direction before the agent was there

    @property
    def is_tls(self):
        return self.start[0] is not None

    @property
    def tuple(self):
        return self.client, self.server

    @property
    def ports(self):
        return self.client[1], self.server[1]

    def read(self, secrets):
        """Decrypt; what is wrong with that, or None."""
        try:
            self.plain = decrypt(self.data, self.start, secrets)
        except Undecryptable as e:
            return None if len(self.by_end) == len(ENDS) else f"{self}: {e}"
        return None

    def wanted(self, end):
        got = self.by_end.get(end, self.plain)
        skip = self.before.get(end, (0, 0))
        return [bytes(b[n:]) for b, n in zip(got, skip)]

    def too_late(self, end):
        """(direction, how many of its last bytes this end may not have taken: it had said goodbye)."""
        me = 0 if self.client[0] in ADDRESSES[end] else 1
        bye = self.goodbye(me)
        came = max((self.offset(d, p) + len(p.payload) for d, p in self.wire.packets[:bye] if d != me),
                   default=0)
        if end in self.by_end:
            return 1 - me, 0
        return 1 - me, sum(n for at, n, kind in records(self.data[1 - me], self.start[1 - me])
                           if kind == APPLICATION_DATA and at + 5 + n > came)

    def in_order(self, d):
        """One direction's bytes up to the first that is missing; a wire may swap and repeat packets."""
        out = bytearray()
        if self.isn[d] is None:
            return out
        for at, payload in sorted((self.offset(d, p), p.payload) for me, p in self.wire.packets
                                  if me == d and p.payload):
            if at > len(out):
                break
            out += payload[len(out) - at:]
        return out

    def offset(self, d, p):
        """Where in its direction's bytes a packet begins."""
        return lib.diff(p.seq, self.isn[d]) - (0 if p.flags & lib.SYN else 1)

    def goodbye(self, me):
        """Index of the packet with this side's FIN, RST or, if that came earlier, last alert."""
        last = [(at, n, k) for at, n, k in records(self.data[me], self.start[me])][-1:]
        alert = next((at for at, n, k in last if k == ALERT or (k, n) == (APPLICATION_DATA, ALERT_13)), None)
        for i, (d, p) in enumerate(self.wire.packets):
            if d != me:
                continue
            if p.flags & (lib.FIN | lib.RST):
                return i
            if alert is not None and p.payload and self.offset(d, p) + len(p.payload) > alert:
                return i
        return len(self.wire.packets)

    def __repr__(self):
        return f"{self.client[0]}:{self.client[1]}>{self.server[0]}:{self.server[1]}"


class Row:
    def __init__(self, role, library, end, port, only, mirrored, unread, at_least, may_miss=0):
        self.role, self.library, self.end, self.port = role, library, end, port
        self.only, self.mirrored, self.unread, self.at_least = only, mirrored, unread, at_least
        self.may_miss, self.missed = may_miss, 0
        self.conns, self.bytes, self.wrong, self.binding = 0, 0, [], set()

    def line(self):
        state = "FAIL" if self.wrong else "PASS"
        how = "not mirrored" if not self.mirrored else "/".join(sorted(self.binding)) or "-"
        if self.missed:
            how += f", {self.missed} ambiguous"
        return f"ROW {self.role} | {self.library} | {self.conns} | {self.bytes} | {how} | {state}"


class Roles:
    def __init__(self, t):
        t.lab(sensor=False)
        self.t, self.srv, self.cli, self.dir = t, t.srv, t.cli, t.dir
        self.rows, self.owned, self.midways, self.decode = [], {}, {}, {}
        self.agents, self.untrue = {}, []
        self.dumped, self.dumped_at = None, 0
        self.keylog = t.dir / "secrets.txt"
        self.keylog.touch()
        self.keylog.chmod(0o666)  # servers give up root
        self.env = {"SSLKEYLOGFILE": str(self.keylog)}
        self.wire = t.dir / "wire.pcap"
        self.dump = t.spawn("tcpdump", "tcpdump", "-i", "cli0", "-s", "0", "-B", "131072", "-Z", "root",
                            "-w", self.wire, "tcp", ns=t.cli)
        self.dump.wait_line("listening on")

    # for the tests ---------------------------------------------------------------------------
    def attach(self, *args):
        """Start both agents. A test that wants connections open before calls it itself."""
        usage = sh(binary(), "--help")
        args += tuple(o for o in WANTED_OPTIONS if o.split("=")[0] in usage)
        for end, ns, iface in (("server", self.srv, "srv0"), ("client", self.cli, "cli0")):
            self.agents[end] = self.t.sslcollector(f"at-{end}", "-I", iface, "-w", self.capture(end),
                                                   *args, ns=ns, ready=None)
        for p in self.agents.values():
            p.wait_line(r"\bready\b", 30)

    def capture(self, end):
        return self.dir / f"{end}.pcapng"

    def row(self, role, library, end, port, only=None, mirrored=True, unread=0, peer_unread=0,
            at_least=1, decode="tls", may_miss=0):
        """The connections to this server port, judged at this end, show this role.

        end       where the program runs, whichever side of TLS it is: an upstream client is at "server"
        only      plaintexts (from client, from server) -> whether the connection is one of them
        mirrored  False: nothing of them may be in this end's mirror
        unread    how many of the last bytes on the wire this end may never have taken,
        peer_unread   and how many the other end, if no row of its own says it
        decode    what the port speaks; all but tls begin in the clear (STARTTLS)
        may_miss  so many of them may be left out whole, as ambiguous, if the agent counts them
        """
        self.decode[port] = decode
        self.rows.append(Row(role, library, end, port, only, mirrored, (unread, peer_unread),
                             at_least, may_miss))

    def own(self, end, ports, from_client, from_server):
        """At this end the program's own account counts for the connection between these ports, (client's,
        server's): to another port of the server, a client's may come again."""
        self.owned.setdefault(ports, {})[end] = (from_client, from_server)

    def midway(self, ports, before, ends=ENDS):
        """The connection between these ports had moved (client's, server's) bytes before attach()."""
        self.midways.setdefault(ports, {}).update({e: before for e in ends})

    def preload(self):
        """Environment in which a program with a dynamic libssl writes its secrets."""
        so = self.dir / "keylog.so"
        if not so.exists():
            sh("gcc", "-std=c17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-shared",
               "-fPIC", "-Wl,--no-as-needed", "-o", so, PROGS / "keylog.c", "-lssl", "-lcrypto", "-ldl")
        return {**self.env, "LD_PRELOAD": str(so)}

    def on(self, end, name, *cmd, **kw):
        """A process at this end."""
        kw.setdefault("ns", self.srv if end == "server" else self.cli)
        return self.t.spawn(name, *cmd, **kw)

    def do(self, end, *cmd, env=None, timeout=30, ok=(0,), data=None):
        """A program at this end, run to its end: its standard output, as bytes."""
        ns = self.srv if end == "server" else self.cli
        if lib.PRELOADS:
            env = self.t.preloaded(ns, env)
        try:
            p = subprocess.run(in_ns(ns) + [str(c) for c in cmd], capture_output=True, timeout=timeout,
                               input=data if data is not None else b"", check=False,
                               env={**lib.os.environ, **(env or {})}, cwd=self.dir)
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(map(str, cmd))}: still running after {timeout} s") from None
        if ok is not None and p.returncode not in ok:
            raise Failed(f"{' '.join(map(str, cmd))}: status {p.returncode}: {p.stderr[-500:]!r}")
        return p.stdout

    def listening(self, port, end="server", timeout=15):
        """Wait until something listens on this port at this end."""
        ns = self.srv if end == "server" else self.cli
        until(lambda: sh("ss", "-Htln", f"sport = :{port}", ns=ns).strip(), timeout,
              f"a listener on port {port}", 0.1)

    def nginx(self, listen, extra="", **kw):
        """nginx of lib, with TLS 1.3 also where its default is 1.2."""
        return self.t.nginx(listen=listen, extra="ssl_protocols TLSv1.2 TLSv1.3;\n" + extra, **kw)

    def https(self, end, port, *args, addr=None, env=None, name="https"):
        """Python's http.server with TLS, which writes its secrets; see progs/https.py."""
        addr = addr or (SRV if end == "server" else CLI)
        p = self.on(end, name, PY, "-u", PROGS / "https.py", addr, port, *self.t.cert(), *args,
                    env=self.env if env is None else env)
        p.wait_line("listening", where="out")
        return p

    def talk(self, mode, port, addr=SRV, listen=None):
        """(server, client, (client's port, server's)): the two ends of one connection, spoken to; progs/talk.py."""
        crt, key = self.t.cert()
        ends = []
        for end, side, where in (("server", "listen", listen or addr), ("client", "connect", addr)):
            ends.append(self.on(end, f"talk-{end}", PY, "-u", PROGS / "talk.py", mode, side, where, port,
                                crt, key, env=self.env, stdin=True))
            if side == "listen":
                ends[0].wait_line("listening", where="out")
        ends[0].wait_line("connected", where="out")
        return (*ends, (int(ends[1].wait_line(r"connected (\d+)", where="out").group(1)), port))

    @staticmethod
    def pass_on(a, b, seed, size, how="send", timeout=60):
        """a says pattern(seed, size), b takes it."""
        a.p.stdin.write(f"{how} {seed} {size}\n".encode())
        a.p.stdin.flush()
        got = b.say(f"recv {size}", r"received (\d+) (\w+)", timeout)
        a.wait_line(rf"sent {size} {sha256(pattern(seed, size))}", timeout, "out")
        equal(got.groups(), (str(size), sha256(pattern(seed, size))), f"{how} {seed} {size}")

    # the judge -------------------------------------------------------------------------------
    def finish(self):
        time.sleep(1)
        for p in self.agents.values():
            self.t.drain(p)
        for end in ENDS:
            check(self.capture(end).exists(), f"{end}: the agent wrote nothing")
        until(self.wire_is_whole, 40, "tcpdump has every packet, and none dropped", 0.2)
        self.dump.stop()
        conns, wrong = self.connections()
        for end in ENDS:
            wrong += self.judge(end, conns)
        for row in self.rows:
            if row.conns < row.at_least:
                row.wrong.append(f"{row.role}: {row.conns} connections, want {row.at_least} or more")
            fact(row.line())
            wrong += row.wrong
        wrong += self.audits()
        fact(f"{len(conns)} TLS connections on the wire; losses of the whole host:",
             losses(*self.agents.values()) or "none")
        if self.untrue:
            raise lib.Untrue(f"{len(self.untrue)} things that nobody said:\n" + "\n".join(self.untrue[:60]))
        check(not wrong, f"{len(wrong)} things wrong:\n" + "\n".join(wrong[:60]))

    def audits(self):
        """What the kernel's own byte counts of the sockets say against what was captured."""
        out = []
        for end, p in self.agents.items():
            c = p.counters()
            fact(f"{end}'s end: {c.get('flow_connections_audited', 0)} connections held against their sockets")
            out += [f"{end}'s end: {n} = {c[n]}" for n in
                    ("flow_connections_unexplained", "flow_connections_double") if c.get(n)]
        return out

    def wire_is_whole(self):
        """A running tcpdump tells; when it is told to stop, the last packets may still be in its ring. What
        stays different comes from its start: packets before its filter was in place are counted only."""
        mark = len(self.dump.err())
        self.dump.kick(signal.SIGUSR1)
        got = self.dump.wait_line(r"(\d+) packets? captured, (\d+) packets? received by filter, "
                                  r"(\d+) packets? dropped", after=mark)
        captured, received, dropped = map(int, got.groups())
        if (captured, received) != self.dumped:
            self.dumped, self.dumped_at = (captured, received), time.monotonic()
        still = time.monotonic() - self.dumped_at > 5
        return not dropped and received > 0 and (captured == received or still)

    def connections(self):
        """The TLS connections of the wire, decrypted; what is wrong with the others."""
        conns = [c for c in map(Conn, flows(self.wire, sound=False)) if c.is_tls]
        check(conns, "no TLS connection on the wire")
        secrets = read_secrets(self.keylog)
        for c in conns:
            c.by_end = self.owned.get(c.ports, {})
            c.before = self.midways.get(c.ports, {})
        early = [f"{c}: TLS begins at byte {c.start[0]}" for c in conns
                 if self.decode.get(c.server[1], "tls") == "tls" and c.start[0]]
        return conns, early + [x for x in (c.read(secrets) for c in conns) if x]

    def judge(self, end, conns):
        """What is wrong at this end beyond the rows' own; the rows take what is theirs."""
        mirror, wrong, default = {}, [], "exact"
        counters = self.agents[end].counters()
        if counters.get("flow_bindings_matched"):
            default = "matched"
        for f in flows(self.capture(end), sound=False):
            mirror.setdefault((f.client, f.server), []).append(f)
        for c in conns:
            row = self.row_of(end, c)
            said = row.wrong if row else wrong
            want = c.wanted(end) if not row or row.mirrored else [b"", b""]
            have = mirror.get(c.tuple, [])
            if not any(want):
                if not row or not row.mirrored:
                    self.count(row, c, [b"", b""], None, default)
                continue  # any flow that is there is found below
            f = have.pop(0) if have else None
            if not f and row and row.missed < min(row.may_miss, counters.get("flow_connections_unmatched", 0)):
                row.missed += 1
                continue
            found, untrue = compare(want, f, self.unread(end, c), c.too_late(end))
            said += [f"{end}'s end, {row.role if row else 'other end'}, {c}: {x}" for x in found]
            self.untrue += [f"{end}'s end, {c}: {x}" for x in untrue]
            self.count(row, c, want, f, default)
        strange = [f for fs in mirror.values() for f in fs if any(f.data)]
        known = {c.tuple for c in conns}
        self.untrue += [f"{end}'s end: no such connection: {f}" for f in strange
                        if (f.client, f.server) not in known]
        return wrong + [f"{end}'s end: mirrored, but no such connection or not that often: {f}" for f in strange]

    def row_of(self, end, c):
        for row in self.rows:
            if row.end == end and row.port == c.server[1] and (not row.only or row.only(*c.plain)):
                return row
        return None

    def unread(self, end, c):
        mine = self.row_of(end, c)
        if mine:
            return mine.unread[0]
        other = self.row_of(ENDS[1 - ENDS.index(end)], c)
        return other.unread[1] if other else 0

    @staticmethod
    def count(row, c, want, f, default):
        if not row:
            return
        row.conns += 1
        row.bytes += sum(map(len, want))
        if f:
            how = re.search(r"\b(?:binding|confidence)=(\w+)", " ".join(f.comments[:1]))
            row.binding.add(how.group(1) if how else default)


def compare(want, f, unread, late):
    """What differs between the true bytes and a mirrored connection, and which of that is bytes that
    were never said. late: bytes of direction that may be missing at the tail, as (direction, how many)."""
    if f is None:
        return [f"not mirrored ({len(want[0])}/{len(want[1])} bytes)"], []
    out, untrue = [] if f.is_sound() else [f"not sound: {f}"], []
    for d, who in enumerate(("client", "server")):
        have = bytes(f.data[d])
        if have == want[d]:
            continue
        spare = max(unread, late[1]) if d == late[0] else 0
        if len(want[d]) - spare <= len(have) < len(want[d]) and want[d].startswith(have):
            continue
        at = next((i for i, (a, b) in enumerate(zip(have, want[d])) if a != b), min(len(have), len(want[d])))
        out.append(f"from the {who}: {len(have)} bytes, true are {len(want[d])}; first difference at "
                   f"{at}: {have[at:at + 24]!r}, true {want[d][at:at + 24]!r}")
        if at < len(have) and not any(f.holes):
            untrue.append(out[-1])
    return out, untrue


def roles(play, needs=()):
    """Run a file of this directory: play(r) does the talking, the judge the rest."""
    def main(t):
        r = Roles(t)
        play(r)
        r.finish()
    lib.run(main, needs=["tcpdump", "ss", *needs])
