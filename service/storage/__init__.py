"""One class per backend, and the embedded store's process."""
