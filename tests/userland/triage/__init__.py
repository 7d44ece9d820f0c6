"""Triage: scouts go to a reading service at once, whole series to the archive, and who sends is known."""
