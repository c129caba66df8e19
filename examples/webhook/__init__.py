"""A webhook: pictures posted over HTTP come back as thumbnails."""
