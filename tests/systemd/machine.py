"""Inside a machine that boots: at the first boot all that tests/debian/guest.py does in a container, then a reboot with mail
in the queue, then the power is cut with mail in the queue. tests/systemd/run starts it at each boot.
"""

import os
import sys
import time

sys.path.insert(0, "/postrider/debian")

import guest
import package
from tools import *

STAGE = "/var/lib/stage"
# So much mail waits at the end of each boot.
WAITING = 20


def stage():
    return open(STAGE).read() if os.path.exists(STAGE) else "first boot"


def recipients(of):
    return {f"{of.replace(' ', '-')}-{number}@a.test" for number in range(WAITING)}


def mail_waits_for(coming):
    """Notes on disk which boot comes, before the mail: nothing but the relay itself brings that to disk."""
    with open(STAGE, "w") as file:
        file.write(coming)
    os.sync()
    busy.set()
    for recipient in recipients(coming):
        send(recipient)
    wait_for("refusals", lambda: run("postrider queue list").count("450 busy") >= WAITING)


def the_relay_is_up_unasked():
    wait_for("a relay", lambda: package.is_active() and 'Status: "takes and delivers mail"' in status())
    up = float(open("/proc/uptime").read().split()[0])
    print(f"   {up:.0f} s after the kernel")


def mail_from_before_goes_out_once():
    run("postrider queue kick --all")
    wait_for("mail of before", lambda: recipients(stage()) <= set(taken))
    twice = [recipient for recipient in recipients(stage()) if taken.count(recipient) > 1]
    assert not twice, twice
    wait_for("an empty queue", lambda: not package.waits("@a.test"))


def a_reboot_with_mail_in_the_queue():
    mail_waits_for("reboot")


def a_power_cut_with_mail_in_the_queue():
    mail_waits_for("power cut")


print(f"-- {stage()}", flush=True)
AFTER_A_BOOT = (the_relay_is_up_unasked, mail_from_before_goes_out_once)
if stage() == "first boot":
    guest.take(package.STEPS + guest.BY_HAND + (a_reboot_with_mail_in_the_queue,))
    run("systemctl reboot")
    time.sleep(3600)
elif stage() == "reboot":
    guest.take(AFTER_A_BOOT + (a_power_cut_with_mail_in_the_queue,))
    # Nothing is written any more, and nobody is told (the kernel's sysrq b).
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("b")
    time.sleep(3600)
guest.take(AFTER_A_BOOT)
