#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Wrong use and missing means: one clear line on stderr, the right exit status (2 wrong usage, 1 the
rest), nothing left running."""
import re
import shutil

from lib import binary, check, equal, fact, run, run_cmd


def main(t):
    t.lab()
    wrong = []

    def refused(what, status, words, *args, ns=None, cmd=None):
        """words: what the one line must speak of."""
        p = run_cmd(*(cmd or [binary()]), *args, ns=ns or t.srv, timeout=20)
        lines = [x for x in p.stderr.splitlines() if x.strip() and ": probes on " not in x]
        said = [x for x in lines if re.search(words, x, re.I)]
        if p.returncode not in status or not said or len(lines) > 2 or "ready" in p.stderr:
            wrong.append(f"{what}: status {p.returncode}, want {status}; /{words}/ in: {p.stderr[-400:]!r}")
        else:
            fact(f"{what}: {said[0]}")

    pcap = t.dir / "x.pcapng"
    state = t.dir / "state"
    refused("unknown interface", (1, 2), "nosuch0", "-I", "nosuch0", "-w", pcap)
    refused("unknown output interface", (1,), "nosuch0", "-I", "srv0", "-o", "nosuch0")
    refused("output equal to the monitored interface", (1, 2), "srv0", "-I", "srv0", "-o", "srv0")
    refused("output lo", (1, 2), r"\blo\b", "-I", "srv0", "-o", "lo")
    refused("collector's output lo", (1, 2), r"\blo\b", "-C", "-o", "lo", "--state-dir", state,
            ns=t.col)
    refused("wrong filter", (1, 2), "filter|syntax", "-I", "srv0", "-w", pcap, "port and nonsense")
    refused("unwritable file", (1,), "No such file|nowhere", "-I", "srv0", "-w", "/nowhere/x.pcapng")
    refused("unknown option", (2,), "frobnicate", "--frobnicate")
    refused("no argument", (2,), "sslcollector")
    refused("-C without output", (2,), "-o|output", "-C")
    refused("-C with -I", (2,), "-C|-I", "-C", "-I", "srv0", "-o", "out0")
    refused("port out of range", (2,), "port|70000", "-I", "srv0", "-t", "10.71.2.2:70000")
    refused("port no number", (2,), "port|x9", "-C", "-w", pcap, "-p", "x9")
    refused("queue no size", (2,), "queue|lots", "-I", "srv0", "-t", "10.71.2.2", "--queue", "lots")
    refused("unreadable configuration", (1, 2), "nofile.yaml", "--config", t.dir / "nofile.yaml",
            "-I", "srv0", "-w", pcap)
    (t.dir / "bad.yaml").write_text("no-such-key: 1\n")
    refused("unknown key in the configuration", (1, 2), "no-such-key|bad.yaml", "--config",
            t.dir / "bad.yaml", "-I", "srv0", "-w", pcap)
    refused("agent without credentials", (1,), "enroll", "-I", "srv0", "-t", "10.71.2.2",
            "--state-dir", t.dir / "nothing-here")

    # a plain user: may run the program, may not probe
    exe = t.dir / "sslcollector"
    shutil.copy(binary(), exe)
    exe.chmod(0o755)
    refused("no privilege", (1,), "privilege|permi|root|CAP_|capabilit", "-I", "srv0", "--print",
            cmd=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
                 "--bounding-set=-all", exe])

    refused("few descriptors", (1,), "LimitNOFILE", "-I", "srv0", "-w", pcap, cmd=["prlimit", "--nofile=40", binary()])

    # a kernel without type information: an empty directory over it, in a mount namespace of its own
    refused("kernel without BTF", (1,), "type information|BTF", "-I", "srv0", "-w", pcap,
            cmd=["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh", binary()])
    fresh = t.dir / "fresh.state"
    refused("a new collector's wrong output", (1,), "nosuch0", "-C", "-o", "nosuch0", "--state-dir", fresh)
    check(not fresh.exists(), "a collector that never ran left a certificate authority behind")

    col = t.collector("-o", "out0")
    refused("port in use", (1,), "in use|3005", "-C", "-w", pcap, "--state-dir", t.dir / "col.state",
            ns=t.col)
    refused("unknown output of a collector", (1,), "nosuch0", "-C", "-o", "nosuch0", "-p", "3006",
            "--state-dir", t.dir / "col.state", ns=t.col)
    refused("address not ours", (1,), "address|assign|192.0.2.1", "-C", "-w", pcap, "--listen",
            "192.0.2.1", "-p", "3006", "--state-dir", t.dir / "col.state", ns=t.col)
    check(col.alive(), "the first collector died of it")
    equal(col.stop(), 0, "collector's exit status")
    for flag in ("--help", "--version"):
        p = run_cmd(binary(), flag, timeout=10)
        equal((p.returncode, p.stderr), (0, ""), flag)
        check("sslcollector" in p.stdout, flag, "says nothing:", p.stdout)
    check(not wrong, f"{len(wrong)} not as they should be:\n" + "\n".join(wrong))


run(main, needs=["setpriv"])
