"""Which adapter goes to which GPU, and with which `max_loras`: plans, bounds and explanations."""
