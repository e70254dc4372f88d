"""Certificates that are renewed by the recipes of docs/operations.md, while the relay runs in the sandbox of its unit:
by certbot, and by acme.sh where that was brought, from an ACME server for tests (pebble)."""

import os
import re
import smtplib
import ssl
import subprocess
import time

from tools import *

ACME = f"{TREE}/acme"
SERVER = "https://127.0.0.1:14000/dir"
HOST = "relay.example.com"
LIVE = f"/etc/letsencrypt/live/{HOST}"
CERTBOT = f"--server {SERVER} --no-verify-ssl -n"
# From the end of a renewal to the first handshake with the new pair.
IN_USE_WITHIN = 2 * PATIENCE


def first_certificate(pem):
    return re.search("-----BEGIN.*?END CERTIFICATE-----\n", pem, re.S)[0]


def shown():
    """The certificate that a client is shown."""
    with smtplib.SMTP("127.0.0.1", 587, timeout=SOON) as session:
        session.starttls(context=ssl._create_unverified_context())
        return ssl.DER_cert_to_PEM_cert(session.sock.getpeercert(binary_form=True))


def is_in_use(file):
    """Within two seconds clients are shown the first certificate of the file."""
    wanted, end = first_certificate(open(file).read()).split(), time.monotonic() + IN_USE_WITHIN
    while shown().split() != wanted:
        assert time.monotonic() < end, f"{file} is not in use\n{status()}"
        time.sleep(0.05)


def recipe(of):
    """The shell block of docs/operations.md that has this in it."""
    return next(block for block in blocks("docs/operations.md", "Certificates", "sh") if of in block)


def acme_server():
    with open("/run/pebble.json", "w") as config:
        config.write(
            '{"pebble": {"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",'
            ' "certificate": "/etc/relay-cert.pem", "privateKey": "/etc/relay-key.pem", "httpPort": 80, "tlsPort": 443}}'
        )
    environment = {**os.environ, "PEBBLE_VA_ALWAYS_VALID": "1", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    log = open("/run/pebble.log", "w")
    server = subprocess.Popen([f"{ACME}/pebble", "-config", "/run/pebble.json"], env=environment, stdout=log, stderr=log)
    wait_for("the ACME server", lambda: "Listening on" in open("/run/pebble.log").read())
    return server


def renewed(command, file):
    """Renews; the new certificate is in use by the same process."""
    before, pid = open(file).read(), main_pid()
    run(command)
    assert open(file).read() != before, command
    is_in_use(file)
    assert main_pid() == pid


def certificates_are_renewed_by_the_recipes():
    if not os.path.exists(f"{ACME}/pebble"):
        return print("   skipped: pebble is not installed where this was started")
    server = acme_server()
    try:
        run(f"certbot certonly {CERTBOT} --standalone --agree-tos -m hostmaster@example.com -d {HOST}")
        run(recipe("renewal-hooks"))
        is_in_use(f"{LIVE}/fullchain.pem")
        renewed(f"certbot renew {CERTBOT} --force-renewal --no-random-sleep-on-renew", f"{LIVE}/fullchain.pem")
        assert run("stat -c '%a %U %G' /etc/postrider/tls/key.pem").split() == ["640", "root", "postrider"]
        if os.path.exists(f"{ACME}/acme.sh"):
            by_acme_sh()
        # certbot's own files, as the page says: the group on two directories and each key, which renewals keep.
        run(recipe("chgrp postrider /etc/letsencrypt"))
        run(f"sed -i 's,/etc/postrider/tls/fullchain.pem,{LIVE}/fullchain.pem,; s,/etc/postrider/tls/key.pem,{LIVE}/privkey.pem,' {CONFIG}")
        run(f"systemctl reload {UNIT}")
        renewed(f"certbot renew {CERTBOT} --force-renewal --no-random-sleep-on-renew", f"{LIVE}/fullchain.pem")
    finally:
        server.kill()
        configure()
        run(f"systemctl reload {UNIT}")


def by_acme_sh():
    acme_sh = f"sh {ACME}/acme.sh --home /root/.acme.sh --server {SERVER} --insecure"
    run(f"mkdir -p /run/webroot /root/.acme.sh; {acme_sh} --issue -d {HOST} --webroot /run/webroot")
    run(recipe("acme.sh").replace("acme.sh --install-cert", f"{acme_sh} --install-cert"))
    is_in_use("/etc/postrider/tls/fullchain.pem")
    renewed(f"{acme_sh} --renew --force -d {HOST}", "/etc/postrider/tls/fullchain.pem")
    print("   acme.sh, too")
