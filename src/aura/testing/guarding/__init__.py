"""What keeps the code of plans in its process during a test. Read ``guard`` first."""
