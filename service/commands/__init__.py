"""What the command line runs, one module a family of commands; `service.cli` mounts them."""
