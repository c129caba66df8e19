"""The parts of the HTTP gateway that need no network: routes, values as JSON, schemas, limits of a connection."""
