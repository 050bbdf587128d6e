"""The search service: an edge that decodes a request, asks one release, and encodes its answer."""
