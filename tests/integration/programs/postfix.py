#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Postfix: smtpd with STARTTLS and with TLS from the start, which speaks to its tlsmgr over a Unix socket
in the middle of the handshake; curl and openssl s_client send mail."""
import re
import shutil

from role import SRV, check, equal, lib, pattern, roles, sh

STARTTLS, WRAPPED = 25, 465
INTERNAL = """
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
error unix - - n - - error
discard unix - - n - - discard
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


def server(r):
    """An instance of its own in the test's directory; what it accepts it throws away."""
    etc, data, log = r.dir / "postfix", r.dir / "postfix-data", r.dir / "mail.log"
    for d in (etc, data, r.dir / "spool"):
        d.mkdir()
    shutil.chown(data, "postfix")
    crt, key = r.t.cert()
    conf = {"compatibility_level": "3.6", "queue_directory": r.dir / "spool", "data_directory": data,
            "maillog_file": log, "maillog_file_prefixes": r.dir, "inet_interfaces": SRV,
            "inet_protocols": "ipv4", "myhostname": "mirror.test", "mydestination": "mirror.test",
            "local_transport": "discard", "local_recipient_maps": "", "alias_maps": "",
            "smtpd_tls_cert_file": crt, "smtpd_tls_key_file": key, "smtpd_tls_security_level": "may",
            "mynetworks": "10.71.1.0/24", "smtpd_peername_lookup": "no", "message_size_limit": 20_000_000}
    if lib.PRELOADS:  # what it would otherwise clear: see PRELOADED PROGRAMS in the manual
        conf["import_environment"] = "MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LD_PRELOAD SSLCOLLECTOR_RUN_DIR"
    (etc / "main.cf").write_text("".join(f"{k} = {v}\n" for k, v in conf.items()))
    (etc / "master.cf").write_text(f"{STARTTLS} inet n - n - - smtpd\n{WRAPPED} inet n - n - - smtpd "
                                   f"-o smtpd_tls_wrappermode=yes{INTERNAL}")
    sh("postfix", "-c", etc, "check", ns=r.srv)
    r.on("server", "postfix", "postfix", "-c", etc, "start-fg")
    r.listening(STARTTLS)
    r.listening(WRAPPED)
    return log


def play(r):
    log = server(r)
    r.attach()
    mail = r.dir / "mail"
    sizes = []
    for i, size in enumerate((10, 3000, 1_000_000)):
        lines = pattern(f"mail {i}", size).hex()
        mail.write_text(f"Subject: mail {i}\r\n\r\n" + "".join(f"{lines[k:k + 900]}\r\n"
                                                               for k in range(0, len(lines), 900)))
        sizes.append(mail.stat().st_size)
        for url, *args in ((f"smtp://{SRV}", "--ssl-reqd"), (f"smtps://{SRV}",), (f"smtp://{SRV}", "--ssl-reqd",
                                                                                "--tls-max", "1.2")):
            r.do("client", "curl", "-sSk", url, *args, "--mail-from", "a@mirror.test", "--mail-rcpt",
                 "b@mirror.test", "-T", mail, env=r.env)
    talk = b"EHLO x\nNOOP\nVRFY b@mirror.test\nQUIT\n"
    for port, args in ((STARTTLS, ("-starttls", "smtp")), (WRAPPED, ())):
        heard = r.do("client", "openssl", "s_client", "-quiet", "-crlf", "-ign_eof", "-connect",
                     f"{SRV}:{port}", "-keylogfile", r.keylog, *args, data=talk)
        check(b"221 2.0.0 Bye" in heard, "answers:", heard[-200:])
    taken = [int(x) for x in re.findall(r"qmgr.*size=(\d+), nrcpt=1 ", lib.read(log))]
    equal(len(taken), 9, f"mails taken, of {sizes} bytes")
    r.row("postfix smtpd, STARTTLS", "libssl.so.3", "server", STARTTLS, decode="smtp", at_least=7)
    r.row("postfix smtpd, TLS from the start", "libssl.so.3", "server", WRAPPED, at_least=4)
    r.row("curl client smtp, STARTTLS", "libssl.so.3", "client", STARTTLS, decode="smtp",
          only=lambda c, s: b"EHLO x\r\n" not in c, at_least=6)
    r.row("curl client smtps", "libssl.so.3", "client", WRAPPED, only=lambda c, s: b"EHLO x\r\n" not in c,
          at_least=3)


roles(play, needs=["postfix", "curl"])
