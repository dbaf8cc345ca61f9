"""The rules behind the handlers, free of HTTP."""
