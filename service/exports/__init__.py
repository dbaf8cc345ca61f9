"""A plan as what starts its servers and routes to them: commands, manifests, resources, routing maps."""
