"""Run: what is built, written, saved and shown around the rounds."""
