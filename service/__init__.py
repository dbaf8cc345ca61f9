"""The HTTP service, its worker, and the command line."""
