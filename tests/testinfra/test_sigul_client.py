"""The signing host: keys, what is published of them, and the timers."""

import json

import pytest

CONFIG = "/etc/goose/signing.json"
PROGRAMS = "/usr/local/lib/goose"


@pytest.fixture
def config(host):
    return json.loads(host.text(CONFIG))


@pytest.fixture
def client(host):
    return host.settings("sigul")["client"]


def active(config):
    return {name: key for name, key in config["keys"].items() if key["state"] == "active"}


def test_programs_take_the_configuration(host, config):
    """It is checked as a whole: a word that is not known is refused."""
    rows = json.loads(host.says(f"{PROGRAMS}/signing_key.py", "list", "--json"))["keys"]
    assert {row["key"] for row in rows} == set(config["keys"])


def test_keys_are_there_and_published(host, config):
    """Systems fetch what they check packages with."""
    if config["backend"] == "sigul":
        pytest.skip("an administrator makes Sigul's keys")
    for row in json.loads(host.says(f"{PROGRAMS}/signing_key.py", "list", "--json"))["keys"]:
        if config["keys"][row["key"]]["state"] != "active":
            continue
        assert row["fingerprint"], f"{row['key']} was not made"
        status, body = host.get(f"https://{host.name}/keys/RPM-GPG-KEY-{row['key']}")
        assert status == 200
        assert body.split() == host.says(f"{PROGRAMS}/signing_key.py", "export", row["key"]).split()
        assert "PRIVATE" not in body


def test_keys_are_listed(host):
    """An Apache that may not read them answers 403."""
    status, body = host.get(f"https://{host.name}/keys/")
    assert status == 200 and "Index of" in body


def test_secrets_are_closed(host, config, client):
    """Who reads these signs in the distribution's name."""
    others = ["nobody", host.settings("common")["httpd"]["user"]]
    owner = f"{client['user']}:{client['group']}"
    for path in (config["state_dir"], config["rpmsign"]["gnupg_home"]):
        assert host.access(path) == f"{owner} 700"
        assert not [user for user in others if host.run("ls", path, user=user)]
    for key in config["keys"].values():
        sealed = f"/etc/credstore.encrypted/{key['credential']}"
        if host.run("test", "-e", sealed):
            assert host.access(sealed) == "root:root 600"
    cert = host.config(config["koji"][host.site["id"]]["config"])[host.site["id"]]["cert"]
    assert host.access(cert) == f"root:{client['group']} 640"
    if config["backend"] == "sigul":
        assert host.access(config["sigul"]["config"]) == f"root:{client['group']} 640"


def test_hub_lets_it_sign(host, config, client):
    """The permission is data of koji.content, on another host."""
    koji = config["koji"][host.site["id"]]
    words = ["koji", f"--config={koji['config']}", f"--profile={koji['profile']}", "call", "--json-output"]
    assert json.loads(host.says(*words, "hasPerm", "sign", user=client["user"])) is True


def test_list_of_the_unsigned(host, config, client):
    """What the timer would do, by the user that it does it as; and it is asked in a few calls, however many RPMs."""
    for name, key in active(config).items():
        if not key["tags"] or (config["backend"] == "sigul" and not key["key_id"]):
            continue
        words = [f"{PROGRAMS}/sigulsign_unsigned.py", name, "--just-list", "--json"]
        said = json.loads(host.says(*words, user=client["user"]))
        assert not said["error"]
        assert said["hub_calls"]["discovery"] <= 5 * len(key["tags"])


def test_timers(host, config):
    """Nobody else looks for what is unsigned."""
    for name, key in active(config).items():
        if key["tags"]:
            assert host.runs(f"signing-{name}.timer")
            assert host.starts_at_boot(f"signing-{name}.timer")


def test_timer_signs_in_its_sandbox(host, config):
    """What is too much closed shows first at night; and the passphrase comes by a way that is seldom gone."""
    if config["backend"] == "sigul":
        pytest.skip("an administrator makes Sigul's keys")
    for name, key in active(config).items():
        if not key["tags"]:
            continue
        host.says("systemctl", "start", f"signing-{name}.service")
        words = ["runuser", "-u", host.settings("sigul")["client"]["user"], "--"]
        words += [f"{PROGRAMS}/sigulsign_unsigned.py", name, "--just-list", "--json"]
        assert json.loads(host.says(*words))["unsigned"] == []


def test_certificate_of_sigul(host, config, client):
    """Renewed with the signer's: with one that has run out the bridge lets nobody in."""
    if config["backend"] != "sigul":
        pytest.skip("signing is done by rpmsign")
    sigul = host.config("/etc/sigul/client.conf")
    words = ["-d", f"sql:{sigul['nss']['nss-dir']}", "-n", sigul["client"]["client-cert-nickname"], "-a"]
    held = host.says("certutil", "-L", *words)
    assert held.split() == host.text(f"{host.pki}/{sigul['client']['user-name']}.crt").split()


def test_files_are_signed_for_one_group(host, config):
    """Who makes repositories gets signatures, and nobody else does; the key itself stays closed to both."""
    mash = host.settings("mash")
    group = host.settings("sigul")["signing"]["files_group"] or mash["group"]
    script = 'd=$(mktemp -d) && "$0" "$1" "$2" "$d/signed" && head -n1 "$d/signed"; rm -r "$d"'
    for name in (name for name, key in config["keys"].items() if key["state"] != "retired"):
        assert host.runs(f"signing-{name}-files.socket")
        assert host.access(f"/run/goose-signing/{name}") == f"root:{group} 660"
        words = ("sh", "-c", script, f"{PROGRAMS}/sign_file.py", name, CONFIG)
        assert "is not open to nobody" in host.run(*words, user="nobody").err
        if config["backend"] == "rpmsign" and "mash" in host.roles and key_is_made(host, name):
            assert host.says(*words, user=mash["user"]) == "-----BEGIN PGP SIGNATURE-----"


def key_is_made(host, name):
    """Whether the signing host has the key itself."""
    rows = json.loads(host.says(f"{PROGRAMS}/signing_key.py", "list", "--json"))["keys"]
    return any(row["key"] == name and row["fingerprint"] for row in rows)


def test_timers_units_are_closed_up(host, config):
    """What opens a key does so with nothing else in reach."""
    for name, key in active(config).items():
        if key["tags"]:
            assert host.exposure(f"signing-{name}.service") <= 2.0
