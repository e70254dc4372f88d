"""What the steps inside a fresh Debian share: a host that takes mail, a DNS server, commands, the log."""

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
UNIT = "postrider"
# How many times as long as usual a machine may take that is itself computed.
PATIENCE = int(os.environ.get("PATIENCE", "1"))
SOON = 20 * PATIENCE

taken = []  # recipients that the receiving host took
busy = threading.Event()  # while it is set, the host refuses all for the time being


class Host(socketserver.StreamRequestHandler):
    """Takes all mail, or none while it is busy; for a recipient at hang.test it is silent."""

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
                self.wfile.write(b"450 busy\r\n" if verb == b"RCPT" and busy.is_set() else b"250 ok\r\n")
                continue
            self.wfile.write(b"354 go on\r\n")
            while (line := self.rfile.readline()) != b".\r\n":
                if not line:
                    return None
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


def blocks(page, heading, language):
    """The text of each block in this language below a heading."""
    below = open(f"{TREE}/{page}").read().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", below, re.S)


def shell_blocks(page, heading):
    """The commands of each shell block below a heading."""
    return [
        [line.split(" #")[0].strip() for line in block.splitlines() if line.strip()]
        for block in blocks(page, heading, "sh")
    ]


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


def configure():
    """The config with its certificate, as README has it."""
    run("install -d -m 2750 -g postrider /etc/postrider/tls")
    run("install -m 640 -g postrider /etc/relay-cert.pem /etc/postrider/tls/fullchain.pem")
    run("install -m 640 -g postrider /etc/relay-key.pem /etc/postrider/tls/key.pem")
    write_config()


def client(timeout=SOON):
    session = smtplib.SMTP("127.0.0.1", 587, timeout=timeout)
    session.starttls(context=ssl._create_unverified_context())
    session.login("app", PASSWORD)
    return session


def send(recipient):
    with client() as session:
        session.sendmail("app@example.com", [recipient], f"Subject: to {recipient}\r\n\r\nhello\r\n")
