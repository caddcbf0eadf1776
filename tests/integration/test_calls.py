#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The ways to call OpenSSL beyond plain read and write: peeks, the library's own SSL BIO, one object for
several connections, fork, threads, renegotiation, key update. What the program moved is what the mirror
shows, at both ends, under the right ports."""
import time

from lib_conversations import WAYS, converse, judge
from lib import binary, check, equal, fact, find_flow, flows, losses, run, sh, sha256

def big_words(t):
    """openssl s_server -WWW sends by its SSL BIO; a file big enough for several records."""
    crt, key = t.cert()
    body = t.www("file", 300000)
    s = t.spawn("s_server", "openssl", "s_server", "-WWW", "-quiet", "-accept", "7900", "-cert", crt, "-key", key,
                ns=t.srv, cwd=t.dir / "www")
    time.sleep(1)
    check(s.alive(), "s_server:", s.err())
    got = t.dir / "got"
    t.curl("-o", got, "--local-port", "40001", "https://10.71.1.1:7900/file")
    equal(sha256(got.read_bytes()), sha256(body), "file as curl got it")
    s.stop()
    return body


def judge_file(seen, body, end):
    f = find_flow(seen, 40001, 7900)
    check(bytes(f.data[0]).startswith(b"GET /file HTTP/1.1\r\n"), f"{end}: request", bytes(f.data[0])[:80])
    head, _, got = bytes(f.data[1]).partition(b"\r\n\r\n")
    check(head.startswith(b"HTTP/1."), f"{end}: head", head[:80])
    equal((len(got), sha256(got)), (len(body), sha256(body)), f"{end}: file by s_server -WWW")
    equal((f.holes, f.repeats), ([0, 0], [0, 0]), f"{end}: holes and repeats")
    fact(f"{end}'s end, s_server -WWW: {len(f.data[1])} bytes exact")


def finds_records():
    """The experiment succeeds with the system's library, else one agent would not be what it is meant to be."""
    said = sh(binary(), "doctor", "--probes", "records", timeout=60)
    check("(record sent)" in said or "cheap pair" not in said, said)
    fact("records: found in", said.count("(record sent)"), "libraries")


def main(t):
    finds_records()
    t.lab(sensor=False)
    t.nginx()
    exe = t.compile("calls.c", ("-lssl", "-lcrypto", "-lpthread"))
    agents = [t.alone("-w", t.dir / "server.pcapng", name="server"),
              t.alone("-w", t.dir / "client.pcapng", "--probes", "records", ns=t.cli, iface="cli0", name="client")]
    talks = [c for i, way in enumerate(WAYS) for c in converse(t, [exe], 7800 + i, way)]
    body = big_words(t)
    time.sleep(1)
    for a in agents:
        t.drain(a)
    fact("losses, of the whole host:", losses(*agents) or "none")
    wrong = []
    for end in ("server", "client"):
        seen = flows(t.dir / f"{end}.pcapng", sound=False)
        wrong += judge(seen, talks, end)
        judge_file(seen, body, end)
    check(not wrong, "\n".join(wrong))


run(main, needs=["gcc", "nginx", "curl"])
