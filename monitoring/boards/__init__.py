"""The dashboards, one file each: what is on them, and why."""
