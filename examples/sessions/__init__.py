"""A real job: cleaning and scoring recorded charging sessions."""
