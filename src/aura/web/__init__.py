"""The HTTP door: REST routes and event streams over one engine. Read ``app`` first, then ``guard`` and ``server``."""
