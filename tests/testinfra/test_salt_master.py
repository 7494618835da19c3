"""The Salt master."""

import json


def test_service(host):
    """Nothing is applied without it, so it must be back after a boot."""
    service = host.settings("salt")["service"]
    assert host.runs(service)
    assert host.starts_at_boot(service)


def test_every_minion_answers(host):
    """A host that is down or has another key is missed by every apply, and Salt says little of it."""
    line = ["salt", "--out=json", "--static", "--timeout=10", "--list", ",".join(host.entries), "test.ping"]
    answers = json.loads(host.run(*line).out)
    assert {name for name, answer in answers.items() if answer is True} == set(host.entries)


def test_no_key_was_accepted_by_itself(host):
    """Keys are seeded or accepted by hand: one more than pillar has hosts is a stranger that gets pillar."""
    keys = json.loads(host.says("salt-key", "--list=all", "--out=json"))
    assert set(keys["minions"]) <= set(host.entries)


def test_pillar_is_not_served_as_files(host):
    """The tree is the file root and holds pillar/ and .git: every minion could read them."""
    ask = ["salt", "--out=json", "--out-indent=-1", host.name, "cp.hash_file"]
    assert json.loads(host.says(*ask, "salt://top.sls"))[host.name], "nothing is served at all"
    for path in ("pillar/hosts.yaml", "pillar/top.sls", ".git/config"):
        assert not json.loads(host.says(*ask, f"salt://{path}"))[host.name], f"{path} is served"


def test_no_minion_commands_others(host):
    """Peer rules are patterns: one that is too wide lets a builder run commands on the hub."""
    text = host.text("/etc/salt/master.d/goose.conf")
    peer = json.loads(next(line for line in text.splitlines() if line.startswith("peer:")).partition(":")[2])
    for asking, rules in peer.items():
        assert asking.endswith("$")
        for rule in rules:
            for functions in rule.values():
                for function in functions:
                    assert list(function) == [r"x509\.sign_remote_certificate$"]
