#!/bin/sh
# What `scripts/lab up --profile single` comes to, typed by hand from Koji's how-tos: one host with the
# database, hub, web pages, kojira and a builder, its own CA, the embedded build root, and goose-release built.
# No Salt and no checks: what is measured is the work itself. See tests/bench/README.rst.
#
#   tests/bench/hand_run.sh DIR REGISTRY
#
#   DIR        an empty directory, on a disk that can hold 8 GiB
#   REGISTRY   files for the host, as tests/bench/cold.py writes them: debian.sources, apt.conf,
#              pip.conf, resolv.conf, ca/*.crt
#
# The host and what was made of this machine's network are gone at the end. DIR/times has a line
# "SECONDS STEP" for each step, DIR/log what everything said.
set -eu
if [ $# -ne 2 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then
    echo "Usage: hand_run.sh DIR REGISTRY (two directories)" >&2
    exit 2
fi
dir=$(cd "$1" && pwd -P)
registry=$(cd "$2" && pwd -P)
tree=$(cd "$(dirname "$0")/../.." && pwd -P)
root=$dir/root
bridge=handrun
# Outside of the lab's own range, which ends at 249.
net=198.18.250
host=hand.test
hub=https://$host

now() { date +%s.%N; }
step=
step() {
    if [ "$step" ]; then
        seconds=$(echo "$began $(now)" | awk '{printf "%.1f", $2 - $1}')
        echo "$seconds $step" >>"$dir/times"
        echo "hand_run.sh: $step: $seconds s" >&2
    fi
    step=$*
    began=$(now)
    echo "== $step" >>"$dir/log"
}

rules() {
    iptables -w -t nat "$1" POSTROUTING -s $net.0/24 ! -d $net.0/24 -j MASQUERADE
    iptables -w "$1" FORWARD -i $bridge -j ACCEPT
    iptables -w "$1" FORWARD -o $bridge -j ACCEPT
}

nspawn=
leader() { cat "/proc/$nspawn/task/$nspawn/children" 2>/dev/null | tr -d ' '; }

clean_up() {
    status=$?
    trap - EXIT
    set +e
    if [ $status -ne 0 ]; then tail -n 25 "$dir/log" >&2; fi
    # Whatever fails below: nothing else of this machine is touched.
    if [ "$nspawn" ]; then
        pid=$(leader)
        [ "$pid" ] && kill -KILL "$pid"
        kill -KILL "$nspawn"
        wait "$nspawn"
    fi 2>/dev/null
    rules -D 2>/dev/null
    ip link delete $bridge 2>/dev/null
    [ "$forwarding" = 0 ] && echo 0 >/proc/sys/net/ipv4/ip_forward
    # A killed mmdebstrap leaves its mounts, and they are this machine's own.
    awk -v top="$root/" 'index($2, top) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
    rm -rf --one-file-system "$root"
    exit $status
}
forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
trap clean_up EXIT
trap 'exit 130' INT TERM

: >"$dir/times"
: >"$dir/log"
exec 3>&1 >>"$dir/log"

on_host() {
    nsenter --all --target="$(leader)" -- env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" 2>>"$dir/log"
}

step base system
mmdebstrap --quiet --variant=minbase --mode=root --aptopt="$registry/apt.conf" \
    --include=systemd,systemd-sysv,dbus,iproute2,ca-certificates,openssl,python3 \
    bookworm "$root" "$registry/debian.sources" 2>>"$dir/log"
rm -rf "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d" "$root/etc/resolv.conf"
mkdir "$root/etc/apt/sources.list.d"
cp "$registry/debian.sources" "$root/etc/apt/sources.list.d/"
cp "$registry/apt.conf" "$root/etc/apt/apt.conf.d/90hand"
cp "$registry/pip.conf" "$registry/resolv.conf" "$root/etc/"
for file in "$registry"/ca/*.crt; do
    if [ -e "$file" ]; then cp "$file" "$root/usr/local/share/ca-certificates/"; fi
done
echo $host >"$root/etc/hostname"
cat >"$root/etc/hosts" <<END
127.0.0.1 localhost
$net.10 $host
END
device=$(ip -4 route show default | awk '{print $5; exit}')
cat >"$root/etc/systemd/network/10-hand.network" <<END
[Match]
Name=host0
[Link]
MTUBytes=$(cat "/sys/class/net/${device:-lo}/mtu")
[Network]
Address=$net.10/24
Gateway=$net.1
END
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/"

step boot
ip link add $bridge type bridge
ip address add $net.1/24 dev $bridge
ip link set $bridge up
echo 1 >/proc/sys/net/ipv4/ip_forward
rules -I
# Outside of systemd there is no unit to make the host's cgroup in.
keep_unit=--keep-unit
if [ "$(cat /proc/1/comm)" = systemd ]; then keep_unit=; fi
setsid systemd-nspawn --quiet --boot --directory="$root" --machine=hand --register=no --network-bridge=$bridge \
    --resolv-conf=off --timezone=off --link-journal=no --console=read-only --bind-ro="$tree:/srv/tree" \
    $keep_unit </dev/null >"$dir/console.log" 2>&1 3>&- &
nspawn=$!
tries=600
until [ "$(leader)" ] && on_host systemctl is-system-running | grep -qE 'running|degraded'; do
    tries=$((tries - 1))
    if [ $tries -eq 0 ] || ! kill -0 $nspawn; then
        cat "$dir/console.log"
        exit 1
    fi
    sleep 0.1
done

step apt packages
on_host update-ca-certificates
on_host apt-get -q update
on_host apt-get -q -y install --no-install-recommends \
    postgresql apache2 libapache2-mod-wsgi-py3 python3-psycopg2 python3-rpm python3-requests python3-dateutil \
    python3-six python3-cheetah python3-setuptools python3-pip python3-dnf python3-libcomps python3-librepo \
    python3-yaml rpm dnf dnf-plugins-core createrepo-c cpio patch procps sudo git gnupg \
    mmdebstrap arch-test perl-base

step Koji from its source archive
on_host sh -eu <<'END'
mkdir /root/koji
cd /root/koji
cat >requirements.txt <<'LIST'
koji==1.30.0 --hash=sha256:0250d11d10dae9f58ec67318a230f2d5154ced05c0078980ec7ba438dc98bb77
python-multilib==1.3 --hash=sha256:f2cccebce099857439d9e18788b0585398b1e3c399390bfc27a391bc448755c3
LIST
/usr/bin/python3 -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --require-hashes \
    --requirement requirements.txt
tar -xf koji-1.30.0.tar.gz
tar -xf python-multilib-1.3.tar.gz
cp -r python-multilib-1.3/multilib /usr/lib/python3/dist-packages/
cp python-multilib-1.3/etc/multilib.conf /etc/
cd koji-1.30.0
# Python 3.11 has no getargspec and no formatargspec, Debian 12 no Python 2.
sed -i -e 's/tuple(inspect.getargspec(func))/tuple(inspect.getfullargspec(func)[:4])/' \
    -e "s/inspect.formatargspec(\*argspec)/str(inspect.signature(func))/" \
    -e 's/inspect.formatargspec(\*self.getargspec(func))/str(inspect.signature(func))/' hub/kojixmlrpc.py
sed -i -e 's/args = inspect.getargspec(val)/args = inspect.getfullargspec(val)/' \
    -e 's/inspect.getargspec(func)/inspect.getfullargspec(func)[:4]/' www/kojiweb/wsgi_publisher.py
sed -i '1s/python2/python3/' builder/kojid cli/koji
mkdir -p /usr/share/koji-hub /usr/share/koji-web/lib /usr/share/koji-web/scripts
mkdir -p /etc/koji-hub /etc/kojiweb /etc/kojid /etc/kojira
cp -r koji cli/koji_cli /usr/lib/python3/dist-packages/
cp hub/*.py /usr/share/koji-hub/
cp -r www/kojiweb/. /usr/share/koji-web/scripts/
cp -r www/lib/. /usr/share/koji-web/lib/
cp -r www/static /usr/share/koji-web/
install -m 755 cli/koji /usr/bin/koji
install -m 755 builder/kojid util/kojira /usr/sbin/
cp builder/kojid.service util/kojira.service /usr/lib/systemd/system/
mkdir -p /mnt/koji
cd /mnt/koji
mkdir packages repos repos-dist scratch work
chown www-data: packages repos repos-dist scratch work
END

step certificates
on_host sh -eu <<END
mkdir -p /etc/pki/koji
cd /etc/pki/koji
umask 077
openssl req -x509 -newkey rsa:3072 -nodes -keyout ca.key -out ca.crt -days 3650 -subj "/O=GoOSe/CN=GoOSe CA"
for name in $host kojiweb kojira kojiadmin; do
    openssl req -newkey rsa:2048 -nodes -keyout \$name.key -out \$name.csr -subj "/O=GoOSe/CN=\$name"
    echo "subjectAltName=DNS:\$name" >\$name.ext
    openssl x509 -req -in \$name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile \$name.ext -out \$name.crt
    cat \$name.crt \$name.key >\$name.pem
done
chmod 755 .
chmod 644 *.crt
chgrp www-data kojiweb.pem
chmod 640 kojiweb.pem
umask 022
cp ca.crt /usr/local/share/ca-certificates/hand-ca.crt
update-ca-certificates
END

step database
on_host sh -eu <<'END'
cd /tmp
sed -i '1i local koji koji trust' /etc/postgresql/15/main/pg_hba.conf
systemctl reload postgresql@15-main
runuser -u postgres -- createuser koji
runuser -u postgres -- createdb --owner=koji --encoding=UTF8 --template=template0 koji
psql --quiet --set=ON_ERROR_STOP=1 --file=/root/koji/koji-1.30.0/docs/schema.sql koji koji
psql --quiet --set=ON_ERROR_STOP=1 koji koji <<'SQL'
INSERT INTO users (name, status, usertype) VALUES ('kojiadmin', 0, 0);
INSERT INTO user_perms (user_id, perm_id, creator_id) VALUES (1, 1, 1);
SQL
END

step hub and web
on_host sh -eu <<END
umask 022
cat >/etc/koji-hub/hub.conf <<'CONF'
[hub]
DBName = koji
DBUser = koji
KojiDir = /mnt/koji
DNUsernameComponent = CN
ProxyDNs = CN=kojiweb,O=GoOSe
LoginCreatesUser = Off
KojiWebURL = $hub/koji
DisableNotifications = True
CONF
cat >/etc/kojiweb/web.conf <<CONF
[web]
SiteName = goose
KojiHubURL = $hub/kojihub
KojiFilesURL = $hub/kojifiles
WebCert = /etc/pki/koji/kojiweb.pem
KojiHubCA = /etc/pki/koji/ca.crt
Secret = \$(openssl rand -hex 32)
LibPath = /usr/share/koji-web/lib
CONF
chgrp www-data /etc/koji-hub/hub.conf /etc/kojiweb/web.conf
chmod 640 /etc/koji-hub/hub.conf /etc/kojiweb/web.conf
cat >/etc/apache2/sites-available/koji.conf <<'CONF'
ServerName $host
WSGIDaemonProcess koji processes=8 threads=1 lang=C.UTF-8 locale=C.UTF-8
<VirtualHost *:443>
    SSLEngine on
    SSLCertificateFile /etc/pki/koji/$host.crt
    SSLCertificateKeyFile /etc/pki/koji/$host.key
    SSLCACertificateFile /etc/pki/koji/ca.crt
    SSLVerifyClient optional
    SSLOptions +StdEnvVars
    WSGIProcessGroup koji
    WSGIApplicationGroup %{GLOBAL}
    Alias /kojihub /usr/share/koji-hub/kojixmlrpc.py
    Alias /koji-static /usr/share/koji-web/static
    Alias /kojifiles /mnt/koji
    Alias /koji /usr/share/koji-web/scripts/wsgi_publisher.py
    <Directory /usr/share>
        Require all granted
    </Directory>
    <DirectoryMatch ^/usr/share/koji-(hub|web/scripts)>
        Options ExecCGI
        SetHandler wsgi-script
    </DirectoryMatch>
    <Directory /mnt/koji>
        Options Indexes FollowSymLinks
        Require all granted
    </Directory>
    <LocationMatch ^/(kojihub/ssllogin|koji/login)>
        Require expr %{SSL_CLIENT_VERIFY} == "SUCCESS"
    </LocationMatch>
</VirtualHost>
CONF
a2enmod --quiet ssl wsgi
a2dissite --quiet 000-default
a2ensite --quiet koji
systemctl restart apache2
cat >/etc/koji.conf <<'CONF'
[koji]
server = $hub/kojihub
weburl = $hub/koji
topurl = $hub/kojifiles
topdir = /mnt/koji
authtype = ssl
cert = /etc/pki/koji/kojiadmin.pem
serverca = /etc/pki/koji/ca.crt
CONF
koji hello
/usr/bin/python3 -c 'import urllib.request; urllib.request.urlopen("$hub/koji/")'
END

step tags, users, host
on_host sh -eu <<END
koji add-tag goose-bootstrap
koji add-tag goose-1-release --arches=x86_64
koji add-tag goose-1-testing --arches=x86_64 --parent=goose-1-release
koji add-tag goose-1-candidate --arches=x86_64 --parent=goose-1-testing
koji add-tag goose-1 --arches=x86_64 --parent=goose-1-candidate
koji add-tag goose-1-build --arches=x86_64 --parent=goose-1 -x mock.package_manager=dnf -x mock.use_bootstrap=0 \
    -x mock.new_chroot=0 -x rpm.macro.dist=.el1
koji add-tag-inheritance --priority=100 goose-1-build goose-bootstrap
for group in build srpm-build; do
    koji add-group goose-1-build \$group
    koji add-group-pkg goose-1-build \$group debian-bootstrap-\$group
done
koji add-target goose-1 goose-1-build goose-1
koji add-pkg --owner=kojiadmin goose-1-release goose-release
koji add-user kojira
koji grant-permission repo kojira
koji grant-permission --new build kojiadmin
koji add-host $host x86_64
koji add-host-to-channel $host createrepo
END

step build root made
mkdir -p "$root/etc/goose"
/usr/bin/python3 - "$tree/pillar/koji_buildroot.sls" >"$root/etc/goose/buildroot.json" <<'END'
import json
import sys

import yaml

with open(sys.argv[1], encoding="utf-8") as stream:
    data = yaml.safe_load(stream)["koji"]["buildroot"]
print(json.dumps({**data, "arches": ["x86_64"]}))
END
buildroot() { on_host /srv/tree/scripts/koji_buildroot.py --overlay /srv/tree/koji/bootstrap/files/overlay "$@"; }
buildroot make

step build root imported
buildroot import

# Now, and not before: kojira would begin with a repo that lacks the build root. The intervals are
# the lab's own, so that neither waits longer than the other.
step kojid and kojira
on_host sh -eu <<END
groupadd --system mock
groupadd --system kojibuilder
useradd --system --no-create-home --home-dir=/builddir --gid=kojibuilder --groups=mock --shell=/bin/bash kojibuilder
install -m 755 /srv/tree/koji/files/mock /usr/bin/mock
echo 'kojibuilder ALL=(root) NOPASSWD: /usr/bin/mock' >/etc/sudoers.d/koji-mock
chmod 440 /etc/sudoers.d/koji-mock
mkdir -p /etc/rpm /etc/mock
install -d -o kojibuilder -g kojibuilder /etc/mock/koji
install -d -g mock -m 2775 /var/lib/mock /var/cache/mock
mkdir -p /var/tmp/koji
cat >/etc/rpm/macros.koji <<'CONF'
%_dbpath /var/lib/rpm
%__gpg /usr/bin/gpg
CONF
cat >/etc/dnf/plugins/local.conf <<'CONF'
[main]
enabled = false
CONF
cat >/etc/kojid/kojid.conf <<'CONF'
[kojid]
server = $hub/kojihub
topurl = $hub/kojifiles
topdir = /mnt/koji
workdir = /var/tmp/koji
mockdir = /var/lib/mock
mockuser = kojibuilder
cert = /etc/pki/koji/$host.pem
serverca = /etc/pki/koji/ca.crt
sleeptime = 3
task_avail_delay = 10
retry_interval = 5
maxjobs = 4
minspace = 2048
use_createrepo_c = True
createrepo_skip_stat = True
createrepo_update = True
CONF
cat >/etc/kojira/kojira.conf <<'CONF'
[kojira]
server = $hub/kojihub
topdir = /mnt/koji
logfile = /var/log/kojira.log
cert = /etc/pki/koji/kojira.pem
serverca = /etc/pki/koji/ca.crt
sleeptime = 5
retry_interval = 5
CONF
systemctl enable --quiet --now kojid kojira
END

step first repo, by kojira
on_host sh -eu <<'END'
until koji call getRepo goose-1-build | grep -q "'state': 1"; do sleep 1; done
END

step goose-release
on_host sh -eu <<'END'
srpm=$(/srv/tree/scripts/goose_release.py --site /srv/tree/pillar/site.yaml --out /root)
koji build --wait --noprogress goose-1 "$srpm"
END
step end
on_host koji list-builds --package=goose-release --state=COMPLETE --quiet | awk '{print $1}' >&3
