"""A builder that makes images."""


def test_kojid_runs(host):
    """What it imports for images must not keep it from packages."""
    assert host.runs("kojid")


def test_channels(host):
    """A task goes to a host that has its channel, and waits for ever where none has."""
    code = (
        "import configparser, koji, sys\n"
        "config = configparser.ConfigParser(interpolation=None); config.read('/etc/kojid/kojid.conf')\n"
        "hub = koji.ClientSession(config['kojid']['server'], {'serverca': config['kojid']['serverca']})\n"
        "print(*(one['name'] for one in hub.listChannels(hub.getHost(sys.argv[1])['id'])))"
    )
    told = host.says("/usr/bin/python3", "-c", code, host.name).split()
    # Pillar may have chosen among them.
    assert set(host.settings("koji")["image"]["channels"]) & set(told)


def test_what_kojid_imports(host):
    """It reads kickstarts by pykickstart and live media by pycdio, and refuses the tasks without either."""
    host.says("/usr/bin/python3", "-c", "import iso9660, pykickstart.parser, pykickstart.handlers.control")
