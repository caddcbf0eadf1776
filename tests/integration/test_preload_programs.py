#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Real programs with the preloaded library instead of probes: those of programs/, and the tests of memory BIOs and of
STARTTLS. Each is judged as ever: at both ends, to the byte, against the decrypted wire. The table says of each whether
it is served, and of the others why not. Those that come by TLS as others do are tried with the argument "all" only. Any
single one: SSLC_TEST_CAPTURE=preload programs/NAME.py. nginx and apache have 200 short connections at once: none may be
missing, though some last a few milliseconds and the processors are busy with the other programs."""
import os
import re
import shutil
import subprocess
import sys
import time

from lib import HERE, Failed, Skip, check, fact, run, sh

# The longest first.
PROGRAMS = {
    "../test_starttls": "what is said before TLS, kept in the program",
    "../test_memory_bio": "memory BIOs and BIO pairs, in orders that mislead",
    "python_asyncio": "memory BIOs",
    "python_blocking": "loaded at run time, children by fork(), 50 MB in one call",
    "mariadb": "threads",
    "dovecot": "BIO pairs, chroot; told to keep its environment",
    "squid": "BIOs of its own",
    "vsftpd": "seccomp, chroot",
    "curl_nss": "NSS",
    "postfix": "told to keep its environment",
    "curl": "client, linked",
    "ncat": "a child after the handshake",
    "forks": "children that go on with a connection",
    "apache": "mod_ssl, loaded at run time",
    "exim": "GnuTLS, children by fork()",
    "socat": "children by fork()",
    "slapd": "GnuTLS with callbacks",
    "redis": "loaded at run time, threads",
    "nginx": "server, linked, children by fork()",
    "lighttpd_gnutls": "GnuTLS, loaded at run time",
    "nghttp2": "HTTP/2",
    "stunnel": "threads",
    "haproxy": "callbacks of its own instead of sockets",
    "postgres": "a child for each connection, callbacks",
    "wget": "GnuTLS",
    "gnutls": "GnuTLS, corked and interrupted",
    "php": "library in the interpreter",
    "perl": "Net::SSLeay, loaded at run time",
    "ruby": "OpenSSL extension, loaded at run time",
    "openssl": "SSL BIOs below others",
}
# As others: tried when all are asked for.
ALIKE = {
    "load": "ab, wrk, siege: an SSL object for several connections",
    "proftpd": "loaded at run time, children by fork(), rights given up",
    "gnutls_bulk": "GnuTLS, much at once",
    "memcached": "threads",
    "git": "GnuTLS with callbacks",
    "mosquitto": "client and server, linked",
    "lighttpd": "loaded at run time",
    "gnutls_tools": "GnuTLS",
    "lftp": "GnuTLS",
}
# Out of the library's reach: probes serve them, or nothing does.
NOT_SERVED = {
    "go": "Go programs do TLS themselves, without C",
    "java": "Java does TLS itself, without C",
    "node": "it has OpenSSL inside its own program, where no other library comes first",
}
AT_ONCE = 5
LIMIT_S = 300


def sort_node():
    """As Debian builds it it has the library outside."""
    node = shutil.which("node")
    if node and "libssl" in sh("ldd", node, ok=None):
        PROGRAMS["node"] = "memory, libuv"
        del NOT_SERVED["node"]


def check_list():
    there = {f.stem for f in (HERE / "programs").glob("*.py")} - {"role", "decrypt"}
    known = {n for n in PROGRAMS if "/" not in n} | set(ALIKE) | set(NOT_SERVED)
    check(there == known, f"programs that this test does not know, or that are not there: {there ^ known}")


def start(t, name):
    log = open(t.dir / f"{name.split('/')[-1]}.log", "wb")
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
            got[name] = running.pop(name).returncode, (t.dir / f"{name.split('/')[-1]}.log").read_text(errors="replace")
        check(time.monotonic() < limit, f"not over within {LIMIT_S} s: {sorted(running)}")
        time.sleep(0.1)
    return got


def verdict(name, status, text):
    rows = re.findall(r"^ROW .*$", text, re.M)
    for row in rows:
        fact(row)
    last = text.strip().split("\n")[-1]
    if status == 77:
        fact(f"SKIPPED {name}: {last}")
    elif status:
        fact(text)
    else:
        fact(f"SERVED {name}: {PROGRAMS[name]} ({last.split(' in ')[-1]})")


def main(t):
    sort_node()
    check_list()
    if "all" in sys.argv[1:]:
        PROGRAMS.update(ALIKE)
        ALIKE.clear()
    got = play_all(t)
    for name in PROGRAMS:
        verdict(name, *got[name])
    for name, what in ALIKE.items():
        fact(f"NOT TRIED {name}: {what}")
    for name, why in NOT_SERVED.items():
        fact(f"NOT SERVED {name}: {why}")
    wrong = [n for n, (status, _) in got.items() if status not in (0, 77)]
    if wrong:
        raise Failed(f"{', '.join(f'{n} ({PROGRAMS[n]})' for n in wrong)}")
    left_out = [text.strip().split("\n")[-1] for status, text in got.values() if status == 77]
    if left_out:
        raise Skip("; ".join(left_out))
    fact(f"{len(got)} served, {len(NOT_SERVED)} not")


run(main)
