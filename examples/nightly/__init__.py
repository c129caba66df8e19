"""A nightly job over recorded charging sessions."""
