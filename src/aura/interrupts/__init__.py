"""Interrupts: the rules and what fires them, what a firing stops, holds and takes over, and how it ends."""
