#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""GnuTLS and NSS as other Debian releases build them: found by the agent, and byte-exact at both ends by
all ways to call them."""
import platform
import time

import test_gnutls_calls
import test_nss
from lib import Skip, fact, run, sh
from lib_debs import Suite

LIB = "usr/lib/x86_64-linux-gnu"
# suite; packages for GnuTLS, for NSS; whether they need a C library of their own
COMMON = ("libc6", "zlib1g", "libzstd1", "libbrotli1")
RELEASES = (("bullseye", ("libgnutls30",), ("libnss3", "libnspr4"), False),
            ("trixie", (*COMMON, "libgnutls30t64", "libp11-kit0", "libidn2-0", "libunistring5", "libtasn1-6",
                        "libhogweed6t64", "libnettle8t64", "libgmp10", "libffi8"),
             (*COMMON, "libnss3", "libnspr4", "libsqlite3-0"), True))


def command(libs, exe, own_libc):
    path = f"{libs}:{libs}/nss"
    if own_libc:
        return [libs / "ld-linux-x86-64.so.2", "--library-path", path, exe]
    return ["env", f"LD_LIBRARY_PATH={path}", exe]


def agents(t, cmd, args, file):
    """Probes must be on the library before the test: somebody maps it."""
    got = [t.alone("-w", t.dir / "server.pcapng", name="at-server"),
           t.alone("-w", t.dir / "client.pcapng", ns=t.cli, iface="cli0", name="at-client")]
    holder = t.spawn("holder", *cmd, "server", "10.71.1.1", 6999, *args, ns=t.srv)
    holder.wait_line("listening", where="out")
    for a in got:
        a.wait_line(rf"probes on .*{file.parent.relative_to(t.dir)}/{file.name}")
    holder.kill()
    return got


def finish(t, both, compare, runs):
    time.sleep(1)
    for a in both:
        t.drain(a)
    compare(t, runs)
    for end in ("server", "client"):
        (t.dir / f"{end}.pcapng").unlink()


def gnutls(t, exe, suite, packages, own_libc):
    libs = Suite(suite).unpack(t.dir / f"gnutls-{suite}", *packages) / LIB
    cmd = command(libs, exe, own_libc)
    file = next(f for f in libs.glob("libgnutls.so.30.*"))
    both = agents(t, cmd, (*t.cert(), "1", "1"), file)
    ways = [r for r in test_gnutls_calls.RUNS if suite != "bullseye" or "file" not in r[1]]  # since 3.7.4
    runs = [x for i, r in enumerate(ways) for x in test_gnutls_calls.exchange(t, cmd, i, *r)]
    finish(t, both, test_gnutls_calls.compare, runs)
    fact(f"{suite}: GnuTLS {file.name}: {len(runs)} connections exact")


def nss(t, exe, db, suite, packages, own_libc):
    libs = Suite(suite).unpack(t.dir / f"nss-{suite}", *packages) / LIB
    cmd = command(libs, exe, own_libc)
    both = agents(t, cmd, (db, "1", "1"), libs / "libssl3.so")
    runs = [test_nss.exchange(t, cmd, db, i, *r) for i, r in enumerate(test_nss.RUNS)]
    finish(t, both, test_nss.compare, runs)
    fact(f"{suite}: NSS: {len(runs)} connections exact")


def main(t):
    if platform.machine() != "x86_64":
        raise Skip("knows the libraries of x86-64 only")
    t.lab(sensor=False)
    db = test_nss.database(t)
    gnutlsx = t.compile("gnutlsx.c", ["-lgnutls"])
    nssx = t.compile("nssx.c", sh("pkg-config", "--cflags", "--libs", "nss").split())
    for suite, for_gnutls, for_nss, own_libc in RELEASES:
        gnutls(t, gnutlsx, suite, for_gnutls, own_libc)
        nss(t, nssx, db, suite, for_nss, own_libc)


run(main, needs=["gcc", "pkg-config", "certutil", "pk12util", "apt-get", "dpkg-deb"])
