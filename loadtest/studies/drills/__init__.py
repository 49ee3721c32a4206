"""Drills of a real gateway: rolling restarts under load, and alerts that must fire."""
