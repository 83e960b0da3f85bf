"""Polls: actions that are asked again and again, and what the turns of their answers start."""
