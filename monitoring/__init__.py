"""Watching a node, read-only: metrics, health and the HTTP endpoints."""
