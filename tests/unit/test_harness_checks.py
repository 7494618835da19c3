"""Each check of the render suite finds the fault that it is for, in a small state of this file."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import salt.states.cmd
import salt.states.file
import salt.states.service
import salt.states.x509_v2

import checks
import salt_tree

Render = Callable[..., salt_tree.Host]

FUNCTIONS = {
    "cmd.run": salt.states.cmd.run,
    "file.managed": salt.states.file.managed,
    "file.symlink": salt.states.file.symlink,
    "service.running": salt.states.service.running,
}
CONTRACT = checks.Contract.read(
    {
        "base": {
            "units": ["systemd-journald.service"],
            "dirs": ["/etc/systemd/system", "/var/lib"],
            "executables": ["/usr/bin/true"],
            "users": ["root"],
            "groups": ["root"],
        },
        "packages": {
            "web": {
                "repo": "epel",
                "units": ["web.service", "web@.service"],
                "files": ["/etc/web/web.conf"],
                "executables": ["/usr/sbin/web"],
                "requires": ["web-user"],
                "RedHat-10": {"dirs": ["/etc/web.d"]},
            },
            "web-user": {"repo": "epel", "users": ["web"], "groups": ["web"]},
            "nine": {"repo": {"RedHat-9": "epel"}},
        },
    },
    "RedHat-9",
)


class Tree:
    """A tree of one state, rendered for a host of RedHat-9."""

    def __init__(self, root: Path) -> None:
        self.root = root / "tree"
        self.root.mkdir()
        # A pillar that is not empty, or Salt would look for files of one.
        self.host = salt_tree.Host(
            "a.example.org", "RedHat-9", self.root, root / "cache", [], pillar={"secret": "canary-one"}
        )
        self._number = count()

    def write(self, name: str, text: str) -> None:
        """Write a file of the tree."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")

    def low(self, sls: str) -> list[salt_tree.Chunk]:
        """Return the low data of a state given as text."""
        name = f"sample{next(self._number)}"
        self.write(f"{name}.sls", sls)
        return self.host.states(name)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree to write states into."""
    return Tree(tmp_path_factory.mktemp("sample"))


def contract(tree: Tree, sls: str, **options: Any) -> list[str]:
    """Return what the contract finds in a state given as text."""
    chunks = tree.low(sls)
    return list(checks.contract_faults(chunks, tree.host.files(chunks), CONTRACT, **options))


def only(problems: list[str], *words: str) -> None:
    """There is one problem, and it holds the words."""
    assert len(problems) == 1, problems
    for word in words:
        assert word in problems[0]


# Rendering


@pytest.mark.parametrize(
    ("sls", "words"),
    [
        ("{{ raise('Set it.') }}", "Set it."),
        ("{{ nothing.at.all }}", "nothing"),
        ("a:\n  cmd.run:\n    - require:\n      - pkg: b", "pkg: b"),
        ("a:\n  cmd.run:\n    - require: [{cmd: b}]\nb:\n  cmd.run:\n    - require: [{cmd: a}]", "Recursive"),
        ("include: [nowhere]", "nowhere"),
        ("a: {file.managed: [mode: '0644'], file.absent: []}\na: {}", "onflicting"),
    ],
)
def test_render_errors(tree: Tree, sls: str, words: str) -> None:
    with pytest.raises(salt_tree.RenderError, match=words):
        tree.low(sls)


def test_template_error_names_template_and_state(tree: Tree) -> None:
    tree.write("a.conf.jinja", "{{ port }}\n")
    chunks = tree.low(
        """
        some-config:
          file.managed:
            - name: /etc/some.conf
            - source: salt://a.conf.jinja
            - template: jinja
            - context: {host: b}
        """
    )
    with pytest.raises(salt_tree.RenderError, match=r"a.conf.jinja for some-config .*'port' is undefined"):
        list(tree.host.files(chunks))


def test_template_gets_its_context_and_no_pillar(tree: Tree) -> None:
    tree.write("b.conf.jinja", "{{ port }} {{ pillar.get('secret', 'none') }}\n")
    chunks = tree.low(
        """
        a:
          file.managed:
            - name: /etc/some.conf
            - source: salt://b.conf.jinja
            - template: jinja
            - context: {port: 80}
        """
    )
    assert [file.text for file in tree.host.files(chunks)] == ["80 none\n"]


def test_platform_is_the_one_asked_for(tree: Tree) -> None:
    chunks = tree.low("{{ grains.os_family }}-{{ grains.osmajorrelease }}-{{ grains.id }}: {cmd.run: []}")
    assert chunks[0]["name"] == "RedHat-9-a.example.org"


# Functions and sources


def test_functions(tree: Tree) -> None:
    chunks = tree.low(
        """
        good:
          file.managed: [name: /a, mode: '0644', require: [cmd: any], unless: 'true']
        any:
          cmd.run: [stateful: true, retry: {attempts: 3}]
        reloaded:
          service.running: [reload: true, unmask: true]
        """
    )
    assert not list(checks.functions(chunks, FUNCTIONS.get))
    only(
        list(checks.functions(tree.low("a: {file.manage: []}"), FUNCTIONS.get)),
        "no state function file.manage",
    )
    only(
        list(checks.functions(tree.low("a: {file.managed: [{show_diff: false}]}"), FUNCTIONS.get)),
        "no argument 'show_diff'",
    )
    only(
        list(checks.functions(tree.low("a: {file.symlink: []}"), FUNCTIONS.get)),
        "needs the argument 'target'",
    )


def test_sources(tree: Tree) -> None:
    tree.write("files/there.conf", "x\n")
    sls = "a: {file.managed: [{source: 'salt://files/%s.conf'}]}"
    assert not list(checks.sources(tree.low(sls % "there"), tree.host.source))
    only(list(checks.sources(tree.low(sls % "gone"), tree.host.source)), "salt://files/gone.conf is missing")
    nested = "a: {test.nop: [{parts: [{source: 'salt://files/gone'}]}]}"
    only(list(checks.sources(tree.low(nested), tree.host.source)), "salt://files/gone is missing")


def test_orphans(tree: Tree) -> None:
    tree.write("service/map.jinja", "")
    tree.write("service/left.jinja", "")
    tree.write("service/README.rst", "")
    only(
        list(checks.orphans(tree.root, [tree.root / "service"], {"service/map.jinja"})),
        "service/left.jinja is used by no",
    )


def test_named_files(tree: Tree) -> None:
    for name in ("data/one.txt", "data/two.txt", "files/a", "roles/x.sls", "roles/left"):
        tree.write(f"named/{name}", "")
    found = functools.partial(checks.named_files, tree.root, [tree.root / "named"])
    assert found("open('named/data/one.txt')") == {"named/data/one.txt"}
    assert (
        found("cp named/data/ there")
        == found("here / 'named' / 'data'")
        == {f"named/data/{name}.txt" for name in ("one", "two")}
    )
    assert not found("'files' 'roles'")


def test_requested_files_are_recorded(tree: Tree) -> None:
    tree.write("lib.jinja", "{% set a = 'b' %}")
    tree.write("data.yaml", "c: d\n")
    tree.low("{% from 'lib.jinja' import a %}{% import_yaml 'data.yaml' as data %}{{ a }}: {cmd.run: []}")
    assert {"lib.jinja", "data.yaml"} <= salt_tree.requested(tree.host.cache)


# Modes and secrets


@pytest.mark.parametrize("mode", ["0640", "640", "'640'", "'u+r'"])
def test_modes(tree: Tree, mode: str) -> None:
    only(list(checks.modes(tree.low(f"a: {{file.managed: [{{mode: {mode}}}]}}"))), "four octal digits")


def test_modes_accepts(tree: Tree) -> None:
    assert not list(checks.modes(tree.low("a: {file.recurse: [{dir_mode: '0755', file_mode: keep}]}")))


@pytest.mark.parametrize(
    ("sls", "words"),
    [
        ("a: {file.managed: [{name: /etc/k/hub.conf, show_changes: false}]}", ["has no mode"]),
        ("a: {file.managed: [{name: /etc/k/hub.conf, mode: '0644', show_changes: false}]}", ["'0644'"]),
        ("a: {file.managed: [{name: /etc/k/hub.conf, mode: 0640, show_changes: false}]}", ["quoted"]),
        ("a: {file.managed: [{name: /etc/k/hub.conf, mode: '0640'}]}", ["show_changes"]),
        ("a: {x509.private_key_managed: [{name: /etc/pki/a.key, mode: '0644'}]}", ["'0644'"]),
    ],
)
def test_secret_files(tree: Tree, sls: str, words: list[str]) -> None:
    only(list(checks.secret_files(tree.low(sls), ["*/hub.conf", "*.key"], [])), *words)


def test_secret_files_accepts(tree: Tree) -> None:
    chunks = tree.low(
        """
        a: {file.managed: [{name: /etc/k/hub.conf, mode: '0640', show_changes: false}]}
        b: {x509.private_key_managed: [{name: /etc/pki/a.key}]}
        c: {x509.crl_managed: [{name: /etc/pki/crl.pem, mode: '0644'}]}
        d: {file.absent: [{name: /etc/pki/old.key}]}
        """
    )
    assert not list(checks.secret_files(chunks, ["*/hub.conf", "*.key", "*.pem"], ["*/crl.pem"]))


@pytest.mark.parametrize(
    ("sls", "words"),
    [
        ("a: {cmd.run: [{name: 'psql -c {{ pillar.secret }}'}]}", ["name holds"]),
        ("a: {cmd.run: [{name: psql, env: [{PGPASSWORD: '{{ pillar.secret }}'}]}]}", ["env holds"]),
        ("a: {cmd.run: [{name: psql, unless: 'psql {{ pillar.secret }}'}]}", ["unless holds"]),
        (
            "a: {file.managed: [{name: /a, contents: '{{ pillar.secret }}', show_changes: false, mode: '0644'}]}",
            ["/a holds", "'0644'"],
        ),
        (
            "a: {file.managed: [{name: /a, contents_pillar: secret, mode: '0600'}]}",
            ["/a holds", "show_changes"],
        ),
        (
            "a: {file.managed: [{name: /etc/systemd/a, contents_pillar: secret, show_changes: false, mode: '0600'}]}",
            ["systemd"],
        ),
    ],
)
def test_leaks(tree: Tree, sls: str, words: list[str]) -> None:
    chunks = tree.low(sls)
    secrets = checks.canaries(tree.host.pillar)
    assert secrets == {"canary-one"}
    only(list(checks.leaks(chunks, tree.host.files(chunks), secrets)), *words)


def test_leaks_accepts(tree: Tree) -> None:
    chunks = tree.low(
        "a: {file.managed: [{name: /a, contents_pillar: secret, mode: '0600', show_changes: false}]}"
    )
    assert not list(checks.leaks(chunks, tree.host.files(chunks), {"canary-one"}))


# Texts


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("/etc/koji.conf", "server = x\n", "no ini"),
        ("/etc/koji-hub/hub.conf", "[hub]\na = 1\na = 2\n", "already exists"),
        ("/etc/yum.repos.d/a.repo", "no section\n", "no ini"),
        ("/etc/kojid/kojid.conf", "[kojid]\nserver = None\n", "unset value"),
        ("/etc/a.conf", "port = {{ port }}\n", "still holds Jinja"),
        ("/etc/salt/master.d/a.conf", "a: [b\n", "no YAML"),
        ("/etc/a.json", "{", "no JSON"),
        ("/usr/local/bin/a", "#!/usr/bin/python3\ndef a(:\n", "no Python"),
        ("/usr/lib/a.py", "match a:\n    case 1: pass\n", "no Python 3.9"),
        ("/usr/local/bin/a", "#!/bin/sh\nif true; then\n", "shell refuses"),
        ("/etc/httpd/conf.d/a.conf", "<Location /a>\n", "never closed"),
        ("/etc/apache2/conf-enabled/a.conf", "<Location /a>\n</Directory>\n", "not open there"),
        ("/etc/httpd/conf.d/a.conf", "<Location /a\n</Location>\n", "lacks its >"),
        ("/etc/logrotate.d/a", "/var/log/a {\n", "braces"),
        ("/etc/apt/sources.list.d/a.sources", "Types: deb\nURIs: x\n", "lacks Suites"),
        ("/etc/systemd/system/a.service", "[Service]\nUser=a\n", "lacks ExecStart"),
        (
            "/etc/systemd/system/a.service",
            "[Servce]\nExecStart=/a\n[Service]\nExecStart=/a\n",
            "section Servce",
        ),
        ("/etc/systemd/system/a.timer", "[Timer]\nUnit=a.service\n", "lacks On"),
        ("/etc/systemd/system/a.service.d/b.conf", "[Service]\nUser\n", "no setting"),
        ("/etc/systemd/journald.conf.d/a.conf", "Storage=x\n", "before any section"),
        ("/etc/postgresql/15/main/pg_hba.conf", "hostssl koji koji scram\n", "too few fields"),
        ("/var/lib/pgsql/data/pg_hba.conf", "tcp all all all trust\n", "no kind"),
        ("/var/lib/pgsql/data/pg_ident.conf", "map user\n", "three fields"),
        ("/etc/exports.d/a.exports", "/a host (rw)\n", "no directory"),
        ("/var/lib/pgsql/data/postgresql.conf", "port = 5432 6\n", "no setting of PostgreSQL"),
    ],
)
def test_texts(path: str, text: str, words: str) -> None:
    chunk = {"__id__": "a", "state": "file", "fun": "managed", "name": path}
    only(list(checks.texts([salt_tree.File(path, text, chunk)])), words)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/koji.conf", "[koji]\nserver = https://a/b%20c\n"),
        ("/etc/systemd/system/a.service", "[Unit]\n# why\n[Service]\nExecStart=/a \\\n  --b\nExecStart=/c\n"),
        ("/etc/systemd/system/a.service.d/b.conf", "[Service]\nRestart=always\n"),
        ("/etc/systemd/system/mnt-koji.mount", "[Mount]\nWhat=a:/b\nWhere=/mnt/koji\n"),
        ("/var/lib/pgsql/data/postgresql.conf", "port = 5432 # why\nlisten_addresses = '192.0.2.1, it''s'\n"),
        (
            "/etc/postgresql/15/main/pg_hba.conf",
            "# why\nlocal all postgres peer map=a\nhostssl a b 192.0.2.1/32 cert\n",
        ),
        ("/etc/httpd/conf.d/a.conf", '<Location /a>\n  <If "x">\n  </If>\n</location>\n'),
        ("/etc/exports.d/a.exports", "# why\n/a 192.0.2.1(rw,sync) b.example.org(ro,fsid=0)\n"),
        ("/usr/lib/rpm/macros.d/macros.a", "%a %{b}\n"),
    ],
)
def test_texts_accepts(path: str, text: str) -> None:
    assert not list(checks.text_faults(path, text))


@pytest.mark.skipif(not Path("/usr/sbin/visudo").exists(), reason="no visudo on this machine")
def test_sudoers() -> None:
    only(list(checks.text_faults("/etc/sudoers.d/a", "a ALL=(ALL\n")), "visudo refuses")


# The package contract

WEB = "web: {pkg.installed: [{pkgs: [web]}]}\n"


@pytest.mark.parametrize(
    ("sls", "words"),
    [
        ("a: {pkg.installed: [{pkgs: [none]}]}", ["installs none", "RedHat-9 has not"]),
        ("a: {pkg.installed: [{pkgs: [{none: 1.0}]}]}", ["installs none"]),
        ("none: {pkg.installed: []}", ["installs none"]),
        ("other: {service.running: []}", ["unit other no package"]),
        ("web: {service.running: []}", ["unit web no package"]),
        (WEB + "other@a.timer: {service.running: []}", ["other@a.timer no package"]),
        ("a: {cmd.run: [{name: systemctl enable --now other.timer}]}", ["other.timer no package"]),
        (
            "a: {file.managed: [{name: /etc/systemd/system/other.service.d/a.conf, makedirs: true}]}",
            ["other.service"],
        ),
        ("a: {file.managed: [{name: /etc/web/web.conf}]}", ["lies in /etc/web, which no package"]),
        ("a: {file.symlink: [{name: /etc/other/a, target: b}]}", ["lies in /etc/other"]),
        ("a: {file.directory: [{name: /srv/a/b}]}", ["lies in /srv/a"]),
        # What RedHat-10's package has is not RedHat-9's.
        (WEB + "a: {file.managed: [{name: /etc/web.d/a}]}", ["lies in /etc/web.d"]),
        ("a: {file.managed: [{name: /etc/a, user: web}]}", ["the user web no package"]),
        ("a: {file.directory: [{name: /etc/a, group: web}]}", ["the group web no package"]),
        ("a: {cmd.run: [{name: id, runas: web}]}", ["the user web no package"]),
        ("b: {user.present: [{groups: [web]}]}", ["the group web no package"]),
        ("b: {group.present: [{addusers: [web]}]}", ["the user web no package"]),
        ("a: {cmd.run: [{name: /usr/sbin/web --init}]}", ["program /usr/sbin/web no package"]),
        (
            "a: {file.managed: [{name: /etc/a, check_cmd: /usr/sbin/web -t}]}",
            ["program /usr/sbin/web no package"],
        ),
        ("web: {koji_service.current: []}", ["unit web no package"]),
        # There, and too late.
        (
            "a: {file.managed: [{name: /etc/web/a}]}\n" + WEB,
            ["lies in /etc/web", "later state: add a require"],
        ),
        ("a: {file.managed: [{name: /etc/a, user: b}]}\nb: {user.present: []}", ["user b", "later state"]),
        (
            "web: {service.running: [{require_in: [{pkg: late}]}]}\nlate: {pkg.installed: [{pkgs: [web]}]}",
            ["unit web", "later state"],
        ),
    ],
)
def test_contract(tree: Tree, sls: str, words: list[str]) -> None:
    only(contract(tree, sls), *words)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("User=web", "runs as user web"),
        ("Group=web", "runs as group web"),
        ("ExecStartPre=-/usr/sbin/web -t", "runs /usr/sbin/web"),
    ],
)
def test_contract_of_units(tree: Tree, setting: str, words: str) -> None:
    tree.write("a.service", f"[Service]\nExecStart=/usr/bin/true\n{setting}\n")
    sls = "a: {file.managed: [{name: /etc/systemd/system/a.service, source: 'salt://a.service'}]}\n"
    only(contract(tree, sls), words)
    assert not contract(tree, WEB + sls)


def test_contract_accepts(tree: Tree) -> None:
    assert not contract(
        tree,
        """
        web: {pkg.installed: [{pkgs: [web, nine]}]}
        a: {file.managed: [{name: /etc/web/a, user: web, group: web}]}
        b: {service.running: [{name: web}]}
        c: {service.running: [{name: web@one.service}]}
        d: {file.directory: [{name: /srv/a, makedirs: true}]}
        e: {file.managed: [{name: /srv/a/b}]}
        f: {user.present: [{name: own, groups: [web]}]}
        g: {file.managed: [{name: /srv/a/c, user: own, group: own}]}
        h: {file.managed: [{name: /etc/systemd/system/mnt-a\\x2db.mount}]}
        i: {service.running: [{name: 'mnt-a\\x2db.mount'}]}
        j: {file.directory: [{name: /mnt/a-b/c}]}
        k: {file.managed: [{name: /etc/systemd/system/web.service.d/k.conf, makedirs: true}]}
        l: {cmd.run: [{name: systemctl restart web systemd-journald.service}]}
        m: {file.absent: [{name: /etc/other/gone}]}
        """,
    )


def test_contract_of_others(tree: Tree) -> None:
    assert not contract(tree, "a: {pkg.installed: [{pkgs: [mock]}]}", offered=["mock"])
    assert not contract(tree, "a: {file.directory: [{name: /mnt/koji/work}]}", given=["/mnt/koji"])
    assert not contract(tree, "web: {service.running: []}", before=["web"])


def test_contract_by_platform() -> None:
    data = {
        "base": {},
        "packages": {
            "nine": {"repo": {"RedHat-9": "epel"}},
            "both": {"repo": "epel", "RedHat-10": {"dirs": ["/etc/b"]}},
        },
    }
    nine, ten = (checks.Contract.read(data, platform) for platform in ("RedHat-9", "RedHat-10"))
    assert set(nine.packages) == {"nine", "both"} and set(ten.packages) == {"both"}
    assert not nine.packages["both"].dirs and ten.packages["both"].dirs == {"/etc/b"}


@pytest.mark.parametrize(
    ("unit", "ports", "words"),
    [
        ("httpd", {22, 443}, "httpd listens on [80], which no role declares"),
        ("httpd", {22, 80, 443, 9100}, "declare [9100] in common/ports.yaml, and nothing"),
        ("httpd", {22, 80, 443}, ""),
        ("web", {22}, ""),
    ],
)
def test_undeclared(unit: str, ports: set[int], words: str) -> None:
    """A port that nobody declares would stay shut, and one that nobody serves open for whoever comes."""
    chunk = {"state": "service", "fun": "running", "name": unit, "__id__": "x", "__sls__": "web"}
    found = list(checks.undeclared([chunk], ports))
    assert words in found[0] if words else not found


def test_without() -> None:
    pillar = {"a": {"b": 1, "c": 2}, "d": 3}
    assert checks.without(pillar, "a:b") == {"a": {"c": 2}, "d": 3}
    assert checks.without(pillar, "d") == {"a": {"b": 1, "c": 2}}
    assert checks.without(pillar, "x:y") == pillar == {"a": {"b": 1, "c": 2}, "d": 3}
