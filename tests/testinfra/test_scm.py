"""The packages' git repositories."""

import json

import pytest

GITOLITE = "/var/lib/gitolite3"


@pytest.fixture
def gitolite(host):
    if not host.run("test", "-e", f"{GITOLITE}/.gitolite/conf/gitolite.conf"):
        pytest.skip("this host has plain repositories")
    return GITOLITE


@pytest.fixture
def repository(host, gitolite):
    """A repository of the test alone, made as people's are."""
    name = "rpms/testinfra-scm"
    path = f"{gitolite}/repositories/{name}.git"
    host.run("rm", "-rf", path)
    done = host.run("env", f"HOME={gitolite}", "git", "init", "--quiet", "--bare", path, user="gitolite3")
    assert done, done.err
    yield name
    host.run("rm", "-rf", path)


def test_ssh(host):
    """Pushes come by ssh alone."""
    sshd = "ssh" if host.platform.startswith("Debian") else "sshd"
    assert host.runs(sshd)
    assert host.starts_at_boot(sshd)
    ports = [line for line in host.says("sshd", "-T").splitlines() if line.startswith("port ")]
    assert len(ports) == 1, "a second port is one that nobody looks at"


def test_everybody_reads_by_https(host, repository):
    """Builders and visitors clone without an account; an empty repository lists nothing and is no error."""
    url = f"https://{host.name}/git/{repository}"
    assert host.run("git", "ls-remote", url, user="nobody")
    assert host.run("git", "ls-remote", f"{url}.git", user="nobody")
    status, body = host.get(f"https://{host.name}/git/")
    assert status == 200
    assert repository.split("/")[1] in body


def test_nobody_pushes_by_https(host, repository):
    """Apache knows nobody's key: a push there would be everybody's."""
    assert host.get(f"https://{host.name}/git/{repository}/info/refs?service=git-receive-pack")[0] == 403
    assert host.get(f"https://{host.name}/git/{repository}/git-receive-pack")[0] == 404


@pytest.mark.parametrize("path", ["config", "gl-creator", "hooks/", "../../.gitolite/conf/gitolite.conf", "%2e%2e/x"])
def test_nothing_else_is_shown(host, repository, path):
    """A repository's own files are not for visitors."""
    assert host.get(f"https://{host.name}/git/{repository}/{path}")[0] in (400, 403, 404)


def test_rules_are_in_force(host, gitolite):
    """Gitolite obeys the compiled rules, not the text beside them."""
    answer = host.run("env", f"HOME={gitolite}", "gitolite", "access", "rpms/testinfra-none", "nobody-at-all", "^C", "any",
                      user="gitolite3")  # fmt: skip
    assert "DENIED" in answer.out + answer.err
    newer = host.run("test", f"{gitolite}/.gitolite/conf/gitolite.conf-compiled.pm", "-nt",
                     f"{gitolite}/.gitolite/conf/gitolite.conf")  # fmt: skip
    assert newer


def test_keys_open_nothing_but_gitolite(host, gitolite):
    """A key without the forced command would be a shell of the user that owns all repositories."""
    keys = [line for line in host.text(f"{gitolite}/.ssh/authorized_keys").splitlines() if not line.startswith("#")]
    assert all(key.startswith('command="/usr/share/gitolite3/gitolite-shell ') and '",restrict ' in key for key in keys)
    assert host.access(f"{gitolite}/.ssh/authorized_keys") == "gitolite3:gitolite3 600"


def test_every_repository_has_its_hooks(host, repository, gitolite):
    """Without `update` nobody's rights are checked, without `pre-receive` no archive is."""
    for hook in ("update", "pre-receive"):
        assert host.run("test", "-x", f"{gitolite}/repositories/{repository}.git/hooks/{hook}", user="gitolite3")


def test_hook_refuses_what_cannot_be_built(host, repository, gitolite):
    """The hook asks the lookaside cache, by the address that the state wrote, as the repositories' user."""
    script = (
        f"cd {gitolite}/repositories/{repository}.git"
        " && blob=$(printf 'SHA512 (testinfra.tar) = %0128d\\n' 0 | git hash-object -w --stdin)"
        " && tree=$(printf '100644 blob %s\\tsources\\n' $blob | git mktree)"
        " && commit=$(git -c user.name=t -c user.email=t@example.org commit-tree -m t $tree)"
        " && printf '%040d %s refs/heads/x\\n' 0 $commit | hooks/pre-receive"
    )
    done = host.run("sh", "-c", script, user="gitolite3")
    assert done.status == 1
    assert "goosepkg new-sources testinfra.tar" in done.err, done.err


def test_lookaside_is_known(host):
    """The hook and people's programs on this host read the same file."""
    settings = json.loads(host.text("/etc/goose/sources.json"))
    assert settings["files"].startswith("https://")
    assert host.reads("nobody", "/etc/goose/sources.json")
    assert host.reads("nobody", settings["ca"])
