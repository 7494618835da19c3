"""The NFS server of Koji's volume."""


def exports(host):
    """Path, and the options of each client, as they stand in the file."""
    lines = [line.split() for line in host.text("/etc/exports.d/koji.exports").splitlines() if line[:1] == "/"]
    return lines[0][0], {client.split("(")[0]: client for _, client in lines}


def test_service(host):
    """Hub and builders wait for the volume at boot."""
    service = host.settings("koji")["nfs"]["service"]
    assert host.runs(service)
    assert host.starts_at_boot(service)


def test_volume_is_exported(host):
    """The kernel's list counts, not the file: it is read on reload alone."""
    path, clients = exports(host)
    exported = host.says("exportfs", "-v")
    assert path in exported
    for client in clients:
        assert client in exported


def test_builders_only_read(host):
    """A build is foreign code: with the volume writable it could replace any RPM."""
    _, clients = exports(host)
    writers = set(host.settings("koji")["volume"]["nfs"]["writers"])
    for entry in host.entries.values():
        if "koji.builder" in entry["roles"] and not writers & set(entry["roles"]) and entry["address"] in clients:
            assert "(ro," in clients[entry["address"]]
            assert "no_root_squash" not in clients[entry["address"]]


def test_only_hosts_of_the_site_may_mount(host):
    """An export to a network or to everybody gives away the volume."""
    _, clients = exports(host)
    assert set(clients) <= {entry.get("address") for entry in host.entries.values()}
