"""Drills: a service of our own under faults and under hostile requests, and what came of it."""
