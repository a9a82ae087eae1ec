"""What is watched: the targets, Prometheus' rules, dashboards, and a monitor for the terminal."""
