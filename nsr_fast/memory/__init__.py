"""What a run needs in bytes, what the machine has, and what was used in the end."""
