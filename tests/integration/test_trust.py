#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Who may send and who may receive: tokens (wrong, expired, used), foreign and missing certificates,
--insecure on one side only, garbage and half frames on the port. A refused peer mirrors nothing, says
why in one line, and does not disturb another agent."""
import re
import time

from lib import PY, binary, check, equal, fact, flows, run, run_cmd, settle, sh, until

GARBAGE = r'''
import os, socket, ssl, sys
kind, host, state = sys.argv[1:4]
raw = socket.create_connection((host, 3005), timeout=10)
if kind != "raw":
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    ctx.set_alpn_protocols(["sslc/1"])
    if kind != "nocert":
        ctx.load_cert_chain(state + "/agent.pem", state + "/agent.key")
    try:
        raw = ctx.wrap_socket(raw)
    except OSError as e:
        print("refused", e); sys.exit()
try:
    raw.sendall({"half": b"\x00\x00"}.get(kind) or os.urandom(70000))
    if kind == "half":
        raw.close(); print("closed"); sys.exit()
    raw.settimeout(10)
    while raw.recv(4096):
        pass
    print("closed")
except TimeoutError:
    print("still open")
except OSError as e:
    print("closed", e)
'''


def enroll(t, token, ns=None, state="x.state", host="10.71.2.2"):
    return run_cmd(binary(), "enroll", host, token, "--state-dir", t.dir / state, ns=ns or t.srv,
                   timeout=20)


def tokens(t):
    def refused(what, token):
        p = enroll(t, token)
        equal(p.returncode, 1, f"{what}: status; {p.stderr}")
        lines = p.stderr.strip().splitlines()
        check(1 <= len(lines) <= 2 and "token" in p.stderr, f"{what}: {p.stderr!r}")
        check(not (t.dir / "x.state" / "agent.key").exists(), f"{what}: left a key behind")
        fact(f"{what}: {lines[-1]}")
    good = t.token()
    flipped = good[:3] + ("A" if good[3] != "A" else "B") + good[4:]
    refused("wrong token", flipped)
    refused("no token at all", "hello")
    short = t.token("--expires", "1s")
    time.sleep(2.5)
    refused("expired token", short)
    p = enroll(t, good, state="agent.state")
    equal(p.returncode, 0, f"good token: {p.stderr}")
    refused("used token", good)
    for f, mode in (("agent.state", 0o700), ("agent.state/agent.key", 0o600),
                    ("col.state", 0o700), ("col.state/ca.key", 0o600)):
        equal((t.dir / f).stat().st_mode & 0o777, mode, f"mode of {f}")
    log = [f.read_text() for f in t.dir.glob("*.err")]
    check(not any(good in x for x in log), "a token stands in a log")


def stranger(t, what, agent_args, words, host="10.71.2.2", state="agent.state", ends=False):
    """An agent that must be refused: it says why and nothing of its flow arrives. ends: at once."""
    a = t.spawn("stranger", binary(), "-I", "srv0", "-t", host, "--state-dir", t.dir / state,
                *agent_args, ns=t.srv)
    until(lambda: not a.alive() or re.search(words, a.err(), re.I), 15,
          f"{what}: a line with /{words}/")
    line = re.search(f".*(?:{words}).*", a.err(), re.I)
    check(line, f"{what}: ended with {a.p.returncode}: {a.err()!r}")
    if ends:
        equal(a.wait(15), 1, f"{what}: status")
        check("ready" not in a.err(), f"{what}: said ready")
    else:
        t.curl("-o", "/dev/null", f"https://10.71.1.1/who?{what.replace(' ', '-')}")
        time.sleep(0.7)
        check(len(a.err().splitlines()) < 15, f"{what}: a flood of lines: {a.err()[:2000]}")
        equal(a.stop(timeout=20), 0, f"{what}: status after SIGINT")
    fact(f"{what}: {line.group(0).strip()}")


def garbage(t, col):
    script = t.dir / "garbage.py"
    script.write_text(GARBAGE)
    for kind in ("raw", "nocert", "cert", "half"):
        before = col.counters()
        said = sh(PY, script, kind, "10.71.2.2", t.dir / "agent.state", ns=t.srv, timeout=30)
        check("still open" not in said, f"garbage ({kind}): link left open")
        time.sleep(0.3)
        after = col.counters()
        grown = {k: v - before.get(k, 0) for k, v in after.items() if v > before.get(k, 0)}
        check(any(re.search("refused|broken|lost", k)
                  for k in grown), f"garbage ({kind}) not counted: {grown}")
        fact(f"garbage ({kind}): {said.split()[0]}, counted {grown}")


def main(t):
    t.lab()
    t.nginx()
    pcap = t.dir / "out.pcapng"
    col = t.collector("-w", pcap)
    tokens(t)

    # another collector with its own CA, enrolled with once
    other = t.collector("-o", "out0", "-p", "3007", state="other.state", name="other")
    t.enroll("10.71.2.2:3007", state="foreign.state", col_state="other.state")
    stranger(t, "foreign certificate", (), "certificate|verif|unknown ca|issuer",
             state="foreign.state")
    stranger(t, "insecure agent only", ("--insecure",), "refus|enroll|certificate|insecure",
             state="none.state")
    equal(other.stop(), 0, "other collector's status")
    lax = t.collector("-o", "out0", "-p", "3008", "--insecure", state="lax.state", name="lax")
    stranger(t, "insecure collector only", (), "certificate|verif|refus|insecure",
             host="10.71.2.2:3008")
    stranger(t, "insecure collector only, no credentials", (), "enroll", host="10.71.2.2:3008",
             state="none.state", ends=True)
    equal(lax.stop(), 0, "lax collector's status")

    agent = t.agent()
    t.curl("-o", "/dev/null", "https://10.71.1.1/who?good-1")
    settle(pcap, lambda seen: any(b"good-1" in f.data[0] for f in seen))
    mark = agent.err()
    client = t.helper("client", "client.py", "10.71.1.1", 443, ns=t.cli)
    client.wait_line("connected", where="out")
    client.say("get /who?held-before", "answer 200")
    garbage(t, col)
    client.say("get /who?held-after", "answer 200")
    client.say("close", "done close")
    time.sleep(1)
    new = [x for x in agent.err()[len(mark):].splitlines() if "counter" not in x]
    equal(new, [], "lines of the honest agent meanwhile")
    t.drain(agent, col)
    seen = flows(pcap)
    asked = b" ".join(bytes(f.data[0]) for f in seen)
    equal(len(seen), 2, "flows: only those of the honest agent")
    check(b"held-before" in asked and b"held-after" in asked, "the honest agent's flow suffered")

    # --insecure on both sides does work, by intention
    lax = t.collector("-w", t.dir / "lax.pcapng", "--insecure", state="lax2.state", name="lax2")
    agent = t.agent("--insecure", state="none.state")
    t.curl("-o", "/dev/null", "https://10.71.1.1/who?lax")
    settle(t.dir / "lax.pcapng", lambda s: any(b"who?lax" in f.data[0] for f in s))
    t.drain(agent, lax)


run(main, needs=["nginx", "curl"])
