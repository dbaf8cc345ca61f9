"""Is this installation sound: checks that say what they found and what to do."""
