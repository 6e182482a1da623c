"""What a run keeps in memory, and where."""
