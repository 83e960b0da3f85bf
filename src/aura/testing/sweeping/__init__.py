"""Sweeps: a task stopped once at each of its points, and what came of it. Read ``sweep`` first."""
