"""Inside a fresh Debian with systemd as process 1: installs Postrider by README's own lines and uses the service.

Started by `tests/debian/run`, which brings the tree to /postrider. Each step prints a line; the first that fails ends it.
"""

import base64
import json
import os
import pty
import re
import smtplib
import socket
import socketserver
import ssl
import subprocess
import threading
import time

TREE = "/postrider"
CONFIG = "/etc/postrider/postrider.toml"
PASSWORD = "correct horse battery"
# A user's home, as adduser makes it: closed to the relay's user.
HOME = "/root/closed"
UNIT = "postrider"
SOON = 20
# What a restart may take, whoever hangs.
RESTART_MAX = 8

taken = []  # recipients that the receiving host took


class Host(socketserver.StreamRequestHandler):
    """Takes all mail; for a recipient at hang.test it is silent."""

    def handle(self):
        recipients = []
        self.wfile.write(b"220 host\r\n")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"QUIT":
                return self.wfile.write(b"221 bye\r\n")
            if verb == b"RCPT":
                if b"hang.test" in line:
                    time.sleep(600)
                recipients.append(re.search(rb"<(.*?)>", line)[1].decode())
            if verb != b"DATA":
                self.wfile.write(b"250 ok\r\n")
                continue
            self.wfile.write(b"354 go on\r\n")
            while self.rfile.readline() not in (b".\r\n", b""):
                pass
            taken.extend(recipients)
            recipients = []
            self.wfile.write(b"250 taken\r\n")


def serve_names():
    """A DNS server that knows that no name exists (RFC 2308: with an SOA record)."""
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    soa = b"\0\0\6\0\1\0\0\0\0\0\x16\0\0" + bytes(20)
    while True:
        question, client = names.recvfrom(4096)
        end = 12
        while question[end]:
            end += question[end] + 1
        head = question[:2] + b"\x81\x83\0\1\0\0\0\1\0\0"
        names.sendto(head + question[12 : end + 5] + soa, client)


def run(command, fails=False, **how):
    """The output of a shell command, which must go well unless it `fails`."""
    done = subprocess.run(
        command, shell=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how
    )
    assert fails is None or (done.returncode != 0) == fails, f"{command}: exit {done.returncode}\n{done.stdout}"
    return done.stdout


def run_at_terminal(command, answers):
    """Runs it at a terminal of its own and types an answer to each question (a line that ends with a colon)."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp("sh", ["sh", "-c", command])
    said = b""
    while True:
        try:
            said += os.read(terminal, 4096)
        except OSError:
            break
        if said.rstrip().endswith(b":") and answers:
            os.write(terminal, answers.pop(0).encode() + b"\n")
            said += b"\n"
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"{command}: exit {code}\n{said.decode()}"


def wait_for(what, condition):
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}\n{status()}")


def status():
    return run(f"systemctl status --no-pager -l -n 30 {UNIT} {UNIT}.socket", fails=None)


def main_pid():
    return int(run(f"systemctl show -P MainPID {UNIT}"))


def journal():
    """The relay's own lines as (priority, text)."""
    lines = run(f"journalctl -u {UNIT} -o json --no-pager").splitlines()
    lines = [json.loads(line) for line in lines]
    return [(int(line["PRIORITY"]), line["MESSAGE"]) for line in lines if line.get("_COMM") == "postrider"]


def wait_for_line(priority, *words):
    def found():
        return [text for level, text in journal() if level == priority and all(word in text for word in words)]

    return wait_for(f"a line of priority {priority} with {words}", found)


def write_config(more=""):
    readme = open(f"{TREE}/README.md").read()
    smallest = readme.split("## The smallest config")[1].split("```toml\n")[1].split("```")[0]
    with open(CONFIG, "w") as config:
        config.write(smallest + '[[route]]\ndomain = "*"\nrelay = ["[127.0.0.1]:2525"]\ntls = "off"\n' + more)


def shell_blocks(page, heading):
    """The commands of each shell block below a heading."""
    below = open(f"{TREE}/{page}").read().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", below, re.S)
    return [[line.split(" #")[0].strip() for line in block.splitlines() if line.strip()] for block in blocks]


def client(timeout=SOON):
    session = smtplib.SMTP("127.0.0.1", 587, timeout=timeout)
    session.starttls(context=ssl._create_unverified_context())
    session.login("app", PASSWORD)
    return session


def send(recipient):
    with client() as session:
        session.sendmail("app@example.com", [recipient], f"Subject: to {recipient}\r\n\r\nhello\r\n")


def installed_and_started():
    os.makedirs(HOME)
    os.chmod(HOME, 0o700)
    checked = []
    for line in sum(shell_blocks("README.md", "Install as a service"), []):
        if line.startswith(("cargo build", "journalctl")):
            continue
        if "install -d" in line:
            run(line, cwd=TREE)
            run("install -d -m 2750 -g postrider /etc/postrider/tls")
            run("install -m 640 -g postrider /etc/relay-cert.pem /etc/postrider/tls/fullchain.pem")
            run("install -m 640 -g postrider /etc/relay-key.pem /etc/postrider/tls/key.pem")
            write_config()
            run("systemd-analyze verify /etc/systemd/system/postrider.service")
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
    run("systemd-analyze verify /etc/systemd/system/postrider.socket")
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


def a_relay_that_stands_still_is_started_again():
    run(f"mkdir -p /run/systemd/system/{UNIT}.service.d")
    with open(f"/run/systemd/system/{UNIT}.service.d/soon.conf", "w") as drop_in:
        drop_in.write("[Service]\nWatchdogSec=2\nRestartSec=1\n")
    run(f"systemctl daemon-reload; systemctl restart {UNIT}")
    pid = main_pid()
    run(f"kill -STOP {pid}")
    wait_for("another process", lambda: main_pid() not in (0, pid))
    send("watchdog@a.test")
    assert "watchdog timeout" in run(f"journalctl -u {UNIT} --no-pager").lower()


def main():
    with open("/etc/resolv.conf", "w") as resolv_conf:
        resolv_conf.write("nameserver 127.0.0.1\n")
    threading.Thread(target=serve_names, daemon=True).start()
    socketserver.ThreadingTCPServer.daemon_threads = True
    host = socketserver.ThreadingTCPServer(("127.0.0.1", 2525), Host)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    for step in (
        installed_and_started,
        mail_goes_out,
        log_lines_have_their_priorities,
        reload_takes_a_good_config_and_keeps_the_old_one_at_a_bad_one,
        systemd_gets_the_sockets,
        nobody_is_refused_while_it_restarts,
        a_reload_takes_no_listener_from_a_socket,
        a_bad_config_closes_the_sockets_until_it_is_mended,
        a_host_that_hangs_and_a_silent_client_make_no_restart_long,
        a_relay_that_stands_still_is_started_again,
    ):
        began = time.monotonic()
        step()
        print(f"ok {step.__name__} ({time.monotonic() - began:.1f} s)", flush=True)


main()
