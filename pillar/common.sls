# Package repositories of the site, beside the distribution's own. A host takes the
# entries that have its kind; the fields are those of deb822 .sources files (apt) and
# of .repo files (yum). `offers` names packages that the states shall take from there
# where they would otherwise use an embedded stand-in.
#
# package_repos:
#   site-mock:
#     offers: [mock]
#     apt: {Types: deb, URIs: 'https://repo.example.org/mock', Suites: ./, Signed-By: /etc/apt/keyrings/site.asc}
#     yum: {name: Site, baseurl: 'https://repo.example.org/el$releasever', gpgcheck: 1, gpgkey: 'https://…'}
package_repos: {}

# The firewall of every host: common/README.rst says what else it takes.
firewall:
  enabled: true
  ssh_from: anywhere

common:
  names: hosts
