"""Hosts with systemd on one machine, and the build environment on them."""
