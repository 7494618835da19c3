"""What every host has."""


def test_own_name(host):
    """The minion id, the certificate and Apache's name are the host's full name: the system must agree."""
    assert host.text("/etc/hostname").strip() == host.name


def test_names_of_the_others(host):
    """Hub, database and CA are reached by name, and their certificates are checked by it."""
    for name, entry in host.entries.items():
        if "address" in entry:
            addresses = {line.split()[0] for line in host.says("getent", "ahosts", name).splitlines()}
            assert entry["address"] in addresses, f"{name} is {addresses} on {host.name}"


def test_no_unit_has_failed(host):
    """A unit that failed at boot is otherwise seen when it is missed."""
    assert host.says("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""


def test_journal_outlives_a_boot(host):
    """What a host said before it went down is in the journal on disk, not in memory."""
    host.says("systemd-cat", "--identifier=goose-testinfra", "echo", "written by the tests")

    def written():
        done = host.run("journalctl", "--directory=/var/log/journal", "--identifier=goose-testinfra", "--lines=1")
        return "written by the tests" in done.out

    host.becomes(written, "a message to reach /var/log/journal")


def test_logs_are_rotated(host):
    """A builder's or hub's log fills the disk in weeks; logrotate must be due, and understand its files."""
    assert host.runs("logrotate.timer")
    assert host.starts_at_boot("logrotate.timer")
    host.says("logrotate", "--debug", "/etc/logrotate.conf")
