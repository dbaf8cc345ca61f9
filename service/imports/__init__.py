"""Workloads from where they are: logs, metrics, adapters on disk, tables, traces."""
