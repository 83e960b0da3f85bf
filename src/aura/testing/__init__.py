"""For authors of plans and of Aura itself: an engine in virtual time."""
