"""The RPM, by the rpm of a fresh Debian: installed, upgraded with mail in the queue, erased; what its scripts did."""

import os
import stat

import package
from tools import *

OLD, NEW = f"{TREE}/old.rpm", f"{TREE}/new.rpm"
# Debian's rpm knows of no package.
RPM = "rpm --nodeps"
SENDMAIL = "/usr/sbin/sendmail"


def an_rpm_starts_nothing():
    for file in (OLD, NEW):
        assert "digests OK" in run(f"rpm -K {file}")
    run(f"{RPM} --install --test {OLD}")
    assert not os.path.exists("/usr/bin/postrider")
    run(f"{RPM} --install {OLD}")
    assert run("rpm --query postrider").startswith("postrider-0.0.1-1.")
    assert run("rpm --verify --nodeps postrider") == ""
    assert not package.is_active() and not package.is_enabled() and not package.wants()
    assert not os.path.exists(package.STATE) and os.listdir(package.CONFIGS) == []
    found = os.stat(package.CONFIGS)
    group = int(run("id -g postrider"))
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o2750, 0, group), found
    run("systemd-analyze verify --man=no /usr/lib/systemd/system/postrider.service")
    configure()
    run_at_terminal("postrider user add app", [PASSWORD, PASSWORD])
    run(f"systemctl enable --now {UNIT}.socket {UNIT}")
    assert package.is_active() and package.is_enabled()


def sendmail_is_an_alternative_after_all_others():
    write_config(package.SENDMAIL_LISTENERS)
    run(f"systemctl restart {UNIT}")
    package.programs_mail()
    run(f"update-alternatives --install {SENDMAIL} mta /usr/bin/true 10")
    assert os.path.realpath(SENDMAIL) == "/usr/bin/true"
    run("update-alternatives --remove mta /usr/bin/true")
    assert os.path.realpath(SENDMAIL) == "/usr/bin/postrider"
    write_config()


def an_upgrade_restarts_the_relay_and_keeps_its_mail():
    package.restarts_the_relay_and_keeps_its_mail(f"{RPM} --upgrade {NEW}")
    assert run("rpm --query postrider").count("\n") == 1
    assert os.path.realpath(SENDMAIL) == "/usr/bin/postrider"


def a_second_time_leaves_a_stopped_relay_alone():
    package.leaves_a_stopped_relay_alone(f"{RPM} --upgrade --replacepkgs {NEW}")


def erased_it_leaves_queue_and_config():
    run(f"{RPM} --erase postrider")
    assert not run("cat /proc/[0-9]*/comm | grep -x postrider || true") and not os.path.exists("/usr/bin/postrider")
    assert not os.path.lexists(SENDMAIL) and not package.wants(), package.wants()
    assert os.path.exists(f"{package.STATE}/queue.db") and os.path.exists(CONFIG)
    run(f"{RPM} --install {NEW}")
    assert not package.is_active() and not package.is_enabled()
    busy.clear()
    run(f"systemctl start {UNIT}; postrider queue kick --all")
    for recipient in ("upgraded@a.test", "after@a.test"):
        wait_for("mail at the host", lambda: recipient in taken)


STEPS = (
    an_rpm_starts_nothing,
    sendmail_is_an_alternative_after_all_others,
    an_upgrade_restarts_the_relay_and_keeps_its_mail,
    a_second_time_leaves_a_stopped_relay_alone,
    erased_it_leaves_queue_and_config,
)
