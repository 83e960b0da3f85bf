"""The work layer as one thing: its boot, its start and stop, what doors may ask of it, and what watches over it."""
