#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Real programs with the preloaded library instead of probes: those of programs/ that stand for a way to come by a TLS
library. Each is judged as ever: at both ends, to the byte, against the decrypted wire.
Any other: SSLC_TEST_CAPTURE=preload programs/NAME.py. Out of the library's reach are programs that clear the
environment of their children (dovecot, postfix), are static (Go), or do not use C (Java); what OpenSSL does inside
itself (openssl s_server -WWW); memory BIOs (asyncio, node). nginx and apache have 200 short connections at once:
none may be missing, though some last a few milliseconds and the processors are busy with the other programs."""
import os
import re
import subprocess
import sys
import time

from lib import HERE, Failed, Skip, check, fact, run

PROGRAMS = {
    "curl": "client, linked",
    "nginx": "server, linked, children by fork()",
    "apache": "mod_ssl, loaded at run time",
    "haproxy": "callbacks of its own instead of sockets",
    "postgres": "a child for each connection, callbacks",
    "redis": "loaded at run time, threads",
    "perl": "Net::SSLeay, loaded at run time",
    "php": "library in the interpreter",
    "ruby": "OpenSSL extension, loaded at run time",
    "wget": "GnuTLS",
    "stunnel": "threads",
    "socat": "children by fork()",
    "lighttpd_gnutls": "GnuTLS, loaded at run time",
    "curl_nss": "NSS",
}
AT_ONCE = 4
LIMIT_S = 200


def start(t, name):
    log = open(t.dir / f"{name}.log", "wb")
    return subprocess.Popen([sys.executable, "-B", HERE / "programs" / f"{name}.py"], stdout=log,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                            env={**os.environ, "SSLC_TEST_CAPTURE": "preload"})


def end(p):
    if p.poll() is None:
        p.terminate()  # it ends what it has started
        p.wait(30)


def play_all(t):
    """{name: (status, what it printed)}"""
    waiting, running, got = list(PROGRAMS), {}, {}
    limit = time.monotonic() + LIMIT_S
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            name = waiting.pop(0)
            running[name] = start(t, name)
            t.cleanup(end, running[name])
        for name in [n for n, p in running.items() if p.poll() is not None]:
            got[name] = running.pop(name).returncode, (t.dir / f"{name}.log").read_text(errors="replace")
        check(time.monotonic() < limit, f"not over within {LIMIT_S} s: {sorted(running)}")
        time.sleep(0.1)
    return got


def main(t):
    got = play_all(t)
    for name, (status, text) in got.items():
        for row in re.findall(r"^ROW .*$", text, re.M):
            fact(row)
        if status not in (0, 77):
            fact(text)
    wrong = [n for n, (status, _) in got.items() if status not in (0, 77)]
    if wrong:
        raise Failed(f"{', '.join(f'{n} ({PROGRAMS[n]})' for n in wrong)}")
    left_out = [text.strip().split("\n")[-1] for status, text in got.values() if status == 77]
    if left_out:
        raise Skip("; ".join(left_out))
    fact(f"{len(got)} programs: {'; '.join(f'{n}: {PROGRAMS[n]}' for n in got)}")


run(main)
