"""All runs together: who is admitted, who gets a place, and what a boot, a stop and a start of the engine do."""
