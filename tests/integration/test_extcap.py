#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""As an interface of Wireshark: tshark lists both, captures an exchange of this host and one that another
sslcollector serves, the latter as an ordinary user, with and without a filter; each ends with tshark.
That other one begins a file anew at SIGHUP."""
import os
import pathlib
import re
import shutil
import signal

from lib import Skip, binary, check, equal, fact, flows, run, run_cmd, sh, until

SYSTEM = next(iter(sorted(pathlib.Path("/usr").glob("lib*/**/wireshark/extcap"))), None)
URI = b"GET /who?"


def of_space(ns):
    """Our processes that Wireshark has started in a network namespace."""
    want, out = os.stat(f"/run/netns/{ns}").st_ino, []
    for d in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if b"--extcap-interface" in (d / "cmdline").read_bytes() and (d / "ns/net").stat().st_ino == want:
                out.append(int(d.name))
        except OSError:
            pass
    return out


def main(t):
    if not SYSTEM:
        raise Skip("tshark without a folder for extcap")
    t.lab(sensor=False)
    t.nginx()
    folder, files = t.dir / "extcap", t.dir / "files"
    folder.mkdir()
    files.mkdir()
    files.chmod(0o777)
    shutil.copy(binary(), folder / "sslcollector")
    # root's tshark knows the system's folder alone: there, but for nobody else
    as_root = ["unshare", "-m", "sh", "-c", f"mount --bind {folder} {SYSTEM} && exec \"$@\"", "sh", "tshark"]
    as_user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", f"HOME={files}",
               f"WIRESHARK_EXTCAP_DIR={folder}", "tshark"]

    for who in (as_root, as_user):
        listed = re.findall(r"^\d+\. (sslcollector\S*) \((.*)\)$", sh(*who, "-D"), re.M)
        equal(listed, [("sslcollector", "TLS plaintext of this host"),
                       ("sslcollector-remote", "TLS plaintext from an sslcollector elsewhere")], "tshark -D")

    def exchange(n):
        for _ in range(3):
            t.curl("-o", "/dev/null", f"https://10.71.1.1/who?{n}")

    def capture(name, who, *args):
        """tshark in the server's namespace until an exchange shows; the flows seen."""
        out = files / f"{name}.pcapng"
        p = t.spawn(name, *who, *args, "-w", out, ns=t.srv)

        def shows():
            exchange(name)
            try:
                return [f for f in flows(out, sound=False) if f.data[0].startswith(URI) and f.end == "fin"]
            except FileNotFoundError:
                return None
        until(shows, 30, f"an exchange by {name}", 0.5)
        equal(len(of_space(t.srv)), 1, "our processes")
        equal(p.stop(signal.SIGINT), 0, "tshark's status")
        until(lambda: not of_space(t.srv), 10, "the end of our process")
        check("sslcollector:" not in p.err(), "tshark tells:", p.err()[-400:])
        return [f for f in flows(out, sound=False) if f.data[0].startswith(URI)]

    seen = capture("local", as_root, "-i", "sslcollector", "-o", "extcap.sslcollector.mirror:srv0")
    check(all("comm=nginx" in f.comments[0] for f in seen if f.comments), "comments:", seen[0].comments)
    check(any(f.comments for f in seen), "no comment names the process")
    fact(f"this host: {len(seen)} connections")

    alone = t.alone("--pcap-over-ip", "57012,format=pcapng", "--pcap-over-ip", "57013", "-w", t.dir / "mine.pcapng")
    remote = ("-i", "sslcollector-remote", "-o")
    seen = capture("remote", as_user, *remote, "extcap.sslcollector_remote.collector:127.0.0.1:57012")
    check(any(f.comments for f in seen), "pcapng without comments")
    (t.dir / "mine.pcapng").rename(t.dir / "mine.1")
    alone.kick(signal.SIGHUP)
    until((t.dir / "mine.pcapng").exists, 5, "a file begun anew at SIGHUP")
    check(flows(t.dir / "mine.1", sound=False), "the file that was moved away is empty")
    fact(f"from elsewhere, as an ordinary user: {len(seen)} connections")
    for n, wanted in (("tcp port 443", True), ("udp", False)):
        out = files / f"filter-{wanted}.pcapng"
        p = t.spawn("filtered", *as_user, *remote, "extcap.sslcollector_remote.collector:127.0.0.1:57013",
                    "-f", n, "-w", out, ns=t.srv)
        until(lambda: of_space(t.srv), 15, "our process")
        until(lambda: out.exists(), 15, "a file")
        if wanted:
            until(lambda: exchange("f") or flows(out, sound=False), 20, "an exchange through the filter", 0.5)
        else:
            for _ in range(3):
                exchange("f")
        p.stop(signal.SIGINT)
        until(lambda: not of_space(t.srv), 10, "the end of our process")
        equal(bool(flows(out, sound=False)), wanted, f"connections through the filter {n!r}")
    fact("filters: one passes, one does not")

    # SIGTERM, and a reader that goes away while nothing is said: it ends
    fifo = t.dir / "fifo"
    os.mkfifo(fifo)
    for interface, sig in (("sslcollector-remote", True), ("sslcollector-remote", False), ("sslcollector", True)):
        p = t.spawn("extcap", folder / "sslcollector", "--capture", "--extcap-interface", interface, "--fifo", fifo,
                    "--mirror", "srv0", "--collector", "127.0.0.1:57012", ns=t.srv)
        fd = os.open(fifo, os.O_RDONLY)
        until(lambda: os.read(fd, 28)[:4] == b"\x0a\x0d\x0d\x0a", 20, "a file header")
        if sig:
            equal(p.stop(signal.SIGTERM), 0, f"{interface}: status after SIGTERM")
        os.close(fd)
        equal(p.wait(15), 0, f"{interface}: status after its reader")
        equal(p.err(), "", f"{interface}: said")
    p = run_cmd(folder / "sslcollector", "--capture", "--extcap-interface", "sslcollector-remote", "--fifo", fifo,
                "--collector", "127.0.0.1:9", ns=t.srv)
    check(p.returncode == 1 and "cannot connect" in p.stderr, "nobody there:", p.returncode, p.stderr)
    equal(alone.stop(), 0, "the served one's status")
    fact("each ends with SIGTERM and with its reader, status 0, without a word")


run(main, needs=["nginx", "curl", "tshark", "unshare", "setpriv"])
