"""The Debian package: installed, upgraded with mail in the queue, removed, purged; each step with what must hold then."""

import os
import stat

from tools import *

OLD, NEW, MTA = f"{TREE}/old.deb", f"{TREE}/new.deb", f"{TREE}/mta.deb"
STATE, CONFIGS = "/var/lib/postrider", "/etc/postrider"
SUBMIT = "/run/postrider/submit.sock"
SENDMAIL_LISTENERS = blocks("docs/sendmail.md", "Setting it up", "toml")[0]
FILES = (
    "/usr/bin/postrider",
    "/usr/lib/systemd/system/postrider.socket",
    "/usr/share/man/man1/postrider-queue.1.gz",
    "/usr/share/man/man5/postrider.toml.5.gz",
    "/usr/share/bash-completion/completions/postrider",
    "/usr/share/doc/postrider/examples/postrider.toml",
)


def is_active():
    return run(f"systemctl is-active {UNIT}", fails=None).strip() == "active"


def is_enabled():
    return run(f"systemctl is-enabled {UNIT}", fails=None).strip() == "enabled"


def waits(recipient):
    return recipient in run("postrider queue list")


def wants():
    return run("find /etc/systemd/system -name 'postrider.*'").split()


def a_package_starts_nothing():
    run(f"dpkg -i {OLD}")
    assert not is_active() and not is_enabled() and not wants()
    assert not os.path.exists(STATE) and os.listdir(CONFIGS) == []
    found = os.stat(CONFIGS)
    group = int(run("id -g postrider"))
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o2750, 0, group), found
    for file in FILES:
        assert os.path.isfile(file), file
    run("systemd-analyze verify --man=no /usr/lib/systemd/system/postrider.service")
    run("postrider --config /usr/share/doc/postrider/examples/postrider.toml queue list", fails=True)
    configure()
    run_at_terminal("postrider user add app", [PASSWORD, PASSWORD])
    run(f"systemctl enable --now {UNIT}.socket {UNIT}")
    assert is_active() and is_enabled()


def programs_mail():
    """The first message of the docs, by a user without rights, and one from cron."""
    first = "\n".join(shell_blocks("docs/sendmail.md", "A first message")[0]).replace("you@example.org", "sendmail@a.test")
    said = run(first.splitlines()[0], user="nobody").strip()
    assert said == "0", said
    run(first.splitlines()[1])
    with open("/etc/cron.d/hello", "w") as table:
        table.write("MAILTO=cron@a.test\n@reboot root echo hello\n")
    # So that it takes its start for the machine's.
    run("rm -f /run/crond.reboot; systemctl restart cron")
    for recipient in ("sendmail@a.test", "cron@a.test"):
        wait_for(f"mail to {recipient}", lambda: recipient in taken)
        taken.remove(recipient)
    run("systemctl stop cron; rm /etc/cron.d/hello")


def programs_mail_by_a_package_of_its_own():
    assert not os.path.lexists("/usr/sbin/sendmail")
    said = run(f"dpkg -i {MTA}")
    assert SUBMIT in said and "sendmail.md" in said, said
    write_config(SENDMAIL_LISTENERS)
    run(f"systemctl restart {UNIT}")
    said = run(f"dpkg -i {MTA}")
    assert SUBMIT not in said, said
    programs_mail()
    for page in ("man8/sendmail.8.gz", "man1/mailq.1.gz", "man1/newaliases.1.gz"):
        assert os.path.isfile(f"/usr/share/man/{page}"), page
    run("newaliases")
    run("dpkg -r postrider", fails=True)
    run("dpkg -P postrider-mta")
    assert not os.path.lexists("/usr/sbin/sendmail") and not os.path.lexists("/usr/bin/mailq")
    assert is_active()
    write_config()
    run(f"systemctl reload {UNIT}")


def restarts_the_relay_and_keeps_its_mail(upgrade):
    busy.set()
    send("upgraded@a.test")
    wait_for("a refusal", lambda: "450 busy" in run("postrider queue list"))
    pid = main_pid()
    run(upgrade)
    assert main_pid() not in (0, pid) and is_active() and is_enabled()
    assert waits("upgraded@a.test")
    assert os.path.exists(CONFIG)
    send("after@a.test")


def leaves_a_stopped_relay_alone(upgrade):
    run(f"systemctl stop {UNIT}.socket {UNIT}")
    run(upgrade)
    assert not is_active() and is_enabled()
    run(f"systemctl start {UNIT}.socket {UNIT}")


def an_upgrade_restarts_the_relay_and_keeps_its_mail():
    restarts_the_relay_and_keeps_its_mail(f"dpkg -i {NEW}")


def an_upgrade_leaves_a_stopped_relay_alone():
    leaves_a_stopped_relay_alone(f"dpkg -i {NEW}")


def removal_and_purge_keep_mail_that_waits():
    run("dpkg -r postrider")
    assert not run("cat /proc/[0-9]*/comm | grep -x postrider || true") and not os.path.exists("/usr/bin/postrider")
    assert os.path.exists(f"{STATE}/queue.db") and os.path.exists(CONFIG)
    said = run("dpkg -P postrider")
    assert "mail may wait" in said, said
    assert os.path.exists(f"{STATE}/queue.db") and os.path.exists(CONFIG)
    # It goes out once the package is there again.
    run(f"dpkg -i {NEW}")
    busy.clear()
    run(f"systemctl start {UNIT}.socket {UNIT}")
    run("postrider queue kick --all")
    for recipient in ("upgraded@a.test", "after@a.test"):
        wait_for("mail at the host", lambda: recipient in taken)
    wait_for("an empty queue", lambda: not waits("@a.test"))


def purge_leaves_nothing():
    said = run("dpkg -P postrider")
    assert "mail may wait" not in said and "stays" not in said, said
    assert not os.path.exists(STATE) and not os.path.exists(CONFIGS) and not wants(), wants()
    left = run("find / -xdev -path /proc -prune -o -path /postrider -prune -o -name '*postrider*' -print").split()
    # dpkg's and systemd's own notes are theirs.
    left = [file for file in left if not file.startswith(("/var/lib/dpkg", "/var/log", "/var/cache", "/run", "/sys"))]
    assert not left, left


def purge_keeps_a_queue_in_doubt():
    for harm, when in ((b"no database", "installed"), (None, "removed")):
        run(f"dpkg -i {NEW}")
        run(f"install -d -o postrider {STATE}")
        if harm:
            with open(f"{STATE}/queue.db", "wb") as queue:
                queue.write(harm)
        else:
            configure()
            run(f"systemctl start {UNIT}")
        run("dpkg -r postrider")
        if not harm:
            assert os.path.exists(f"{STATE}/no-mail-waits")
            run(f"touch {STATE}/queue.db")
        said = run("dpkg -P postrider")
        assert "mail may wait" in said and os.path.exists(f"{STATE}/queue.db"), (when, said)
        run(f"rm -r {STATE} {CONFIGS}")


STEPS = (
    a_package_starts_nothing,
    programs_mail_by_a_package_of_its_own,
    an_upgrade_restarts_the_relay_and_keeps_its_mail,
    an_upgrade_leaves_a_stopped_relay_alone,
    removal_and_purge_keep_mail_that_waits,
    purge_leaves_nothing,
    purge_keeps_a_queue_in_doubt,
)
