# Who watches, and what raises an alert. Everything that can be set, with its default:
# monitoring/defaults.yaml.
monitoring:
  # HOST:PORT; without any, alerts stand on Prometheus's own page.
  alertmanagers: []
