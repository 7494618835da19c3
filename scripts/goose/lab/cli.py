"""The command `scripts/lab`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goose.lab import client, drill, lab, record, testing
from goose.lab.run import LabError, Progress


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        record.check_name(arguments.name)
        status: int = arguments.command(arguments)
        sys.stdout.flush()
        return status
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("lab: interrupted; run the same command again to go on.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Who reads has seen enough, as `head` has. What Python flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    parser.add_argument("--name", default="goose", help="which lab, where there are several (default: goose)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="from nothing to a working build environment; safe to run again")
    up.add_argument("--profile", choices=sorted(lab.settings()["profiles"]), help="default: full")
    up.add_argument("--pillar", type=Path, metavar="FILE",
                    help="YAML that goes over the profile's pillar, and is kept for the next `up`")  # fmt: skip
    up.set_defaults(command=_up)

    status = commands.add_parser("status", help="hosts, roles, units, health")
    status.add_argument("--json", action="store_true")
    status.set_defaults(command=_status)

    apply = commands.add_parser("apply", help="highstate; non-zero where anything failed")
    apply.add_argument("hosts", nargs="*", metavar="HOST")
    apply.add_argument("--test", action="store_true", help="say what would change, change nothing")
    apply.add_argument("--json", action="store_true")
    apply.set_defaults(command=_apply)

    execute = commands.add_parser("exec", help="run a command on a host, its exit status passed on")
    execute.add_argument("host", metavar="HOST")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD …")
    execute.set_defaults(command=_exec)

    rebuild = commands.add_parser("rebuild", help="source RPMs to builds, signed, repositories, a DVD")
    rebuild.add_argument("srpms", nargs="*", type=Path, metavar="SRPM", help="default: the samples")
    rebuild.add_argument("--from-scm", action="store_true", help="import them, and build from git and lookaside cache")
    rebuild.add_argument("--json", action="store_true")
    rebuild.set_defaults(command=_rebuild)

    drilled = commands.add_parser("drill", help="destroy the hub's host and Koji's volume, and restore them of a backup")
    drilled.add_argument("--json", action="store_true")
    drilled.set_defaults(command=_drill)

    # pytest's options are not ours: no word after `test` is taken for one.
    test = commands.add_parser("test", help="testinfra, each host by its roles", prefix_chars="+", add_help=False)
    test.add_argument("words", nargs=argparse.REMAINDER, metavar="HOST … ARGUMENTS of pytest")
    test.set_defaults(command=_test)

    for_client = commands.add_parser("client", help="write a koji client configuration for kojiadmin")
    for_client.add_argument("directory", type=Path, metavar="DIR")
    for_client.set_defaults(command=_client)

    down = commands.add_parser("down", help="shut the hosts down; `up` boots them again")
    down.set_defaults(command=_down)

    destroy = commands.add_parser("destroy", help="remove all that the lab made, network included")
    destroy.set_defaults(command=_destroy)
    return parser


def _existing(arguments: argparse.Namespace) -> lab.Lab:
    return lab.Lab(record.existing(arguments.name), Progress())


def _up(arguments: argparse.Namespace) -> int:
    progress = Progress()
    found = record.load(arguments.name)
    profile = arguments.profile or (found.profile if found else "full")
    pillar = None if arguments.pillar is None else lab.read_pillar(arguments.pillar)
    lab.prepare(progress)
    with record.locked(arguments.name):
        this = lab.create(arguments.name, profile, progress, pillar)
        this.boot()
        this.converge()
        this.fetch_ca()
        progress("building the first package")
        first = this.first_package()
        _print_table(this)
    for build in first["builds"]:
        print(f"First package        {build['nvr']}, task {build['task'] or 'of an earlier run'}")
    progress("the lab is up" if first["status"] == 0 else "the lab is up, but the first package did not build")
    status: int = first["status"]
    return status


def _status(arguments: argparse.Namespace) -> int:
    this = _existing(arguments)
    status = this.status()
    if arguments.json:
        print(json.dumps(status))
    else:
        _print_table(this, status)
    return 0 if all(host["healthy"] for host in status["hosts"].values()) else 1


def _apply(arguments: argparse.Namespace) -> int:
    this = _existing(arguments)
    hosts = [this.host(name) for name in arguments.hosts] or this.hosts
    with record.locked(arguments.name):
        outcomes = this.apply(hosts, test=arguments.test)
    if arguments.json:
        print(json.dumps({"hosts": {name: outcome.as_dict() for name, outcome in outcomes.items()}}))
    else:
        for name, outcome in outcomes.items():
            for change in outcome.changes:
                print(f"{name}: {change}")
    return 5 if any(outcome.failed for outcome in outcomes.values()) else 0


def _exec(arguments: argparse.Namespace) -> int:
    host = _existing(arguments).host(arguments.host)
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise LabError(f"No command was given: scripts/lab exec {host.name} -- CMD …", 2)
    if host.leader() is None:
        raise LabError(f"{host.fqdn} is off: `scripts/lab --name {arguments.name} up` boots it.")
    command = [*host.enter(), *words]
    sys.stdout.flush()
    os.execvp(command[0], command)


def _rebuild(arguments: argparse.Namespace) -> int:
    this = _existing(arguments)
    for srpm in arguments.srpms:
        if not srpm.is_file():
            raise LabError(f"There is no file {srpm}.", 2)
    result = this.rebuild(arguments.srpms, from_scm=arguments.from_scm)
    status: int = result.pop("status")
    if arguments.json:
        print(json.dumps(result))
    else:
        for build in result["builds"]:
            print(f"{build['nvr']}: {build.get('error') or 'complete'}")
        if "signed" in result:
            print(f"{result['signed']['rpms']} RPMs of them are signed with {result['signed']['key']}")
        for url in result.get("repos", []):
            print(url)
        if "iso" in result:
            print(f"{result['iso']['url']}: {result['iso']['bytes'] / 2**20:.1f} MiB, SHA-256 {result['iso']['sha256']}")
        print(f"{result['seconds']:.0f} seconds")
    return status


def _drill(arguments: argparse.Namespace) -> int:
    this = _existing(arguments)
    with record.locked(arguments.name):
        result = drill.Drill(this).run()
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, count in result["before"].items():
            print(f"{name:12} {count:8} before {result['after'][name]:8} after")
        print(f"{result['downloads']} files download as they were; {result['user']} logs in")
        spent = ", ".join(f"{name} {seconds} s" for name, seconds in result["steps"].items())
        print(f"From the loss to the proof: {result['seconds']} s ({spent})")
    return 0


def _test(arguments: argparse.Namespace) -> int:
    return testing.run(_existing(arguments), arguments.words)


def _client(arguments: argparse.Namespace) -> int:
    client.write(_existing(arguments), arguments.directory)
    directory = arguments.directory.resolve()
    # koji checks the hub by `serverca`, and where it downloads by the machine's own store alone.
    print(f"export REQUESTS_CA_BUNDLE={directory}/ca.pem; koji --config={directory}/config hello", file=sys.stderr)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    this = _existing(arguments)
    with record.locked(arguments.name):
        this.stop()
    return 0


def _destroy(arguments: argparse.Namespace) -> int:
    found = record.load(arguments.name)
    if found is None:
        print(f"There is no lab {arguments.name!r} on this machine: nothing to do.", file=sys.stderr)
        return 0
    with record.locked(arguments.name):
        lab.Lab(found, Progress()).destroy()
    return 0


def _print_table(this: lab.Lab, status: dict[str, Any] | None = None) -> None:
    status = status or this.status()
    rows = [("host", "address", "health", "roles")]
    for name, host in status["hosts"].items():
        failed = " ".join(host["failed_units"])
        health = "ok" if host["healthy"] else (f"failed: {failed}" if failed else "off")
        rows.append((f"{name}.{this.record.domain}", host["address"], health, " ".join(host["roles"])))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]))
    print()
    for service, url in status["services"].items():
        print(f"{service:12} {url}")
    print(f"{'CA':12} {status['ca']}")
    name = "" if this.record.name == "goose" else f" --name {this.record.name}"
    print(f"""
Log in to a host     scripts/lab{name} exec {this.hosts[0].name} -- bash
A koji client        scripts/lab{name} client ~/.koji-lab && koji --config ~/.koji-lab/config hello
Apply the states     scripts/lab{name} apply""")
