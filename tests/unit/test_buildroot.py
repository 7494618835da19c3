"""The embedded build root: Debian's words into RPM's, what goes into which RPM, and what Koji is asked."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from goose import buildroot, release, samples

ROOT = Path(__file__).resolve().parents[2]
DATA = {"name": "debian-bootstrap", "version": "12", "release": "1", "tag": "boot", "suite": "bookworm",
        "arches": ["x86_64"], "packages": ["bash", "libpopt-dev"]}


def config(**changes):
    return buildroot.Config.from_mapping({**DATA, **changes})


@pytest.fixture
def overlay(tmp_path):
    path = tmp_path / "overlay"
    (path / "usr/lib/rpm/debian").mkdir(parents=True)
    (path / "usr/lib/rpm/debian/macros").write_text("%_dbpath /var/lib/rpm\n")
    return path


@pytest.mark.parametrize("debian, rpm", [
    ("5.2.15-2+b13", ("", "5.2.15", "2+b13")),
    ("1:1.2.13.dfsg-1", ("1", "1.2.13.dfsg", "1")),
    ("0:3-1", ("", "3", "1")),
    ("37~deb12u1", ("", "37~deb12u1", "0")),
    ("1.2-rc1-3", ("", "1.2_rc1", "3")),
])
def test_versions(debian, rpm):
    assert buildroot.rpm_version(debian) == rpm


@pytest.mark.parametrize("text, expected", [
    ("libc6 (>= 2.36-9+deb12u14)", ("libc6", ">= 2.36")),
    ("python3:any", ("python3", "")),
    ("libc6 (<< 2.37)", ("libc6", "< 2.37")),
    ("gcc (<< 4:12.2-3)", ("gcc", "<= 4:12.2")),
    # 2.36-9 satisfies Debian's `>> 2.36`, and not RPM's `> 2.36`.
    ("libc6 (>> 2.36)", ("libc6", ">= 2.36")),
    ("libgcc-s1 (= 12.2.0-14)", ("libgcc-s1", "= 12.2.0")),
])
def test_relations(text, expected):
    assert buildroot.relation(text) == expected


def test_requires_take_the_alternatives_that_are_there():
    known = {"libc6", "mawk", "perl:any", "perl", "awk", "default-mta"}
    assert buildroot.requires("libc6 (>= 2.4), libc6 (>= 2.4), nothing | mawk, perl | awk, gone", known) == \
        ["libc6 >= 2.4", "mawk", "(perl or awk)"]


@pytest.mark.parametrize("debian, names", [
    ("libpopt-dev", ["libpopt-devel", "popt-devel"]),
    ("libselinux1-dev", ["libselinux1-devel", "libselinux-devel", "selinux1-devel", "selinux-devel"]),
    ("libpopt0", ["libpopt"]),
    ("libtest-deep-perl", ["perl-test-deep"]),
    ("bash", []),
])
def test_el_names(debian, names):
    assert buildroot.el_names(debian) == names


def test_a_rule_gives_no_package_the_name_of_a_better_one():
    # Two providers of python3-devel let dnf choose the one without python3-config.
    names = buildroot.rule_names(["python3-dev", "libpython3-dev", "libz-dev"], ["z-devel"])
    assert "python3-devel" in names["python3-dev"]
    assert "python3-devel" not in names["libpython3-dev"]
    assert "z-devel" not in names["libz-dev"]


def test_named_provides_carry_versions():
    lines = buildroot.named_provides(["popt-devel", "perl-libs = 4:{version}", "/bin/sh", "rtld(GNU_HASH)"],
                                     "1.19+dfsg", "x86-64")
    assert lines == ["popt-devel = 1.19", "popt-devel(x86-64) = 1.19", "perl-libs = 4:1.19",
                     "perl-libs(x86-64) = 4:1.19", "/bin/sh", "rtld(GNU_HASH) = 1.19"]


def test_pkgconfig_and_python_provides():
    assert buildroot.pkgconfig_provides("z", "major=1\nv=${major}.2\nVersion: ${v}\n") == "pkgconfig(z) = 1.2"
    assert buildroot.pkgconfig_provides("z", "Name: z\n") == "pkgconfig(z)"
    assert buildroot.python_provides("Foo_Bar-1.0.dist-info", "3.11") == \
        ["python3dist(foo-bar) = 1.0", "python3.11dist(foo-bar) = 1.0"]
    assert buildroot.python_provides("typing.egg-info", "3.11") == []


def test_status_knows_only_what_is_installed():
    text = ("Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\nEssential: yes\n"
            "Pre-Depends: x\nDepends: y\nConffiles:\n /etc/a 0123\n /etc/old 0123 obsolete\n"
            "Description: A\n more\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n")
    [package] = buildroot.parse_status(text)
    assert (package.depends, package.conffiles, package.summary, package.essential) == ("x, y", ("/etc/a",), "A", True)


def test_sources_are_the_machines_own():
    deb822 = ("Types: deb deb-src\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates trixie\n"
              "Components: main\n# a word\nSigned-By: /k.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://no/\n"
              "Suites: bookworm\nComponents: main\n")
    line = ("deb [arch=amd64 signed-by=/k] http://m/d bookworm-security main contrib # why\n"
            "deb-src http://m/d bookworm main\n")
    assert buildroot.apt_sources("bookworm", [("sources.list", line), ("debian.sources", deb822)]) == [
        ("bookworm-security", "deb [signed-by=/k] http://m/d bookworm-security main contrib"),
        ("bookworm", "deb [signed-by=/k.gpg] http://mirror/debian bookworm main"),
        ("bookworm-updates", "deb [signed-by=/k.gpg] http://mirror/debian bookworm-updates main"),
    ]


def test_the_release_follows_the_content_and_nothing_else(overlay):
    first = buildroot.identity(config(), overlay)
    same = config(packages=["libpopt-dev", "bash"], cert="/other.pem", tag="boot2")
    assert first == buildroot.identity(same, overlay)
    assert first != buildroot.identity(config(packages=["bash", "libpopt-dev", "zip"]), overlay)
    assert first != buildroot.identity(config(release="2"), overlay)
    (overlay / "usr/lib/rpm/debian/macros").write_text("%_dbpath /other\n")
    assert first != buildroot.identity(config(), overlay)


@pytest.mark.parametrize("change, words", [
    ({"suite": ""}, "koji:buildroot:suite in pillar is missing"),
    ({"arches": ["sparc"]}, "koji:buildroot:arches in pillar names 'sparc'"),
    ({"packages": "bash"}, "koji:buildroot:packages in pillar must be a list"),
    ({"provides": ["x"]}, "koji:buildroot:provides in pillar must be a mapping"),
    ({"release": "1-2"}, "no hyphen"),
])
def test_wrong_data_is_named(change, words):
    with pytest.raises(buildroot.BuildrootError, match=words) as error:
        config(**change)
    assert error.value.status == 2


def test_the_shipped_data_is_sound():
    data = yaml.safe_load((ROOT / "pillar/koji_buildroot.sls").read_text())["koji"]["buildroot"]
    shipped = buildroot.Config.from_mapping({**data, "arches": ["x86_64", "i686"]})
    assert set(shipped.groups) == {"build", "srpm-build"}


def test_file_lists_take_names_literally():
    assert buildroot.escape("/usr/bin/[") == '"/usr/bin/[[]"'
    assert buildroot.escape("/a b%c*") == '"/a b%%c[*]"'


@pytest.fixture
def root(tmp_path):
    """A merged-/usr file system of two packages, a link of the alternatives and an unowned file."""
    root = tmp_path / "root"
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    for directory in ("usr/bin", "usr/share/x", "etc/alternatives", "proc", "dev", "var/cache/apt"):
        (root / directory).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    for name in ("usr/bin/bash", "usr/bin/mawk", "etc/made", "etc/awkrc", "usr/share/x/y.pyc", "var/cache/apt/big"):
        (root / name).write_text("")
    (root / "etc/alternatives/awk").symlink_to("/usr/bin/mawk")
    (root / "usr/bin/awk").symlink_to("/etc/alternatives/awk")
    (info / "bash.list").write_text("/.\n/bin\n/bin/bash\n")
    (info / "mawk:amd64.list").write_text("/usr\n/usr/bin/mawk\n/etc/awkrc\n")
    (root / "var/lib/dpkg/status").write_text(
        "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\nArchitecture: amd64\nEssential: yes\n"
        "Depends: awk, base-files (>= 2)\nDescription: shell\n\n"
        "Package: mawk\nStatus: install ok installed\nVersion: 1.3-1\nArchitecture: amd64\nProvides: awk\n"
        "Conffiles:\n /etc/awkrc 0\nDescription: awk\n")
    return root


def test_plan_shares_out_a_file_system(root, overlay):
    settings = config(provides={"mawk": ["gawk"]}, groups={"build": ["gawk"]}, links={"/bin/sh": "bash"})
    buildroot.lay_over(root, settings, overlay)
    ident = buildroot.identity(settings, overlay)
    plans = {item.name: item for item in
             buildroot.plan(root, settings, ident, "x86_64", overlay, generate=lambda tree, files: [])}
    bash, mawk, base = plans["bash"], plans["mawk"], plans["debian-bootstrap-filesystem"]
    assert bash.files == ["/usr/bin/bash", "/usr/bin/sh"]
    assert {"/bin/bash", "/bin/sh"} <= set(bash.provides)
    assert bash.requires == [base.name, "awk"]
    assert mawk.files == ["/etc/alternatives/awk", "/etc/awkrc", "/usr/bin/awk", "/usr/bin/mawk"]
    assert mawk.config == {"/etc/awkrc"} and "gawk = 1.3" in mawk.provides
    assert base.files == ["/bin", "/etc/made"]
    assert "/proc" not in base.dirs and "/dev" in base.dirs and "/usr/bin" in base.dirs
    assert plans["debian-bootstrap-config"].files == ["/usr/lib/rpm/debian/macros"]
    assert plans["debian-bootstrap-build"].requires == [base.name, "debian-bootstrap-config", "bash", "gawk"]
    spec = buildroot.spec_text(settings, ident, list(plans.values()), Path("/lists"))
    assert f"Release: 1.{ident.suffix}" in spec and "%files -n bash -f /lists/bash.files" in spec


def test_a_group_names_what_is_not_there(root, overlay):
    settings = config(groups={"build": ["gcc"]})
    with pytest.raises(buildroot.BuildrootError, match="groups:build in pillar names gcc"):
        buildroot.plan(root, settings, buildroot.identity(settings, overlay), "x86_64", overlay,
                       generate=lambda tree, files: [])


class Hub:
    """A session double that remembers builds, RPMs and tags."""

    def __init__(self, tag="boot"):
        self.tag, self.builds, self.rpms, self.tags, self.calls = tag, {}, [], [], []

    def getTag(self, name):
        return {"name": name} if name == self.tag else None

    def listTagged(self, tag, latest, package):
        return [{"nvr": self.tags[-1]}] if self.tags else []

    def getBuild(self, nvr, strict=False):
        return self.builds.get(nvr)

    def createEmptyBuild(self, name, version, release, epoch):
        self.builds[f"{name}-{version}-{release}"] = {"id": 7}

    def listRPMs(self, buildID):
        return self.rpms

    def uploadWrapper(self, path, directory):
        self.calls.append(("upload", Path(path).name))

    def importRPM(self, directory, name):
        label = name[:-4]
        nvr, _, arch = label.rpartition(".")
        first, version, release_ = nvr.rsplit("-", 2)
        self.rpms.append({"name": first, "version": version, "release": release_, "arch": arch})

    def listPackages(self, tagID, pkgID):
        return []

    def getLoggedInUser(self):
        return {"name": "kojiadmin"}

    def packageListAdd(self, tag, package, owner):
        self.calls.append(("package", tag, package, owner))

    def tagBuildBypass(self, tag, nvr):
        self.tags.append(nvr)


def test_an_import_that_was_killed_is_continued(tmp_path, overlay):
    ident = buildroot.identity(config(), overlay)
    for name in ("a-1-1.x86_64.rpm", "b-1-1.x86_64.rpm", "c-1-1.x86_64.rpm"):
        (tmp_path / "made/x86_64").mkdir(parents=True, exist_ok=True)
        (tmp_path / "made/x86_64" / name).write_text("")
    hub = Hub()
    hub.builds[ident.nvr] = {"id": 7}
    hub.importRPM("", "b-1-1.x86_64.rpm")
    assert not buildroot.tagged(hub, config(), ident)
    assert buildroot.bring_in(lambda: hub, hub, config(), ident, tmp_path / "made", lambda text: None) == 2
    assert buildroot.tagged(hub, config(), ident)
    assert sorted(call[1] for call in hub.calls if call[0] == "upload") == ["a-1-1.x86_64.rpm", "c-1-1.x86_64.rpm"]
    assert ("package", "boot", "debian-bootstrap", "kojiadmin") in hub.calls


def test_waiting_for_the_tag_ends_with_a_sentence():
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds):
        clock.now += seconds

    with pytest.raises(buildroot.BuildrootError, match="Waited 9 s for Koji: the hub has no tag 'boot' yet") as error:
        buildroot.wait_for_tag(lambda: Hub(tag="other"), "boot", 9, lambda text: None, lambda: clock.now, sleep)
    assert error.value.status == 4


def test_made_already_is_not_made_again(tmp_path, overlay):
    ident = buildroot.identity(config(), overlay)
    (tmp_path / "out" / ident.nvr).mkdir(parents=True)
    (tmp_path / "out" / "debian-bootstrap-12-1.old").mkdir()
    assert buildroot.make(config(), overlay, tmp_path / "out", lambda text: None).name == ident.nvr


def test_imported_is_not_made_again_while_the_hub_is_away(tmp_path, overlay, monkeypatch):
    """Making it takes minutes; a hub that is being repaired answers in seconds."""
    (tmp_path / "c.json").write_text(json.dumps(DATA))
    out = tmp_path / "out"
    out.mkdir()
    status = ["--config", str(tmp_path / "c.json"), "--overlay", str(overlay), "--out", str(out), "status"]

    def away(*arguments, **named):
        raise ConnectionError("nothing listens there")

    monkeypatch.setattr(buildroot, "koji_session", away)
    assert buildroot.main([*status, "--made"]) == 1
    (out / f"{buildroot.identity(config(), overlay).nvr}.imported").touch()
    assert buildroot.main([*status, "--made"]) == 0
    assert buildroot.main(status) == 1, "whether it is tagged only the hub can say"
    # Where the hub answers, its word counts.
    monkeypatch.setattr(buildroot, "koji_session", lambda *arguments, **named: Hub(tag="other"))
    assert buildroot.main([*status, "--made"]) == 1


def test_one_run_at_a_time(tmp_path):
    lock = tmp_path / "lock"
    with buildroot.only_one(lock), pytest.raises(buildroot.BuildrootError) as error, buildroot.only_one(lock):
        pass
    assert error.value.status == 75


def test_command_line_says_the_build(tmp_path, overlay, capsys):
    (tmp_path / "c.json").write_text(json.dumps(DATA))
    arguments = ["--config", str(tmp_path / "c.json"), "--overlay", str(overlay), "--out", str(tmp_path / "out")]
    assert buildroot.main([*arguments, "nvr"], sys.stdout) == 0
    assert capsys.readouterr().out.strip() == buildroot.identity(config(), overlay).nvr
    assert buildroot.main(["--config", str(tmp_path / "none.json"), "nvr"]) == 2


def test_release_values_are_checked_and_filled():
    site = {"name": "GoOSe", "id": "goose", "version": "1.2", "domain": "goose.example"}
    words = release.values(site)
    for template in release.TEMPLATES.glob("*.in"):
        assert "@" not in release.fill(template.read_text(), words).replace("%{?_isa}", "")
    with pytest.raises(release.ToolError, match="site:id in pillar is 'Go OSe'"):
        release.values({**site, "id": "Go OSe"})


def test_samples_come_behind_what_they_need():
    loaded = samples.load()
    assert samples.in_order(loaded, ["sdparm", "logrotate", "sg3-utils"]) == ["sg3-utils", "sdparm", "logrotate"]
    with pytest.raises(samples.ToolError, match="nothing is no sample"):
        samples.in_order(loaded, ["nothing"])
    for sample in loaded.samples.values():
        assert not sample.patch or (samples.DATA / sample.patch).exists()


def test_archives_are_repacked_as_the_spec_names_them(tmp_path):
    import gzip
    import lzma

    source = tmp_path / "a.tar.xz"
    source.write_bytes(lzma.compress(b"content"))
    for name in ("one.tgz", "two.tgz"):
        samples.repack(source, tmp_path / name)
    assert gzip.decompress((tmp_path / "one.tgz").read_bytes()) == b"content"
    assert (tmp_path / "one.tgz").read_bytes() == (tmp_path / "two.tgz").read_bytes()
    with pytest.raises(samples.ToolError, match="not known here"):
        samples.repack(source, tmp_path / "a.zip")
