"""Inside a fresh Debian with systemd as process 1: installs Postrider as a package (package.py), purges that, installs
it by README's own lines and uses the service. With STEPS=package the package only, with STEPS=rpm the RPM only (rpm.py).

Started by `tests/debian/run`, which brings the tree to /postrider. Each step prints a line; the first that fails ends it.
"""

import os
import smtplib
import socket
import socketserver
import ssl
import threading
import time

import package
import renewal
import rpm
from tools import *

# A user's home, as adduser makes it: closed to the relay's user.
HOME = "/root/closed"
# What a restart may take, whoever hangs.
RESTART_MAX = 8 * PATIENCE


def installed_and_started():
    os.makedirs(HOME)
    os.chmod(HOME, 0o700)
    checked = []
    for line in sum(shell_blocks("README.md", "Install as a service"), []):
        if line.startswith(("cargo build", "journalctl")):
            continue
        if "install -d" in line:
            run(line, cwd=TREE)
            configure()
            run("systemd-analyze verify --man=no /etc/systemd/system/postrider.service")
        elif "user add" in line:
            run_at_terminal(line, [PASSWORD, PASSWORD])
        elif "postrider check" in line:
            checked.append(run(line, cwd=HOME))
            assert "does not exist yet" in checked[0], checked
        else:
            run(line, cwd=TREE)
    assert len(checked) == 1
    assert 'Status: "takes and delivers mail"' in status(), status()
    assert "does not exist yet" not in run("sudo -u postrider postrider check", cwd=HOME)


def mail_goes_out():
    send("you@a.test")
    wait_for("mail at the host", lambda: "you@a.test" in taken)
    for who in ("", "sudo -u postrider "):
        run(f"{who}postrider queue list", cwd=HOME)
        assert "you@a.test" in run(f"{who}postrider queue list --state delivered", cwd=HOME)
        run(f"{who}postrider sql -c 'SELECT * FROM queue'", cwd=HOME)
    # Mail is nobody's business who may only read the config.
    run("useradd -m -G postrider ann")
    refused = run("sudo -u ann postrider queue list", fails=True, cwd="/")
    assert "Permission denied" in refused and "run this as" in refused, refused


def sendmail_is_linked_by_hand():
    write_config(package.SENDMAIL_LISTENERS)
    run(f"systemctl reload {UNIT}")
    wait_for("a socket", lambda: os.path.exists(package.SUBMIT))
    run("\n".join(shell_blocks("docs/sendmail.md", "By hand")[0]))
    package.programs_mail()
    write_config()
    run(f"systemctl reload {UNIT}")


def log_lines_have_their_priorities():
    try:
        with smtplib.SMTP("127.0.0.1", 587, timeout=SOON) as session:
            session.starttls(context=ssl._create_unverified_context())
            session.login("app", "wrong")
    except smtplib.SMTPAuthenticationError:
        pass
    wait_for_line(4, "app")
    wait_for_line(6, "started, config:")
    wait_for_line(6, "you@a.test")


def reload_takes_a_good_config_and_keeps_the_old_one_at_a_bad_one():
    pid = main_pid()
    run(f"systemctl reload {UNIT}")
    wait_for_line(6, "config reloaded")
    write_config("[nonsense]\n")
    run(f"systemctl reload {UNIT}")
    wait_for_line(3, "the old one stays")
    write_config()
    send("reloaded@a.test")
    assert main_pid() == pid


def systemd_gets_the_sockets():
    for line in shell_blocks("docs/operations.md", "The service")[0]:
        run(line, cwd=TREE)
    run("systemd-analyze verify --man=no /etc/systemd/system/postrider.socket")
    send("socket@a.test")
    wait_for("mail at the host", lambda: "socket@a.test" in taken)


def nobody_is_refused_while_it_restarts():
    stop, errors, greeted = threading.Event(), [], []

    def knock():
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", 587), timeout=SOON) as one:
                    greeted.append(one.recv(200)[:3])
            except OSError as error:
                errors.append(repr(error))
            time.sleep(0.05)

    threads = [threading.Thread(target=knock) for _ in range(4)]
    for thread in threads:
        thread.start()
    took = []
    for _ in range(3):
        began = time.monotonic()
        run(f"systemctl restart {UNIT}")
        took.append(time.monotonic() - began)
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    refused = [error for error in errors if "Refused" in error]
    assert not refused and set(greeted) <= {b"220", b"421", b""}, (errors, set(greeted))
    print(f"   {len(greeted)} connections, {len(errors)} errors {set(errors)}, restarts {[round(t, 1) for t in took]} s")


def a_reload_takes_no_listener_from_a_socket():
    write_config('[[listen]]\naddress = "127.0.0.1:1587"\n')
    run(f"systemctl reload {UNIT}")
    wait_for_line(3, "the old one stays", "systemd listens on [::]:587, which no [[listen]] has")
    write_config()
    send("stays@a.test")


def a_bad_config_closes_the_sockets_until_it_is_mended():
    write_config("[nonsense]\n")
    run(f"systemctl restart {UNIT}", fails=True)

    def is_refused():
        try:
            socket.create_connection(("127.0.0.1", 587), timeout=1).close()
        except ConnectionRefusedError:
            return True

    wait_for("connections to be refused", is_refused)
    write_config()
    for line in shell_blocks("docs/operations.md", "The service")[1]:
        run(line, cwd=HOME)
    assert run(f"systemctl is-active {UNIT} {UNIT}.socket").split() == ["active", "active"]
    send("mended@a.test")


def a_host_that_hangs_and_a_silent_client_make_no_restart_long():
    send("you@hang.test")
    wait_for("the host to hang", lambda: "you@hang.test" in run("postrider queue list"))
    time.sleep(1)
    silent = client()
    silent.docmd("MAIL FROM:<app@example.com>")
    silent.docmd("RCPT TO:<silent@a.test>")
    assert silent.docmd("DATA")[0] == 354
    silent.send(b"Subject: half\r\n")
    began = time.monotonic()
    run(f"systemctl restart {UNIT}")
    took = time.monotonic() - began
    code, text = silent.getreply()
    assert code == 421, (code, text)
    assert took < RESTART_MAX, took
    print(f"   the restart took {took:.1f} s")
    run("postrider queue remove --domain hang.test", fails=None)


def under_load(name, act):
    """Four clients send all the time, before, during and after `act`; all that the relay takes must get to the host, which
    takes nothing for a while round `act`, so that mail waits then. Gives those who got there twice."""
    stop, accepted = threading.Event(), []

    def load(worker):
        while not stop.is_set():
            recipient = f"{name}-{worker}-{time.monotonic_ns()}@a.test"
            try:
                send(recipient)
                accepted.append(recipient)
            except (smtplib.SMTPException, OSError):
                time.sleep(0.05)

    threads = [threading.Thread(target=load, args=[worker]) for worker in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for("load", lambda: len(accepted) >= 20)
        busy.set()
        wait_for("mail that waits", lambda: len(accepted) >= 40)
        before = len(accepted)
        act()
        busy.clear()
        after = len(accepted)
        wait_for("load again", lambda: len(accepted) >= after + 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    run("postrider queue kick --all", fails=None)
    wait_for("all of it at the host", lambda: set(accepted) <= set(taken))
    twice = [recipient for recipient in accepted if taken.count(recipient) > 1]
    print(f"   {len(accepted)} accepted, {before} of them before; {len(twice)} came twice")
    return twice


def a_stop_under_load_loses_nothing():
    def stop_and_start():
        began = time.monotonic()
        run(f"systemctl stop {UNIT}.socket {UNIT}")
        took = time.monotonic() - began
        assert took < RESTART_MAX, took
        run(f"systemctl start {UNIT}.socket {UNIT}")

    assert not under_load("stop", stop_and_start)


def a_killed_relay_comes_back_and_loses_nothing():
    def kill():
        pid = main_pid()
        run(f"kill -KILL {pid}")
        wait_for("another process", lambda: main_pid() not in (0, pid))

    under_load("kill", kill)


def a_relay_that_stands_still_is_started_again():
    run(f"mkdir -p /run/systemd/system/{UNIT}.service.d")
    with open(f"/run/systemd/system/{UNIT}.service.d/soon.conf", "w") as drop_in:
        drop_in.write(f"[Service]\nWatchdogSec={2 * PATIENCE}\nRestartSec=1\n")
    run(f"systemctl daemon-reload; systemctl restart {UNIT}")
    pid = main_pid()
    run(f"kill -STOP {pid}")
    wait_for("another process", lambda: main_pid() not in (0, pid))
    send("watchdog@a.test")
    assert "watchdog timeout" in run(f"journalctl -u {UNIT} --no-pager").lower()


BY_HAND = (
    installed_and_started,
    mail_goes_out,
    sendmail_is_linked_by_hand,
    log_lines_have_their_priorities,
    reload_takes_a_good_config_and_keeps_the_old_one_at_a_bad_one,
    renewal.certificates_are_renewed_by_the_recipes,
    systemd_gets_the_sockets,
    nobody_is_refused_while_it_restarts,
    a_reload_takes_no_listener_from_a_socket,
    a_bad_config_closes_the_sockets_until_it_is_mended,
    a_host_that_hangs_and_a_silent_client_make_no_restart_long,
    a_stop_under_load_loses_nothing,
    a_killed_relay_comes_back_and_loses_nothing,
    a_relay_that_stands_still_is_started_again,
)


def take(steps):
    """Takes the steps, beside a host that takes mail and a DNS server."""
    with open("/etc/resolv.conf", "w") as resolv_conf:
        resolv_conf.write("nameserver 127.0.0.1\n")
    threading.Thread(target=serve_names, daemon=True).start()
    socketserver.ThreadingTCPServer.daemon_threads = True
    host = socketserver.ThreadingTCPServer(("127.0.0.1", 2525), Host)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    for step in steps:
        began = time.monotonic()
        step()
        print(f"ok {step.__name__} ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    take({"package": package.STEPS, "rpm": rpm.STEPS, "all": package.STEPS + BY_HAND}[os.environ["STEPS"]])
