"""Reads a mail with a TLS report, or a report alone, as RFC 8460 has them; fails at what is not so.

    judge.py mail FILE      prints the report
    judge.py report FILE
"""
import datetime, email, email.policy, gzip, json, re, sys

RESULTS = {"starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
           "validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error",
           "sts-policy-invalid", "sts-webpki-invalid"}
TEXT = lambda value: isinstance(value, str) and value != ""
COUNT = lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0
TEXTS = lambda value: isinstance(value, list) and value and all(TEXT(one) for one in value)
TIME = lambda value: TEXT(value) and datetime.datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ")


def each(test):
    return lambda value: isinstance(value, list) and all(test(one) for one in value)


def members(needed, optional={}):
    """An object with all of these, and of others only those."""
    def test(value):
        assert isinstance(value, dict), value
        for name, kind in value.items():
            rule = {**needed, **optional}.get(name)
            assert rule is not None, f"unknown member {name}"
            assert rule(kind), f"{name}: {kind!r}"
        missing = needed.keys() - value.keys()
        assert not missing, f"missing {missing}"
        return True
    return test


FAILURE = members(
    {"result-type": lambda value: value in RESULTS, "failed-session-count": COUNT},
    {"sending-mta-ip": TEXT, "receiving-mx-hostname": TEXT, "receiving-mx-helo": TEXT, "receiving-ip": TEXT,
     "additional-information": TEXT, "failure-reason-code": TEXT})
POLICY = members({
    "policy": members({"policy-type": lambda value: value in {"tlsa", "sts", "no-policy-found"},
                       "policy-domain": TEXT}, {"policy-string": TEXTS, "mx-host": TEXTS}),
    "summary": members({"total-successful-session-count": COUNT, "total-failure-session-count": COUNT}),
}, {"failure-details": each(FAILURE)})
REPORT = members({
    "organization-name": TEXT, "contact-info": TEXT, "report-id": TEXT, "policies": each(POLICY),
    "date-range": members({"start-datetime": TIME, "end-datetime": TIME})})


def judge(report):
    assert REPORT(report)
    assert report["policies"], "nothing to tell"
    for policy in report["policies"]:
        failed = sum(one["failed-session-count"] for one in policy.get("failure-details", []))
        assert failed == policy["summary"]["total-failure-session-count"], policy
    seen = [(one["policy"]["policy-type"], one["policy"]["policy-domain"]) for one in report["policies"]]
    assert len(seen) == len(set(seen)), "a policy twice"
    return report


def of_mail(raw):
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert not message.defects, message.defects
    assert message.get_content_type() == "multipart/report" and message.get_param("report-type") == "tlsrpt"
    domain, submitter = message["TLS-Report-Domain"], message["TLS-Report-Submitter"]
    subject = re.fullmatch(r"Report Domain: (\S+) Submitter: (\S+) Report-ID: <([^<>@\s]+@[^<>@\s]+)>", message["Subject"])
    assert subject and subject.group(1, 2) == (domain, submitter), message["Subject"]
    assert message["TLS-Required"] == "No" and message["Auto-Submitted"] and message["Date"] and message["Message-ID"]
    text, attached = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert attached.get_content_type() == "application/tlsrpt+gzip", attached.get_content_type()
    report = judge(json.loads(gzip.decompress(attached.get_content())))
    assert subject.group(3) == report["report-id"]
    name = re.fullmatch(r"([^!]+)!([^!]+)!(\d+)!(\d+)\.json\.gz", attached.get_filename())
    assert name and name.group(1, 2) == (submitter, domain), attached.get_filename()
    times = [datetime.datetime.fromtimestamp(int(at), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
             for at in name.group(3, 4)]
    assert times == [report["date-range"]["start-datetime"], report["date-range"]["end-datetime"]], times
    return report


kind, file = sys.argv[1:]
raw = open(file, "rb").read()
print(json.dumps(of_mail(raw) if kind == "mail" else judge(json.loads(raw))))
