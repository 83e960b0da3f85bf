"""What a run may leave behind, one module for each kind of it. ``aura.testing.leaks`` asks them all."""
