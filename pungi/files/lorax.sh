#!/bin/sh
# Boot media by lorax. It mounts, makes devices and runs what packages bring, and so is root's: the user that
# composes runs this, and by sudo this alone. Root writes nowhere that the user can reach.
set -eu
[ $# -eq 6 ] || { echo "goose-lorax: NAME VERSION REPO LABEL ARCH OUT" >&2; exit 2; }
name=$1 version=$2 repo=$3 label=$4 arch=$5 out=$6
if [ "$(id -u)" -ne 0 ]; then
    mkdir "$out"
    # shellcheck disable=SC2024 # the user's own file, as it must be
    sudo -n "$0" "$@" >"$out.tar"
    tar -xf "$out.tar" -C "$out"
    rm "$out.tar"
    exit
fi
for word in "$name" "$version" "$repo" "$label" "$arch"; do
    case $word in
        -* | *[!A-Za-z0-9\ ._/:@+-]* | *..*) echo "goose-lorax: '$word' is no word for it." >&2; exit 2 ;;
    esac
done
allowed=
while read -r prefix; do
    case $repo in "$prefix"*) [ -z "$prefix" ] || allowed=yes ;; esac
done </etc/goose/lorax-repositories
[ "$allowed" ] || { echo "goose-lorax: $repo is not among pillar pungi:repositories." >&2; exit 2; }
case $repo in /*) repo=file://$repo ;; esac
work=$(mktemp -d /var/tmp/goose-lorax.XXXXXX)
trap 'rm -rf "$work"' EXIT
lorax --product="$name" --version="$version" --release="$version" --source="$repo" --volid="$label" \
    --buildarch="$arch" --isfinal --nomacboot --logfile="$work/lorax.log" "$work/out" >&2 ||
    { tail -n 5 "$work/lorax.log" >&2; exit 1; }
tar -c -C "$work/out" .
