"""One apply repairs what somebody has broken, and says so.

Everything in a round is broken at once: what repairs only one damage at a time is not enough at
four in the morning. What would hide other damage is in a round of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goose.lab import lab as labs

if TYPE_CHECKING:
    from conftest import Command

KOJI = "koji -p goose"


@dataclass(frozen=True)
class Damage:
    """What somebody does to a host, how it shows, and the state that has to report it."""

    kind: str
    host: str
    breaks: str
    """Shell; ends with 0 once the damage is done."""
    shows: str
    """Shell; ends with 0 while the damage is there."""
    state: str
    says: str = ""
    """A word of the report, where one state looks after many things."""


def content(kind: str, breaks: str, shows: str, says: str) -> Damage:
    return Damage(kind, "salt", f"{KOJI} {breaks}", f"{KOJI} {shows}", "koji-content", says)


def sql(text: str, database: str = "koji") -> str:
    return f'cd / && runuser -u postgres -- psql -X -q -A -t -v ON_ERROR_STOP=1 -d {database} -c "{text}"'


PKI = "/etc/pki/goose"
POSTGRES = "/etc/postgresql/15/main"

ROUND = [
    # builder1: files of the software, of the host, of the stand-in
    Damage(
        "unit removed", "builder1",
        "rm /usr/lib/systemd/system/kojid.service",
        "! test -e /usr/lib/systemd/system/kojid.service",
        "koji-builder-software",
    ),
    Damage(
        "mock altered", "builder1",
        "sed -i '2s/^/exit(0)\\n/' /usr/bin/mock",
        "sed -n 2p /usr/bin/mock | grep -q exit",
        "koji-builder-mock",
    ),
    Damage(
        "sudo rule removed", "builder1",
        "rm /etc/sudoers.d/koji-mock",
        "! runuser -u kojibuilder -- sudo -n -l /usr/bin/mock",
        "koji-builder-mock-sudo",
    ),
    Damage(
        "key opened to everybody", "builder1",
        f"chmod 0644 {PKI}/host.key",
        f"test $(stat -c %a {PKI}/host.key) != 600",
        "pki-host-key",
    ),
    Damage(
        "names removed", "builder1",
        "echo '127.0.0.1 localhost' >/etc/hosts",
        "! getent hosts hub",
        "common-names",
    ),
    Damage(
        "group left", "builder1",
        "gpasswd -d kojibuilder mock",
        "! id -nG kojibuilder | grep -qw mock",
        "koji-builder-user",
    ),
    Damage(
        "rpm macros deleted", "builder1",
        "rm /etc/rpm/macros.koji",
        "test $(rpm -E %_dbpath) != /var/lib/rpm",
        "koji-builder-rpm-macros",
    ),
    Damage(
        "service switched off at boot", "builder1",
        "systemctl disable kojid",
        "! systemctl is-enabled kojid",
        "koji-builder-service",
    ),
    # builder2: service, certificate, packages, trust
    Damage(
        "service stopped and masked", "builder2",
        "systemctl stop kojid && systemctl mask kojid",
        "! systemctl is-active kojid && test $(systemctl is-enabled kojid) = masked",
        "koji-builder-service",
    ),
    Damage(
        "certificate with key deleted", "builder2",
        f"rm {PKI}/kojid.pem",
        f"! test -e {PKI}/kojid.pem",
        "pki-kojid-pem",
    ),
    Damage(
        "certificate of another", "builder2",
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 300 -subj /CN=builder2 -keyout /dev/null -out {PKI}/host.crt",
        f"! openssl verify -CAfile {PKI}/ca.crt {PKI}/host.crt",
        "pki-host-certificate",
    ),
    Damage(
        "configuration edited", "builder2",
        "sed -i 's/^maxjobs.*/maxjobs = 400/' /etc/kojid/kojid.conf",
        "grep -q 'maxjobs = 400' /etc/kojid/kojid.conf",
        "koji-builder-config",
    ),
    Damage(
        "package removed", "builder2",
        "dpkg --remove --force-depends createrepo-c",
        "! command -v createrepo_c",
        "koji-builder-packages",
    ),
    Damage(
        "trusted CA removed", "builder2",
        "rm /usr/local/share/ca-certificates/goose-ca*.crt && update-ca-certificates --fresh",
        f"! openssl verify -CApath /etc/ssl/certs {PKI}/ca.crt",
        "pki-trust",
    ),
    Damage(
        "timer stopped and masked", "builder2",
        "systemctl stop logrotate.timer && systemctl mask logrotate.timer",
        "! systemctl is-active logrotate.timer",
        "common-logrotate-timer",
    ),
    Damage(
        "module of the library deleted", "builder2",
        "rm /usr/lib/python3/dist-packages/koji/tasks.py",
        "! test -e /usr/lib/python3/dist-packages/koji/tasks.py",
        "koji-library-software",
    ),
    Damage(
        "journal without a limit", "builder2",
        "rm /etc/systemd/journald.conf.d/goose.conf",
        "! test -e /etc/systemd/journald.conf.d/goose.conf",
        "common-journal",
    ),
    # hub: Apache and what it serves
    Damage(
        "configuration deleted", "hub",
        "rm /etc/koji-hub/hub.conf",
        "! test -e /etc/koji-hub/hub.conf",
        "koji-hub-config",
    ),
    Damage(
        "policy edited", "hub",
        "sed -i 's/^    all :: deny Only administrators.*/    all :: allow/' /etc/koji-hub/hub.conf.d/policy.conf",
        "! grep -q 'deny Only administrators' /etc/koji-hub/hub.conf.d/policy.conf",
        "koji-hub-policy",
    ),
    Damage(
        "code altered", "hub",
        "echo '# altered' >>/usr/share/koji-hub/kojihub.py",
        "grep -q '^# altered' /usr/share/koji-hub/kojihub.py",
        "koji-hub-software",
    ),
    Damage(
        "pages of the web deleted", "hub",
        "rm /usr/share/koji-web/scripts/tasks.chtml",
        "! test -e /usr/share/koji-web/scripts/tasks.chtml",
        "koji-web-software",
    ),
    Damage(
        "secret deleted", "hub",
        "rm /etc/kojiweb/web.conf.d/secret.conf",
        "! test -e /etc/kojiweb/web.conf.d/secret.conf",
        "koji-web-secret",
    ),
    Damage(
        "configuration opened to everybody", "hub",
        "chmod 0644 /etc/kojiweb/web.conf",
        "test $(stat -c %a /etc/kojiweb/web.conf) != 640",
        "koji-web-config",
    ),
    Damage(
        "Apache fragment deleted", "hub",
        "rm /etc/apache2/conf-enabled/kojiweb.conf",
        "! test -e /etc/apache2/conf-enabled/kojiweb.conf",
        "koji-web-apache",
    ),
    Damage(
        "Apache module switched off", "hub",
        "rm /etc/apache2/mods-enabled/headers.load",
        "! test -e /etc/apache2/mods-enabled/headers.load",
        "common-httpd-module-headers.load",
    ),
    Damage(
        "default page switched on", "hub",
        "ln -s ../sites-available/000-default.conf /etc/apache2/sites-enabled/000-default.conf",
        "test -e /etc/apache2/sites-enabled/000-default.conf",
        "common-httpd-unwanted-000-default.conf",
    ),
    Damage(
        "revocation list deleted", "hub",
        f"rm {PKI}/crl.pem",
        f"! test -e {PKI}/crl.pem",
        "pki-crl",
    ),
    Damage(
        "directory of repos closed", "hub",
        "chmod 0700 /mnt/koji/repos",
        "test $(stat -c %a /mnt/koji/repos) != 755",
        "koji-hub-volume-repos",
    ),
    # hub: kojira
    Damage(
        "second service stopped and masked", "hub",
        "systemctl stop kojira && systemctl mask kojira",
        "! systemctl is-active kojira && test $(systemctl is-enabled kojira) = masked",
        "koji-kojira-service",
    ),
    Damage(
        "drop-in of a unit deleted", "hub",
        "rm /etc/systemd/system/kojira.service.d/goose.conf",
        "! test -e /etc/systemd/system/kojira.service.d/goose.conf",
        "koji-kojira-unit",
    ),
    # hub: the database
    Damage(
        "database grant dropped", "hub",
        sql("REVOKE ALL ON content_generator FROM koji"),
        sql("SELECT 1/(NOT has_table_privilege('koji', 'content_generator', 'SELECT'))::int"),
        "koji-db-rights",
    ),
    Damage(
        "rights of everybody added", "hub",
        sql("GRANT SELECT ON users TO PUBLIC"),
        sql("SELECT 1/(count(*) > 0)::int FROM pg_class, aclexplode(relacl) WHERE relname = 'users' AND grantee = 0"),
        "koji-db-rights",
    ),
    Damage(
        "time zone of the database changed", "hub",
        sql("ALTER DATABASE koji SET TimeZone TO 'Asia/Tokyo'"),
        f"{sql('SHOW TimeZone')} | grep -q Tokyo",
        "koji-db-database",
    ),
    Damage(
        "database role raised", "hub",
        sql("ALTER ROLE koji CREATEDB"),
        sql("SELECT 1/count(*) FROM pg_roles WHERE rolname = 'koji' AND rolcreatedb"),
        "koji-db-role",
    ),
    Damage(
        "database opened to the network", "hub",
        f"echo 'host all all 0.0.0.0/0 trust' >>{POSTGRES}/pg_hba.conf",
        f"grep -q '0.0.0.0/0 trust' {POSTGRES}/pg_hba.conf",
        "koji-db-access",
    ),
    Damage(
        "setting of the database altered", "hub",
        sql("ALTER SYSTEM SET fsync TO off"),
        "grep -q fsync /var/lib/postgresql/15/main/postgresql.auto.conf",
        "koji-db-settings-auto",
    ),
    # salt: the client, the CA
    Damage(
        "profile edited", "salt",
        "sed -i 's,^server =.*,server = https://koji.example/kojihub,' /etc/koji.conf",
        "grep -q koji.example /etc/koji.conf",
        "koji-client-default",
    ),
    Damage(
        "CA's revocation list deleted", "salt",
        "rm /etc/pki/goose-ca/current/crl.pem",
        "! test -e /etc/pki/goose-ca/crl.pem",
        "pki-ca-crl-1",
    ),
    Damage(
        "CA's directory opened", "salt",
        "chmod 0755 /etc/pki/goose-ca",
        "test $(stat -c %a /etc/pki/goose-ca) != 700",
        "pki-ca-directory",
    ),
    # scm: git and the lookaside cache
    Damage(
        "rule of repositories added", "scm",
        "echo 'repo @all' >>/var/lib/gitolite3/.gitolite/conf/gitolite.conf",
        "tail -n 1 /var/lib/gitolite3/.gitolite/conf/gitolite.conf | grep -q '^repo @all$'",
        "scm-gitolite-rules",
    ),
    Damage(
        "keys of packagers removed", "scm",
        ": >/var/lib/gitolite3/.ssh/authorized_keys",
        "! test -s /var/lib/gitolite3/.ssh/authorized_keys",
        "scm-gitolite-keys",
    ),
    Damage(
        "timer of the cache stopped and disabled", "scm",
        "systemctl disable --now lookaside-fsck.timer",
        "! systemctl is-active lookaside-fsck.timer",
        "lookaside-fsck",
    ),
    Damage(
        "archives opened to other users", "scm",
        "chmod 0777 /var/lib/lookaside/archives",
        "test $(stat -c %a /var/lib/lookaside/archives) = 777",
        "lookaside-directory--var-lib-lookaside-archives",
    ),
    # compose: keys, what signs, what makes repositories
    Damage(
        "public key removed", "compose",
        "rm /srv/goose-keys/RPM-GPG-KEY-goose-1",
        "! test -e /srv/goose-keys/RPM-GPG-KEY-goose-1",
        "sigul-client-public-goose-1",
    ),
    Damage(
        "secret keys opened to everybody", "compose",
        "chmod 0755 /var/lib/goose-sign/gnupg",
        "test $(stat -c %a /var/lib/goose-sign/gnupg) = 755",
        "sigul-client-directory--var-lib-goose-sign-gnupg",
    ),
    Damage(
        "list of keys emptied", "compose",
        "echo '{}' >/etc/goose/signing.json",
        "! /usr/local/lib/goose/signing_key.py list",
        "sigul-client-config",
    ),
    Damage(
        "timer of signing switched off", "compose",
        "systemctl disable --now signing-goose-1.timer",
        "! systemctl is-active signing-goose-1.timer",
        "sigul-client-timing-goose-1",
    ),
    Damage(
        "repository without its key", "compose",
        "sed -i '/^keys/d' /etc/mash/goose-1.mash",
        "! grep -q ^keys /etc/mash/goose-1.mash",
        "mash-config-goose-1",
    ),
    Damage(
        "unit of a repository removed", "compose",
        "rm /etc/systemd/system/mash-goose-1.service && systemctl daemon-reload",
        "! systemctl cat mash-goose-1.service",
        "mash-service-goose-1",
    ),
    # what the hub holds
    content("tag deleted", "remove-tag goose-1-testing", "taginfo goose-1-candidate | grep -q testing; test $? = 1",
            "tags"),
    content("target deleted", "remove-target goose-1", "list-targets --quiet | grep -w ^goose-1; test $? = 1",
            "targets"),
    content("builder disabled", "disable-host $(sed 's/^[^.]*/builder1/' /etc/hostname)",
            "hostinfo $(sed 's/^[^.]*/builder1/' /etc/hostname) | grep -q 'Enabled: no'", "hosts"),
    content("builder taken from a channel", "remove-host-from-channel $(sed 's/^[^.]*/builder2/' /etc/hostname) createrepo",
            "hostinfo $(sed 's/^[^.]*/builder2/' /etc/hostname) | grep createrepo; test $? = 1", "hosts"),
    content("permission revoked", "revoke-permission repo kojira", "userinfo kojira | grep -w repo; test $? = 1",
            "users"),
    content("permission granted", "grant-permission admin kojira", "userinfo kojira | grep -w admin", "users"),
    content("inheritance removed", "remove-tag-inheritance goose-1-build goose-bootstrap",
            "taginfo goose-1-build | grep goose-bootstrap; test $? = 1", "inheritance"),
    content("group emptied", "call groupPackageListRemove goose-1-build build debian-bootstrap-build",
            "list-groups goose-1-build build | grep -w debian-bootstrap-build; test $? = 1", "group_packages"),
    content("extra of a tag changed", "edit-tag goose-1-build -x rpm.macro.dist=.other",
            "taginfo goose-1-build | grep .other", "tags"),
    content("package taken from a list", "remove-pkg --force goose-1-release goose-release",
            "list-pkgs --tag goose-1-release --quiet | grep -w goose-release; test $? = 1", "packages"),
]  # fmt: skip

# Each of these keeps the hub or the master from answering, and so hides what is wrong in them.
DOWN = [
    Damage(
        "web server stopped and masked", "hub",
        "systemctl stop apache2 && systemctl mask apache2",
        "! systemctl is-active apache2",
        "common-httpd-service",
    ),
    Damage(
        "database stopped and masked", "hub",
        "systemctl stop postgresql@15-main && systemctl mask postgresql@15-main",
        "! systemctl is-active postgresql@15-main",
        "koji-db-service",
    ),
    Damage(
        "virtual host emptied", "hub",
        ": >/etc/apache2/sites-enabled/goose.conf",
        "! test -s /etc/apache2/sites-enabled/goose.conf",
        "common-httpd-vhost",
    ),
    Damage(
        "hub shut out of its database", "hub",
        f"sed -i '/^host/d' {POSTGRES}/pg_hba.conf",
        f"! grep -q ^host {POSTGRES}/pg_hba.conf",
        "koji-db-access",
    ),
    Damage(
        "hub's certificate deleted", "hub",
        f"rm {PKI}/host.crt /etc/koji-hub/db/host.crt",
        "! test -e /etc/koji-hub/db/host.crt",
        "koji-hub-db-host-crt",
    ),
    Damage(
        "master's configuration edited", "salt",
        "sed -i 's/^gather_job_timeout.*/gather_job_timeout: 3/' /etc/salt/master.d/goose.conf"
        " && systemctl restart salt-master",
        "grep -q '^gather_job_timeout: 3$' /etc/salt/master.d/goose.conf",
        "salt-master-config",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What an apply says it did, or would do."""

    status: int
    failed: dict[str, int]
    changed: dict[str, int]
    changes: dict[str, list[str]]
    """Host -> what `lab apply` says of each state that changed."""
    output: str

    def tells(self, damage: Damage) -> bool:
        """Whether the damage's state is among the changes of its host."""
        return any(
            line.startswith(f"{damage.state} (") and damage.says in line
            for line in self.changes.get(damage.host, [])
        )


def apply(command: Command, *words: str) -> Report:
    done = command("apply", *words, check=False, timeout=600)
    failed, changed = {}, {}
    # The master may be told of twice; its last line is of the highstate.
    counts = r"(\S+): \d+ succeeded, (\d+) (?:would change|changed), (\d+) failed"
    for host, changes, failures in re.findall(counts, done.stderr):
        failed[host], changed[host] = int(failures), int(changes)
    lines: dict[str, list[str]] = {}
    for host, text in re.findall(r"^(\w+): (\S+ \(.*?)(?=^\w+: \S+ \(|\Z)", done.stdout, re.MULTILINE | re.DOTALL):
        lines.setdefault(host, []).append(text)
    return Report(done.returncode, failed, changed, lines, done.stdout + done.stderr)


def on_each(command: Command, damages: list[Damage], part: str) -> list[str]:
    """Run one shell command of every damage, a shell a host; the kinds whose command did not end with 0."""
    bad = []
    for host in sorted({damage.host for damage in damages}):
        own = [damage for damage in damages if damage.host == host]
        script = "".join(
            f"if ( {getattr(damage, part)} ) </dev/null >/dev/null 2>&1\n"
            f"then echo {number} yes; else echo {number} no; fi\n"
            for number, damage in enumerate(own)
        )
        answers = dict(line.split() for line in command.on(host, "sh", stdin=script).splitlines())
        bad += [f"{host}: {damage.kind}" for number, damage in enumerate(own) if answers[str(number)] != "yes"]
    return bad


def still(command: Command, damages: list[Damage]) -> list[str]:
    """The kinds of damage that are there."""
    whole = on_each(command, damages, "shows")
    return [name for name in (f"{each.host}: {each.kind}" for each in damages) if name not in whole]


def untold(report: Report, damages: list[Damage]) -> list[str]:
    """The kinds of damage that a report leaves out."""
    return [f"{each.host}: {each.kind} ({each.state})" for each in damages if not report.tells(each)]


def repair(command: Command, damages: list[Damage]) -> Report:
    """Break, look, repair, look: what holds for each round. What a test would do, for more questions."""
    assert not still(command, damages), "this is so before anything was broken, so it would prove nothing"
    try:
        return _repair(command, damages)
    except BaseException:
        # Leave the next test a lab that is whole, if an apply can.
        apply(command)
        raise


def _repair(command: Command, damages: list[Damage]) -> Report:
    names = [f"{each.host}: {each.kind}" for each in damages]
    for host in {each.host for each in damages}:
        # It repairs some of this, and comes when it likes. An apply starts it again.
        command.on(host, "systemctl", "stop", "goose-pki-renew.timer", "goose-pki-renew.service")
    assert not on_each(command, damages, "breaks"), "could not be broken"
    there = still(command, damages)
    assert not [name for name in names if name not in there], "broken, and does not show"

    plan = apply(command, "--test")
    assert still(command, damages) == names, "a test repaired something"
    assert plan.status == 0, plan.output
    assert {host for host, count in plan.changed.items() if count} >= {each.host for each in damages}

    report = apply(command)
    assert set(report.failed.values()) == {0}, report.output
    assert still(command, damages) == [], f"one apply did not repair this:\n{report.output}"
    assert untold(report, damages) == [], f"repaired and not reported:\n{report.output}"
    return plan


def test_there_are_enough_kinds(lab: labs.Lab) -> None:
    """Twenty kinds were asked for, on every host of the lab."""
    damages = [*ROUND, *DOWN]
    assert len({damage.kind for damage in damages}) == len(damages) >= 20
    assert {damage.host for damage in damages} == {host.name for host in lab.hosts}


def test_one_apply_repairs_everything(command: Command) -> None:
    plan = repair(command, ROUND)
    assert untold(plan, ROUND) == [], f"a test did not tell of this:\n{plan.output}"


def test_one_apply_brings_a_dead_hub_back(command: Command) -> None:
    """The other hosts need the hub, and wait for it instead of failing.

    The master restarts while it is told to: nobody's answer may be lost.
    """
    repair(command, DOWN)


def test_then_nothing_is_left_to_do(command: Command) -> None:
    again = apply(command)
    assert set(again.failed.values()) | set(again.changed.values()) == {0}, again.output
