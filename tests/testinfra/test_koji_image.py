"""A builder that makes images."""


def test_kojid_runs(host):
    """What it imports for images must not keep it from packages."""
    assert host.runs("kojid")


def test_channels(host):
    """A task goes to a host that has its channel, and waits for ever where none has."""
    wanted = set(host.settings("koji")["image"]["channels"])
    told = host.says("koji", "--noauth", "hostinfo", host.name) if host.run("sh", "-c", "command -v koji") else ""
    assert not told or wanted <= set(told.partition("Channels:")[2].split("\n")[0].replace(",", " ").split())


def test_what_kojid_imports(host):
    """It reads kickstarts by pykickstart and live media by pycdio, and refuses the tasks without either."""
    host.says("/usr/bin/python3", "-c", "import iso9660, pykickstart.parser, pykickstart.handlers.control")
