"""Generated geometry: problem types, their figures and their solutions."""
