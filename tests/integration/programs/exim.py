#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Exim with GnuTLS as a mail server, STARTTLS and TLS from the start; curl and openssl s_client send mail.
The package excludes other mail servers, so it is unpacked; it wants a user that only exists inside the
test's mount namespace."""
import re
import shutil

from role import SRV, check, equal, lib, pattern, roles
from lib_debs import unpack

STARTTLS, WRAPPED, UID = 25, 465, 64999
CONF = """
primary_hostname = mirror.test
exim_path = {exim}
spool_directory = {home}/spool
log_file_path = {home}/%s.log
pid_file_path = {home}/pid
local_interfaces = {addr}
daemon_smtp_ports = {starttls} : {wrapped}
tls_on_connect_ports = {wrapped}
tls_advertise_hosts = *
tls_certificate = {home}/crt
tls_privatekey = {home}/key
acl_smtp_rcpt = accept
acl_smtp_data = accept
host_lookup =
rfc1413_hosts =
queue_only
keep_environment =
domainlist none =
"""


def server(r):
    exim = unpack(r.t, "exim4-daemon-light") / "usr/sbin/exim4"
    home = r.dir / "exim"
    home.mkdir()
    for src, dst in zip(r.t.cert(), ("crt", "key")):
        shutil.copy(src, home / dst)
    for f in (home, home / "crt", home / "key"):
        lib.os.chown(f, UID, UID)
    for name, line in (("passwd", f"Debian-exim:x:{UID}:{UID}::/:/bin/false\n"), ("group", f"Debian-exim:x:{UID}:\n")):
        (r.dir / name).write_text((lib.pathlib.Path("/etc") / name).read_text() + line)
    (home / "conf").write_text(CONF.format(exim=exim, home=home, addr=SRV, starttls=STARTTLS, wrapped=WRAPPED))
    r.on("server", "exim", "unshare", "-m", "sh", "-c",
         f"mount --bind {r.dir}/passwd /etc/passwd && mount --bind {r.dir}/group /etc/group && "
         f"exec {exim} -C {home}/conf -bdf")
    r.listening(STARTTLS)
    r.listening(WRAPPED)
    return home / "main.log"


def play(r):
    log = server(r)
    r.attach()
    mail = r.dir / "mail"
    for i, size in enumerate((10, 3000, 1_000_000)):
        text = pattern(f"mail {i}", size).hex()
        mail.write_text(f"Subject: mail {i}\r\n\r\n" + "".join(f"{text[k:k + 900]}\r\n"
                                                               for k in range(0, len(text), 900)))
        for url, *args in ((f"smtp://{SRV}", "--ssl-reqd"), (f"smtps://{SRV}",), (f"smtp://{SRV}", "--ssl-reqd",
                                                                                "--tls-max", "1.2")):
            r.do("client", "curl", "-sSk", url, *args, "--mail-from", "a@mirror.test", "--mail-rcpt",
                 "b@mirror.test", "-T", mail, env=r.env)
    for port, args in ((STARTTLS, ("-starttls", "smtp")), (WRAPPED, ())):
        heard = r.do("client", "openssl", "s_client", "-quiet", "-crlf", "-ign_eof", "-connect", f"{SRV}:{port}",
                     "-keylogfile", r.keylog, *args, data=b"EHLO x\nNOOP\nQUIT\n")
        check(b"221 mirror.test closing" in heard, "answers:", heard[-200:])
    equal(len(re.findall(r" <= a@mirror\.test H=.* S=\d+", lib.read(log))), 9, "mails taken")
    r.row("exim server, STARTTLS", "libgnutls.so.30", "server", STARTTLS, decode="smtp", at_least=7)
    r.row("exim server, TLS from the start", "libgnutls.so.30", "server", WRAPPED, at_least=4)


roles(play, needs=["curl", "unshare"])
