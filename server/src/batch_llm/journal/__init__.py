"""The durable log of batches: what was accepted, what was begun, what came of it."""
