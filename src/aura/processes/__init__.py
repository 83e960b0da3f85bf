"""The processes that actions start: opened in a group of their own, read, and ended for certain."""
